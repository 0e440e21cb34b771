/** scripts/setup.sh with an npm that only notes what it was asked: what it installs when, and what it says when it can't. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type TemporaryFolder, temporaryFolder } from "../../support/folder.ts";

const NPM = `#!/bin/sh
if [ "$1" = --version ]; then echo "$NPM_VERSION"; exit; fi
echo "npm $*" >> "$CALLS"
[ -z "$NPM_FAILS" ] || exit 1
mkdir -p node_modules/.bin
printf '#!/bin/sh\\necho fake\\n' > node_modules/.bin/bun
chmod 755 node_modules/.bin/bun
`;

describe("scripts/setup.sh", () => {
  let folder: TemporaryFolder;
  const project = () => folder.at("a project", "with blanks");
  const calls = () => (existsSync(folder.at("calls")) ? readFileSync(folder.at("calls"), "utf8").trimEnd().split("\n") : []);
  const run = (environment: Readonly<Record<string, string>> = {}) => {
    const script = join(project(), "scripts", "run.sh");
    const { stdout, stderr, exitCode } = Bun.spawnSync(["/bin/sh", script, "one word", "two"], {
      cwd: "/",
      env: { PATH: `${folder.at("bin")}:/usr/bin:/bin`, NPM_VERSION: "10.8.2", CALLS: folder.at("calls"), ...environment },
    });
    return { said: stdout.toString(), error: stderr.toString(), exitCode };
  };

  beforeEach(() => {
    folder = temporaryFolder({
      "bin/npm": NPM,
      "a project/with blanks/package-lock.json": "{}\n",
      "a project/with blanks/scripts/run.sh": `set -eu\n. "$(dirname -- "$0")/setup.sh"\necho "$(pwd) $BUN $# $1"\n`,
    });
    Bun.spawnSync(["chmod", "755", folder.at("bin", "npm")]);
    copyFileSync(join(import.meta.dir, "..", "..", "..", "scripts", "setup.sh"), join(project(), "scripts", "setup.sh"));
  });
  afterEach(() => folder.remove());

  test("installs once, from wherever it is called, and leaves the caller's words alone", () => {
    const expected = `${project()} ${project()}/node_modules/.bin/bun 2 one word\n`;
    expect(run()).toMatchObject({ said: expected, exitCode: 0 });
    expect(run()).toMatchObject({ said: expected, error: "", exitCode: 0 });
    expect(calls()).toEqual(["npm ci --no-audit --no-fund --loglevel=error"]);
  });

  test("installs again after the lockfile changed, and after an installation that failed", () => {
    expect(run({ NPM_FAILS: "yes" }).exitCode).toBe(1);
    expect(run().exitCode).toBe(0);
    folder.write({ "a project/with blanks/package-lock.json": "{ }\n" });
    expect(run().exitCode).toBe(0);
    expect(calls().length).toBe(3);
  });

  test.each([
    ["9.6.4", true],
    ["9.6.6", true],
    ["8.19.4", true],
    ["9.6.7", false],
    ["9.8.1", false],
    ["10.1.0", false],
    ["11.19.1", false],
  ])("with npm %s asks a newer npm: %j", (version, newer) => {
    expect(run({ NPM_VERSION: version }).exitCode).toBe(0);
    expect(calls()[0]?.startsWith("npm exec --yes --package=npm@9.9.4 -- npm ci ")).toBe(newer);
  });

  test("says what is missing without npm, and without a lockfile", () => {
    const nothing = { PATH: folder.at("bin") };
    rmSync(folder.at("bin", "npm"));
    Bun.spawnSync(["ln", "-s", "/usr/bin/dirname", folder.at("bin", "dirname")]);
    expect(run(nothing)).toMatchObject({ error: "setup: npm not found; install Node >= 20 with npm\n", exitCode: 1 });
    rmSync(join(project(), "package-lock.json"));
    expect(run(nothing)).toMatchObject({ error: `setup: no package-lock.json in ${project()}\n`, exitCode: 1 });
  });
});
