/** From a merged table to checked values: each key gets the type that the schema gives it, or a clear refusal. */
import { ConfigurationError } from "../errors.ts";
import { allowedInWords } from "./describe-keys.ts";
import { type Diagnostic, formatPath, isTable, jsonText, type Table } from "./diagnostic.ts";
import { maskSecrets } from "./mask.ts";
import { nearest } from "./nearest.ts";
import { type KeySpec, SCHEMA, SCHEMA_TREE, type SchemaNode } from "./schema.ts";

export interface CheckResult {
  /** Effective value of every key, by formatted path; defaults included, keys without a value absent. */
  readonly values: Map<string, unknown>;
  /** Paths that were written, not defaulted. */
  readonly given: Set<string>;
  readonly problems: ConfigurationError[];
  readonly diagnostics: Diagnostic[];
}

/** Checks a merged, substituted table against the schema and fills in the defaults. Collects all problems. */
export function checkValues(table: Table, locate: (path: readonly string[]) => string | undefined): CheckResult {
  const result: CheckResult = { values: new Map(), given: new Set(), problems: [], diagnostics: [] };
  const badSections = new Set<string>();
  const visit = (value: unknown, node: SchemaNode, path: readonly string[]): void => {
    if (node.spec !== null) {
      checkOne(value, node.spec, path);
      return;
    }
    if (!isTable(value)) {
      result.problems.push(notATable(value, node, path, locate(path)));
      return;
    }
    for (const [key, item] of Object.entries(value)) {
      const child = node.children.get(key) ?? node.any;
      if (child) visit(item, child, [...path, key]);
    }
  };
  const checkOne = (value: unknown, spec: KeySpec, path: readonly string[]): void => {
    if (value === null || value === undefined || (value === "" && spec.emptyIsDefault)) return;
    const name = formatPath(path);
    const coerced = coerce(value, spec);
    if (coerced !== undefined) {
      result.values.set(name, coerced);
      result.given.add(name);
      if (spec.later !== undefined && jsonText(coerced) !== jsonText(spec.default)) {
        result.diagnostics.push({
          code: "CONFIG_NOT_YET",
          level: "warning",
          message: `${name} has no effect so far: ${spec.later}`,
          at: locate(path),
        });
      }
      return;
    }
    const shown = showValue(value, spec);
    if (spec.onBadValue === undefined) {
      const near = spec.allowed && typeof value === "string" ? nearest(value, spec.allowed) : null;
      result.problems.push(
        new ConfigurationError(`${name} = ${shown} is not allowed: it must be ${allowedInWords(spec)}`, {
          code: "CONFIG_VALUE",
          at: locate(path) ?? name,
          fix: near === null ? `Write ${allowedInWords(spec)}.` : `Did you mean "${near}"?`,
        }),
      );
      return;
    }
    const section = path.slice(0, -1).join(".");
    if (spec.onBadValue === "section") badSections.add(section);
    result.diagnostics.push({
      code: "CONFIG_VALUE_REPLACED",
      level: "warning",
      message:
        spec.onBadValue === "section"
          ? `${name} = ${shown} is not ${allowedInWords(spec)}; all of [${section}] takes its defaults`
          : `${name} = ${shown} is not ${allowedInWords(spec)}; the default ${JSON.stringify(spec.default)} is used`,
      at: locate(path),
      fix: `Write ${allowedInWords(spec)}.`,
    });
  };
  visit(table, SCHEMA_TREE, []);
  for (const section of badSections) {
    for (const name of [...result.given]) {
      if (!name.startsWith(`${section}.`)) continue;
      result.given.delete(name);
      result.values.delete(name);
    }
  }
  fillDefaults(table, result.values);
  return result;
}

/** Defaults of plain keys always; defaults under `*` for each name that is there. */
function fillDefaults(table: Table, values: Map<string, unknown>): void {
  for (const spec of SCHEMA) {
    if (spec.default === undefined) continue;
    const [before, after] = spec.path.split(".*.");
    if (after === undefined) {
      if (!values.has(spec.path)) values.set(spec.path, spec.default);
      continue;
    }
    let holder: unknown = table;
    for (const segment of (before ?? "").split(".")) holder = isTable(holder) ? holder[segment] : undefined;
    if (!isTable(holder)) continue;
    for (const name of Object.keys(holder)) {
      const path = formatPath([...(before ?? "").split("."), name, ...after.split(".")]);
      if (!values.has(path)) values.set(path, spec.default);
    }
  }
}

