#!/bin/sh
# Builds the container image with docker, or with buildah where no docker engine runs, and tries it with the bank example.
set -eu
. "$(dirname -- "$0")/setup.sh"
exec "$BUN" scripts/image.ts "$@"
