#!/usr/bin/env bash
# Makes .venv/fast with the pinned packages of requirements/fast.txt, or does nothing where it is up to date: an environment
# without TensorFlow and TFF for `make fast`. Needs Python 3.11 on any system that the packages have wheels for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/fast/.muster-stamp
wanted=$({ cat requirements/fast.txt pyproject.toml; pwd; } | cksum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  exit 0
fi
python=
for candidate in "${MUSTER_PYTHON:-}" .venv/bin/python python3.11 python3 python; do
  if [[ -n $candidate ]] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "make fast needs Python 3.11, and none was found. Install it, or name it: MUSTER_PYTHON=/path/to/python3.11 make fast" >&2
  exit 1
fi
echo "Making .venv/fast without TensorFlow (about 150 MB to fetch; half a minute) …" >&2
"$python" -m venv --clear .venv/fast
pip=(.venv/fast/bin/python -m pip install --disable-pip-version-check --quiet --quiet --require-hashes --no-deps)
"${pip[@]}" -r requirements/fast.txt >&2
# Both packages are found in the checkout, as in an editable installation.
site_packages=$(.venv/fast/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$PWD/client" "$PWD/functions" >"$site_packages/muster.pth"
printf '%s\n' "$wanted" >"$stamp"
