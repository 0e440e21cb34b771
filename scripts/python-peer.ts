/**
 * Protean for Python, for the tests that run both programs on one broker: a virtual environment in node_modules/.cache/python-peer, made once
 * (some 15 seconds) and made again when what it must hold changes. It has the Redis and SQLite extras only, so it needs no compiler.
 *
 * As a program: `bun scripts/python-peer.ts` makes it and prints the folder of its executables.
 */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = join(import.meta.dir, "..");
const environment = join(root, "node_modules", ".cache", "python-peer");
const constraints = join(root, "test", "interop", "python-app", "constraints.txt");
const REQUIREMENT = "protean[redis,sqlite]==0.18.0";
/** Oldest Python that it runs on. */
const [MAJOR, MINOR] = [3, 11] as const;

export type PythonPeer =
  /** Absolute paths of `python` and of the `protean` command. */
  { readonly python: string; readonly protean: string } | { readonly missing: "python" | "packages"; readonly reason: string };

/** Finds or makes the environment. Never throws: where it can't be had, the reason is one line. */
export async function pythonPeer(): Promise<PythonPeer> {
  const peer = { python: join(environment, "bin", "python"), protean: join(environment, "bin", "protean") };
  const stamp = join(environment, ".complete");
  const wanted = `${REQUIREMENT}\n${environment}\n${readFileSync(constraints, "utf8")}`;
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted && (await works(peer.python))) return peer;
  const python = await findPython();
  if (python === null) return { missing: "python", reason: `no Python >= ${MAJOR}.${MINOR} on PATH` };
  process.stderr.write(`python-peer: installing ${REQUIREMENT} with pip\n`);
  try {
    rmSync(environment, { recursive: true, force: true });
    mkdirSync(dirname(environment), { recursive: true });
    await run(python, ["-m", "venv", environment]);
    await run(peer.python, ["-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT, "-c", constraints]);
    writeFileSync(stamp, wanted);
    return peer;
  } catch (error) {
    const { stderr, message } = error as { readonly stderr?: string; readonly message: string };
    return { missing: "packages", reason: `${REQUIREMENT} can't be installed: ${(stderr?.trim() || message).split("\n").at(-1)}` };
  }
}

async function works(python: string): Promise<boolean> {
  return await run(python, ["-c", "import protean"]).then(
    () => true,
    () => false,
  );
}

async function findPython(): Promise<string | null> {
  const check = `import sys, venv, ensurepip; sys.exit(sys.version_info < (${MAJOR}, ${MINOR}))`;
  for (const name of ["python3", "python3.11", "python3.12", "python3.13", "python"]) {
    const found = await run(name, ["-c", check]).then(
      () => true,
      () => false,
    );
    if (found) return name;
  }
  return null;
}

if (import.meta.main) {
  const peer = await pythonPeer();
  process.stdout.write(`${"missing" in peer ? peer.reason : dirname(peer.python)}\n`);
  process.exitCode = "missing" in peer ? 1 : 0;
}
