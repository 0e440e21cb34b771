/**
 * Makes a release in dist/release: for each kind of machine an archive with the executable and the licences, beside them SBOM, licences and SHA-256
 * sums. The same commit gives the same bytes in every folder and at every time (docs/adr/0008-releases.md).
 *
 *   sh scripts/release.sh [--out DIR] [--dirty] [linux-x64 …]     without names: all kinds of machine; DIR as seen from the project's root
 *
 * PROTEAN_COMMIT and SOURCE_DATE_EPOCH say which commit this is and of when (else 1970); without them git does.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { build, commit, packageVersion } from "./build.ts";
import { lockedPackage, packageFolder } from "./npm-package.ts";
import { tarGzip } from "./release/archive.ts";
import { contents, root } from "./release/contents.ts";
import { thirdPartyLicenses } from "./release/licences.ts";
import { signAdHoc, signatureFault } from "./release/macos-signature.ts";
import { type Origin, sbom } from "./release/sbom.ts";

interface Machine {
  readonly bun: Bun.Build.CompileTarget;
  /** The npm package with Bun's executable for it. */
  readonly package: string;
}

/** By the name in the archive. linux-* needs glibc 2.17 or later; linux-*-musl needs musl and libstdc++ (Alpine: `apk add libstdc++`). */
export const MACHINES: Readonly<Record<string, Machine>> = {
  "linux-x64": { bun: "bun-linux-x64", package: "@oven/bun-linux-x64" },
  "linux-arm64": { bun: "bun-linux-arm64", package: "@oven/bun-linux-aarch64" },
  "linux-x64-musl": { bun: "bun-linux-x64-musl", package: "@oven/bun-linux-x64-musl" },
  "linux-arm64-musl": { bun: "bun-linux-arm64-musl", package: "@oven/bun-linux-aarch64-musl" },
  "macos-x64": { bun: "bun-darwin-x64", package: "@oven/bun-darwin-x64" },
  "macos-arm64": { bun: "bun-darwin-arm64", package: "@oven/bun-darwin-aarch64" },
  "windows-x64": { bun: "bun-windows-x64", package: "@oven/bun-windows-x64" },
};

/** The machine that this script runs on, by its name in the archive. */
export function hostMachine(): string {
  const { header } = process.report.getReport() as { readonly header?: { readonly glibcVersionRuntime?: string } };
  const isMusl = process.platform === "linux" && header?.glibcVersionRuntime === undefined;
  const system = { darwin: "macos", win32: "windows" }[process.platform as string] ?? process.platform;
  return `${system}-${process.arch}${isMusl ? "-musl" : ""}`;
}

/** Every release has this file, so a folder with it may be replaced by another one. */
const SUMS = "SHA256SUMS";

class ReleaseError extends Error {}

interface Wanted {
  readonly out: string;
  readonly machines: readonly string[];
  readonly origin: Origin;
}

