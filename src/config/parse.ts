import { parse as parseToml, TomlError } from "smol-toml";
import { ConfigurationError } from "../errors.ts";
import { formatPath, isTable, type Table } from "./diagnostic.ts";

/** A parsed file and where its keys stand. */
export interface ParsedFile {
  readonly table: Table;
  /** Line (from 1) of a key path, of the nearest table around it when the key itself isn't found, or null. */
  lineOf(path: readonly string[]): number | null;
}

/** Keys that could swap a prototype when somebody copies the table carelessly (known-traps C9, C10). */
const UNSAFE_KEYS = new Set(["__proto__", "constructor", "prototype"]);

/**
 * Parses TOML text.
 *
 * Integers beyond 2^53 become bigint instead of an error of the parser, so that the schema can name key and range.
 * @param label how the file is called in messages
 * @throws ConfigurationError naming file, line and column when the text is no TOML, or holds a key like `__proto__`
 */
export function parseConfigText(text: string, label: string): ParsedFile {
  let table: Table;
  try {
    table = parseToml(text, { integersAsBigInt: "asNeeded", unsafeKeyBehaviour: "keep", maxDepth: 64 });
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = error.message.split("\n")[0]?.replace(/^Invalid TOML document: /, "") ?? "not TOML";
    throw new ConfigurationError(`${label}:${error.line}:${error.column} is not valid TOML: ${reason}`, {
      code: "CONFIG_SYNTAX",
      at: `${label}:${error.line}:${error.column}`,
      fix: whereToLook(text.split(/\r?\n/)[error.line - 1] ?? ""),
      cause: error,
    });
  }
  const lines = scanLines(text);
  const lineOf = (path: readonly string[]): number | null => {
    for (let length = path.length; length > 0; length--) {
      const line = lines.get(formatPath(path.slice(0, length)));
      if (line !== undefined) return line;
    }
    return null;
  };
  refuseUnsafeKeys(table, [], label, lineOf);
  return { table: withoutPrototypes(table) as Table, lineOf };
}

/** Refuses keys that could reach a prototype, at any depth. Also used for configuration given as an object. */
export function refuseUnsafeKeys(
  value: unknown,
  path: readonly string[],
  label: string,
  lineOf: (path: readonly string[]) => number | null = () => null,
): void {
  if (Array.isArray(value)) {
    for (const item of value) refuseUnsafeKeys(item, path, label, lineOf);
    return;
  }
  if (!isTable(value)) return;
  for (const key of Object.getOwnPropertyNames(value)) {
    const here = [...path, key];
    if (UNSAFE_KEYS.has(key)) {
      const line = lineOf(here);
      throw new ConfigurationError(`the key "${key}" is not allowed in a configuration (${formatPath(here)})`, {
        code: "CONFIG_UNSAFE_KEY",
        at: line === null ? label : `${label}:${line}`,
        fix: "Choose another name for this key.",
      });
    }
    refuseUnsafeKeys(value[key], here, label, lineOf);
  }
}

/** A deep copy whose tables have no prototype, so that a key like `toString` is never found where nobody wrote it. */
export function withoutPrototypes(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutPrototypes);
  if (!isTable(value)) return value;
  const copy: Table = Object.create(null);
  for (const [key, item] of Object.entries(value)) copy[key] = withoutPrototypes(item);
  return copy;
}

/**
 * Key path → line, by a light scan of a text that is known to be valid TOML: table headers and the keys at the beginning of lines.
 * Keys inside inline tables are found through the table around them.
 */
function scanLines(text: string): Map<string, number> {
  const lines = new Map<string, number>();
  let table: string[] = [];
  let multiline: '"""' | "'''" | null = null;
  let brackets = 0;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    let rest = raw;
    if (multiline !== null) {
      const end = rest.indexOf(multiline);
      if (end < 0) continue;
      rest = rest.slice(end + 3);
      multiline = null;
    } else if (brackets === 0) {
      const header = /^\s*\[\[?(.*?)\]\]?\s*(?:#.*)?$/.exec(raw);
      const segments = header?.[1] === undefined ? null : readKey(header[1]);
      if (segments !== null && segments.rest.trim() === "") {
        table = segments.path;
        for (let length = 1; length <= table.length; length++) remember(lines, table.slice(0, length), index + 1);
        continue;
      }
      const key = readKey(raw);
      if (key?.rest.startsWith("=")) {
        for (let length = 1; length <= key.path.length; length++) remember(lines, [...table, ...key.path.slice(0, length)], index + 1);
        rest = key.rest.slice(1);
      }
    }
    ({ multiline, brackets } = skimValue(rest, brackets));
  }
  return lines;
}

function remember(lines: Map<string, number>, path: readonly string[], line: number): void {
  const name = formatPath(path);
  if (!lines.has(name)) lines.set(name, line);
}

/** Reads a dotted key at the beginning of `text`; null when there is none. `rest` begins at the first character after it. */
function readKey(text: string): { path: string[]; rest: string } | null {
  const path: string[] = [];
  let rest = text;
  for (;;) {
    const part = /^\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*/.exec(rest);
    if (part === null) return null;
    path.push(part[1] !== undefined ? unescapeKey(part[1]) : (part[2] ?? part[3] ?? ""));
    rest = rest.slice(part[0].length);
    if (!rest.startsWith(".")) return { path, rest };
    rest = rest.slice(1);
  }
}

function unescapeKey(text: string): string {
  try {
    return String(JSON.parse(`"${text}"`));
  } catch {
    // TOML knows escapes that JSON doesn't (\U, \e): the position of such a key is not found, its table's is.
    return text;
  }
}

/** Where a value that begins or goes on in this line leaves the scan: inside a multi-line string, or how deep in brackets. */
function skimValue(text: string, depth: number): { multiline: '"""' | "'''" | null; brackets: number } {
  let brackets = depth;
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === "#") break;
    if (character === "[" || character === "{") brackets++;
    else if (character === "]" || character === "}") brackets = Math.max(0, brackets - 1);
    else if (character === '"' || character === "'") {
      const triple = text.slice(index, index + 3);
      if (triple === '"""' || triple === "'''") {
        const end = text.indexOf(triple, index + 3);
        if (end < 0) return { multiline: triple, brackets };
        index = end + 2;
        continue;
      }
      index++;
      while (index < text.length && text[index] !== character) index += character === '"' && text[index] === "\\" ? 2 : 1;
    }
  }
  return { multiline: null, brackets };
}

function whereToLook(line: string): string {
  const shown = line.trim().slice(0, 120);
  return shown === "" ? "Look above it for a bracket or a quote that isn't closed." : `Look at this line: ${shown}`;
}
