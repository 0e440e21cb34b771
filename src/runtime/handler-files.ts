/** Which files `--handlers PATH` means: the rules of cli.md 2.2 (rulings 39). */
import { type Dirent, realpathSync } from "node:fs";
import { readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, matchesGlob, relative, resolve, sep } from "node:path";
import { ConfigurationError } from "../errors.ts";

const SOURCE = /\.(?:ts|tsx|mts|js|mjs)$/;
const NOT_A_HANDLER = /\.(?:test|spec)\.[a-z]+$|\.d\.[a-z]*ts$/;
const SKIPPED_FOLDERS: ReadonlySet<string> = new Set(["node_modules", "dist"]);
const GLOB_CHARACTERS = /[*?{[]/;

/**
 * Absolute paths of the files to import, each once even if links lead to it twice, in the order of `paths`; below each sorted by
 * path. A path is a folder (searched to the bottom), a file (taken whatever its name begins with) or a glob.
 *
 * Skipped below a folder: names that begin with `_` or `.`, `*.test.*`, `*.spec.*`, `*.d.ts`, `node_modules`, `dist`, and links that
 * lead outside the folder.
 * @throws ConfigurationError `HANDLERS_NOT_FOUND` for a path that doesn't exist, a glob that matches nothing, a file of another kind
 */
export async function listHandlerFiles(paths: readonly string[], workingDirectory: string): Promise<readonly string[]> {
  const files = new Set<string>();
  for (const path of paths) {
    for (const file of await filesOf(path, resolve(workingDirectory, path))) files.add(file);
  }
  return [...files];
}

async function filesOf(given: string, path: string): Promise<readonly string[]> {
  if (given.trim() === "") throw notFound(`the path of the handlers is empty`);
  const found = await stat(path).catch(() => null);
  if (found?.isDirectory()) return await filesBelow(path);
  if (found?.isFile()) {
    if (!SOURCE.test(path)) throw notFound(`handlers "${given}" is no TypeScript or JavaScript file`);
    return [await realpath(path)];
  }
  if (found === null && GLOB_CHARACTERS.test(given)) return await filesMatching(given, path);
  throw notFound(`handlers "${given}" not found (looked for ${path})`);
}

/** The folder above the first part with a glob character is searched, by the rules of a folder. */
async function filesMatching(given: string, pattern: string): Promise<readonly string[]> {
  let base = pattern;
  while (GLOB_CHARACTERS.test(base)) base = dirname(base);
  const found = await stat(base).catch(() => null);
  if (!found?.isDirectory()) throw notFound(`handlers "${given}" not found (there is no folder ${base})`);
  const rest = relative(base, pattern);
  const root = await realpath(base);
  const files = (await filesBelow(base)).filter((file) => matchesGlob(relative(root, file), rest));
  if (files.length === 0) throw notFound(`handlers "${given}" matches no file`);
  return files;
}

async function filesBelow(folder: string): Promise<readonly string[]> {
  const root = await realpath(folder);
  const files = new Set<string>();
  const visited = new Set<string>();
  const walk = async (current: string): Promise<void> => {
    visited.add(current);
    for (const entry of await readdir(current, { withFileTypes: true })) {
      if (isSkippedName(entry.name)) continue;
      const path = join(current, entry.name);
      const target = await targetOf(entry, path, root);
      if (target === null) continue;
      if (target.isFolder) {
        if (!visited.has(target.path)) await walk(target.path);
      } else if (SOURCE.test(entry.name) && !NOT_A_HANDLER.test(entry.name)) {
        files.add(target.path);
      }
    }
  };
  await walk(root);
  return [...files].sort((one, other) => (one < other ? -1 : one > other ? 1 : 0));
}

function isSkippedName(name: string): boolean {
  return name.startsWith("_") || name.startsWith(".") || SKIPPED_FOLDERS.has(name);
}

/** Where an entry leads; null for links that lead outside or nowhere, and for sockets, pipes and devices. */
async function targetOf(entry: Dirent, path: string, root: string): Promise<{ readonly path: string; readonly isFolder: boolean } | null> {
  if (entry.isFile()) return { path, isFolder: false };
  if (entry.isDirectory()) return { path, isFolder: true };
  if (!entry.isSymbolicLink()) return null;
  const target = await realpath(path).catch(() => null);
  if (target === null || !isInside(root, target)) return null;
  // A link may not bring back what its own name would have hidden.
  if (relative(root, target).split(sep).some(isSkippedName) || NOT_A_HANDLER.test(basename(target))) return null;
  const found = await stat(target);
  return found.isFile() || found.isDirectory() ? { path: target, isFolder: found.isDirectory() } : null;
}

function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== "" && !isAbsolute(way) && way.split(sep)[0] !== "..";
}

/** The path without links, or the path itself when it doesn't exist. */
export function withoutLinks(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function notFound(message: string): ConfigurationError {
  return new ConfigurationError(message, {
    code: "HANDLERS_NOT_FOUND",
    fix: "Give a folder, a file (*.ts, *.tsx, *.mts, *.js, *.mjs) or a glob with --handlers, PROTEAN_HANDLERS or [protean] handlers.",
  });
}
