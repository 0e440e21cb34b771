import { ConfigurationError } from "../../errors.ts";
import type { InstanceRecord } from "../../ports/instances.ts";
import { requireUsable, type StoredVersion } from "../../ports/store-version.ts";
import { type Connection, quoted } from "./connection.ts";
import { MIGRATIONS, type Migration, OUTBOX_COLUMNS, PROCESSED_COLUMNS } from "./migrations.ts";
import { sqlTime } from "./time.ts";

/** What the schema of an opened file was before. */
export interface SchemaChange {
  readonly from: number;
  readonly to: number;
  /** The file was one of Python's. */
  readonly adopted: boolean;
}

/** Programs that can't use the new layout still run on the file; when the last of them is known to be gone, unless it says again that it lives. */
export class OldProgramsRun extends ConfigurationError {
  override readonly name: string = "OldProgramsRun";
}

const NEWER_FIX = "Use the newer version of protean with this file, or give another data_dir.";

/** Python's tables that we share, each with its columns. */
const SHARED: readonly (readonly [table: string, columns: readonly string[]])[] = [
  ["outbox", OUTBOX_COLUMNS],
  ["processed_message", PROCESSED_COLUMNS],
];

/** Version of our tables in the file; 0 when it has none. */
export function schemaVersion(connection: Connection): number {
  return connection.get<{ user_version: number }>("PRAGMA user_version")?.user_version ?? 0;
}

function storedVersion(connection: Connection): StoredVersion {
  const version = schemaVersion(connection);
  // Files of version 1 don't say it.
  if (!columnsIn(connection, "protean_migration").includes("usable_from")) return { version, usableFrom: version };
  const row = connection.get<{ usable: number | null; newest: number | null }>(
    "SELECT max(coalesce(usable_from, version)) AS usable, max(version) AS newest FROM protean_migration",
  );
  // A version that no migration tells of was set by nobody we know.
  return { version, usableFrom: row?.newest === version && row.usable !== null ? row.usable : version };
}

/**
 * For a program that has the file open: can it go on, now that the version is another?
 * @throws ConfigurationError when it can't
 */
export function requireUsableFile(connection: Connection, file: string, migrations: readonly Migration[] = MIGRATIONS): void {
  requireUsable(file, storedVersion(connection), NEWER_FIX, newestOf(migrations));
}

/**
 * Brings our tables to the newest version, in one transaction (rulings 51). A file that Python made becomes one that both can use: its tables keep
 * their rows and are laid out as before.
 *
 * A kill leaves the file as it was: before the commit there is at most a copy beside it, which the next run makes anew.
 *
 * @param file as messages name it
 * @param keepCopy called before a file with an older version, or one of Python's, is changed; nobody else writes meanwhile
 * @returns what was changed, null when nothing had to be
 * @throws ConfigurationError for a file of a newer version, or one that holds tables of the same names that are neither ours nor Python's;
 *   OldProgramsRun
 */
export function migrate(
  connection: Connection,
  options: {
    readonly file: string;
    readonly now_ms: number;
    readonly keepCopy: () => void;
    readonly migrations?: readonly Migration[];
  },
): SchemaChange | null {
  const { file, now_ms, migrations = MIGRATIONS } = options;
  const newest = newestOf(migrations);
  requireUsableFile(connection, file, migrations);
  if (schemaVersion(connection) >= newest) return null;
  return connection.transaction(() => {
    // Another process may have been faster.
    const from = schemaVersion(connection);
    if (from >= newest) return null;
    const pythons = from === 0 ? pythonTables(connection, file) : [];
    const missing = migrations.filter(({ version }) => version > from);
    if (from > 0 && missing.some(({ usableFrom }) => usableFrom > from)) requireNobody(connection, { file, now_ms, from, newest });
    if (from > 0 || pythons.length > 0) options.keepCopy();

    for (const [table] of pythons) setAside(connection, table);
    makeMigrationTable(connection);
    for (const { version, name, usableFrom, sql } of missing) {
      connection.execute(sql);
      connection.run(
        "INSERT INTO protean_migration (version, name, applied_at, usable_from) VALUES (?, ?, ?, ?)",
        version,
        name,
        sqlTime(now_ms),
        usableFrom,
      );
    }
    for (const [table, columns] of pythons) takeBack(connection, table, columns);
    connection.execute(`PRAGMA user_version = ${newest}`);
    return { from, to: newest, adopted: pythons.length > 0 };
  });
}