function notATable(value: unknown, node: SchemaNode, path: readonly string[], at: string | undefined): ConfigurationError {
  const name = formatPath(path);
  const first = [...node.children].find(([, child]) => child.spec?.type === typeof value) ?? [...node.children][0];
  const shown = jsonText(maskSecrets(value, path.at(-1) ?? ""));
  const key = path.at(-1) ?? "";
  if (node.any === null && path.length > 1 && node.children.has(key)) {
    const section = formatPath(path.slice(0, -1));
    return new ConfigurationError(`${name} = ${shown} is not a table: the tables under [${section}] have names`, {
      code: "CONFIG_VALUE",
      at,
      fix: `Write ${key} = ${shown} under [${section}.${path[1] === "subscriptions" ? "HandlerName" : "default"}].`,
    });
  }
  if (node.any !== null) {
    const which = path[0] === "brokers" ? "Configure at least one broker: " : "";
    return new ConfigurationError(`${which}${name} = ${shown} is not a table`, {
      code: "CONFIG_VALUE",
      at,
      fix: `Write a table, [${name}.default].`,
    });
  }
  return new ConfigurationError(`${name} = ${shown} is not a table`, {
    code: "CONFIG_VALUE",
    at,
    fix: `Write a table: [${name}] with ${first === undefined ? "its keys" : `${first[0]} = ${typeof value === first[1].spec?.type ? shown : "…"}`} below it.`,
  });
}

function showValue(value: unknown, spec: KeySpec): string {
  if (spec.secret) return "***";
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return String(value);
  const key = spec.path.slice(spec.path.lastIndexOf(".") + 1);
  return jsonText(maskSecrets(value, key));
}

const TRUE_WORDS = new Set(["true", "1", "yes", "on"]);
const FALSE_WORDS = new Set(["false", "0", "no", "off", ""]);

/**
 * The value with the type of its key; undefined when that is not possible. Text is taken for numbers and booleans, because
 * `"${PORT|8080}"` can only be written as text.
 */
export function coerce(value: unknown, spec: KeySpec): unknown {
  switch (spec.type) {
    case "any":
      return typeof value === "bigint" ? value.toString() : value;
    case "string": {
      if (typeof value !== "string") return undefined;
      if (spec.allowed === undefined) return value;
      return spec.allowed.find((word) => word === value || (spec.ignoreCase === true && word.toLowerCase() === value.toLowerCase()));
    }
    case "boolean": {
      if (typeof value === "boolean") return value;
      const word = typeof value === "string" ? value.trim().toLowerCase() : value === 0 || value === 1 ? String(value) : null;
      if (word === null) return undefined;
      return TRUE_WORDS.has(word) ? true : FALSE_WORDS.has(word) ? false : undefined;
    }
    case "integer":
    case "number":
      return coerceNumber(value, spec);
    case "list": {
      if (typeof value === "string")
        return value
          .split(",")
          .map((item) => item.trim())
          .filter((item) => item !== "");
      if (!Array.isArray(value)) return undefined;
      return value.every((item) => typeof item === "string") ? [...value] : undefined;
    }
    case "table":
      return isTable(value) ? value : undefined;
    case "duration": {
      if (typeof value !== "string" || parseDuration_s(value) === undefined) return undefined;
      return value.trim();
    }
  }
}

function coerceNumber(value: unknown, spec: KeySpec): number | undefined {
  let number: number;
  if (typeof value === "number") number = value;
  else if (typeof value === "string" && /^\s*[+-]?(\d[\d_]*(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*$/i.test(value))
    number = Number(value.replaceAll("_", ""));
  // A boolean is no number, and a bigint is one that nothing here could use exactly.
  else return undefined;
  if (!Number.isFinite(number)) return undefined;
  if (spec.type === "integer" && !Number.isSafeInteger(number)) return undefined;
  if (spec.above !== undefined && number <= spec.above) return undefined;
  if (spec.minimum !== undefined && number < spec.minimum) return undefined;
  if (spec.maximum !== undefined && number > spec.maximum) return undefined;
  return number;
}

const SECONDS_PER_UNIT: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** `"7d"` → 604800, `"off"` → null, anything else → undefined. Units: s, m, h, d, w; whole numbers above 0. */
export function parseDuration_s(text: string): number | null | undefined {
  const word = text.trim().toLowerCase();
  if (word === "off") return null;
  const parts = /^(\d{1,9})([smhdw])$/.exec(word);
  const count = Number(parts?.[1] ?? 0);
  if (parts === null || count === 0) return undefined;
  return count * (SECONDS_PER_UNIT[parts[2] ?? ""] ?? 0);
}
