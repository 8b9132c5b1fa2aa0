#!/usr/bin/env bash
# Gives this machine a browser to click through report.html with (tests/run/test_report_browser.py): Debian's Chromium.
exec bash "$(dirname "$0")/debian.sh" browser "chromium chromedriver" chromium chromium-driver fonts-dejavu-core
