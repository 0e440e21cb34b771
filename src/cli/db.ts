import type { ConnectedStores } from "../compose/connect.ts";
import type { Config } from "../config/config.ts";
import type { DatabaseStep } from "../ports/database.ts";
import type { Command, FlagSpec, Invocation } from "./command.ts";
import { confirm, refuseInProduction } from "./confirm.ts";
import type { Outcome } from "./output.ts";
import { CommandError, EXIT } from "./problem.ts";
import { isUntouched, loadProject, type OpenProject, openProject, shortPath } from "./project.ts";
import { refuseWhileServersRun } from "./running-servers.ts";

const DRY_RUN = { "dry-run": { type: "boolean", description: "Only print the SQL" } } as const satisfies Readonly<Record<string, FlagSpec>>;

/** Everything that the domain needs in every backend; what is there already stays as it is. */
export const dbSetup: Command = {
  description: "Create what is missing in every configured backend, Message DB included; nothing that exists is changed",
  flags: DRY_RUN,
  examples: ["protean db setup", "protean db setup --dry-run > setup.sql"],
  run: async (invocation) => await setUp(invocation, "everything"),
};

/** What the declarations have gained since the tables were made. */
export const dbMigrate: Command = {
  description:
    "Add what the databases' tables lack: tables, columns, indexes. Only adds; nothing is changed or removed. SQLite files are brought up to date by opening them",
  flags: DRY_RUN,
  examples: ["protean db migrate --dry-run", "protean db migrate"],
  run: async (invocation) => await setUp(invocation, "databases"),
};

async function setUp(invocation: Invocation, what: "everything" | "databases"): Promise<Outcome> {
  const dryRun = invocation.values.has("dry-run");
  const loaded = await loadProject(invocation);
  const isEmbedded = Object.values(loaded.config.databases).every(({ provider }) => provider !== "postgresql");
  if (dryRun && isEmbedded && (await isUntouched(loaded.config))) {
    loaded.domain.freeze();
    const line = `would create ${shortPath(loaded.config.dataFile)} with all tables`;
    return { data: { created: [], would_create: [line] }, text: `-- ${line}` };
  }
  const project = await openProject(invocation, { role: "engine", setUp: false, loaded, tablesLater: true, unsettled: true });
  try {
    return dryRun ? await planned(project, what) : await done(project, what);
  } finally {
    await project.close();
  }
}

async function planned({ stores: { databases, eventStore } }: OpenProject, what: "everything" | "databases"): Promise<Outcome> {
  const parts: { readonly name: string; readonly address: string; readonly steps: readonly DatabaseStep[] }[] = [];
  for (const database of databases.values()) {
    parts.push({ name: `database ${database.name}`, address: database.address, steps: await database.plan() });
  }
  if (what === "everything") {
    // In the same database, the database's part makes the leases of both.
    const made = new Set(parts.filter(({ address }) => address === eventStore.address).flatMap(({ steps }) => steps.map(({ sql }) => sql)));
    const steps = (await eventStore.plan()).filter(({ sql }) => !made.has(sql));
    parts.push({ name: "event store", address: eventStore.address, steps });
  }
  const lines = parts.flatMap(({ name, steps }) => steps.map((step) => `${name}: ${step.what}`));
  const sql = parts.flatMap(({ name, address, steps }) => script(`${name} (${address})`, steps));
  return { data: { created: [], would_create: lines }, text: sql.length === 0 ? "-- nothing is missing" : sql.join("\n") };
}

/** SQL that a person, or psql, can run. */
function script(where: string, steps: readonly DatabaseStep[]): readonly string[] {
  if (steps.length === 0) return [];
  return [`-- ${where}`, ...steps.flatMap(({ what, sql }) => [`-- ${what}`, `${sql.trim().replace(/;$/, "")};`])];
}

