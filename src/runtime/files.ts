/** The little that we need of the file system, and a watch on a folder. */
import { type FSWatcher, watch } from "node:fs";
import { access, mkdir, open, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

/** Text of a UTF-8 file, without its byte order mark; null when there is no such file. */
export async function readTextIfPresent(path: string): Promise<string | null> {
  try {
    const text = await readFile(path, "utf8");
    return text.startsWith("\uFEFF") ? text.slice(1) : text;
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** `null` when there is nothing. */
export async function kindOf(path: string): Promise<"file" | "folder" | "other" | null> {
  try {
    const found = await stat(path);
    return found.isFile() ? "file" : found.isDirectory() ? "folder" : "other";
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** Absolute, without links. @throws when there is nothing */
export async function realPathOf(path: string): Promise<string> {
  return await realpath(path);
}

/** Makes the folder and those above it; nothing happens when it is there. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
}

/** Writes a UTF-8 file and makes its folder. With `fresh`, a file that exists is an error (`EEXIST`). */
export async function writeText(path: string, text: string, options: { readonly fresh?: boolean } = {}): Promise<void> {
  await makeFolder(dirname(path));
  await writeFile(path, text, { encoding: "utf8", flag: options.fresh === true ? "wx" : "w" });
}

/** Writes a new UTF-8 file, and resolves when it is on the disk under its name. */
export async function writeSafely(path: string, text: string): Promise<void> {
  await makeFolder(dirname(path));
  const file = await open(path, "wx");
  try {
    await file.writeFile(text, "utf8");
    await file.sync();
  } finally {
    await file.close();
  }
  const folder = await open(dirname(path), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Deletes a file or a folder with all in it; nothing happens when there is none. */
export async function remove(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true });
}

export interface WatchOptions {
  /** Quiet time after the last change before `changed` is called. Default 100 ms. */
  readonly debounce_ms?: number;
  /** Look below subfolders too. Default true. */
  readonly recursive?: boolean;
  /** Changes of other paths (relative to the folder) are ignored. Default: every path counts. */
  readonly accepts?: (relativePath: string) => boolean;
}

/**
 * Calls `changed` with the paths (relative to `folder`) that changed, once things are quiet. Watching may miss changes on network and
 * bind mounts; whoever needs certainty looks for itself from time to time. The watch doesn't keep the process alive.
 * @returns a function that ends the watch
 * @throws when the folder doesn't exist
 */
export function watchFolder(folder: string, changed: (paths: readonly string[]) => void, options: WatchOptions = {}): () => void {
  const paths = new Set<string>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watcher: FSWatcher = watch(folder, { recursive: options.recursive ?? true }, (_event, name) => {
    const path = name === null ? "" : String(name);
    if (options.accepts !== undefined && !options.accepts(path)) return;
    paths.add(path);
    clearTimeout(timer);
    timer = setTimeout(() => {
      const batch = [...paths].sort();
      paths.clear();
      changed(batch);
    }, options.debounce_ms ?? 100);
    timer.unref();
  });
  // A watched folder that is deleted raises an error event; there is nothing left to tell then.
  watcher.on("error", () => watcher.close());
  watcher.unref?.();
  return () => {
    clearTimeout(timer);
    watcher.close();
  };
}

function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === "ENOENT" || code === "ENOTDIR";
}

/** Whether watching a folder leaves the files in it alone. Deno opens and closes those that change, which costs a database its locks. */
export const watchesWithoutOpening = !("Deno" in globalThis);
