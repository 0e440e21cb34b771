/** What is inside the executable, by the lockfile and by what the bundler read: the one list behind SBOM and licences. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bundledPackages, packageVersion } from "../build.ts";
import { type LockedPackage, lockedPackages } from "../npm-package.ts";

export const root = join(import.meta.dirname, "..", "..");

/** Development dependencies of which something is in the executable all the same: the runtime itself, and SQL that is kept in src/. */
const EMBEDDED = ["node_modules/bun", "node_modules/@eventide/message-db"];

export interface Part {
  /** Such as `c12@3.3.4`; no two parts share one. */
  readonly ref: string;
  readonly name: string;
  readonly version: string;
  /** SPDX expression. */
  readonly license: string;
  /** SHA-512 of the npm package, hexadecimal; null when the lockfile has none. */
  readonly sha512: string | null;
  /** Absolute path of the installed package. */
  readonly folder: string;
  /** Whether code of it is in the executable. */
  readonly isInside: boolean;
  /** `ref`s of the parts that it asks for. */
  readonly needs: readonly string[];
}

export interface Contents {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  /** By `ref`. Everything that users' code may reach, what is embedded, and the tools named in package.json. */
  readonly parts: readonly Part[];
  /** `ref`s of package.json's own dependencies, tools included. */
  readonly needs: readonly string[];
}

/** @throws when something is inside whose licence the lockfile doesn't know */
export async function contents(): Promise<Contents> {
  const locked = lockedPackages();
  const project = locked[""];
  if (project === undefined) throw new Error("package-lock.json has no entry for the project itself");
  const inside = new Set([...(await bundledPackages()).map((folder) => `node_modules/${folder}`), ...EMBEDDED]);
  const direct = Object.keys({ ...project.dependencies, ...project.devDependencies }).map((name) => `node_modules/${name}`);
  const refOf = (path: string) => `${nameOf(path)}@${locked[path]?.version}`;
  const part = (path: string, entry: LockedPackage): Part => {
    if (inside.has(path) && entry.license === undefined) throw new Error(`${path} is in the executable, and nobody knows its licence`);
    return {
      ref: refOf(path),
      name: nameOf(path),
      version: entry.version,
      license: entry.license ?? "NOASSERTION",
      sha512: entry.integrity === undefined ? null : Buffer.from(entry.integrity.replace(/^sha512-/, ""), "base64").toString("hex"),
      folder: join(root, path),
      isInside: inside.has(path),
      needs: Object.keys(entry.dependencies ?? {}).flatMap((name) => resolveFrom(path, name, locked)?.map(refOf) ?? []),
    };
  };
  const paths = Object.keys(locked).filter(
    (path) => path !== "" && (locked[path]?.dev !== true || direct.includes(path) || inside.has(path)),
  );
  for (const path of inside) if (!paths.includes(path)) throw new Error(`${path} is in the executable and not in package-lock.json`);
  const parts = paths.map((path) => part(path, locked[path] as LockedPackage));
  const known = new Set(parts.map(({ ref }) => ref));
  return {
    name: "protean",
    version: packageVersion(),
    license: (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly license: string }).license,
    parts: parts
      .map((one) => ({ ...one, needs: one.needs.filter((ref) => known.has(ref)).sort() }))
      .sort((one, other) => (one.ref < other.ref ? -1 : 1)),
    needs: direct.map(refOf).sort(),
  };
}

/** `node_modules/pkg-types/node_modules/confbox` → `confbox` */
function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length);
}

/** Where Node would find it: the innermost node_modules upwards. A list of one, or null. */
function resolveFrom(path: string, name: string, locked: Readonly<Record<string, LockedPackage>>): readonly string[] | null {
  for (let folder = path; ; ) {
    const candidate = `${folder}/node_modules/${name}`.replace(/^\//, "");
    if (locked[candidate] !== undefined) return [candidate];
    if (folder === "") return null;
    const end = folder.lastIndexOf("/node_modules/");
    folder = end < 0 ? "" : folder.slice(0, end);
  }
}