async function done({ stores: { databases, eventStore, brokers } }: OpenProject, what: "everything" | "databases"): Promise<Outcome> {
  const lines: string[] = [];
  for (const database of databases.values()) {
    lines.push(...(await database.setup()).map((line) => `database ${database.name}: ${line}`));
  }
  if (what === "everything") {
    lines.push(...(await eventStore.setup()).map((line) => `event store: ${line}`));
    for (const broker of brokers.values()) {
      try {
        lines.push(...(await broker.setup()).map((line) => `broker ${broker.name}: ${line}`));
      } catch (cause) {
        throw new CommandError(
          EXIT.usage,
          "UNREACHABLE",
          `broker "${broker.name}" (${broker.address}) can't be set up: ${messageOf(cause)}`,
          {
            fix: "Start it, or correct [brokers] in domain.toml.",
            cause,
          },
        );
      }
    }
  }
  return { data: { created: lines }, text: lines.length === 0 ? "nothing is missing" : lines.join("\n") };
}

const DELETING = {
  ...DRY_RUN,
  database: { type: "text", hint: "NAME", repeatable: true, description: "Only these of [databases]; default: all" },
  force: { type: "boolean", description: "Also in production, and while servers run" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

const STAYS = "The event store and the broker stay as they are.";

/** Tables of the domain, with all rows. */
export const dbDrop: Command = {
  description: `Remove the domain's tables with all their rows, the outbox too. ${STAYS}`,
  flags: DELETING,
  examples: ["protean db drop --dry-run", "protean db drop --yes"],
  run: async (invocation) => await clear(invocation, "tables"),
};

/** Rows of the domain. */
export const dbTruncate: Command = {
  description: `Delete all rows of the domain's tables, those of the outbox too; the tables stay. ${STAYS}`,
  flags: DELETING,
  examples: ["protean db truncate --dry-run", "protean db truncate --yes"],
  run: async (invocation) => await clear(invocation, "rows"),
};

async function clear(invocation: Invocation, what: "rows" | "tables"): Promise<Outcome> {
  const { values, output } = invocation;
  const command = what === "tables" ? "db drop" : "db truncate";
  const loaded = await loadProject(invocation);
  if (!values.has("dry-run")) refuseInProduction(values, loaded.config, command);
  if (await isUntouched(loaded.config)) return { data: { cleared: [] }, text: "Nothing is stored yet." };
  const project = await openProject(invocation, { role: "client", setUp: false, loaded, tablesLater: true, unsettled: true });
  try {
    const databases = chosen(project.stores, values.texts("database", { split: true }), project.config);
    const parts = await Promise.all(databases.map(async (database) => ({ database, steps: await database.clear(what, { dryRun: true }) })));
    const lines = parts.flatMap(({ database, steps }) => steps.map((step) => `database ${database.name}: ${step.what}`));
    if (values.has("dry-run")) {
      const sql = parts.flatMap(({ database, steps }) => script(`database ${database.name} (${database.address})`, steps));
      return { data: { cleared: [], would_clear: lines }, text: sql.length === 0 ? "-- nothing is there" : sql.join("\n") };
    }
    if (lines.length === 0) return { data: { cleared: [] }, text: "Nothing is there." };
    if (!values.has("force")) {
      await refuseWhileServersRun(project.stores, project.domain.name, command, "Stop it first, or add --force.");
    }
    for (const line of lines) output.hint(line);
    const where = databases.map(({ name, address }) => `${name} (${address})`).join(", ");
    const verb = what === "tables" ? "Remove these tables with all their rows" : "Delete all rows of these tables";
    await confirm(values, `${verb} from ${where}?`, "nothing was deleted");
    const cleared: string[] = [];
    for (const database of databases) {
      const steps = await database.clear(what);
      cleared.push(...steps.map((step) => `database ${database.name}: ${step.what}`));
    }
    return { data: { cleared }, text: `${what === "tables" ? "removed" : "emptied"} ${cleared.length} tables. ${STAYS}` };
  } finally {
    await project.close();
  }
}

function chosen(stores: ConnectedStores, names: readonly string[], config: Config) {
  const all = [...stores.databases.values()];
  const unknown = names.find((name) => !all.some((database) => database.name === name));
  if (unknown !== undefined) {
    throw new CommandError(EXIT.usage, "USAGE", `--database: there is no database "${unknown}"`, {
      fix: `Configured are: ${Object.keys(config.databases).join(", ")}.`,
    });
  }
  return names.length === 0 ? all : all.filter(({ name }) => names.includes(name));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
