/**
 * Imports the user's handler files and tells, for every one that fails, where in which file.
 *
 * Files are imported one after another, each once; a failure doesn't stop the next one, so that all are reported together. The same
 * failure met twice (a broken file that others import) is reported once, at its own place.
 */
import { readFile } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { workingDirectory } from "./environment.ts";
import { listHandlerFiles, withoutLinks } from "./handler-files.ts";
import { type ProvidedModules, provideModules } from "./provide.ts";

export type LoadFailureKind = "syntax" | "missing-import" | "threw" | "timeout";

export interface LoadFailure {
  /** Absolute path of the file at fault, which may be one that a handler file imports. */
  readonly file: string;
  /** From 1; null when nobody knows. */
  readonly line: number | null;
  /** From 1; null when nobody knows. */
  readonly column: number | null;
  /** One line, with the error's class where it was thrown: `TypeError: …`. */
  readonly message: string;
  readonly kind: LoadFailureKind;
  /** What was thrown; its stack is for --debug. */
  readonly cause: unknown;
}

export interface LoadResult {
  /** All files that were imported, failed ones too. Absolute, in the order of their import. */
  readonly files: readonly string[];
  readonly failures: readonly LoadFailure[];
  /** Sentences for the user that stop nothing. */
  readonly warnings: readonly string[];
}

export interface LoadOptions {
  /** What handler files get as `protean` and `protean/testing`. Default: whatever the runtime finds. */
  readonly providedModules?: ProvidedModules;
  /** For relative paths. Default: the process's. */
  readonly workingDirectory?: string;
  /** Limit for each file, top-level `await` included. Default 10 s (sdk-api 10.1). */
  readonly limit_ms?: number;
  /** Our version: a project with another `protean` in its node_modules is told so. Default: no look. */
  readonly version?: string;
}

const LIMIT_ms = 10_000;

/**
 * Imports everything that `paths` (folders, files, globs) mean.
 * @throws ConfigurationError `HANDLERS_NOT_FOUND` when a path leads to nothing; everything else is a `failure`
 */
export async function loadHandlers(paths: readonly string[], options: LoadOptions = {}): Promise<LoadResult> {
  const files = await listHandlerFiles(paths, options.workingDirectory ?? workingDirectory());
  if (options.providedModules !== undefined) await provideModules(options.providedModules);
  const failures = new Map<string, LoadFailure>();
  for (const file of files) {
    for (const failure of await importFile(file, files, options.limit_ms ?? LIMIT_ms)) {
      failures.set(JSON.stringify([failure.file, failure.line, failure.column, failure.message]), failure);
    }
  }
  return { files, failures: withoutEchoes([...failures.values()]), warnings: await warningsOf(files, options.version) };
}

/** Whoever imports a file that asks for a name nobody exports fails with the same words, and the name isn't in it. */
function withoutEchoes(failures: readonly LoadFailure[]): readonly LoadFailure[] {
  const isEcho = ({ kind, line, message }: LoadFailure) =>
    kind === "missing-import" && line === null && failures.some((other) => other.line !== null && other.message === message);
  return failures.filter((failure) => !isEcho(failure));
}

/** `handlers/mail.ts:12:9 TypeError: …`, the path relative to the working directory where that is shorter. */
export function describeFailure(failure: LoadFailure, base: string = workingDirectory()): string {
  const way = relative(base, failure.file);
  const file = way === "" || way.startsWith("..") ? failure.file : way;
  const place = [file, failure.line, failure.line === null ? null : failure.column].filter((part) => part !== null).join(":");
  return `${place} ${failure.message}`;
}

async function importFile(file: string, files: readonly string[], limit_ms: number): Promise<readonly LoadFailure[]> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), limit_ms);
  });
  try {
    const importing = import(pathToFileURL(file).href).then(() => "loaded" as const);
    if ((await Promise.race([importing, late])) === "loaded") return [];
    // Whatever the file still does, nobody waits for it any more.
    importing.catch(() => undefined);
    const message = `still loading after ${limit_ms / 1000} s: a top-level await doesn't end`;
    return [{ file, line: null, column: null, message, kind: "timeout", cause: undefined }];
  } catch (error) {
    const parts = isAggregate(error) ? error.errors : [error];
    return await Promise.all(parts.map((part) => toFailure(part, file, files)));
  } finally {
    clearTimeout(timer);
  }
}

