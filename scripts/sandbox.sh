#!/usr/bin/env bash
# Gives this machine bubblewrap, in which the reward `code` can run a model's programs (tests/rewards/sandbox). The sandbox `monty`
# needs nothing but its Python package.
exec bash "$(dirname "$0")/debian.sh" sandbox bwrap bubblewrap
