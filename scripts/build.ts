/**
 * Builds the executable dist/protean (docs/adr/0003-binary.md). The file appears whole, by a rename: a program that runs from the old
 * one goes on undisturbed.
 */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { builtInTypes } from "./types.ts";

const root = join(import.meta.dir, "..");

export interface BuildOptions {
  /** Default src/main.ts. Tests compile entries of their own with the same options. */
  readonly entry?: string;
  /** Default dist/protean. */
  readonly target?: string;
}

/** @returns the path of the executable. @throws when something can't be compiled */
export async function build(options: BuildOptions = {}): Promise<string> {
  const target = options.target ?? join(root, "dist", "protean");
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string };
  const fresh = `${target}.${process.pid}.new`;
  mkdirSync(dirname(target), { recursive: true });
  try {
    await Bun.build({
      entrypoints: [options.entry ?? join(root, "src", "main.ts")],
      root,
      target: "bun",
      // One chunk for every lazily imported part: `version` reads none of the others.
      splitting: true,
      minify: { syntax: true, whitespace: false, identifiers: false, keepNames: true },
      sourcemap: "none",
      define: {
        PROTEAN_VERSION: JSON.stringify(version),
        PROTEAN_COMMIT: JSON.stringify(commit()),
        // For `protean new`. Entries of tests don't have it.
        ...(options.entry === undefined ? { PROTEAN_TYPES: JSON.stringify(builtInTypes()) } : {}),
        "process.env.NODE_ENV": JSON.stringify("production"),
      },
      compile: {
        outfile: fresh,
        // known-traps C1: no foreign preload, no foreign .env from the directory it is started in.
        autoloadBunfig: false,
        autoloadDotenv: false,
        // known-traps C2: handlers have their own node_modules and tsconfig.
        autoloadPackageJson: true,
        autoloadTsconfig: true,
      },
    });
    chmodSync(fresh, 0o755);
    renameSync(fresh, target);
  } finally {
    rmSync(fresh, { force: true });
  }
  return target;
}

/** Of PROTEAN_COMMIT, else of git, else "unknown" (rulings 73). */
function commit(): string {
  const given = process.env["PROTEAN_COMMIT"]?.trim();
  if (given) return given;
  try {
    return (
      execFileSync("git", ["rev-parse", "HEAD"], { cwd: root, stdio: ["ignore", "pipe", "ignore"], encoding: "utf8" }).trim() || "unknown"
    );
  } catch {
    // No git, no repository, or one of another user: the build doesn't depend on it.
    return "unknown";
  }
}

if (import.meta.main) {
  const path = await build().catch((error: unknown) => {
    const parts = error instanceof AggregateError ? error.errors : [error];
    for (const part of parts) console.error(Bun.inspect(part));
    process.exit(1);
  });
  console.error(`built ${path} (${Math.round(statSync(path).size / 1024 / 1024)} MiB)`);
}
