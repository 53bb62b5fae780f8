#!/bin/sh
# Runs the tests that touch PostgreSQL on each major in turn, then those that need several servers (build tag matrix):
# scripts/test-matrix.sh [go test arguments]. MAJORS="17 18" chooses among them; the distribution's is called "own".
# It ends with the names of what failed.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
majors=${MAJORS:-own 16 17 18 several}
race=${RACE--race}
timeout=${TEST_TIMEOUT:-20m}

servers=$(scripts/ensure-postgres-versions.sh)
own=$(scripts/ensure-postgres.sh | sed -n 's/^PostgreSQL: //p')
packages=$(grep -rlE 'internal/pgcluster|RELAY_PG_BIN' --include='*_test.go' . | xargs -n1 dirname | sort -u)

more=$*
set -- # the commands, each after "--"
set -f # no argument is a pattern of files
for major in $majors; do
    tags=
    on=$packages
    case "$major" in
    own) bin=$own ;;
    several)
        bin=$own
        files=$(grep -rl '^//go:build matrix' --include='*_test.go' .)
        on=$(echo "$files" | xargs -n1 dirname | sort -u)
        tags="-tags matrix -run ^($(echo "$files" | xargs sed -n 's/^func \(Test[A-Za-z0-9_]*\)(t .*/\1/p' | paste -sd '|' -))\$"
        ;;
    *)
        bin=$(echo "$servers" | sed -n "s/^$major //p")
        if [ -z "$bin" ]; then
            echo "no server of major $major; there are:" >&2
            echo "$servers" >&2
            exit 2
        fi
        ;;
    esac
    echo "$major: $("$bin/postgres" --version)"
    # Word splitting is meant: packages and flags.
    # shellcheck disable=SC2086
    set -- "$@" -- env "RELAY_PG_BIN=$bin" "$go" test $race -count=1 -timeout "$timeout" $tags $more $on
done
exec bin/suite "$@"
