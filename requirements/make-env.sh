#!/usr/bin/env bash
# Makes .venv with Python 3.11 and the pinned requirements, or does nothing where it is up to date. Called by `make env`.
#
# .venv/.muster-packages and .venv/.muster-stamp hold hashes of what was installed and of this folder's path (an environment
# that was moved does not work). Each is written last, so that an interrupted installation is taken up again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

hash_of() { { cat "$@"; pwd; } | sha256sum | cut -d' ' -f1; }
holds() { [[ -f $1 && $(<"$1") == "$2" ]]; } # file, hash

stamp=.venv/.muster-stamp
packages=.venv/.muster-packages
wanted=$(hash_of requirements/all.txt pyproject.toml)
wanted_packages=$(hash_of requirements/all.txt)
if holds $stamp "$wanted" && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

say() { printf '%s\n' "$*" >&2; }

if [[ $(uname -sm) != "Linux x86_64" ]]; then
  say "Development needs Linux on x86-64, since TensorFlow Federated is published for nothing else (this is $(uname -sm))."
  say "A client or an operator needs no TFF and runs anywhere: pip install '.[tensorflow]'. Otherwise use a Linux container."
  exit 1
fi

is_311() { "$@" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

if ! is_311 .venv/bin/python || [[ ! -f .venv/pyvenv.cfg ]]; then
  base=
  for candidate in "${MUSTER_PYTHON:-}" python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11 \
    "$HOME"/.pyenv/versions/3.11*/bin/python; do
    if [[ -n $candidate ]] && is_311 "$candidate"; then
      base=$candidate
      break
    fi
  done
  if [[ -z $base ]] && command -v uv >/dev/null; then
    say "Python 3.11 is not installed; uv fetches it …"
    uv python install --quiet 3.11 && base=$(uv python find 3.11)
  fi
  if [[ -z $base ]]; then
    say "Python 3.11 (with venv) is needed and was not found. TensorFlow Federated runs on no newer one."
    say "Install it, then run make again:"
    say "  Debian, Ubuntu:  apt-get install python3.11 python3.11-venv   (Ubuntu ≥ 24: the deadsnakes archive has it)"
    say "  Fedora:          dnf install python3.11"
    say "  anywhere:        uv python install 3.11      or      pyenv install 3.11"
    say "Or name one: MUSTER_PYTHON=/path/to/python3.11 make env"
    exit 1
  fi
  say "Making .venv with $("$base" --version) …"
  "$base" -m venv --clear .venv
fi

if ! holds $packages "$wanted_packages"; then
  say "Installing $(grep -c == requirements/all.txt) pinned packages into .venv (about 700 MB to fetch; a minute or several) …"
  bar=on
  [[ -t 2 ]] || bar=off
  .venv/bin/python -m pip install --disable-pip-version-check --no-deps --progress-bar "$bar" -r requirements/all.txt >&2
  printf '%s\n' "$wanted_packages" >$packages
fi
say "Installing Muster itself …"
.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --editable . >&2
printf '%s\n' "$wanted" >$stamp
say "The environment is ready: .venv/bin/muster --help"
