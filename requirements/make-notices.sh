#!/usr/bin/env bash
# Rewrites the notice beside each pinned file that bundles and images are made from: installs the file into an environment of its own, and
# reads what the packages say of their licences. Called by `make requirements`. Needs the network and Python 3.11.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3.11}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in requirements/functions/*.txt requirements/up.txt; do
  hash=$(sha256sum "$file" | cut -d' ' -f1) # files that pin the same need one environment
  if [[ ! -d $work/$hash ]]; then
    "$python" -m venv "$work/$hash"
    "$work/$hash/bin/python" -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r "$file" >&2
  fi
  "$python" requirements/notices.py "$file" "$(echo "$work/$hash"/lib/python*/site-packages)" >"$work/notice"
  mv "$work/notice" "${file%.txt}.notice"
  chmod 644 "${file%.txt}.notice"
done
