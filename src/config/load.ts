/**
 * Loading, in the order of configuration.md §2:
 *
 * find        the file, parsed, with the line of every key
 * split       the base from its overlays
 * prepare     each of them: spellings, misplaced keys, unknown keys (layers.ts)
 * merge       flags over overlay over base; c12 does the layering of what we found and parsed ourselves (docs/adr/0004-configuration-loader.md)
 * substitute  `${A|b}`, in the merged result only: an unset variable in an overlay that isn't selected is no error
 * check       types, ranges, defaults (values.ts)
 * build       the typed Config (build.ts)
 *
 * All problems are collected and thrown together, so that one run tells everything.
 */
import { resolve } from "node:path";
import type { LoadConfigOptions } from "c12";
import { ConfigurationError } from "../errors.ts";
import { buildConfig } from "./build.ts";
import type { Config } from "./config.ts";
import { type Diagnostic, formatPath, isTable, type Table } from "./diagnostic.ts";
import { findConfig, type ReadFile } from "./find.ts";
import { type Findings, type Layer, mergeTables, prepareLayer, splitOverlays } from "./layers.ts";
import { refuseUnsafeKeys, withoutPrototypes } from "./parse.ts";
import { type Environment, substituteTable } from "./substitute.ts";
import { checkValues } from "./values.ts";

export type { Config } from "./config.ts";
export type { Diagnostic } from "./diagnostic.ts";
export type { ReadFile } from "./find.ts";
export type { Environment } from "./substitute.ts";

export interface LoadOptions {
  /** Where the search begins: the folder of `--domain`, else the working directory. */
  readonly start: string;
  /** `--config FILE`; no search then. */
  readonly file?: string | undefined;
  readonly environment: Environment;
  /** `--env NAME`; wins over PROTEAN_ENV. */
  readonly overlayName?: string | undefined;
  readonly read: ReadFile;
  /** Unknown keys are errors (`--strict`, `config validate`). */
  readonly strict?: boolean | undefined;
  /** Values of command-line flags by key path: `{ "server.drain_timeout": 5 }`. They win over everything. */
  readonly flags?: Readonly<Record<string, unknown>> | undefined;
}

/**
 * Finds and loads the configuration.
 * @throws ConfigurationError naming file, key, value and what is allowed; several problems are listed in one error
 */
export async function loadConfig(options: LoadOptions): Promise<Config> {
  const found = findConfig(options);
  const diagnostics: Diagnostic[] = [];
  if (found === null) {
    diagnostics.push({
      code: "CONFIG_NOT_FOUND",
      level: "warning",
      message: `No configuration file found in ${resolve(options.start, options.environment["DOMAIN_ROOT_PATH"] || ".")} and two folders up. Using default configuration.`,
      fix: "Write a domain.toml to change it; without one everything is kept in .protean/protean.db.",
    });
  }
  const source: Source = {
    file: found?.file ?? null,
    directory: found?.directory ?? resolve(options.start, options.environment["DOMAIN_ROOT_PATH"] || "."),
    table: found?.table ?? Object.create(null),
    locate: found?.locate ?? (() => "default"),
    substitution: true,
  };
  const prepared = prepare(source, options, diagnostics);
  const merged = await layer(prepared, source.file);
  return finish(source, prepared, merged, options);
}

/**
 * Configuration given in code, as `new Domain(name, { config: { … } })`: same keys, overlay applied, nothing substituted.
 * @param directory where relative paths start, and `.protean` lies
 */
export function configFromObject(
  object: Readonly<Record<string, unknown>>,
  options: {
    readonly directory: string;
    readonly environment: Environment;
    readonly overlayName?: string | undefined;
    readonly strict?: boolean | undefined;
  },
): Config {
  if (!isTable(object))
    throw new ConfigurationError("config must be a plain object", {
      code: "CONFIG_VALUE",
      fix: "Give tables and values as in domain.toml.",
    });
  refuseUnsafeKeys(object, [], "config object");
  const source: Source = {
    file: null,
    directory: resolve(options.directory),
    table: withoutPrototypes(object) as Table,
    locate: (path) => (path.length === 0 ? "config object" : `config object, ${formatPath(path)}`),
    substitution: false,
  };
  const prepared = prepare(source, options, []);
  const merged = mergeTables(prepared.overlay?.table ?? Object.create(null), prepared.base.table);
  return finish(source, prepared, merged, options);
}

interface Source {
  readonly file: string | null;
  readonly directory: string;
  readonly table: Table;
  readonly locate: (path: readonly string[]) => string;
  readonly substitution: boolean;
}

interface Prepared {
  readonly base: Layer;
  readonly overlay: Layer | null;
  readonly overlayName: string | null;
  readonly environmentName: string | null;
  readonly flags: Table;
  readonly findings: Findings;
}

type Choices = Pick<LoadOptions, "environment" | "overlayName" | "strict" | "flags">;

