/** Where something was declared, for errors: `file:line:column` of the first stack frame that isn't ours. */
import type { ErrorDetail } from "../errors.ts";

/** Folder of this module with its slash, as stack frames show it; empty in a bundle, where our frames have the bundle's own name. */
const HERE = import.meta.url.replace(/^file:\/\//, "").replace(/domain\/place\.[cm]?[jt]s$/, "");
const BUNDLE = import.meta.url.replace(/^file:\/\//, "");

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
    const place = /(?:\(|at |@)((?:file:\/\/)?(?:[A-Za-z]:)?[^()\s][^()]*?):(\d+):(\d+)\)?$/.exec(line.trim());
    if (place === null) continue;
    const file = (place[1] ?? "").replace(/^async /, "").replace(/^file:\/\//, "");
    if (!isOurs(file)) return `${decodeIfEncoded(file)}:${place[2]}:${place[3]}`;
  }
  return "unknown place";
}

function decodeIfEncoded(file: string): string {
  try {
    return decodeURIComponent(file);
  } catch {
    return file;
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
