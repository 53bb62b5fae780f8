#!/bin/sh
# Makes sure of the server programs of the majors that the distribution does not have, for `make test-matrix`, and
# prints a line for each: its major and the folder of initdb and postgres. Their versions stand in test/postgres/package.json;
# the lock file beside it holds their checksums. The packages have initdb, pg_ctl and postgres; no psql.
#
# Each version is in a folder of its own, in RELAY_PG_VERSIONS, else in the user's cache. Root's is /var/cache: the servers
# run as another user then, who may not be able to enter a checkout or root's home. pgtest.Server looks in the same place.
set -eu
cd "$(dirname "$0")/.."
. scripts/packages.sh

if [ -n "${RELAY_PG_VERSIONS:-}" ]; then
    versions=$RELAY_PG_VERSIONS
elif [ "$(id -u)" -eq 0 ]; then
    versions=/var/cache/relay-postgres
else
    versions=${XDG_CACHE_HOME:-$HOME/.cache}/relay-postgres
fi
case "$(uname -s)-$(uname -m)" in
Linux-x86_64) arch=x64 ;;
Linux-aarch64 | Linux-arm64) arch=arm64 ;;
*)
    echo "No PostgreSQL packages are pinned for $(uname -s) on $(uname -m). Put the majors yourself into RELAY_PG_VERSIONS," >&2
    echo "as 16/bin, 17/bin and 18/bin, or run one of them: RELAY_PG_BIN=.../17/bin make test" >&2
    exit 1
    ;;
esac
if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    install_packages nodejs npm
fi

# pinned prints "major version" for each package of this machine's kind.
pinned() {
    node -e '
        const { optionalDependencies: d } = require("./test/postgres/package.json");
        for (const [name, spec] of Object.entries(d)) {
            const [, major, arch] = name.match(/^postgres-(\d+)-(\w+)$/);
            if (arch === process.argv[1]) console.log(major, spec.replace(/^.*@/, ""));
        }' "$arch"
}

install_all() {
    mkdir -p "$versions"
    chmod 755 "$versions"
    work=$(mktemp -d "$versions/.install-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cp test/postgres/package.json test/postgres/package-lock.json "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    pinned | while read -r major version; do
        package=$work/node_modules/postgres-$major-$arch
        # npm keeps no symbolic links; the package's own script makes them again.
        (cd "$package" && node scripts/hydrate-symlinks.js)
        chmod -R go+rX "$package"
        # Another installation may have been quicker: what is there is the same, and may be running.
        [ -d "$versions/$version" ] || mv -T "$package" "$versions/$version" 2>/dev/null || [ -d "$versions/$version" ]
        ln -sfn "$version/native" "$versions/$major"
    done
    rm -rf "$work"
    trap - EXIT
}

complete() {
    pinned | while read -r major version; do
        [ "$(readlink "$versions/$major")" = "$version/native" ] && [ -x "$versions/$major/bin/postgres" ] || exit 1
    done
}

complete || install_all
pinned | while read -r major version; do
    "$versions/$major/bin/postgres" --version >/dev/null
    echo "$major $versions/$major/bin"
done