function prepare(source: Source, choices: Choices, diagnostics: Diagnostic[]): Prepared {
  const environmentName = choices.overlayName || choices.environment["PROTEAN_ENV"] || null;
  const { base, overlays } = splitOverlays(source.table, environmentName);
  const findings: Findings = { diagnostics, problems: [] };
  const environment = source.substitution ? choices.environment : null;
  const baseLayer = prepareLayer(base, [], source.locate, environment, findings);
  let overlay: Layer | null = null;
  for (const [name, table] of overlays) {
    // Overlays that aren't selected are looked through as well: a typo in [prod] should be seen before production sees it.
    const selected = name === environmentName;
    const layer = prepareLayer(table, [name], source.locate, environment, selected ? findings : { diagnostics, problems: [] });
    if (selected) overlay = layer;
  }
  const flags: Table = Object.create(null);
  for (const [path, value] of Object.entries(choices.flags ?? {})) {
    if (value === undefined) continue;
    const segments = path.split(".");
    let table = flags;
    for (const segment of segments.slice(0, -1)) {
      const next: unknown = table[segment];
      if (isTable(next)) table = next;
      else {
        const created: Table = Object.create(null);
        table[segment] = created;
        table = created;
      }
    }
    table[segments.at(-1) ?? path] = value;
  }
  return { base: baseLayer, overlay, overlayName: overlay === null ? null : environmentName, environmentName, flags, findings };
}

/**
 * Lays flags over overlay over base with c12, everything of c12 that reads or guesses switched off: it gets the parsed file from us
 * (`resolve`), so it looks for no other file, rc file, package.json, .env or environment layer.
 */
async function layer(prepared: Prepared, file: string | null): Promise<Table> {
  const { loadConfig: layerConfig } = await import("c12");
  // c12 makes a loader of TypeScript configuration files unless it is given one; ours never loads code.
  const noCodeLoader = Object.create(null) as NonNullable<LoadConfigOptions["jiti"]>;
  const { config } = await layerConfig<Table>({
    name: "domain",
    configFile: file ?? "domain.toml",
    rcFile: false,
    globalRc: false,
    packageJson: false,
    dotenv: false,
    envName: false,
    extend: false,
    giget: false,
    jiti: noCodeLoader,
    resolve: () => ({ config: prepared.base.table, configFile: file ?? "domain.toml" }),
    overrides: mergeTables(prepared.flags, prepared.overlay?.table ?? Object.create(null)),
    merger: (...layers) => layers.filter(isTable).reduceRight<Table>((under, top) => mergeTables(top, under), Object.create(null)),
  });
  return config;
}

function finish(source: Source, prepared: Prepared, merged: Table, choices: Choices): Config {
  const { findings, base, overlay, flags, overlayName } = prepared;
  const { diagnostics, problems } = findings;
  const usedVariables = new Map<string, string>();
  const origin = (path: readonly string[]): string => {
    if (has(flags, path)) return "flag";
    const fromOverlay = overlay !== null && has(overlay.table, path);
    const place = fromOverlay ? `${overlay.locate(path)} (overlay ${overlayName})` : base.locate(path);
    const variables = usedVariables.get(formatPath(path));
    return variables === undefined ? place : `${place} (from ${variables})`;
  };
  let table = merged;
  if (source.substitution) {
    try {
      table = substituteTable(merged, choices.environment, origin, (path, names) =>
        usedVariables.set(formatPath(path), [...names].join(", ")),
      );
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      throw asOne([...problems, error]);
    }
  }
  const checked = checkValues(table, origin);
  problems.push(...checked.problems);
  diagnostics.push(...checked.diagnostics);
  const origins = new Map<string, string>();
  for (const path of checked.values.keys()) origins.set(path, "default");
  walk(table, [], (path) => {
    const name = formatPath(path);
    if (checked.given.has(name)) origins.set(name, origin(path));
  });
  // Building reads values; where one is refused its default stands in, and the refusal is thrown below.
  const config = buildConfig({
    file: source.file,
    directory: source.directory,
    environment: choices.environment,
    environmentName: prepared.environmentName,
    overlay: overlayName,
    table,
    sectionsInFile: new Set([...Object.keys(base.table), ...Object.keys(overlay?.table ?? {})]),
    values: checked.values,
    given: checked.given,
    origins,
    problems,
    diagnostics,
  });
  if (choices.strict) {
    for (const diagnostic of diagnostics) {
      if (diagnostic.code === "CONFIG_UNKNOWN_KEY")
        problems.push(new ConfigurationError(diagnostic.message, { code: diagnostic.code, at: diagnostic.at, fix: diagnostic.fix }));
    }
  }
  if (problems.length > 0) throw asOne(problems);
  return config;
}

function has(table: Table, path: readonly string[]): boolean {
  let found: unknown = table;
  for (const segment of path) {
    if (!isTable(found) || !Object.hasOwn(found, segment)) return false;
    found = found[segment];
  }
  return true;
}

function walk(value: unknown, path: readonly string[], visit: (path: readonly string[]) => void): void {
  if (path.length > 0) visit(path);
  if (isTable(value)) for (const [key, item] of Object.entries(value)) walk(item, [...path, key], visit);
}

/** A single problem as it is; several as one error that lists them, each with its place and fix. */
function asOne(problems: readonly ConfigurationError[]): ConfigurationError {
  const [first] = problems;
  if (first !== undefined && problems.length === 1) return first;
  const lines = problems.map(
    (problem) =>
      `  ${problem.about.at === undefined ? "" : `${problem.about.at}: `}${problem.message.replace(/\.$/, "")}${problem.about.fix === undefined ? "" : `. ${problem.about.fix}`}`,
  );
  return new ConfigurationError(`${problems.length} problems in the configuration:\n${lines.join("\n")}`, {
    code: "CONFIGURATION",
    at: first?.about.at,
    fix: "Correct them one by one.",
    cause: new AggregateError(problems, "configuration"),
  });
}
