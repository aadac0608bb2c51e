#!/usr/bin/env bash
# Writes the notice of each pinned file of a bundle or image: installs the file into a temporary
# environment, and reads the licenses from the packages' metadata. Run by `make requirements`. Needs
# the network and Python 3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in requirements/functions/*.txt requirements/up.txt; do
  hash=$(sha256sum "$file" | cut -d' ' -f1) # equal files share an environment
  if [[ ! -d $work/$hash ]]; then
    "$python" -m venv "$work/$hash"
    "$work/$hash/bin/python" -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r "$file" >&2
  fi
  "$python" requirements/notices.py "$file" "$(echo "$work/$hash"/lib/python*/site-packages)" >"$work/notice"
  mv "$work/notice" "${file%.txt}.notice"
  chmod 644 "${file%.txt}.notice"
done