function wanted(words: readonly string[]): Wanted {
  const { values, positionals } = parseArgs({
    args: [...words],
    options: { out: { type: "string" }, dirty: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  for (const name of positionals) {
    if (MACHINES[name] === undefined) throw new ReleaseError(`no machine "${name}"; there are ${Object.keys(MACHINES).join(", ")}`);
  }
  const out = resolve(root, values.out ?? join("dist", "release"));
  if (existsSync(out) && readdirSync(out).length > 0 && !existsSync(join(out, SUMS))) {
    throw new ReleaseError(`${out} holds something else than a release, and would be replaced: give another folder`);
  }
  return {
    out,
    machines: positionals.length > 0 ? positionals : Object.keys(MACHINES),
    origin: originOf(values.dirty),
  };
}

function originOf(takesChanges: boolean): Origin {
  const name = commit();
  if (name === "unknown")
    throw new ReleaseError("nobody says which commit this is: no git, no repository, or one of another user; set PROTEAN_COMMIT");
  const isGiven = (process.env["PROTEAN_COMMIT"] ?? "").trim() !== "";
  const changes = isGiven ? "" : git("status", "--porcelain");
  if (changes !== "" && !takesChanges) {
    throw new ReleaseError(`these files are not as in the commit; commit them, or give --dirty to try it out:\n${changes}`);
  }
  const given = process.env["SOURCE_DATE_EPOCH"]?.trim() || (isGiven ? "0" : git("log", "-1", "--format=%ct"));
  if (!/^\d+$/.test(given)) throw new ReleaseError(`SOURCE_DATE_EPOCH is "${given}": it must be whole seconds since 1970`);
  return { commit: changes === "" ? name : `${name}-dirty`, made_s: Number(given) };
}

function git(...words: readonly string[]): string {
  return execFileSync("git", words, { cwd: root, encoding: "utf8" }).trimEnd();
}

/** @returns the lines of SHA256SUMS for the archive and the executable in it */
async function archive(name: string, folder: string, origin: Origin, licences: string): Promise<readonly string[]> {
  const { bun, package: bunPackage } = MACHINES[name] as Machine;
  const program = bun.includes("windows") ? "protean.exe" : "protean";
  const runtime = join(await packageFolder(lockedPackage(bunPackage)), "bin", program.replace("protean", "bun"));
  const target = join(folder, "executable", program);
  await build({ target, machine: { name: bun, bun: runtime }, commit: origin.commit });
  if (name === hostMachine()) checkVersion(target, origin.commit);
  const executable = new Uint8Array(readFileSync(target));
  if (bun.includes("darwin")) sign(executable);
  rmSync(dirname(target), { recursive: true });
  const top = `protean-${name}`;
  const bytes = tarGzip(
    [
      { name: `${top}/${program}`, data: executable, isExecutable: true },
      { name: `${top}/LICENSE`, data: readFileSync(join(root, "LICENSE")) },
      { name: `${top}/THIRD_PARTY_LICENSES`, data: Buffer.from(licences) },
    ],
    origin.made_s,
  );
  writeFileSync(join(folder, `${top}.tar.gz`), bytes);
  process.stderr.write(`release: ${top}.tar.gz (${mebibytes(executable.length)} MiB, packed ${mebibytes(bytes.length)})\n`);
  return [sumLine(`${top}.tar.gz`, bytes), sumLine(`${top}/${program}`, executable)];
}

/** An executable whose signature doesn't hold is killed by macOS on arm64, and called damaged on x64. */
function sign(executable: Uint8Array): void {
  if (signatureFault(executable) !== null) signAdHoc(executable, "protean");
  const fault = signatureFault(executable);
  if (fault !== null) throw new ReleaseError(`the signature for macOS doesn't hold: ${fault}`);
}

/** That of the machine at hand is started: what can't say who it is isn't released. */
function checkVersion(program: string, expected: string): void {
  const { stdout, stderr } = spawnSync(program, ["version", "--json"], { encoding: "utf8" });
  const { version, commit: found } = (JSON.parse(stdout || "{}") as { data?: Record<string, unknown> }).data ?? {};
  if (version !== packageVersion() || found !== expected) throw new ReleaseError(`the new executable says of itself:\n${stdout}${stderr}`);
}

function sumLine(name: string, bytes: Uint8Array): string {
  return `${createHash("sha256").update(bytes).digest("hex")}  ${name}`;
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 1024 / 1024);
}

/** Everything is made beside `out` and appears there whole; what was there before goes. */
async function release({ out, machines, origin }: Wanted): Promise<void> {
  mkdirSync(dirname(out), { recursive: true });
  const fresh = mkdtempSync(join(dirname(out), ".release-"));
  try {
    const inside = await contents();
    const texts: readonly (readonly [string, string])[] = [
      ["THIRD_PARTY_LICENSES", thirdPartyLicenses(inside)],
      ["protean.cdx.json", sbom(inside, origin)],
    ];
    const [[, licences]] = texts as readonly [readonly [string, string]];
    const sums: string[] = [];
    for (const name of machines) sums.push(...(await archive(name, fresh, origin, licences)));
    for (const [name, text] of texts) {
      writeFileSync(join(fresh, name), text);
      sums.push(sumLine(name, Buffer.from(text)));
    }
    writeFileSync(join(fresh, SUMS), `${sums.join("\n")}\n`);
    chmodSync(fresh, 0o755);
    rmSync(out, { recursive: true, force: true });
    renameSync(fresh, out);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  process.stdout.write(readFileSync(join(out, SUMS), "utf8"));
  process.stderr.write(`release: ${out}, commit ${origin.commit}\n`);
}

if (import.meta.main) {
  await Promise.resolve()
    .then(() => release(wanted(process.argv.slice(2))))
    .catch((error: unknown) => {
      const isTold = error instanceof ReleaseError || (error as { readonly code?: string }).code?.startsWith("ERR_PARSE_ARGS") === true;
      process.stderr.write(`release: ${isTold ? (error as Error).message : Bun.inspect(error)}\n`);
      process.exit(isTold ? 2 : 1);
    });
}
