import { basename, dirname, join, relative, resolve } from "node:path";
import { ConfigurationError } from "../errors.ts";
import { isTable, type Table } from "./diagnostic.ts";
import { type ParsedFile, parseConfigText } from "./parse.ts";
import type { Environment } from "./substitute.ts";

/** How this room reads files: injected, so that tests need no disk and the core no runtime. */
export interface ReadFile {
  /** The file's text; null when there is no such file. Other faults (permissions) are thrown. */
  readText(path: string): string | null;
}

/** A configuration file that was found and parsed. */
export interface FoundFile {
  /** Absolute path. */
  readonly file: string;
  readonly directory: string;
  /** Short name for messages, relative to the start directory. */
  readonly label: string;
  /** The configuration: the whole file, or `[tool.protean]` of a pyproject.toml. */
  readonly table: Table;
  /** `domain.toml:12` for a key path, `domain.toml` when the line is unknown. */
  locate(path: readonly string[]): string;
}

const NAMES = [".domain.toml", "domain.toml", "pyproject.toml"] as const;
/** The start directory, its parent and its grandparent (configuration.md §1). */
const LEVELS = 3;

/**
 * Finds the configuration: an explicit `file` (else `PROTEAN_CONFIG`), else the first of `.domain.toml`, `domain.toml`,
 * `pyproject.toml` in `DOMAIN_ROOT_PATH` or `start`, its parent, its grandparent.
 *
 * A pyproject.toml without `[tool.protean]` is passed over; the original takes it, empty, and hides a domain.toml further up.
 * @returns null when there is none
 * @throws ConfigurationError when an explicit file is missing, or the file found is not valid TOML
 */
export function findConfig(options: {
  readonly start: string;
  readonly file?: string | undefined;
  readonly environment: Environment;
  readonly read: ReadFile;
}): FoundFile | null {
  const start = resolve(options.start);
  const explicit = options.file ?? (options.environment["PROTEAN_CONFIG"] || undefined);
  if (explicit !== undefined) {
    const path = resolve(start, explicit);
    const found = open(path, start, options.read);
    if (found === "absent") {
      throw new ConfigurationError(`there is no configuration file ${path}`, {
        code: "CONFIG_NOT_FOUND",
        at: options.file === undefined ? "environment PROTEAN_CONFIG" : "--config",
        fix: "Give the path of a domain.toml, .domain.toml or pyproject.toml.",
      });
    }
    if (found === "no table") {
      throw new ConfigurationError(`${path} has no table [tool.protean]`, {
        code: "CONFIG_NOT_FOUND",
        at: path,
        fix: "Put the configuration under [tool.protean], or give a domain.toml.",
      });
    }
    return found;
  }
  let directory = resolve(start, options.environment["DOMAIN_ROOT_PATH"] || ".");
  for (let level = 0; level < LEVELS; level++) {
    for (const name of NAMES) {
      const found = open(join(directory, name), start, options.read);
      if (typeof found !== "string") return found;
    }
    const parent = dirname(directory);
    if (parent === directory) break;
    directory = parent;
  }
  return null;
}

function open(path: string, start: string, read: ReadFile): FoundFile | "absent" | "no table" {
  const text = read.readText(path);
  if (text === null) return "absent";
  const label = relative(start, path) || basename(path);
  const parsed: ParsedFile = parseConfigText(text.replace(/^\uFEFF/, ""), label);
  let table = parsed.table;
  let prefix: readonly string[] = [];
  if (basename(path) === "pyproject.toml") {
    const tool = table["tool"];
    const own = isTable(tool) ? tool["protean"] : undefined;
    if (!isTable(own)) return "no table";
    table = own;
    prefix = ["tool", "protean"];
  }
  return {
    file: path,
    directory: dirname(path),
    label,
    table,
    locate: (keys) => {
      const line = parsed.lineOf([...prefix, ...keys]);
      return line === null ? label : `${label}:${line}`;
    },
  };
}
