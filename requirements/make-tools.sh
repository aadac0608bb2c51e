#!/usr/bin/env bash
# Makes .venv/tools with the pinned tools of requirements/tools.txt, or does nothing where it is up to date. One at a time, however many
# ask. Called by `make tools`, and by the tests that need one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec 9>.venv/.muster-tools-lock
flock 9
stamp=.venv/tools/.muster-stamp
wanted=$({ cat requirements/tools.txt; pwd; } | sha256sum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  exit 0
fi
echo "Making .venv/tools for checkov, bandit and pip-audit (half a minute or more) …" >&2
.venv/bin/python -m venv --clear .venv/tools
.venv/tools/bin/python -m pip install --disable-pip-version-check --quiet --quiet --require-hashes --no-deps -r requirements/tools.txt >&2
printf '%s\n' "$wanted" >"$stamp"
