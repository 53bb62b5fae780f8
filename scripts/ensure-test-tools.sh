#!/bin/sh
# Makes sure of what the tests need besides Go and PostgreSQL: a C compiler (the race detector), curl and openssl (the
# README's lines), and node with the published Standard Webhooks verifier (it checks our signatures), the tools that
# check our OpenAPI document, and PgBouncer. Installs packages when it may, else says what to type and exits 1. With the
# argument `compiler` it makes sure of that alone, and writes nothing into this tree, so that several may run at once.
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh

PATH="$PATH:/usr/sbin:/usr/local/sbin" # where some of them are
missing=
need() { # need PROGRAM APT DNF APK BREW
    command -v "$1" >/dev/null 2>&1 && return
    case "$(package_manager)" in
    dnf) missing="$missing $3" ;;
    apk) missing="$missing $4" ;;
    brew) missing="$missing $5" ;;
    *) missing="$missing $2" ;;
    esac
}

if ! printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | "${CC:-cc}" -x c -o /dev/null - 2>/dev/null; then
    case "$(package_manager)" in
    dnf) missing="$missing gcc" ;;
    apk) missing="$missing gcc musl-dev" ;;
    brew)
        echo "No C compiler, which the race detector needs. Type: xcode-select --install" >&2
        exit 1
        ;;
    *) missing="$missing gcc libc6-dev" ;;
    esac
fi
if [ "${1:-}" != compiler ]; then
    need openssl openssl openssl openssl openssl
    need curl curl curl curl curl
    need node nodejs nodejs nodejs node
    need npm npm nodejs-npm npm node
    need pgbouncer pgbouncer pgbouncer pgbouncer pgbouncer
fi
if [ -n "$missing" ]; then
    # Word splitting is meant: these are package names.
    # shellcheck disable=SC2086
    install_packages $missing
fi

[ "${1:-}" != compiler ] || exit 0

# The copy of the lock file says what is installed.
cd test/verifiers
if ! cmp -s package-lock.json node_modules/.installed-lock.json; then
    npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/.installed-lock.json
fi
