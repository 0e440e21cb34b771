/**
 * One layer of configuration (the base of the file, or an overlay) made fit for merging.
 *
 * spelling    other spellings of a key become the key itself (`url` → `URI`), with a warning; two that disagree are an error
 * lifting     a top-level key that stands behind a table header, where it can mean only one thing, moves to the top (D26)
 * weeding     keys that nobody reads are taken out, with a warning that names the nearest known one (known-traps A30)
 *
 * Layers are prepared one by one, before they are merged: so `URI` in an overlay replaces `url` in the base.
 */
import { ConfigurationError } from "../errors.ts";
import { type Diagnostic, formatPath, isTable, jsonText, type Table } from "./diagnostic.ts";
import { maskSecrets } from "./mask.ts";
import { nearest } from "./nearest.ts";
import { SCHEMA, SCHEMA_TREE, type SchemaNode, TOP_LEVEL_KEYS } from "./schema.ts";
import { type Environment, substitute } from "./substitute.ts";

/** A prepared layer. */
export interface Layer {
  readonly table: Table;
  /** Place where the value of a (canonical) path was written. */
  locate(path: readonly string[]): string;
}

/** What preparing layers found out. */
export interface Findings {
  readonly diagnostics: Diagnostic[];
  readonly problems: ConfigurationError[];
}

/** Top-level keys that are no table and mean one thing wherever they stand. `env`, `debug`, … are too general to be lifted. */
const LIFTABLE: ReadonlySet<string> = new Set(
  SCHEMA.filter((spec) => !spec.path.includes(".") && !["any", "table"].includes(spec.type)).map((spec) => spec.path),
);

/**
 * @param prefix path of the layer in its file: empty for the base, the overlay's name for an overlay
 * @param locateInFile place of a path of the file
 */
export function prepareLayer(
  raw: Table,
  prefix: readonly string[],
  locateInFile: (path: readonly string[]) => string,
  environment: Environment | null,
  findings: Findings,
): Layer {
  const written = new Map<string, readonly string[]>();
  const lifted = new Map<string, { value: unknown; from: readonly string[] }>();
  const context: Context = { prefix, locateInFile, environment, findings, written, lifted, raw };
  const table = prepareTable(raw, SCHEMA_TREE, [], context);
  for (const [name, { value, from }] of lifted) {
    table[name] = value;
    written.set(name, from);
  }
  return {
    table,
    locate: (path) => {
      // The longest moved beginning of the path says where it was written.
      for (let length = path.length; length > 0; length--) {
        const from = written.get(formatPath(path.slice(0, length)));
        if (from !== undefined) return locateInFile([...prefix, ...from, ...path.slice(length)]);
      }
      return locateInFile([...prefix, ...path]);
    },
  };
}

interface Context {
  readonly prefix: readonly string[];
  readonly locateInFile: (path: readonly string[]) => string;
  readonly environment: Environment | null;
  readonly findings: Findings;
  readonly written: Map<string, readonly string[]>;
  readonly lifted: Map<string, { value: unknown; from: readonly string[] }>;
  readonly raw: Table;
}

function prepareTable(table: Table, node: SchemaNode, path: readonly string[], context: Context): Table {
  const result: Table = Object.create(null);
  for (const [key, value] of Object.entries(table)) {
    // Under [brokers] every name is a broker's, but `event_processing = "sync"` there is a key that slipped in.
    const slipped = path.length > 0 && LIFTABLE.has(key) && !isTable(value);
    const child = node.children.get(key) ?? (slipped ? null : node.any);
    const here = [...path, key];
    if (child !== null) {
      const open = child.spec !== null;
      const prepared = !open && isTable(value) ? prepareTable(value, child, here, context) : value;
      put(result, key, prepared, here, path, context);
      continue;
    }
    const meant = canonicalOf(key, node);
    if (meant !== null) {
      spelled(key, meant, path, context);
      put(result, meant, value, here, path, context);
      continue;
    }
    if (slipped) {
      lift(key, value, here, context);
      continue;
    }
    unknown(key, node, path, context);
  }
  return result;
}

/** Stores a value under its canonical key; a second spelling must say the same. */
function put(result: Table, key: string, value: unknown, from: readonly string[], path: readonly string[], context: Context): void {
  const name = formatPath([...path, key]);
  const earlier = context.written.get(name);
  if (earlier !== undefined && !sameValue(result[key], value, context.environment)) {
    context.findings.problems.push(
      new ConfigurationError(
        `[${formatPath([...context.prefix, ...path])}] says ${earlier.at(-1)} and ${from.at(-1)}, which mean the same, with different values: ${show(result[key])} and ${show(value)}`,
        {
          code: "CONFIG_CONTRADICTION",
          at: place(context, from),
          fix: `Keep one of them, written ${key}.`,
        },
      ),
    );
    return;
  }
  if (earlier === undefined) context.written.set(name, from);
  result[key] = value;
}

function sameValue(a: unknown, b: unknown, environment: Environment | null): boolean {
  if (jsonText(a) === jsonText(b)) return true;
  if (typeof a !== "string" || typeof b !== "string" || environment === null) return false;
  try {
    return substitute(a, environment) === substitute(b, environment);
  } catch (error) {
    // An unset variable is reported when the merged result is substituted; here the two texts just differ.
    if (error instanceof ConfigurationError) return false;
    throw error;
  }
}

function canonicalOf(spelling: string, node: SchemaNode): string | null {
  for (const [key, child] of node.children) if (child.spec?.aliases?.includes(spelling)) return key;
  return null;
}

