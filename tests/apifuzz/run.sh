#!/usr/bin/env bash
# Lets schemathesis make calls of all kinds, right and wrong, from the OpenAPI document of a server of its own.
# usage: run.sh <daypass> <schemathesis> <seconds> [arguments for `daypass serve`]
#
# Streams are left out: they do not end. `positive_data_acceptance` is too: a schema cannot say that a principal begins with
# `user:`, that an id is taken or in which state a request is. `ignored_auth` cannot leave the certificate out that the
# document names as the other way to authenticate; tests/it has calls without an identity.
# APIFUZZ_ONLY: a regular expression of the operations to call.
set -euo pipefail

daypass=$(realpath "$1")
schemathesis=$(realpath -s "$2")
seconds=$3
shift 3

entitlements=$(dirname "$(realpath "$0")")/entitlements.yaml
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT

"$daypass" serve --listen 127.0.0.1:0 --api-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 \
    --store embedded:memory --policy "$entitlements" --data-dir "$dir/data" "$@" >"$dir/log" 2>&1 &
server=$!
api=
for _ in $(seq 100); do
    api=$(sed -E 's/\x1b\[[0-9;]*m//g' "$dir/log" | sed -nE 's/.*listening check=.* api=([^ ]+) .*/\1/p')
    [ -z "$api" ] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if [ -z "$api" ]; then
    cat "$dir/log" >&2
    exit 1
fi

# It keeps what it found in the directory it is called from.
cd "$dir"
status=0
"$schemathesis" run "http://$api/v1/openapi.json" \
    --header "authorization: Bearer $(cat "$dir/data/token")" \
    --exclude-path-regex ':watch$' ${APIFUZZ_ONLY:+--include-operation-id-regex "$APIFUZZ_ONLY"} \
    --exclude-checks positive_data_acceptance,ignored_auth \
    --phases examples,coverage,fuzzing,stateful \
    --max-time "$seconds" --max-examples 1000000 --continue-on-failure \
    --request-timeout 10 --suppress-health-check all --warnings off || status=$?

if ! kill -0 "$server" 2>/dev/null || grep -qi 'panicked' "$dir/log"; then
    echo "the server panicked or ended:" >&2
    grep -i -A3 'panicked' "$dir/log" >&2 || tail -5 "$dir/log" >&2
    exit 1
fi
exit "$status"