/** Several syntax errors of one file come in one error. One thrown by the user's own code stays as it is. */
function isAggregate(error: unknown): error is AggregateError {
  return error instanceof AggregateError && error.errors.length > 0 && error.errors.every((part) => positionOf(part) !== null);
}

async function toFailure(error: unknown, file: string, files: readonly string[]): Promise<LoadFailure> {
  const message = messageOf(error);
  const position = positionOf(error);
  if (position !== null) {
    return { ...position, message: `SyntaxError: ${message}`, kind: "syntax", cause: error };
  }
  const missing = missingImportOf(error, message);
  if (missing !== null) {
    const importer = missing.importer ?? file;
    const specifier = shorten(missing.specifier, importer);
    const place = missing.place ?? (await placeOfText(importer, quoted(specifier)));
    return {
      file: importer,
      line: place?.line ?? null,
      column: place?.column ?? null,
      message: `can't find "${specifier}"`,
      kind: "missing-import",
      cause: error,
    };
  }
  const notExported = /^(?:Export named '(?<bun>[^']+)' not found|.*does not provide an export named '(?<v8>[^']+)')/.exec(message);
  const name = notExported?.groups?.["bun"] ?? notExported?.groups?.["v8"];
  if (error instanceof SyntaxError && name !== undefined) {
    const place = await placeOfText(file, new RegExp(`\\b${escapeForPattern(name)}\\b`));
    return {
      file,
      line: place?.line ?? null,
      column: place?.column ?? null,
      message: firstLine(message).replace(/ at file:.*$/, ""),
      kind: "missing-import",
      cause: error,
    };
  }
  const place = placeInStack(error, files);
  const isSyntax =
    (error instanceof SyntaxError && place?.header === true) || (error instanceof TypeError && /^SyntaxError: /.test(message));
  const kind = isSyntax ? "syntax" : "threw";
  return {
    file: place?.file ?? file,
    line: place?.line ?? null,
    column: place?.column ?? null,
    message: isSyntax ? `SyntaxError: ${firstLine(message).replace(/^SyntaxError: /, "")}` : thrownText(error, message),
    kind,
    cause: error,
  };
}

interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** Bun's BuildMessage carries the place of a syntax error. */
function positionOf(error: unknown): Position | null {
  const position: unknown = typeof error === "object" && error !== null && "position" in error ? error.position : null;
  if (typeof position !== "object" || position === null) return null;
  const { file, line, column } = position as { readonly file?: unknown; readonly line?: unknown; readonly column?: unknown };
  if (typeof file !== "string" || typeof line !== "number" || typeof column !== "number") return null;
  return { file, line, column };
}

interface MissingImport {
  readonly specifier: string;
  readonly importer: string | null;
  readonly place: { readonly line: number; readonly column: number } | null;
}

/**
 * Bun's ResolveMessage has the importing file but no line. Node and Deno say it in words: `Cannot find package 'x' imported from
 * FILE`, `Import "x" not a dependency … at FILE:1:19`.
 */
function missingImportOf(error: unknown, message: string): MissingImport | null {
  if (typeof error !== "object" || error === null) return null;
  const { code, specifier, referrer } = error as { readonly code?: unknown; readonly specifier?: unknown; readonly referrer?: unknown };
  if (typeof specifier === "string" && typeof referrer === "string") {
    return { specifier, importer: referrer === "" ? null : toPath(referrer), place: null };
  }
  const deno =
    /^(?:Module not found|Import|Relative import path|Cannot find (?:module|package)) ["'](?<specifier>[^"']+)["'][\s\S]*?at (?<url>file:\/\/\S+?):(?<line>\d+):(?<column>\d+)/.exec(
      message,
    );
  if (deno?.groups !== undefined) {
    const { specifier: name = "", url = "", line, column } = deno.groups;
    return { specifier: name, importer: toPath(url), place: { line: Number(line), column: Number(column) } };
  }
  const alone = /^Module not found "(?<specifier>[^"]+)"/.exec(message)?.groups?.["specifier"];
  if (alone !== undefined) return { specifier: alone, importer: null, place: null };
  if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") return null;
  const name = /^[^'"]*['"]([^'"]+)['"]/.exec(message)?.[1];
  if (name === undefined) return null;
  const importer = /imported from (.+)$/m.exec(message)?.[1] ?? /^- (.+)$/m.exec(message)?.[1];
  return importer === undefined
    ? { specifier: name, importer: null, place: null }
    : { specifier: name, importer: toPath(importer), place: null };
}

