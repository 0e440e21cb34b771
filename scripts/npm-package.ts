/**
 * Single packages of the npm registry that `npm ci` doesn't install on this machine: Bun for other kinds of machine, Node. Each is fetched once, by
 * npm itself (so its own cache and settings count), compared with its checksum, and kept unpacked in node_modules/.cache.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { gunzipSync } from "node:zlib";
import { parseTar } from "nanotar";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const cache = join(root, "node_modules", ".cache", "npm-packages");

export interface PackageName {
  readonly name: string;
  /** Exact. */
  readonly version: string;
  /** As in a lockfile: `sha512-` and base64. */
  readonly integrity: string;
}

/** Of package-lock.json. */
export interface LockedPackage {
  readonly version: string;
  readonly integrity?: string;
  readonly license?: string;
  readonly dev?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
}

/** By folder, such as `node_modules/c12`; "" is the project itself. */
export function lockedPackages(): Readonly<Record<string, LockedPackage>> {
  return (JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as { packages: Record<string, LockedPackage> }).packages;
}

/** @throws when package-lock.json doesn't say which version, and with which checksum */
export function lockedPackage(name: string): PackageName {
  const locked = lockedPackages()[`node_modules/${name}`];
  if (locked?.integrity === undefined) throw new Error(`package-lock.json has no ${name} with a checksum: run npm install ${name}`);
  return { name, version: locked.version, integrity: locked.integrity };
}

/**
 * Folder with the package's files; fetched when it isn't there yet.
 * @throws when npm can't fetch it, or what it fetched has another checksum
 */
export async function packageFolder({ name, version, integrity }: PackageName): Promise<string> {
  const folder = join(cache, `${name.replace("/", "+")}@${version}`);
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(join(cache, ".fetching-"));
  try {
    process.stderr.write(`npm: fetching ${name} ${version}\n`);
    await run("npm", ["pack", "--silent", "--pack-destination", fresh, `${name}@${version}`], { cwd: fresh }).catch((error: unknown) => {
      const { stderr, message } = error as { readonly stderr?: string; readonly message: string };
      throw new Error(`npm can't fetch ${name} ${version}: ${stderr?.trim() || message}`, { cause: error });
    });
    const [archive = ""] = readdirSync(fresh);
    const bytes = readFileSync(join(fresh, archive));
    const found = `sha512-${createHash("sha512").update(bytes).digest("base64")}`;
    if (found !== integrity) throw new Error(`${name} ${version} has the checksum ${found}, should have ${integrity}`);
    for (const { name: path, type, data, attrs } of parseTar(gunzipSync(bytes))) {
      // Everything in such an archive lies below one folder, `package/`.
      const [, ...parts] = path.split("/");
      if (type !== "file" || parts.length === 0) continue;
      const place = join(fresh, "content", ...parts);
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, data ?? "", { mode: Number.parseInt(attrs?.mode ?? "644", 8) & 0o777 });
    }
    // Whole or not at all, also when two do it at once: the other's folder holds the same.
    try {
      renameSync(join(fresh, "content"), folder);
    } catch (error) {
      if (!existsSync(folder)) throw error;
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return folder;
}
