/**
 * Reads the words after the command.
 *
 * citty (0.2) takes unknown flags and empty values without a word (known-traps C11), so the words are read here, strictly: every flag must be
 * known, every value be there, every positional be wanted.
 */
import { nearest } from "../config/nearest.ts";
import type { FlagSpec, PositionalSpec } from "./command.ts";
import { parseDuration_ms } from "./duration.ts";
import { usageError } from "./problem.ts";

/** Flags of every command; they may stand before it too (cli.md 2.3). */
export const GLOBAL_FLAGS = {
  help: { type: "boolean", short: "h", description: "Show this help" },
  version: { type: "boolean", short: "V", description: "Show the version" },
  json: { type: "boolean", description: "Exactly one JSON document on stdout" },
  quiet: { type: "boolean", short: "q", description: "No hints, no warnings" },
  debug: { type: "boolean", description: "--log-level DEBUG, and stack traces" },
  "log-level": { type: "text", hint: "LEVEL", description: "DEBUG, INFO, WARNING, ERROR or CRITICAL" },
  "log-format": { type: "text", hint: "FORMAT", choices: ["auto", "console", "json"], description: "auto, console or json" },
  "log-config": { type: "text", hidden: true, description: "" },
  "no-color": { type: "boolean", also: ["no-colour"], description: "No colours" },
  config: { type: "text", short: "c", hint: "FILE", description: "Configuration file (else the nearest domain.toml)" },
  handlers: { type: "text", short: "H", hint: "PATH", repeatable: true, description: "Folder, file or glob of handlers; may be repeated" },
  domain: { type: "text", short: "d", hint: "NAME|PATH", description: "Name of the domain, its folder or file" },
  env: { type: "text", hint: "NAME", description: "Overlay of domain.toml (PROTEAN_ENV)" },
  yes: { type: "boolean", short: "y", description: "Answer yes to every question" },
  timeout: { type: "text", hint: "DURATION", description: "How long to wait for a server (10s)" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

/** The words of one call, checked. Asking for a flag that the command doesn't have is a fault of ours. */
export class Values {
  readonly #flags: ReadonlyMap<string, readonly (string | true)[]>;
  readonly #known: ReadonlySet<string>;
  readonly positionals: readonly string[];

  constructor(flags: ReadonlyMap<string, readonly (string | true)[]>, known: Iterable<string>, positionals: readonly string[]) {
    this.#flags = flags;
    this.#known = new Set(known);
    this.positionals = positionals;
  }

  #of(name: string): readonly (string | true)[] {
    if (!this.#known.has(name)) throw new Error(`this command declares no flag --${name}`);
    return this.#flags.get(name) ?? [];
  }

  has(name: string): boolean {
    return this.#of(name).length > 0;
  }

  /** The last one wins. */
  text(name: string): string | undefined {
    const value = this.#of(name).at(-1);
    return typeof value === "string" ? value : undefined;
  }

  /** All of a repeatable flag; with `split`, each may hold several separated by commas. */
  texts(name: string, options: { readonly split?: boolean } = {}): readonly string[] {
    const values = this.#of(name).filter((value) => typeof value === "string");
    return options.split === true
      ? values
          .flatMap((value) => value.split(","))
          .map((value) => value.trim())
          .filter((value) => value !== "")
      : values;
  }

  /** @throws CommandError when it is no whole number in the range */
  integer(name: string, limits: { readonly least: number; readonly most?: number }): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < limits.least || value > (limits.most ?? Number.MAX_SAFE_INTEGER)) {
      const range = limits.most === undefined ? `at least ${limits.least}` : `from ${limits.least} to ${limits.most}`;
      throw usageError(`--${name}: "${text}" is no whole number ${range}`);
    }
    return value;
  }

  /** @throws CommandError when it is no duration */
  duration_ms(name: string): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = parseDuration_ms(text);
    if (value === null) throw usageError(`--${name}: "${text}" is no duration`, "Write 500ms, 10s, 5m, 2h or 7d.");
    return value;
  }

  /** The positional at this place, undefined when there are fewer. */
  positional(index: number): string | undefined {
    return this.positionals[index];
  }
}

export interface Grammar {
  /** As typed: `dlq list`. */
  readonly command: string;
  readonly flags: Readonly<Record<string, FlagSpec>>;
  readonly positionals: readonly PositionalSpec[];
}

/** Takes a word that may be a global flag off `words` at `index`; used to find the command behind global flags. @returns words taken, 0 for none */
export function globalFlagLength(words: readonly string[], index: number): number {
  const word = words[index] ?? "";
  const [name] = nameAndValue(word);
  const found = name === null ? null : findFlag(name, GLOBAL_FLAGS);
  if (found === null) return 0;
  return found.spec.type === "text" && !word.includes("=") ? 2 : 1;
}

