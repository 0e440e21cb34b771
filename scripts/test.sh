#!/bin/sh
# Runs all checks and tests. Last line: "N passed, N failed"; the exit code is 0 only when none failed.
# `--all` adds the slow suites; names of suites (unit, e2e, …) run only these.
set -eu
. "$(dirname -- "$0")/setup.sh"
exec "$BUN" scripts/test.ts "$@"
