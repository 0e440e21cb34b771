import { ConfigurationError } from "../errors.ts";
import { isTable, type Table } from "./diagnostic.ts";

/** Variables of the environment, injected: this room reads no process state. */
export type Environment = Readonly<Record<string, string | undefined>>;

const LIMITS = {
  /** Rounds of expansion per value; a value that refers to itself ends here (the original loops for ever). */
  rounds: 10,
  /** Characters of one expanded value: variables that multiply each other must not eat the memory within the ten rounds. */
  value_chars: 65_536,
} as const;

const REFERENCE = /\$\{([^}|]+)(?:\|([^}]*))?\}/g;

/**
 * Replaces each `${A}` and `${A|default}` in `text` until none is left.
 *
 * The default counts when A is unset; A set to "" gives "". Names are not trimmed; the split is at the first `|`; a default may be
 * empty. Rules: configuration.md §2.
 * @param used receives the names of the variables that were looked up
 * @throws ConfigurationError when a variable without default is unset, after 10 rounds, or above 64 KiB
 */
export function substitute(text: string, environment: Environment, at?: string, used: Set<string> = new Set()): string {
  let value = text;
  for (let round = 0; round < LIMITS.rounds; round++) {
    const previous = value;
    value = previous.replace(REFERENCE, (_all, name: string, fallback: string | undefined) => {
      used.add(name);
      const found = Object.hasOwn(environment, name) ? environment[name] : undefined;
      if (found !== undefined) return found;
      if (fallback !== undefined) return fallback;
      throw new ConfigurationError(`Environment variable ${name} is not set`, {
        code: "CONFIG_ENVIRONMENT",
        at,
        fix: `Set ${name}, or give it a default: \${${name}|…}.`,
      });
    });
    if (value.length > LIMITS.value_chars) break;
    // A text without references is done; one that only repeats itself runs into the limit below.
    if (value.search(REFERENCE) < 0) return value;
  }
  if (value.search(REFERENCE) < 0 && value.length <= LIMITS.value_chars) return value;
  throw new ConfigurationError(`"${text}" does not come to an end: its variables refer to each other or grow without bound`, {
    code: "CONFIG_ENVIRONMENT",
    at,
    fix: `Look at ${[...used].join(", ")}: at most ${LIMITS.rounds} rounds and ${LIMITS.value_chars} characters are allowed.`,
  });
}

/**
 * Substitutes in strings of tables at any depth and in strings directly inside lists; not in keys, not in tables inside lists.
 * @param locate place of a value, for errors
 * @param onUse told for each value that changed, with the variables it used
 */
export function substituteTable(
  table: Table,
  environment: Environment,
  locate: (path: readonly string[]) => string | undefined,
  onUse: (path: readonly string[], names: ReadonlySet<string>) => void,
  path: readonly string[] = [],
): Table {
  const result: Table = Object.create(null);
  for (const [key, value] of Object.entries(table)) {
    const here = [...path, key];
    const expand = (text: string): string => {
      if (!text.includes("${")) return text;
      const used = new Set<string>();
      const expanded = substitute(text, environment, locate(here), used);
      if (used.size > 0) onUse(here, used);
      return expanded;
    };
    if (typeof value === "string") result[key] = expand(value);
    else if (Array.isArray(value)) result[key] = value.map((item: unknown) => (typeof item === "string" ? expand(item) : item));
    else if (isTable(value)) result[key] = substituteTable(value, environment, locate, onUse, here);
    else result[key] = value;
  }
  return result;
}
