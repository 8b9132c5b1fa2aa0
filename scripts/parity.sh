#!/usr/bin/env bash
# One optimizer step of ours against one of TRL, on the same weights and rows (tests/parity, docs/guides/parity.md); and what
# llama.cpp makes of our GGUF files.
#
#     scripts/parity.sh [pytest arguments]
#
# Makes an environment of its own in .venv-parity (or $PARITY_VENV), because TRL's dependencies are none of ours, and
# pins the versions that the page speaks of. About two minutes from nothing, most of it the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${PARITY_VENV:-.venv-parity}
pins=(torch==2.13.0 transformers==5.23.0 trl==1.16.0 accelerate==1.15.0 datasets==5.2.0)

llama=xllamacpp==2026.10.11549 # a wheel of llama.cpp; where there is none for this machine its test is skipped

made="${pins[*]} $llama $(sha256sum pyproject.toml)"
if [ "$(cat "$venv/.made" 2>/dev/null)" != "$made" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${pins[0]}"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable . "${pins[@]}" 'pytest>=8'
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$llama" ||
        echo "there is no $llama for this machine: what llama.cpp makes of our files is not tested" >&2
    printf '%s' "$made" >"$venv/.made"
fi

export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 # nothing is fetched, and TRL's trainers would report each run
exec "$venv/bin/python" -m pytest -p no:cacheprovider tests/parity "$@"
