#!/bin/sh
# A client in a few lines of shell: contributes this device's numbers to a federated histogram, by curl and awk.
#
#   printf '%s\n' 12 57.5 99 | ./contribute.sh http://127.0.0.1:8080 devices my-name
#
# The numbers come one a line; only ten counts leave the device. The script does by hand what the graph of one plan does, so it
# works for that plan alone, and gives every other one back. It ends with 0 when its update is accepted, with 1 when it gives up.
# A client's name is made of letters, digits, '.', '_' and '-' here. MUSTER_CLIENT_TOKEN is sent at check-in, where the coordinator
# asks who a client is.
set -eu
umask 077 # tokens are in these files, and not among the arguments, which everybody can see

url=${1:?usage: contribute.sh URL POPULATION CLIENT <numbers}
population=${2:?usage: contribute.sh URL POPULATION CLIENT <numbers}
client=${3:?usage: contribute.sh URL POPULATION CLIENT <numbers}
plan=10ed2c1d7d5d47718f0976fc25ee3098852e80a009f43c329cf8e850035cab2e # ../histogram.plan

json='Content-Type: application/json'
binary='Content-Type: application/octet-stream'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The update: a safetensors file. 8 bytes with the header's length, the header, ten int64, all little-endian. awk writes every
# byte as an octal escape, which printf makes a byte.
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

# One request: body in $work/answer, status in $status; curl itself repeats what it may, and heeds Retry-After.
ask() {
  status=$(curl --silent --show-error --output "$work/answer" --write-out '%{http_code}' --max-time 60 --retry 5 --retry-connrefused "$@")
}

# A field of a flat answer, as text. Values here are words, numbers, hashes and tokens: no escapes.
field() {
  sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p' "$work/answer"
}

: >"$work/identity"
[ -z "${MUSTER_CLIENT_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$MUSTER_CLIENT_TOKEN" >"$work/identity"

attempts=0
while [ "$attempts" -lt 100 ]; do
  attempts=$((attempts + 1))
  ask --header "@$work/identity" --header "$json" --data "{\"client\": \"$client\"}" "$url/v1/populations/$population:checkin"
  [ "$status" = 200 ] || break
  if [ "$(field status)" = wait ]; then
    sleep "$(field retry_after)"
    continue
  fi
  printf 'Authorization: Bearer %s\n' "$(field token)" >"$work/assignment"
  if ! grep -q "\"plan\":{[^}]*\"sha256\":\"$plan\"" "$work/answer"; then
    ask --header "@$work/assignment" --header "$json" --data '{"reason": "plan_refused"}' "$url/v1/updates:report"
    echo "The task has another plan than $plan" >&2
    exit 1
  fi
  ask --request PUT --header "@$work/assignment" --header "$binary" --data-binary "@$work/update" "$url/v1/updates"
  case $status in
    200) cat "$work/answer" && echo && exit 0 ;;
    401 | 404 | 409) ;; # this assignment is void: check in again
    *) break ;;
  esac
done
echo "Gave up: $status $(cat "$work/answer")" >&2
exit 1
