#!/usr/bin/env bash
# Creates .venv/tools with the pinned tools of requirements/tools.txt, or does nothing if it is up
# to date. A lock serializes concurrent runs. Run by `make tools`, and by tests that need a tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

exec 9>.venv/.muster-tools-lock
flock 9
stamp=.venv/tools/.muster-stamp
wanted=$({ cat requirements/tools.txt; pwd; } | sha256sum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  exit 0
fi
echo "Creating .venv/tools for checkov, bandit and pip-audit (half a minute or more) …" >&2
.venv/bin/python -m venv --clear .venv/tools
.venv/tools/bin/python -m pip install --disable-pip-version-check --quiet --quiet --require-hashes --no-deps -r requirements/tools.txt >&2
printf '%s\n' "$wanted" >"$stamp"
