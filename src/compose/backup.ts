import { type BackupFacts, backupFile, restoreFile } from "../adapters/sqlite/backup.ts";
import type { Config } from "../config/config.ts";
import { positionsText, readPositions } from "../engine/recovery/positions.ts";
import { ConfigurationError, type ConnectionError } from "../errors.ts";
import { kindOf, realPathOf } from "../runtime/files.ts";
import type { ConnectedStores, Tools } from "./connect.ts";

export { type BackupFacts, checkBackup, FILE_IN_USE } from "../adapters/sqlite/backup.ts";

/**
 * The SQLite file behind a database's name.
 * @throws ConfigurationError for a name that isn't configured, for memory, and for PostgreSQL, where it says what to run instead
 */
export function sqliteFileOf(config: Config, name: string, doing: "backup" | "restore"): string {
  const database = config.databases[name];
  if (database === undefined) {
    throw new ConfigurationError(`there is no database "${name}"`, { fix: `Configured are: ${Object.keys(config.databases).join(", ")}.` });
  }
  if (database.provider === "sqlite" && database.file !== ":memory:") return database.file;
  const at = config.origins.get(`databases.${name}.provider`) ?? `[databases.${name}]`;
  if (database.provider !== "postgresql")
    throw new ConfigurationError(`database "${name}" is in memory, and ends with its process`, { at });
  throw new ConfigurationError(`database "${name}" is PostgreSQL, which has its own tools for that`, {
    at,
    fix: postgresFix(config, doing),
  });
}

/** What has to be kept together so that it fits afterwards. */
function postgresFix({ eventStore }: Config, doing: "backup" | "restore"): string {
  if (doing === "restore") return "Run pg_restore, and then: protean recover --since TIME, with the time at which the dump was begun.";
  return eventStore.provider === "message_db"
    ? "Run pg_dump on it, with Message DB (schema message_store) in the same dump; where that is another database, dump this one first and Message DB after it."
    : "Run pg_dump on it, and after that back up what the event store is in.";
}

/**
 * Backs a SQLite file up, with a note of where brokers and an event store of their own stand.
 * @returns also what couldn't be reached, and so isn't in the note
 * @throws ConfigurationError when the copy can't be written
 */
export async function backupDatabase(options: {
  readonly stores: ConnectedStores;
  readonly database: string;
  readonly to: string;
  readonly tools: Tools;
}): Promise<{ readonly facts: BackupFacts; readonly noted: readonly string[]; readonly unreachable: readonly ConnectionError[] }> {
  const { stores, to, tools } = options;
  const file = sqliteFileOf(stores.config, options.database, "backup");
  const database = stores.databases.get(options.database);
  if (database === undefined) throw new Error(`database ${options.database} is configured and was not opened`);
  if ((await kindOf(to)) !== null && (await realPathOf(to)) === (await realPathOf(file))) {
    throw new ConfigurationError(`${to} is the database itself`, { at: to, fix: "Give another path." });
  }
  // Before the copy is made: see there.
  const { positions, unreachable } = await readPositions({ database, brokers: stores.brokers, eventStore: stores.eventStore });
  const facts = await backupFile({ file: { file, ...tools }, to, note: positionsText(positions) });
  const noted = [
    ...positions.brokers.map(({ address }) => address),
    ...(positions.eventStore === null ? [] : [positions.eventStore.address]),
  ];
  return { facts, noted, unreachable };
}

/** Puts a backup in the place of a SQLite file that nobody uses. @throws ConfigurationError, see `restoreFile` */
export async function restoreDatabase(options: {
  readonly config: Config;
  readonly database: string;
  readonly from: string;
  readonly tools: Tools;
}): Promise<{ readonly replaced: string | null }> {
  const { config, from, tools } = options;
  return await restoreFile({ backup: from, file: sqliteFileOf(config, options.database, "restore"), ...tools });
}

/** The same configuration without a file of this path, so that the other stores can be asked whoever broke the file. */
export function withoutFile(config: Config, file: string): Config {
  const spared = <Part extends { readonly provider: string }>(part: Part): Part =>
    "file" in part && part.file === file ? { ...part, file: ":memory:" } : part;
  const each = <Part extends { readonly provider: string }>(parts: Readonly<Record<string, Part>>) =>
    Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, spared(part)]));
  return { ...config, databases: each(config.databases), eventStore: spared(config.eventStore), brokers: each(config.brokers) };
}
