import type { BackupFacts } from "../compose/backup.ts";
import type { Config } from "../config/config.ts";
import { ConfigurationError, ConnectionError } from "../errors.ts";
import { kindOf } from "../runtime/files.ts";
import type { Command, FlagSpec, Invocation } from "./command.ts";
import { confirm } from "./confirm.ts";
import type { Outcome } from "./output.ts";
import { Patience } from "./patience.ts";
import { CommandError, EXIT, type Finding, usageError } from "./problem.ts";
import {
  configOf,
  effectiveConfig,
  type LoadedProject,
  loadProject,
  logOf,
  openBackends,
  openProject,
  placeOf,
  shortPath,
} from "./project.ts";
import { compareAll } from "./recover.ts";
import { refuseWhileServersRun } from "./running-servers.ts";

const DATABASE = {
  database: { type: "text", hint: "NAME", description: "This one of [databases] (default)" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

/** Needs no handlers, so that it can run from a timer. */
export const dbBackup: Command = {
  description:
    "Copy a SQLite database into one file, whole and checked, while servers go on. It notes where brokers and an event store of their own stand, for protean recover. PostgreSQL is backed up by pg_dump",
  flags: { ...DATABASE, force: { type: "boolean", description: "Replace FILE when it exists" } },
  positionals: [{ name: "FILE", description: "the copy", required: true }],
  examples: ["protean db backup /backups/shop-monday.db"],
  async run(invocation) {
    const { values, output } = invocation;
    const to = values.positional(0) ?? "";
    const name = values.text("database") ?? "default";
    if ((await kindOf(to)) !== null && !values.has("force")) throw usageError(`${to} exists`, "Give another name, or add --force.");
    const [{ backupDatabase, sqliteFileOf }, { systemTools }] = await Promise.all([
      import("../compose/backup.ts"),
      import("../compose/connect.ts"),
    ]);
    // Before anything is connected: PostgreSQL has nothing to say to it.
    const file = sqliteFileOf(await configOf(values, await placeOf(values)), name, "backup");
    const { config, stores, close } = await openBackends(invocation);
    try {
      if (stores === null || (await kindOf(file)) === null) {
        throw new CommandError(EXIT.notFound, "NOTHING_STORED", `there is no file ${shortPath(file)} yet`, {
          fix: "It is made by the first command that stores something.",
        });
      }
      const tools = systemTools(logOf(values, config, { quietly: true }));
      const { facts, noted, unreachable } = await backupDatabase({ stores, database: name, to, tools });
      for (const line of notIn(config, name)) output.hint(line);
      for (const { message } of unreachable) output.say(`warning: ${message}; where it stands is not noted`);
      const where = noted.length === 0 ? "" : `, with the positions of ${noted.join(", ")}`;
      return {
        exitCode: unreachable.length === 0 ? EXIT.good : EXIT.found,
        data: { file: to, ...factsData(facts), noted, not_noted: unreachable.map(({ message }) => message) },
        diagnostics: unreachable.map(({ message }): Finding => ({ code: "NOT_NOTED", level: "warning", message })),
        text: `backed up ${shortPath(file)} to ${shortPath(to)}: ${factsText(facts)}${where}`,
      };
    } finally {
      await close();
    }
  },
};

/** What else a restore would need. */
function notIn(config: Config, name: string): readonly string[] {
  const file = fileOf(config.databases[name]);
  const others = [
    ...Object.values(config.databases).map((part) => ({ what: `database ${part.name}`, part })),
    { what: "the event store", part: config.eventStore },
  ].filter(({ part }) => part.provider !== "memory" && fileOf(part) !== file);
  return others.map(({ what, part }) => `note: ${what} (${part.provider}) is not in it; back it up after this`);
}

function fileOf(part: object | undefined): unknown {
  return part !== undefined && "file" in part ? part.file : null;
}

/** The database must be nobody's meanwhile. */
export const dbRestore: Command = {
  description:
    "Put a backup in the place of a SQLite database, and compare it with the other stores. The replaced file is kept beside it. No program may use the database meanwhile",
  flags: {
    ...DATABASE,
    "dry-run": { type: "boolean", description: "Only check the backup and say what would be replaced" },
    repair: { type: "boolean", description: "Put right at once what doesn't fit (protean recover --repair)" },
    force: { type: "boolean", description: "Although a server says that it runs (it may be on another database)" },
  },
  positionals: [{ name: "FILE", description: "made by protean db backup, or the .bak of a migration", required: true }],
  examples: ["protean db restore /backups/shop-monday.db --dry-run", "protean db restore /backups/shop-monday.db"],
  async run(invocation) {
    const { values, output } = invocation;
    const from = values.positional(0) ?? "";
    const name = values.text("database") ?? "default";
    const loaded = await loadProject(invocation);
    const config = await effectiveConfig(loaded);
    const [{ checkBackup, restoreDatabase, sqliteFileOf, withoutFile }, { openStores, systemTools }] = await Promise.all([
      import("../compose/backup.ts"),
      import("../compose/connect.ts"),
    ]);
    const file = sqliteFileOf(config, name, "restore");
    const facts = checkBackup(from);
    const tools = systemTools(logOf(values, config, { quietly: true }));
    if (!values.has("force")) {
      // The file itself may be damaged: whoever beats in it has it open, and is found out by that.
      const looked = withoutFile(config, file);
      const stores = await Patience.of(values).reach(tools, () => openStores(looked, loaded.domain.name, tools, undefined, { wait_ms: 0 }));
      try {
        await refuseWhileServersRun(stores, loaded.domain.name, "db restore", "Stop it first.");
      } finally {
        await stores.close();
      }
    }
    const isThere = (await kindOf(file)) !== null;
    const what = `${shortPath(file)} ${isThere ? "would be replaced" : "would be made"} by ${shortPath(from)}: ${factsText(facts)}`;
    if (values.has("dry-run")) return { data: { ...factsData(facts), file, would_replace: isThere, replaced: null }, text: what };
    if (isThere) {
      output.hint(`${what}. What was stored after that backup will be in the replaced file only.`);
      await confirm(values, `Replace ${shortPath(file)}?`, "nothing was restored");
    }
    const { replaced } = await restoredOrRefused(() => restoreDatabase({ config, database: name, from, tools }));
    output.hint(`restored ${shortPath(file)}${replaced === null ? "" : `; the replaced file is ${shortPath(replaced)}`}`);
    const compared = await compareRestored(invocation, loaded);
    return { ...compared, data: { ...factsData(facts), file, would_replace: null, replaced, comparison: compared.data } };
  },
};

/** The database is in its place already: what can't be compared now is compared later, and nothing starts before that. */
async function compareRestored(invocation: Invocation, loaded: LoadedProject): Promise<Outcome> {
  try {
    const project = await openProject(invocation, { role: "engine", setUp: false, loaded, tablesLater: true, unsettled: true });
    try {
      return await compareAll(invocation, project, { since_ms: null, repair: invocation.values.has("repair"), settle: true, force: false });
    } finally {
      await project.close();
    }
  } catch (error) {
    if (!(error instanceof ConnectionError)) throw error;
    const message = `it was not compared with the other stores: ${error.message}`;
    const suggestion = "Run: protean recover";
    invocation.output.say(`warning: ${message}. ${suggestion}`);
    return { exitCode: EXIT.found, data: null, diagnostics: [{ code: "NOT_COMPARED", level: "error", message, suggestion }] };
  }
}

async function restoredOrRefused<Result>(restore: () => Promise<Result>): Promise<Result> {
  const { FILE_IN_USE } = await import("../compose/backup.ts");
  try {
    return await restore();
  } catch (error) {
    if (!(error instanceof ConfigurationError) || error.code !== FILE_IN_USE) throw error;
    throw new CommandError(EXIT.conflict, FILE_IN_USE, error.message, { ...error.about });
  }
}

function factsText({ size_bytes, version, messages, outboxRows, takenAt }: BackupFacts): string {
  const size = size_bytes < 1_048_576 ? `${Math.ceil(size_bytes / 1024)} KB` : `${(size_bytes / 1_048_576).toFixed(1)} MB`;
  const when = takenAt === null ? "" : ` of ${takenAt.replace(/\.\d+/, "")}`;
  return `${size}${when}, schema version ${version}, ${messages} messages, ${outboxRows} outbox rows`;
}

function factsData({ size_bytes, version, messages, outboxRows, takenAt }: BackupFacts) {
  return { size_bytes, schema_version: version, messages, outbox_rows: outboxRows, backup_taken_at: takenAt };
}
