#!/bin/sh
# Builds the program and runs the bank example on it: a server in its own process, commands from another, a kill, a restart.
set -eu
. "$(dirname -- "$0")/setup.sh"
"$BUN" scripts/build.ts
exec "$BUN" scripts/demo.ts "$@"
