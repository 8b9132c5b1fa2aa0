#!/usr/bin/env bash
# Gives this machine bubblewrap, in which the reward `code` can run a model's programs (tests/rewards/sandbox).
#
#     scripts/sandbox.sh
#
# Installs Debian's bubblewrap where it is missing. Where it cannot, it says why in one line and exits 0: the tests that need
# it then skip, and the sandbox `monty` needs nothing but its Python package.
set -u

say() { printf 'sandbox: %s\n' "$1"; }

if command -v bwrap >/dev/null; then
    say "$(bwrap --version) is here"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    say "bubblewrap not installed: needs root; as root run: apt-get install bubblewrap"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    say "bubblewrap not installed: there is no apt-get; install it by hand"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if { apt-get update && apt-get install --yes --no-install-recommends bubblewrap; } >"$log" 2>&1; then
    say "$(bwrap --version) installed"
else
    say "bubblewrap not installed: $(grep -E '^(E|Err)' "$log" | head -n 1 | tr -d '\r' || true)"
fi
exit 0
