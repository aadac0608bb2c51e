#!/usr/bin/env bash
# Asks a database of vulnerabilities about every pinned requirement. A vulnerability fails the check. Called by `make check`.
#
# MUSTER_AUDIT=required: it fails too if no database could be reached. Set it in a CI that reaches pypi.org or api.osv.dev. Unset, as on a
# laptop without a network, the check says that it could not look, and passes.
#
# An exception is a line in requirements/audit-exceptions.txt: the vulnerability's id, and behind a # why it does not matter here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${MUSTER_AUDIT:-} in
  "" | required) ;;
  *)
    echo "MUSTER_AUDIT is '$MUSTER_AUDIT'; it may be 'required' or unset" >&2
    exit 2
    ;;
esac

ignored=()
while read -r id _; do
  [[ -z $id || $id == \#* ]] || ignored+=(--ignore-vuln "$id")
done <requirements/audit-exceptions.txt

files=()
for file in requirements/*.txt requirements/functions/*.txt; do
  case $file in
    requirements/overrides.txt | requirements/audit-exceptions.txt) ;;
    *) files+=("$file") ;;
  esac
done

out=$(mktemp)
trap 'rm -f "$out"' EXIT
for service in pypi osv; do
  for file in "${files[@]}"; do
    status=0
    timeout 120 .venv/tools/bin/python -m pip_audit --vulnerability-service "$service" --no-deps --disable-pip --progress-spinner off \
      --timeout 5 "${ignored[@]}" -r "$file" >"$out" 2>&1 </dev/null || status=$?
    # A mirror of pypi.org that has packages alone answers 404, which pip-audit takes for a package that nobody knows.
    if grep -qE 'ConnectionError|ConnectTimeout|ReadTimeout|ServiceError|HTTPError|could not be audited' "$out" || [[ $status -eq 124 ]]; then
      echo "pip-audit: the database of $service could not be reached ($(grep -E 'Error|Timeout|could not be audited' "$out" | tail -n 1 | cut -c1-120))"
      continue 2
    fi
    if [[ $status -ne 0 ]]; then
      cat "$out"
      exit 1
    fi
  done
  echo "pip-audit: $service knows of nothing against ${#files[@]} files of requirements"
  exit 0
done
echo "pip-audit: NOT CHECKED, because no database could be reached; run it where pypi.org or api.osv.dev can be reached"
if [[ ${MUSTER_AUDIT:-} == required ]]; then
  echo "pip-audit: MUSTER_AUDIT is 'required', so this fails the check"
  exit 1
fi
