#!/usr/bin/env bash
# Creates .venv, or does nothing if it is up to date. Run by `make env`.
#
# On Linux x86-64 with Python 3.11, it contains all requirements, pinned and checked against the
# hashes in requirements/. TensorFlow Federated is not published for other platforms. There, .venv
# contains the newest versions of what `make demo`, `make up` and `make smoke` need, and --with-tff,
# which the tests and checks use, fails.
#
# .venv/.muster-packages and .venv/.muster-stamp contain hashes of the installed requirements and of
# this folder's path (an environment that was moved does not work). Each is written last, so an
# interrupted installation is resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
hash_of() { { cat "$@"; pwd; } | sha256 | cut -d' ' -f1; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; } # macOS has the latter
holds() { [[ -f $1 && $(<"$1") == "$2" ]]; } # file, hash
works() { .venv/bin/python -c '' 2>/dev/null; }

stamp=.venv/.muster-stamp
packages=.venv/.muster-packages
wanted=$(hash_of requirements/all.txt requirements/build.txt pyproject.toml)
wanted_packages=$(hash_of requirements/all.txt)
wanted_light=light-$(hash_of pyproject.toml)

if holds $stamp "$wanted" && works; then
  exit 0
fi

is_usable() { "$@" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }
is_311() { "$@" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

# Runs pip with progress lines, or a counter on a terminal. pip's output is written to a log, whose
# end is shown if pip fails.
install_counted() { # number of packages, or empty; then pip's arguments
  local total=$1 log=.venv/pip.log
  shift
  if ! .venv/bin/python -u -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 | tee "$log" | count_packages "$total"; then
    tail -n 20 "$log" >&2
    say "pip could not install the packages; its output is in $log. Fix the cause and run make again: it resumes from here."
    exit 1
  fi
}

count_packages() { # number of packages, or empty; reads pip's output
  local total=${1:+ of $1} count=0 line
  while read -r line; do
    case $line in
      "Collecting "* | "Processing "*)
        count=$((count + 1))
        if [[ -t 2 ]]; then
          printf '\r  %s packages fetched' "$count$total" >&2
        elif ((count % 24 == 0)); then
          say "  $count$total packages fetched"
        fi
        ;;
      "Installing collected packages"*)
        if [[ -t 2 ]]; then printf '\n' >&2; fi
        say "  installing them …"
        ;;
    esac
  done
}

find_python() { # test, then candidates
  local test=$1 candidate
  shift
  for candidate in "$@"; do
    if [[ -n $candidate ]] && "$test" "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

python_311=
if [[ $(uname -sm) == "Linux x86_64" ]]; then
  why="Python 3.11 was not found"
  if is_311 .venv/bin/python && [[ -f .venv/pyvenv.cfg ]]; then
    python_311=.venv/bin/python
  else
    python_311=$(find_python is_311 "${MUSTER_PYTHON:-}" python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11 \
      "$HOME"/.pyenv/versions/3.11*/bin/python)
    if [[ -z $python_311 ]] && command -v uv >/dev/null; then
      say "Python 3.11 is not installed; downloading it with uv …"
      if uv python install --quiet 3.11; then
        python_311=$(uv python find 3.11)
      fi
    fi
  fi
else
  why="this is $(uname -sm)"
fi

if [[ -z $python_311 && ${1:-} == --with-tff ]]; then
  say "This needs TensorFlow Federated, which runs on Linux x86-64 with Python 3.11 (with venv), and $why."
  say "\`make demo\` and \`make up\` work without it, and so does a client: pip install '.[tensorflow]'. Otherwise install Python 3.11 and run make again:"
  say "  Debian, Ubuntu:  apt-get install python3.11 python3.11-venv   (Ubuntu ≥ 24: the deadsnakes archive has it)"
  say "  Fedora:          dnf install python3.11"
  say "  anywhere:        uv python install 3.11      or      pyenv install 3.11"
  say "Or set its path: MUSTER_PYTHON=/path/to/python3.11 make env. On another system, use a Linux container."
  exit 1
fi

if [[ -z $python_311 ]]; then
  if holds $stamp "$wanted_light" && works; then
    exit 0
  fi
  base=$(find_python is_usable "${MUSTER_PYTHON:-}" python3.13 python3.12 python3.11 python3 python "$HOME"/.pyenv/versions/3.1[1-3]*/bin/python)
  if [[ -z $base ]]; then
    say "The coordinator needs Python 3.11, 3.12 or 3.13 (with venv), and none was found. Install one, or set its path: MUSTER_PYTHON=/path/to/python make env"
    exit 1
  fi
  say "TensorFlow Federated is omitted: it runs on Linux x86-64 with Python 3.11, and $why. The demo uses a published plan, compiled and signed elsewhere."
  say "Creating .venv with $("$base" --version) and the newest TensorFlow for it (a download of about 600 MB; one to several minutes) …"
  "$base" -m venv --clear .venv
  install_counted "" --editable '.[demo,server,signing,tensorflow]'
  printf '%s\n' "$wanted_light" >$stamp
  say "The environment is ready, without TensorFlow Federated: .venv/bin/muster --help"
  exit 0
fi

if [[ $python_311 != .venv/bin/python ]]; then
  say "Creating .venv with $("$python_311" --version) …"
  "$python_311" -m venv --clear .venv
fi

if ! holds $packages "$wanted_packages"; then
  say "Installing $(grep -c == requirements/all.txt) pinned packages into .venv (a download of about 700 MB; one to several minutes) …"
  install_counted "$(grep -c == requirements/all.txt)" --require-hashes --no-deps -r requirements/all.txt
  printf '%s\n' "$wanted_packages" >$packages
fi
say "Installing Muster itself …"
# Without this, pip would download the newest build backend instead of the pinned one.
rm -rf .venv/build-tools
.venv/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps --target .venv/build-tools -r requirements/build.txt >&2
PYTHONPATH=$PWD/.venv/build-tools .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps --editable . >&2
printf '%s\n' "$wanted" >$stamp
say "The environment is ready: .venv/bin/muster --help"