function newestOf(migrations: readonly Migration[]): number {
  return Math.max(...migrations.map(({ version }) => version));
}

function makeMigrationTable(connection: Connection): void {
  connection.execute(
    "CREATE TABLE IF NOT EXISTS protean_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at DATETIME NOT NULL, usable_from INTEGER)",
  );
  if (!columnsIn(connection, "protean_migration").includes("usable_from")) {
    connection.execute("ALTER TABLE protean_migration ADD COLUMN usable_from INTEGER");
  }
}

/** Names of a table's columns; none when there is no such table. `schema`: name of an attached file. */
export function columnsIn(connection: Connection, table: string, schema = "main"): readonly string[] {
  return connection.all<{ name: string }>("SELECT name FROM pragma_table_info(?, ?)", table, schema).map(({ name }) => name);
}

/** A server that holds a lease or beats in this file. Its record and its leases run out seconds after its end. */
function requireNobody(
  connection: Connection,
  { file, now_ms, from, newest }: { readonly file: string; readonly now_ms: number; readonly from: number; readonly newest: number },
): void {
  const engine = connection.get<{ record: string }>("SELECT record FROM protean_instance WHERE expires_ms > ? LIMIT 1", now_ms);
  const lease = connection.get<{ owner: string }>("SELECT owner FROM protean_lease WHERE expires_ms > ? LIMIT 1", now_ms);
  if (engine === undefined && lease === undefined) return;
  const record = engine === undefined ? null : (JSON.parse(engine.record) as InstanceRecord);
  const who = record === null ? `engine ${lease?.owner}` : `${record.host}, process ${record.pid}, protean ${record.version}`;
  throw new OldProgramsRun(`${file} has schema version ${from}, and a server that can't use version ${newest} runs on it (${who})`, {
    at: file,
    fix: "Stop that server, then start this one.",
  });
}

/**
 * Python's tables among those whose names are ours.
 * @throws ConfigurationError when a table of our names is somebody else's
 */
function pythonTables(connection: Connection, file: string): typeof SHARED {
  const foreign = connection.all<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name IN ('messages', 'outbox', 'processed_message') OR name LIKE 'protean\\_%' ESCAPE '\\')",
  );
  const pythons = SHARED.filter(([table]) => foreign.some(({ name }) => name === table));
  for (const { name } of foreign) {
    const [, columns] = pythons.find(([table]) => table === name) ?? ["", null];
    const present = columnsIn(connection, name);
    if (columns !== null && present.length === columns.length && columns.every((column) => present.includes(column))) continue;
    throw new ConfigurationError(`${file} holds a table "${name}" that was made neither by protean nor by Protean for Python 0.18`, {
      at: file,
      fix: "Give the path of a file of its own.",
    });
  }
  return pythons;
}

const asideName = (table: string) => `protean_python_${table}`;

/** The names of a table and its indexes are free afterwards. */
function setAside(connection: Connection, table: string): void {
  const indexes = connection.all<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
    table,
  );
  for (const { name } of indexes) connection.execute(`DROP INDEX ${quoted(name)}`);
  connection.execute(`ALTER TABLE ${quoted(table)} RENAME TO ${quoted(asideName(table))}`);
}

/** Rows of the table that was set aside, in the order in which they were inserted. */
function takeBack(connection: Connection, table: string, columns: readonly string[]): void {
  const list = columns.map(quoted).join(", ");
  connection.execute(
    `INSERT INTO ${quoted(table)} (${list}) SELECT ${list} FROM ${quoted(asideName(table))} ORDER BY rowid; DROP TABLE ${quoted(asideName(table))}`,
  );
}
