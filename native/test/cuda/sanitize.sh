#!/usr/bin/env bash
# Runs compute-sanitizer over the cases of check.py: bash native/test/cuda/sanitize.sh LIB.so [folder for the logs]
# Each tool runs every n-th case for at most LIMIT seconds (default 200), of those whose title has FILTER's texts (a|b).
# Default tools: TOOLS="memcheck:9 racecheck:31 initcheck:31 synccheck:61".
# Prints one line per tool with its findings; exits with 1 if a tool found something or did not end.
set -uo pipefail
library=$1 logs=${2:-$(mktemp -d)}
help=$(compute-sanitizer --help 2>&1)
# Checks only our kernels, because PyTorch's own take most of the time. The name of the flag changed between versions.
only=--filter; for flag in --kernel-regex --kernel-name; do grep -q -- "$flag" <<<"$help" && only=$flag; done
# Gives each tensor its own allocation, so that memcheck knows where the tensor ends.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
failed=0
for spec in ${TOOLS:-memcheck:9 racecheck:31 initcheck:31 synccheck:61}; do
  tool=${spec%:*} start=$SECONDS log=$logs/sanitize-${spec%:*}.log
  timeout "${LIMIT:-200}" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 "$only" kns=flashmask \
    python3 "$(dirname "$0")/check.py" "$library" --sanitize --filter "${FILTER:-}" --every "${spec#*:}" >"$log" 2>&1
  status=$?
  [ $status -eq 0 ] || failed=1
  echo "$tool over every ${spec#*:}th case: exit $status, $((SECONDS - start)) s, $(grep -E 'SUMMARY|passed,' "$log" | sed 's/^=* *//' | paste -sd' ')"
  grep '^=========' "$log" | grep -vE 'COMPUTE-SANITIZER|SUMMARY' | head -20
done
exit $failed