/** Node and Deno name the absolute path that a relative import led to; people wrote `./gone.ts`. */
function shorten(specifier: string, importer: string): string {
  if (!specifier.startsWith("file:") && !specifier.startsWith("/")) return specifier;
  const way = relative(dirname(importer), toPath(specifier));
  return way.startsWith(".") ? way : `./${way}`;
}

/** First place in `file` where `pattern` occurs, from 1. */
async function placeOfText(file: string, pattern: RegExp): Promise<{ readonly line: number; readonly column: number } | null> {
  const text = await readFile(file, "utf8").catch(() => null);
  if (text === null) return null;
  const lines = text.split("\n");
  for (const [index, line] of lines.entries()) {
    const found = pattern.exec(line);
    if (found !== null) return { line: index + 1, column: found.index + 1 };
  }
  return null;
}

function quoted(specifier: string): RegExp {
  return new RegExp(`(["'\`])${escapeForPattern(specifier)}\\1`);
}

function escapeForPattern(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

interface StackPlace extends Partial<Omit<Position, "file">> {
  readonly file: string;
  /** The place stood before the message, as V8 writes it for syntax errors, not in a frame. */
  readonly header: boolean;
}

/** The innermost place in one of the user's files; else the innermost in any file that isn't part of this program. */
function placeInStack(error: unknown, files: readonly string[]): StackPlace | null {
  if (!(error instanceof Error) || typeof error.stack !== "string") return null;
  const header = /^(file:\/\/\S+?|\/.+?):(\d+)\n/.exec(error.stack);
  if (header?.[1] !== undefined) return { file: toPath(header[1]), line: Number(header[2]), header: true };
  const folders = new Set(files.map((file) => dirname(file)));
  const isUsers = (file: string) => [...folders].some((folder) => file.startsWith(folder)) && !file.includes("/node_modules/");
  const frames: Position[] = [];
  for (const line of error.stack.split("\n")) {
    // Folders may have blanks and brackets in their names.
    const frame = /(?:\(|at (?:async )?)((?:file:\/\/|\/).*):(\d+):(\d+)\)?$/.exec(line.trim());
    if (frame?.[1] !== undefined) frames.push({ file: toPath(frame[1]), line: Number(frame[2]), column: Number(frame[3]) });
  }
  const place = frames.find((frame) => isUsers(frame.file));
  return place === undefined ? null : { ...place, header: false };
}

function messageOf(error: unknown): string {
  return error instanceof Error || (typeof error === "object" && error !== null && "message" in error)
    ? String(error.message)
    : String(error);
}

/** `TypeError: x is not a function`; a thrown text or object says that it is none of Error's. */
function thrownText(error: unknown, message: string): string {
  if (error instanceof Error) return `${error.name}: ${firstLine(message)}`;
  return `threw ${typeof error === "string" ? JSON.stringify(firstLine(message)) : firstLine(message)}`;
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}

function toPath(urlOrPath: string): string {
  if (!urlOrPath.startsWith("file:")) return urlOrPath;
  try {
    return fileURLToPath(urlOrPath);
  } catch {
    // Deno writes URLs decoded into its stacks: a `%` that belongs to the name is left in them.
    return urlOrPath.replace(/^file:\/\//, "");
  }
}

/** A project may have installed another `protean` for its editor's sake; the one that runs is ours (cli.md 2.2). */
async function warningsOf(files: readonly string[], version: string | undefined): Promise<readonly string[]> {
  const first = files[0];
  if (version === undefined || first === undefined) return [];
  for (let folder = dirname(withoutLinks(first)); ; folder = dirname(folder)) {
    const text = await readFile(join(folder, "node_modules", "protean", "package.json"), "utf8").catch(() => null);
    const installed = text === null ? null : versionIn(text);
    if (installed !== null && installed !== version) {
      const where = join(folder, "node_modules", "protean");
      return [`handlers get protean ${version} from this program, not ${installed} from ${where}`];
    }
    if (installed !== null || resolve(folder, "..") === folder) return [];
  }
}

function versionIn(packageText: string): string | null {
  try {
    const version: unknown = (JSON.parse(packageText) as { readonly version?: unknown } | null)?.version;
    return typeof version === "string" ? version : null;
  } catch {
    // A broken package.json of another package is that package's business.
    return null;
  }
}