/**
 * @throws CommandError (exit 2) for an unknown flag, with the nearest one; for a value that is missing, empty or not wanted; for a missing or a
 *   surplus positional. With `--help` or `--version` nothing is required.
 */
export function readArguments(words: readonly string[], grammar: Grammar): Values {
  const specs: Readonly<Record<string, FlagSpec>> = { ...GLOBAL_FLAGS, ...grammar.flags };
  const flags = new Map<string, (string | true)[]>();
  const positionals: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? "";
    if (word === "--") {
      positionals.push(...words.slice(index + 1));
      break;
    }
    const [name, given] = nameAndValue(word);
    if (name === null) {
      positionals.push(word);
      continue;
    }
    const found = findFlag(name, specs);
    if (found === null) throw unknownFlag(name, specs, grammar.command);
    const { key, spec } = found;
    let value: string | true = true;
    if (spec.type === "boolean") {
      if (given !== null) throw usageError(`${name} takes no value (got "${given}")`);
    } else if (given !== null) value = given;
    else {
      const next = words[index + 1];
      const takes =
        spec.type === "text" ? next !== undefined && !looksLikeFlag(next) : next !== undefined && parseDuration_ms(next) !== null;
      if (takes && next !== undefined) {
        value = next;
        index += 1;
      } else if (spec.type === "text") throw usageError(`${name} needs a value`, `Write ${name} ${spec.hint ?? "VALUE"}.`);
    }
    if (typeof value === "string") checkValue(name, value, spec);
    const values = flags.get(key);
    if (values === undefined || spec.repeatable !== true) flags.set(key, [value]);
    else values.push(value);
  }
  const values = new Values(flags, Object.keys(specs), positionals);
  if (!values.has("help")) checkPositionals(positionals, grammar);
  return values;
}

function checkValue(name: string, value: string, spec: FlagSpec): void {
  if (value.trim() === "") throw usageError(`${name} has an empty value`, `Write ${name} ${spec.hint ?? "VALUE"}.`);
  if (spec.choices !== undefined && !spec.choices.includes(value)) {
    throw usageError(`${name}: "${value}" is none of ${spec.choices.join(", ")}`);
  }
}

function checkPositionals(positionals: readonly string[], { command, positionals: specs }: Grammar): void {
  const missing = specs.slice(positionals.length).find((spec) => spec.required === true);
  const synopsis = `protean ${command} ${specs.map(positionalHint).join(" ")}`.trim();
  if (missing !== undefined) throw usageError(`${missing.name} is missing: ${missing.description}`, `Write ${synopsis}.`);
  const surplus = specs.at(-1)?.rest === true ? undefined : positionals[specs.length];
  if (surplus !== undefined) throw usageError(`"${surplus}" is not expected here`, `Write ${synopsis}.`);
}

export function positionalHint(spec: PositionalSpec): string {
  const name = `${spec.name}${spec.rest === true ? "…" : ""}`;
  return spec.required === true ? name : `[${name}]`;
}

/** `-` alone (standard input), numbers and JSON are no flags. */
function looksLikeFlag(word: string): boolean {
  return /^-{1,2}[A-Za-z]/.test(word);
}

function nameAndValue(word: string): readonly [name: string | null, value: string | null] {
  if (!looksLikeFlag(word)) return [null, null];
  const equals = word.indexOf("=");
  return equals < 0 ? [word, null] : [word.slice(0, equals), word.slice(equals + 1)];
}

function findFlag(name: string, specs: Readonly<Record<string, FlagSpec>>): { readonly key: string; readonly spec: FlagSpec } | null {
  const bare = name.replace(/^--?/, "");
  const isShort = !name.startsWith("--");
  for (const [key, spec] of Object.entries(specs)) {
    const matches = isShort ? spec.short === bare : key === bare || spec.also?.includes(bare) === true;
    if (matches) return { key, spec };
  }
  return null;
}

function unknownFlag(name: string, specs: Readonly<Record<string, FlagSpec>>, command: string): Error {
  const candidates = Object.entries(specs).flatMap(([key, spec]) => (spec.hidden === true ? [] : [key]));
  const near = nearest(name.replace(/^--?/, ""), candidates);
  const help = `protean ${command} --help lists all flags.`.replace("  ", " ");
  return usageError(`unknown flag ${name}`, near === null ? help : `Did you mean --${near}?`);
}