function spelled(key: string, meant: string, path: readonly string[], context: Context): void {
  const section = formatPath([...context.prefix, ...path]);
  context.findings.diagnostics.push({
    code: "CONFIG_KEY_SPELLING",
    level: "warning",
    message: `[${section}] ${key} is read as ${meant}`,
    at: place(context, [...path, key]),
    fix: `Write ${meant} = … under [${section}]: Protean for Python knows only that.`,
  });
}

function lift(key: string, value: unknown, here: readonly string[], context: Context): void {
  const { findings } = context;
  const section = formatPath([...context.prefix, ...here.slice(0, -1)]);
  const top = context.prefix.length === 0 ? "above the first [table]" : `under [${formatPath(context.prefix)}]`;
  const other = Object.hasOwn(context.raw, key) ? { value: context.raw[key], from: [key] as readonly string[] } : context.lifted.get(key);
  if (other !== undefined && jsonText(other.value) !== jsonText(value)) {
    findings.problems.push(
      new ConfigurationError(
        `${key} stands at ${place(context, other.from)} as ${show(other.value)} and under [${section}] as ${show(value)}`,
        {
          code: "CONFIG_CONTRADICTION",
          at: place(context, here),
          fix: `${key} is one setting of the whole domain: write it once, ${top}.`,
        },
      ),
    );
    return;
  }
  if (other === undefined) context.lifted.set(key, { value, from: here });
  findings.diagnostics.push({
    code: "CONFIG_MISPLACED_KEY",
    level: "warning",
    message: `${key} stands behind [${section}], so TOML puts it into that table; it is honoured as the setting of the whole domain`,
    at: place(context, here),
    fix: `Move ${key} = ${show(value)} ${top}.`,
  });
}

function unknown(key: string, node: SchemaNode, path: readonly string[], context: Context): void {
  const section = [...context.prefix, ...path];
  const at = place(context, [...path, key]);
  const refusal = refusalOf(key, path, formatPath(section));
  if (refusal !== null) {
    context.findings.problems.push(
      new ConfigurationError(refusal.message, { code: "CONFIG_UNKNOWN_KEY", at, fix: refusal.fix ?? fixFor(key, node, path) }),
    );
    return;
  }
  const where = section.length === 0 ? "at the top level" : `in [${formatPath(section)}]`;
  context.findings.diagnostics.push({
    code: "CONFIG_UNKNOWN_KEY",
    level: "warning",
    message: `nobody reads the key "${key}" ${where}`,
    at,
    fix: fixFor(key, node, path),
  });
}

/** Unknown keys that are errors, not warnings: the original refuses them, or they never did what they say (W28). */
function refusalOf(key: string, path: readonly string[], section: string): { message: string; fix?: string } | null {
  const under = path.slice(0, 2).join(".");
  if (under === "server.profiles" && path.length === 3) return { message: `[${section}] has no field "${key}"` };
  if (under === "server.subscriptions" && path.length === 3 && key === "stream_category") {
    return { message: `stream_category has no effect under [${section}]`, fix: "Give the handler the option streamCategory." };
  }
  if (path.length === 1 && path[0] === "field_defaults") return { message: `[${section}] has no key "${key}"` };
  return null;
}

function fixFor(key: string, node: SchemaNode, path: readonly string[]): string {
  const near = nearest(key, node.children.keys());
  if (near !== null) return `Did you mean "${near}"?`;
  const places = placesOf(key, path);
  if (places.length > 0) return `It belongs under ${places.join(" or ")}.`;
  return node.children.size > 0 && node.children.size <= 24 ? `Known here: ${[...node.children.keys()].join(", ")}.` : "Remove it.";
}

/** Sections that know a key of exactly this name, the ones nearest to `path` first, at most three. */
function placesOf(key: string, path: readonly string[]): string[] {
  return SCHEMA.filter((spec) => spec.path.endsWith(`.${key}`))
    .map((spec) => spec.path.slice(0, -key.length - 1))
    .sort((a, b) => Number(b.startsWith(path[0] ?? "")) - Number(a.startsWith(path[0] ?? "")))
    .slice(0, 3)
    .map((section) => `[${section.replaceAll("*", "NAME")}]`);
}

function place(context: Context, path: readonly string[]): string {
  return context.locateInFile([...context.prefix, ...path]);
}

function show(value: unknown): string {
  return jsonText(maskSecrets(value));
}

/**
 * Separates overlays from the base. A top-level table is an overlay when PROTEAN_ENV names it, or when all its keys are top-level
 * keys (rulings 47): `[event_stores]` with `provider` in it stays a typo.
 */
export function splitOverlays(table: Table, selected: string | null): { base: Table; overlays: Map<string, Table> } {
  const base: Table = Object.create(null);
  const overlays = new Map<string, Table>();
  for (const [key, value] of Object.entries(table)) {
    if (!TOP_LEVEL_KEYS.has(key) && isTable(value) && (key === selected || looksLikeOverlay(key, value))) overlays.set(key, value);
    else base[key] = value;
  }
  return { base, overlays };
}

function looksLikeOverlay(name: string, table: Table): boolean {
  const keys = Object.keys(table);
  if (keys.length === 0) return nearest(name, TOP_LEVEL_KEYS) === null;
  return keys.every((key) => TOP_LEVEL_KEYS.has(key));
}

/** Lays `top` over `under`: tables merge key by key, everything else, lists too, replaces. Neither argument is changed. */
export function mergeTables(top: Table, under: Table): Table {
  const result: Table = Object.create(null);
  for (const [key, value] of Object.entries(under)) result[key] = value;
  for (const [key, value] of Object.entries(top)) {
    const below = result[key];
    result[key] = isTable(value) && isTable(below) ? mergeTables(value, below) : value;
  }
  return result;
}
