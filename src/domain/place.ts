/** Where something was declared, for errors: `file:line:column` of the first stack frame that isn't ours. */
import type { ErrorDetail } from "../errors.ts";

/** This module, or the bundle that it is in. */
const BUNDLE = toPath(import.meta.url);
/** The folder above this one, with its slash; in a bundle the same as `BUNDLE`. */
const HERE = BUNDLE.replace(/domain\/place\.[cm]?[jt]s$/, "");

/**
 * Frames of the library: the files of this source tree (domain and its neighbours), the file it was bundled into, and what lies inside
 * a compiled executable.
 */
function isOurs(file: string): boolean {
  if (
    file.includes("/$bunfs/") ||
    /^[A-Z]:[\\/]~BUN/.test(file) ||
    file.startsWith("node:") ||
    file.startsWith("bun:") ||
    file === "native"
  )
    return true;
  if (file === BUNDLE) return true;
  return HERE !== BUNDLE && (file.startsWith(`${HERE}domain/`) || file === `${HERE}mod.ts` || file === `${HERE}mod.js`);
}

/**
 * Place of the call that led here. The stack depth is raised for the moment, because class declarations inside deep module graphs
 * stand far down.
 * @returns `unknown place` when no frame outside the library is on the stack
 */
export function declarationPlace(): string {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 30;
  const stack = new Error("place").stack ?? "";
  Error.stackTraceLimit = limit;
  for (const line of stack.split("\n").slice(1)) {
    // Folders may have blanks and brackets in their names, so only the beginning of a path tells one.
    const place = /(?:\(|at (?:async )?|@)((?:file:\/\/|\/|[A-Za-z]:[\\/]).*):(\d+):(\d+)\)?$/.exec(line.trim());
    if (place === null) continue;
    const file = toPath(place[1] ?? "");
    if (!isOurs(file)) return `${file}:${place[2]}:${place[3]}`;
  }
  return "unknown place";
}

/** Bun's frames have paths, Node's have URLs, in which a blank is `%20`, and Deno's have URLs with the blanks put back. */
function toPath(urlOrPath: string): string {
  if (!urlOrPath.startsWith("file://")) return urlOrPath;
  const path = urlOrPath.slice("file://".length);
  try {
    return decodeURIComponent(path);
  } catch {
    // A `%` that belongs to the name.
    return path;
  }
}

/** Place without its folders: `account.ts:20`, as messages name a second place. */
export function shortPlace(place: string): string {
  const match = /([^/\\]+):(\d+):\d+$/.exec(place);
  return match === null ? place : `${match[1]}:${match[2]}`;
}

/** Detail of an error about a declaration. */
export function at(place: string, fix?: string): ErrorDetail {
  return fix === undefined ? { at: place } : { at: place, fix };
}
