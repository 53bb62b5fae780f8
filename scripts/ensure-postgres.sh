#!/bin/sh
# Makes sure that initdb and postgres are on this machine, and prints their folder. Looks in the same places as
# internal/pgcluster; installs the distribution's package when it may, else says what to type and exits 1.
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh

has_server() { [ -x "$1/initdb" ] && [ -x "$1/postgres" ]; }

find_server() {
    if [ -n "${RELAY_PG_BIN:-}" ]; then
        has_server "$RELAY_PG_BIN" && echo "$RELAY_PG_BIN" && return
        echo "RELAY_PG_BIN=$RELAY_PG_BIN: no initdb and postgres in that folder" >&2
        exit 1
    fi
    if found=$(command -v postgres); then
        real=$(readlink -f "$found" 2>/dev/null || echo "$found")
        for found in "$real" "$found"; do
            dir=$(dirname "$found")
            has_server "$dir" && echo "$dir" && return
        done
    fi
    if dir=$(pg_config --bindir 2>/dev/null); then
        has_server "$dir" && echo "$dir" && return
    fi
    for dir in /usr/lib/postgresql/*/bin /usr/libexec/postgresql* /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin \
        /usr/local/opt/postgresql*/bin /usr/local/pgsql/bin; do
        has_server "$dir" && echo "$dir" && return
    done
    return 1
}

# On Debian the package would create a cluster and run it for good; relay starts its own and wants no other.
install_on_debian() {
    install_packages postgresql-common || return 1
    conf=/etc/postgresql-common/createcluster.conf
    saved=
    if [ -f "$conf" ]; then
        saved=$(mktemp)
        cp "$conf" "$saved"
        echo "create_main_cluster = false" | as_root tee -a "$conf" >/dev/null
    fi
    status=0
    install_packages postgresql || status=$?
    if [ -n "$saved" ]; then
        as_root tee "$conf" <"$saved" >/dev/null
        rm -f "$saved"
    fi
    return "$status"
}

if dir=$(find_server); then
    echo "PostgreSQL: $dir"
    exit 0
fi
if [ -n "${RELAY_PG_BIN:-}" ]; then
    exit 1
fi
case "$(package_manager)" in
apt-get)
    if can_install; then install_on_debian; else install_packages postgresql; fi
    ;;
dnf) install_packages postgresql-server ;;
apk) install_packages postgresql ;;
brew) install_packages postgresql@17 ;;
*)
    echo "No PostgreSQL server programs found. Install the server package, as one of:" >&2
    echo "    Debian, Ubuntu: sudo apt-get install postgresql" >&2
    echo "    Fedora, RHEL:   sudo dnf install postgresql-server" >&2
    echo "    Alpine:         sudo apk add postgresql" >&2
    echo "    macOS:          brew install postgresql@17" >&2
    echo "or set RELAY_PG_BIN to the folder of initdb and postgres." >&2
    exit 1
    ;;
esac
if dir=$(find_server); then
    echo "PostgreSQL: $dir"
else
    echo "The package is installed, but initdb and postgres are in none of the usual folders; set RELAY_PG_BIN." >&2
    exit 1
fi
