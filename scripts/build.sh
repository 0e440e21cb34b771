#!/bin/sh
# Builds dist/protean. PROTEAN_COMMIT names the commit where there is no git.
set -eu
. "$(dirname -- "$0")/setup.sh"
exec "$BUN" scripts/build.ts "$@"
