#!/bin/sh
# Client in shell: contributes this device's numbers to a federated histogram, with curl and awk.
#
#   printf '%s\n' 12 57.5 99 | ./contribute.sh http://127.0.0.1:8080 devices my-name
#
# Input: one number per line. Only ten counts leave the device. The script implements the plan
# ../histogram.plan and rejects every other plan. Its exit code is 0 if the update was accepted, else 1.
# The client's name may have letters, digits, '.', '_' and '-'. If the coordinator authenticates clients,
# set MUSTER_CLIENT_TOKEN.
set -eu
umask 077 # tokens are in files that only this user can read, since arguments are visible to all users

url=${1:?usage: contribute.sh URL POPULATION CLIENT <numbers}
population=${2:?usage: contribute.sh URL POPULATION CLIENT <numbers}
client=${3:?usage: contribute.sh URL POPULATION CLIENT <numbers}
plan=10ed2c1d7d5d47718f0976fc25ee3098852e80a009f43c329cf8e850035cab2e # ../histogram.plan

json='Content-Type: application/json'
binary='Content-Type: application/octet-stream'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The update is a safetensors file: 8 bytes with the header's length, the header, ten int64, all
# little-endian. awk writes each byte as an octal escape, and printf converts it.
awk '
  function int64(n,  i, text) {
    for (i = 0; i < 8; i++) { text = text sprintf("\\%03o", n % 256); n = int(n / 256) }
    return text
  }
  NF {
    if ($1 !~ /^[-+]?[0-9.]+([eE][-+]?[0-9]+)?$/) { print "not a number: " $1 > "/dev/stderr"; exit bad = 1 }
    bin = $1 < 0 ? 0 : $1 >= 100 ? 9 : int($1 / 10)
    counts[bin]++
  }
  END {
    if (bad) exit 1
    header = "{\"0/counts\":{\"dtype\":\"I64\",\"shape\":[10],\"data_offsets\":[0,80]}}"
    text = int64(length(header)) header
    for (bin = 0; bin < 10; bin++) text = text int64(counts[bin])
    print text
  }
' >"$work/octal"
printf "$(cat "$work/octal")" >"$work/update"

# Sends a request. The answer is in $work/answer, its status in $status. curl retries and obeys Retry-After.
request() {
  status=$(curl --silent --show-error --output "$work/answer" --write-out '%{http_code}' --max-time 60 --retry 5 --retry-connrefused "$@")
}

# Prints a field of a flat JSON answer. Its values are words, numbers, hashes and tokens, without escapes.
field() {
  sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p' "$work/answer"
}

: >"$work/identity"
[ -z "${MUSTER_CLIENT_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$MUSTER_CLIENT_TOKEN" >"$work/identity"

attempts=0
while [ "$attempts" -lt 100 ]; do
  attempts=$((attempts + 1))
  request --header "@$work/identity" --header "$json" --data "{\"client\": \"$client\"}" "$url/v1/populations/$population:checkin"
  [ "$status" = 200 ] || break
  if [ "$(field status)" = wait ]; then
    sleep "$(field retry_after)"
    continue
  fi
  printf 'Authorization: Bearer %s\n' "$(field token)" >"$work/assignment"
  if ! grep -q "\"plan\":{[^}]*\"sha256\":\"$plan\"" "$work/answer"; then
    request --header "@$work/assignment" --header "$json" --data '{"reason": "plan_refused"}' "$url/v1/updates:report"
    echo "The task has another plan than $plan" >&2
    exit 1
  fi
  request --request PUT --header "@$work/assignment" --header "$binary" --data-binary "@$work/update" "$url/v1/updates"
  case $status in
    200) cat "$work/answer" && echo && exit 0 ;;
    401 | 404 | 409) ;; # the assignment is no longer valid: check in again
    *) break ;;
  esac
done
echo "Gave up: $status $(cat "$work/answer")" >&2
exit 1
