/**
 * The compiled program for tests. scripts/test.sh builds it and names it in PROTEAN_TEST_BINARY; a test run by hand builds
 * dist/protean when it is older than the sources.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..");
let built: string | undefined;

/** Absolute path of the executable. @throws when it can't be built */
export function binary(): string {
  built ??= process.env["PROTEAN_TEST_BINARY"] ?? build();
  return built;
}

function build(): string {
  const path = join(root, "dist", "protean");
  if (existsSync(path) && statSync(path).mtimeMs >= newestSource_ms()) return path;
  const result = spawnSync(process.execPath, [join(root, "scripts", "build.ts")], { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`the build failed:\n${result.stdout}${result.stderr}`);
  return path;
}

function newestSource_ms(): number {
  const below = (folder: string) => readdirSync(join(root, folder), { recursive: true }).map((path) => join(root, folder, String(path)));
  const paths = [...below("src"), join(root, "package.json"), join(root, "package-lock.json"), join(root, "scripts", "build.ts")];
  return Math.max(...paths.map((path) => statSync(path).mtimeMs));
}

export interface Ran {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program to its end, with nothing in its environment but what is given. Default limit 20 s. */
export function runBinary(
  parameters: readonly string[],
  options: { readonly directory: string; readonly environment?: Readonly<Record<string, string>>; readonly limit_ms?: number },
): Ran {
  const { status, stdout, stderr } = spawnSync(binary(), [...parameters], {
    cwd: options.directory,
    env: { ...options.environment },
    encoding: "utf8",
    timeout: options.limit_ms ?? 20_000,
    killSignal: "SIGKILL",
  });
  return { exitCode: status, stdout, stderr };
}
