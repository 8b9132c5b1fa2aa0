#!/usr/bin/env bash
# Gives this machine a browser to click through report.html with (tests/run/test_report_browser.py).
#
#     scripts/browser.sh
#
# Installs Debian's chromium and chromium-driver where they are missing. Where it cannot, it says why in one line
# and exits 0: the browser tests then skip, and nothing else needs them.
set -u

say() { printf 'browser: %s\n' "$1"; }

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    say "$(chromium --version 2>/dev/null | head -n 1 || true) is here"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    say "not installed: needs root; as root run: apt-get install chromium chromium-driver"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    say "not installed: there is no apt-get; install Chromium and its chromedriver by hand"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if { apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver fonts-dejavu-core; } >"$log" 2>&1; then
    say "$(chromium --version 2>/dev/null | head -n 1 || true) installed"
else
    say "not installed: $(grep -E '^(E|Err)' "$log" | head -n 1 | tr -d '\r' || true)"
fi
exit 0
