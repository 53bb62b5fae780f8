#!/bin/sh
# Runs every fuzz target of the repository for a while: scripts/fuzz.sh 30s. Go takes one target at a time.
set -eu
cd "$(dirname "$0")/.."
fuzztime=${1:-30s}
targets=$(grep -rHEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/:func /:/' | sort)
if [ -z "$targets" ]; then
    echo "no fuzz targets found" >&2
    exit 1
fi
failed=
for target in $targets; do
    name=${target##*:}
    dir=$(dirname "${target%%:*}")
    echo "fuzz $name in $dir for $fuzztime"
    ${GO:-go} test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" -fuzzminimizetime 1x "$dir" || failed="$failed
--- FAIL: $dir $name"
done
[ -z "$failed" ] && exit
echo
echo "what failed:$failed"
echo FAIL
exit 1
