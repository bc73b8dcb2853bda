#!/usr/bin/env bash
# Takes one rule of the replica's protocol out at a time and expects the judged history to notice. A checker that cannot
# fail proves nothing. Works on a copy; builds into target/sabotage.
set -euo pipefail
cd "$(dirname "$0")/../.."
copy=target/sabotage/tree
for patch in tests/sabotage/*.patch; do
  rm -rf "$copy"
  mkdir -p "$copy"
  git ls-files -z | xargs -0 cp --parents -t "$copy"
  (cd "$copy" && git init -q . && git apply "../../../$patch")
  name="$(basename "$patch" .patch)"
  noticed=no
  for try in 1 2 3; do
    if ! (cd "$copy" && HISTORY_SECONDS="${HISTORY_SECONDS:-20}" CARGO_TARGET_DIR=../target \
          cargo test --quiet --locked --test it redis_history -- --nocapture) >"target/sabotage/$name.log" 2>&1; then
      noticed="in run $try"
      break
    fi
  done
  grep -hE "checks,|allows (later|of what)|^error" "target/sabotage/$name.log" || true
  echo "$name: noticed $noticed"
  # What does not compile fails too, and proves nothing.
  if [ "$noticed" = no ] || grep -q "could not compile" "target/sabotage/$name.log"; then
    exit 1
  fi
done
