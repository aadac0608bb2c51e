#!/usr/bin/env bash
# Checks every pinned requirement against a database of vulnerabilities. Run by `make check`.
#
# With MUSTER_AUDIT=required, the check also fails if no database can be reached. Set it in a CI
# that can reach pypi.org or api.osv.dev. Without it, as on a laptop without a network, the check
# reports that nothing was checked, and passes.
#
# An exception is a line in requirements/audit-exceptions.txt: the vulnerability's id, and the
# reason after a #.
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
    # A mirror of pypi.org without vulnerability data responds with 404, which pip-audit reads as an
    # unknown package.
    if grep -qE 'ConnectionError|ConnectTimeout|ReadTimeout|ServiceError|HTTPError|could not be audited' "$out" || [[ $status -eq 124 ]]; then
      echo "pip-audit: the database of $service could not be reached ($(grep -E 'Error|Timeout|could not be audited' "$out" | tail -n 1 | cut -c1-120))"
      continue 2
    fi
    if [[ $status -ne 0 ]]; then
      cat "$out"
      exit 1
    fi
  done
  echo "pip-audit: $service has no vulnerabilities of the packages in ${#files[@]} requirements files"
  exit 0
done
echo "pip-audit: NOT CHECKED, because no database could be reached; run it with access to pypi.org or api.osv.dev"
if [[ ${MUSTER_AUDIT:-} == required ]]; then
  echo "pip-audit: MUSTER_AUDIT is 'required', so this fails the check"
  exit 1
fi
