#!/bin/sh
# Runs every checker, also after one has failed, and ends with the names of those that did. The checkers are pinned in tools/go.mod.
set -u
cd "$(dirname "$0")/.."
go=${GO:-go}
failed=

check() { # check NAME COMMAND...
    name=$1
    shift
    "$@" || failed="$failed
FAIL	$name: $*"
}

formatted() {
    unformatted=$(gofmt -l .) || return 1
    [ -z "$unformatted" ] && return
    echo "gofmt -w is needed on:"
    echo "$unformatted"
    return 1
}

vet_macos() { GOOS=darwin GOARCH=arm64 "$go" vet ./internal/pgcluster/...; }

check gofmt formatted
check vet "$go" vet ./...
check vet "$go" vet -tags matrix ./...
check vet "$go" vet -tags faultpoints ./cmd/... ./internal/...
check vet vet_macos
check staticcheck "$go" tool -modfile=tools/go.mod staticcheck -tags matrix ./...
check vet "$go" -C tools vet ./...
check test "$go" -C tools test ./...
check gosec "$go" -C tools run ./gosec ../cmd/... ../internal/... ../sql/...

[ -z "$failed" ] && exit
echo
echo "what failed:$failed"
echo FAIL
exit 1
