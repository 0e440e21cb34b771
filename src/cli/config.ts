import { isTable } from "../config/diagnostic.ts";
import { nearest } from "../config/nearest.ts";
import { type ShownValue, showConfig } from "../config/show.ts";
import type { Command, Invocation } from "./command.ts";
import { type Outcome, sortedJson } from "./output.ts";
import { asFinding, CommandError, EXIT, findingLine } from "./problem.ts";
import { configOf, placeOf, shortPath } from "./project.ts";

const LIST = {
  output: {
    type: "text",
    short: "o",
    hint: "FORMAT",
    choices: ["table", "json", "jsonl", "csv"],
    description: "table, json, jsonl or csv",
  },
} as const;

/** The effective configuration, with the place that each value comes from; secrets masked. */
export const configShow: Command = {
  description: "Effective configuration with the origin of each value; secrets masked",
  flags: { ...LIST, changed: { type: "boolean", description: "Only what differs from the defaults" } },
  positionals: [{ name: "SECTION", description: "only this section or key" }],
  async run({ values }) {
    const config = await configOf(values, await placeOf(values));
    const section = values.positional(0);
    const rows = showConfig(config)
      .filter(({ path }) => section === undefined || path === section || path.startsWith(`${section}.`))
      .filter(({ origin }) => !values.has("changed") || origin !== "default");
    if (section !== undefined && rows.length === 0) throw unknownKey(section, showConfig(config));
    return {
      data: { file: config.file, overlay: config.overlay, values: rows },
      diagnostics: config.diagnostics.map(asFinding),
      list: {
        columns: [
          { key: "path", title: "KEY" },
          { key: "shown", title: "VALUE" },
          { key: "origin", title: "ORIGIN" },
        ],
        rows: rows.map(({ path, value, origin }) => ({ path, shown: text(value), origin })),
        empty: "Every value is the default.",
      },
    };
  },
};

/** Everything that is wrong or not read in the configuration. */
export const configValidate: Command = {
  description: "Check the configuration; keys that nobody reads are errors",
  async run({ values, output }) {
    const config = await configOf(values, await placeOf(values), { strict: true });
    const findings = config.diagnostics.map(asFinding);
    for (const finding of findings) output.hint(findingLine(finding));
    const name = config.file === null ? "the defaults" : shortPath(config.file);
    return { data: { file: config.file, overlay: config.overlay, valid: true }, diagnostics: findings, text: `${name}: valid` };
  },
};

export const configGet: Command = {
  description: "Effective value of one key",
  positionals: [{ name: "KEY", description: "such as server.health.port", required: true }],
  async run({ values }): Promise<Outcome> {
    const config = await configOf(values, await placeOf(values));
    const key = values.positional(0) ?? "";
    const all = showConfig(config);
    const found = all.find(({ path }) => path === key) ?? inside(key, all);
    if (found === undefined) throw unknownKey(key, all);
    return { data: found, text: text(found.value) };
  },
};

export const configPath: Command = {
  description: "Path of the configuration file in use",
  async run({ values }: Invocation): Promise<Outcome> {
    const config = await configOf(values, await placeOf(values));
    if (config.file === null) {
      throw new CommandError(EXIT.notFound, "CONFIG_NOT_FOUND", "there is no configuration file; the defaults are in use", {
        fix: "Write a domain.toml.",
      });
    }
    return { data: { path: config.file }, text: config.file };
  },
};

/** A key of a table that is the user's own, such as `custom.branch.city`. */
function inside(key: string, all: readonly ShownValue[]): ShownValue | undefined {
  const table = all.find(({ path, value }) => isTable(value) && key.startsWith(`${path}.`));
  if (table === undefined) return undefined;
  let value: unknown = table.value;
  for (const part of key.slice(table.path.length + 1).split(".")) {
    if (!isTable(value) || !Object.hasOwn(value, part)) return undefined;
    value = value[part];
  }
  return { path: key, value, origin: table.origin };
}

function unknownKey(key: string, all: readonly ShownValue[]): CommandError {
  const near = nearest(
    key,
    all.map(({ path }) => path),
  );
  return new CommandError(EXIT.notFound, "CONFIG_UNKNOWN_KEY", `the configuration has no key "${key}"`, {
    fix: near === null ? "protean config show lists all of them." : `Did you mean ${near}?`,
  });
}

function text(value: unknown): string {
  return typeof value === "string" ? value : value === undefined ? "" : sortedJson(value, 0);
}
