#!/bin/sh
# Looks for known vulnerabilities in what the binary calls. They are read from https://vuln.go.dev, or from GOVULNDB, which may
# be a copy on this machine (file:///...). Neither lint nor tests call this: they must not need a network.
set -eu
cd "$(dirname "$0")/.."
status=0
${GO:-go} tool -modfile=tools/go.mod govulncheck ./cmd/relay || status=$?
case $status in
0) ;;
3) echo "make vuln: a new version of what is named above mends it (go get MODULE@VERSION)" >&2 ;;
*) echo "make vuln: nothing was checked. It needs ${GOVULNDB:-https://vuln.go.dev}: run it where that can be reached, or set GOVULNDB=file:///path to a copy" >&2 ;;
esac
exit "$status"
