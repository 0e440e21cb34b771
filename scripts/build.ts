/**
 * Builds the executable dist/protean (docs/adr/0003-binary.md). The file appears whole, by a rename: a program that runs from the old
 * one goes on undisturbed. The same sources give the same bytes, whatever folder they lie in (docs/adr/0008-releases.md).
 */
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import process from "node:process";
import { builtInTypes } from "./types.ts";

const root = join(import.meta.dir, "..");

export interface BuildOptions {
  /** Default src/main.ts. Tests compile entries of their own with the same options. */
  readonly entry?: string;
  /** Default dist/protean. Its name is part of the executable, its folder isn't. */
  readonly target?: string;
  /** For another machine than this one: Bun's name of the kind of machine, and Bun's executable for it. */
  readonly machine?: { readonly name: Bun.Build.CompileTarget; readonly bun: string };
  /** Default: that of PROTEAN_COMMIT, else of git. */
  readonly commit?: string;
}

/** The same for all machines. */
let types: string | undefined;

/** @returns the path of the executable. @throws when something can't be compiled */
export async function build(options: BuildOptions = {}): Promise<string> {
  const target = resolve(options.target ?? join(root, "dist", "protean"));
  mkdirSync(dirname(target), { recursive: true });
  const fresh = mkdtempSync(join(dirname(target), ".protean-"));
  const outfile = join(fresh, basename(target));
  try {
    // For `protean new`. Entries of tests don't have it.
    if (options.entry === undefined) types ??= builtInTypes();
    const defined = {
      ...(options.entry === undefined ? { PROTEAN_TYPES: JSON.stringify(types) } : {}),
      PROTEAN_COMMIT: JSON.stringify(options.commit ?? commit()),
    };
    await bundle(options.entry, defined, {
      compile: {
        outfile,
        ...(options.machine === undefined ? {} : { target: options.machine.name, executablePath: options.machine.bun }),
        // known-traps C1: no foreign preload, no foreign .env from the directory it is started in.
        autoloadBunfig: false,
        autoloadDotenv: false,
        // known-traps C2: handlers have their own node_modules and tsconfig.
        autoloadPackageJson: true,
        autoloadTsconfig: true,
      },
    });
    chmodSync(outfile, 0o755);
    renameSync(outfile, target);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return target;
}

/** Folders in node_modules whose code is in the executable, such as `c12` or `pkg-types/node_modules/confbox`, sorted. */
export async function bundledPackages(): Promise<readonly string[]> {
  const { metafile } = await bundle(undefined, undefined, { metafile: true });
  if (metafile === undefined) throw new Error("the bundler tells nothing of what it read");
  const folders = Object.keys(metafile.inputs).flatMap((path) => {
    const [, folder] = /^node_modules\/((?:.*\/node_modules\/)?(?:@[^/]+\/)?[^/]+)\//.exec(path) ?? [];
    return folder === undefined ? [] : [folder];
  });
  return [...new Set(folders)].sort();
}

async function bundle(
  entry = join(root, "src", "main.ts"),
  defined: Readonly<Record<string, string>> = {},
  settings: Partial<Bun.BuildConfig> = {},
): Promise<Bun.BuildOutput> {
  const from = process.cwd();
  const entrypoint = resolve(entry);
  // The bundler writes paths into the bundle as they are seen from the working directory, and names its chunks by their contents.
  process.chdir(root);
  try {
    return await Bun.build({
      entrypoints: [entrypoint],
      root,
      target: "bun",
      // One chunk for every lazily imported part: `version` reads none of the others.
      splitting: true,
      minify: { syntax: true, whitespace: false, identifiers: false, keepNames: true },
      sourcemap: "none",
      define: {
        PROTEAN_VERSION: JSON.stringify(packageVersion()),
        ...defined,
        "process.env.NODE_ENV": JSON.stringify("production"),
        // A library of CommonJS asks for its folder; the bundler would put in that of this machine.
        __dirname: JSON.stringify("/$bunfs/root"),
      },
      ...settings,
    } as Bun.BuildConfig);
  } finally {
    process.chdir(from);
  }
}

/** Of package.json. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string }).version;
}

/** Of PROTEAN_COMMIT, else of git, else "unknown" (rulings 73). */
export function commit(): string {
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
