#!/bin/sh
# Makes a release in dist/release: archives for every kind of machine, SHA-256 sums, SBOM, licences. Names of machines make only these.
set -eu
. "$(dirname -- "$0")/setup.sh"
exec "$BUN" scripts/release.ts "$@"
