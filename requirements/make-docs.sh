#!/usr/bin/env bash
# Makes .venv/docs with the pinned packages of requirements/docs.txt, or does nothing where it is up to date. Called by `make docs`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/docs/.muster-stamp
wanted=$({ cat requirements/docs.txt; pwd; } | cksum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  exit 0
fi
echo "Making .venv/docs for the site (half a minute) …" >&2
.venv/bin/python -m venv --clear .venv/docs
.venv/docs/bin/python -m pip install --disable-pip-version-check --quiet --quiet --require-hashes --no-deps -r requirements/docs.txt >&2
printf '%s\n' "$wanted" >"$stamp"
