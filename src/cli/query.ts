import type { ElementMeta } from "../domain/element.ts";
import { DeserializationError } from "../errors.ts";
import { parseJson } from "../messages/json.ts";
import type { Command, Invocation } from "./command.ts";
import type { Outcome } from "./output.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { isUntouched, loadProject, type OpenProject, openProject } from "./project.ts";
import { elementNamed } from "./send.ts";

const LIMIT = 100;

/** Runs a query, or reads a projection: one row by its id, or several by a condition (rulings 72). */
export const query: Command = {
  description: "Run a query, or read a projection; rows in wire names",
  flags: {
    where: { type: "text", hint: "JSON", description: `Projection: condition, such as '{"balance": {"gte": 100}}'` },
    limit: { type: "text", hint: "N", description: "Projection: at most N rows (100)" },
    "order-by": { type: "text", hint: "FIELD", repeatable: true, description: "Projection: order; -field is descending" },
    output: {
      type: "text",
      short: "o",
      hint: "FORMAT",
      choices: ["table", "json", "jsonl", "csv"],
      description: "table, json, jsonl or csv",
    },
  },
  positionals: [
    { name: "NAME", description: "the query or projection", required: true },
    { name: "JSON|ID", description: "the query's values; or the row's id" },
  ],
  examples: [
    `protean query RichAccounts '{"at_least": 100}'`,
    "protean query AccountSummary a1",
    `protean query AccountSummary --where '{"balance": {"gte": 100}}'`,
  ],
  async run(invocation) {
    const loaded = await loadProject(invocation);
    const name = invocation.values.positional(0) ?? "";
    const meta = elementNamed(loaded, name, ["query", "projection"]);
    // Looking must not make the file (cli.md 2.1).
    if (await isUntouched(loaded.config)) {
      const { domain } = loaded;
      domain.freeze();
      throw new CommandError(EXIT.notFound, "NOTHING_STORED", `nothing is stored yet: ${loaded.config.dataFile} doesn't exist`, {
        fix: "Start protean dev, and send something.",
      });
    }
    const project = await openProject(invocation, { role: "client", setUp: true, loaded, tablesLater: true, unsettled: true });
    try {
      return await (meta.kind === "query" ? runQuery(invocation, project, meta) : readProjection(invocation, project, meta));
    } finally {
      await project.close();
    }
  },
};

async function runQuery({ values }: Invocation, { domain }: OpenProject, meta: ElementMeta): Promise<Outcome> {
  for (const flag of ["where", "limit", "order-by"])
    if (values.has(flag)) throw usageError(`--${flag} is for projections; ${meta.name} is a query`);
  const { fromInput } = await import("../domain/wire.ts");
  const answer: unknown = await domain.dispatch(fromInput(meta, jsonIn(values.positional(1) ?? "{}", "the values")) as never);
  return await asOutcome(answer);
}

async function readProjection({ values }: Invocation, { domain }: OpenProject, meta: ElementMeta): Promise<Outcome> {
  const { ReadView } = await import("../domain/view.ts");
  const view = new ReadView(domain, meta);
  const id = values.positional(1);
  const where = values.text("where");
  if (id !== undefined) {
    if (where !== undefined) throw usageError("an id and --where were both given", "Give one of them.");
    const row = await view.getOrNull(id);
    if (row === null) throw new CommandError(EXIT.notFound, "NOT_FOUND", `${meta.name} has no row "${id}"`);
    return await asOutcome(row);
  }
  let rows = view.query;
  if (where !== undefined) rows = rows.filter(declaredNames(meta, jsonIn(where, "--where")) as never);
  const order = values.texts("order-by", { split: true });
  if (order.length > 0)
    rows = rows.orderBy(
      ...order.map((field) => (field.startsWith("-") ? `-${declaredName(meta, field.slice(1))}` : declaredName(meta, field))),
    );
  return await asOutcome([...(await rows.limit(values.integer("limit", { least: 0 }) ?? LIMIT).all())]);
}

function jsonIn(text: string, what: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    if (!(error instanceof DeserializationError)) throw error;
    throw usageError(`${what}: no JSON: ${error.message.replace(/^not JSON: /, "")}`, `Quote it for your shell: '{"name": "value"}'`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw usageError(`${what}: no JSON object`);
  return value as Readonly<Record<string, unknown>>;
}

/** Conditions may be written in wire names too (D44). */
function declaredNames(meta: ElementMeta, where: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(where).map(([name, value]) => [declaredName(meta, name), value]));
}

function declaredName(meta: ElementMeta, name: string): string {
  if (meta.fields.has(name)) return name;
  return [...meta.fields.values()].find(({ wireName }) => wireName === name)?.name ?? name;
}

/** Elements in wire names; a list of objects as a table, anything else as JSON. */
async function asOutcome(answer: unknown): Promise<Outcome> {
  const [{ META }, { toPlain }] = await Promise.all([import("../domain/element.ts"), import("../domain/wire.ts")]);
  const plain = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(plain);
    if (typeof value !== "object" || value === null) return value;
    const made = value.constructor as unknown;
    return META in value || (typeof made === "function" && META in made) ? toPlain(value) : value;
  };
  const data = plain(answer ?? null);
  if (Array.isArray(data) && data.every((row) => typeof row === "object" && row !== null && !Array.isArray(row))) {
    const rows = data as Readonly<Record<string, unknown>>[];
    const keys = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return { data, list: { columns: keys.map((key) => ({ key, title: key })), rows, empty: "No rows." } };
  }
  if (typeof data === "object" && data !== null && !Array.isArray(data)) {
    const entries = Object.entries(data);
    const width = Math.max(...entries.map(([key]) => key.length), 0);
    const line = (value: unknown) => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));
    return { data, text: entries.map(([key, value]) => `${key.padEnd(width)}  ${line(value)}`).join("\n") };
  }
  return { data, text: JSON.stringify(data) };
}
