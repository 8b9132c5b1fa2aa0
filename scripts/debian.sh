#!/usr/bin/env bash
# Gives this machine packages of Debian that some tests need.
#
#     scripts/debian.sh LABEL "COMMAND …" PACKAGE …
#
# Installs the packages where one of the commands is missing. Where it cannot, it says why in one line and exits 0: the tests
# that need them then skip, and nothing else does.
set -u

label=$1 commands=$2
shift 2

say() { printf '%s: %s\n' "$label" "$1"; }

missing() {
    for command in $commands; do command -v "$command" >/dev/null || return 0; done
    return 1
}

version() { "${commands%% *}" --version 2>/dev/null | head -n 1 || true; }

if ! missing; then
    say "$(version) is here"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    say "not installed: needs root; as root run: apt-get install $*"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    say "not installed: there is no apt-get; install by hand what gives you $commands"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if { apt-get update && apt-get install --yes --no-install-recommends "$@"; } >"$log" 2>&1; then
    say "$(version) installed"
else
    say "not installed: $(grep -E '^(E|Err)' "$log" | head -n 1 | tr -d '\r' || true)"
fi
exit 0
