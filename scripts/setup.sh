# Sourced by the other scripts: goes to the project's root, installs what the lockfile says, sets BUN and DENO.
# Needs Node with npm and nothing else. A script that is killed in the middle of an installation repeats it the next time.

CDPATH= cd -- "$(dirname -- "$0")/.." || exit 1
[ -f package-lock.json ] || { echo "setup: no package-lock.json in $(pwd)" >&2; exit 1; }
command -v npm >/dev/null 2>&1 || { echo "setup: npm not found; install Node >= 20 with npm" >&2; exit 1; }

install_locked() {
  case "$(npm --version)" in
    # npm before 9.6.7 (Node 20.0 to 20.2) doesn't recognise glibc, and leaves out the executables of this platform.
    [0-8].* | 9.[0-5].* | 9.6.[0-6]) npm exec --yes --package=npm@9.9.4 -- npm ci --no-audit --no-fund --loglevel=error ;;
    *) npm ci --no-audit --no-fund --loglevel=error ;;
  esac
}

# The stamp is a copy of the lockfile, written when an installation is complete.
if ! cmp -s package-lock.json node_modules/.protean-setup; then
  echo "setup: installing from package-lock.json" >&2
  install_locked >&2 || exit 1
  cp package-lock.json node_modules/.protean-setup || exit 1
fi

# `bun` and `deno` on npm put their executables into place by an install script, which npm may be set not to run.
# The executables of this platform lie in packages of their own then.
works() { "$1" --version >/dev/null 2>&1; }
BUN="$(pwd)/node_modules/.bin/bun"
if ! works "$BUN"; then
  for candidate in "$(pwd)"/node_modules/@oven/bun-*/bin/bun; do
    if works "$candidate"; then BUN="$candidate"; break; fi
  done
  works "$BUN" || { echo "setup: the bun of the lockfile doesn't run on this machine" >&2; exit 1; }
fi
DENO="$(pwd)/node_modules/.bin/deno"
if ! works "$DENO"; then
  DENO=""
  for candidate in "$(pwd)"/node_modules/@deno/*/deno "$(command -v deno || true)"; do
    if [ -n "$candidate" ] && works "$candidate"; then DENO="$candidate"; break; fi
  done
fi
export BUN DENO
