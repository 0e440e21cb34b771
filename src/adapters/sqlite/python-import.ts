import { ConfigurationError } from "../../errors.ts";
import { metadataOfColumn } from "../../messages/outbox-columns.ts";
import type { Table } from "../../ports/database.ts";
import type { OutboxStatus } from "../../ports/outbox-store.ts";
import { columnsOf } from "./columns.ts";
import { Connection, primaryCode, quoted, RESULT, type SqlValue } from "./connection.ts";
import { type OpenOptions, patiently, SqliteFile } from "./file.ts";
import { OUTBOX_COLUMNS, PROCESSED_COLUMNS } from "./migrations.ts";
import { columnsIn } from "./schema.ts";
import { missingSteps } from "./table-setup.ts";
import { isoOfSqlTime, sqlTime } from "./time.ts";

/** Name under which the other file is attached. */
const FROM = "python";
/** Pickles that are looked at in one go. */
const PAGE = 1_000;

/** What one table gave. */
export interface ImportedTable {
  readonly table: string;
  /** In Python's file. */
  readonly rows: number;
  readonly added: number;
  /** Were here before, from an earlier import. */
  readonly present: number;
}

/** What stands against the import of everything, or is only worth a word. */
export interface ImportConcern {
  readonly kind: /** Rows that Python has locked: its engine runs, or was killed a short while ago. `force` takes them. */
    | "locked"
    /** Values in a column that the declaration doesn't have. `force` leaves them behind. */
    | "undeclaredColumn"
    /** The declaration requires a column that Python's table lacks. */
    | "missingColumn"
    /** One key, two contents: both programs have gone on since an earlier import. */
    | "conflict"
    /** Text that must be JSON and isn't. */
    | "unreadableValue"
    /** A table that no aggregate or projection declares. Stays behind. */
    | "undeclaredTable"
    /** Outbox rows whose pickle isn't metadata. Come along, and will be given up by the publisher with the reason. */
    | "unreadableMetadata";
  readonly message: string;
}

/** Concerns of these kinds end the import before anything is written. */
const STOPPING: ReadonlySet<ImportConcern["kind"]> = new Set(["missingColumn", "conflict", "unreadableValue"]);
/** Concerns of these do, unless `force` is given. */
const STOPPING_UNFORCED: ReadonlySet<ImportConcern["kind"]> = new Set(["locked", "undeclaredColumn"]);

export interface ImportReport {
  readonly tables: readonly ImportedTable[];
  readonly concerns: readonly ImportConcern[];
  /** Nothing was written, because of these. */
  readonly refused: readonly ImportConcern[];
  /** Rows of the outbox that were added, by state. */
  readonly outbox: Readonly<Partial<Record<OutboxStatus, number>>>;
  /** Of these, rows that have still to be published, by broker. */
  readonly unpublished: ReadonlyMap<string, number>;
}

/**
 * Takes over what Protean for Python has in a SQLite file (rulings 66): rows of the declared tables, of its outbox with their pickles, and the marks of what
 * was handled. Values go over as they are, because the columns are the same.
 *
 * One transaction: a kill leaves nothing of it, and it can be run again; what is here already is left alone. Python's file is only read (a transaction that
 * a killed Python left in its journal is undone by SQLite, as Python itself would).
 *
 * @param options.source Python's file, in a rollback journal or not
 * @param options.target ours; with `dryRun` and a file that isn't there yet, `:memory:`
 * @param options.tables what is declared for this database; missing ones are made
 * @param options.dryRun counts, and undoes everything
 * @param options.force takes rows that are locked, leaves undeclared columns behind
 * @throws ConfigurationError when the source isn't there, is no database or none of Python's; ConnectionError when it is locked for 5 s
 */
export async function importPythonFile(options: {
  readonly source: string;
  readonly target: OpenOptions;
  readonly tables: readonly Table[];
  readonly dryRun: boolean;
  readonly force: boolean;
}): Promise<ImportReport> {
  const { source, tables, dryRun, force } = options;
  await probe(source, options.target);
  const target = await SqliteFile.open(options.target);
  try {
    return await target.withAttached(source, FROM, (connection) => {
      requirePythons(connection, source, tables);
      for (const { sql } of missingSteps(connection, tables)) connection.execute(sql);
      const now = sqlTime(target.clock.now_ms());
      const parts = [...tables.map(partOf), OUTBOX, PROCESSED].filter(({ table }) => columnsIn(connection, table, FROM).length > 0);
      const concerns = [
        ...parts.flatMap((part) => concernsOf(connection, part)),
        ...outboxConcerns(connection, now),
        ...leftBehind(connection, tables),
      ];
      const refused = concerns.filter(({ kind }) => STOPPING.has(kind) || (STOPPING_UNFORCED.has(kind) && !force));
      const before = outboxEnd(connection);
      const imported = refused.length > 0 ? [] : parts.map((part) => copy(connection, part));
      const report: ImportReport = { tables: imported, concerns, refused, ...outboxSince(connection, before) };
      return { result: report, keep: refused.length === 0 && !dryRun };
    });
  } finally {
    target.close();
  }
}

/** What is wrong with the file is told of the file, not of ours beside it. Undoes what a killed process left in its journal. */
async function probe(source: string, time: Pick<OpenOptions, "clock" | "random">): Promise<void> {
  try {
    await patiently(time, source, () => {
      const connection = new Connection(source);
      try {
        connection.transaction(() => tablesOf(connection, "main"), "ROLLBACK");
      } finally {
        connection.close();
      }
    });
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    const code = primaryCode(cause);
    if (code !== RESULT.readonly && code !== RESULT.cantOpen) throw error;
    throw new ConfigurationError(`${source} can't be read: ${(cause as Error).message}`, {
      at: source,
      fix: "Copy it, with its -journal or -wal beside it, to a folder that can be written.",
      cause,
    });
  }
}

/** A table whose rows come along. */
interface Part {
  readonly table: string;
  /** Columns that tell one row from another. */
  readonly key: readonly string[];
  readonly columns: readonly string[];
  readonly required: ReadonlySet<string>;
  readonly json: readonly string[];
  /** Rows of one key may differ here and there: what ours has become since counts. */
  readonly oursCounts: boolean;
  /** How a column is read, where not as it is. */
  readonly as: ReadonlyMap<string, string>;
}

function partOf(table: Table): Part {
  const columns = [...columnsOf(table).values()];
  return {
    table: table.name,
    key: [table.key],
    columns: columns.map(({ name }) => name),
    required: new Set(columns.filter(({ name, required }) => required && name !== table.key).map(({ name }) => name)),
    json: columns.filter(({ type }) => type === "list" || type === "json").map(({ name }) => name),
    oursCounts: false,
    as: new Map(),
  };
}

const OUTBOX: Part = {
  table: "outbox",
  key: ["message_id", "target_broker"],
  columns: OUTBOX_COLUMNS,
  required: new Set(),
  json: [],
  oursCounts: true,
  // Nobody there goes on with them: they wait for their turn here.
  as: new Map([
    ["status", "CASE status WHEN 'processing' THEN CASE WHEN retry_count > 0 THEN 'failed' ELSE 'pending' END ELSE status END"],
    ["locked_by", "NULL"],
    ["locked_until", "NULL"],
  ]),
};

const PROCESSED: Part = {
  table: "processed_message",
  key: ["message_id", "handler"],
  columns: PROCESSED_COLUMNS,
  required: new Set(),
  json: [],
  oursCounts: true,
  as: new Map(),
};

function requirePythons(connection: Connection, source: string, tables: readonly Table[]): void {
  const names = tablesOf(connection, FROM);
  if (names.includes("protean_migration")) {
    throw new ConfigurationError(`${source} is a file of this program already`, {
      at: source,
      fix: "Name it in domain.toml: [databases.default] database_uri.",
    });
  }
  const known = new Set([...tables.map(({ name }) => name), OUTBOX.table, PROCESSED.table]);
  if (names.some((name) => known.has(name))) return;
  throw new ConfigurationError(
    `${source} holds no table of this domain: ${names.length === 0 ? "it is empty" : `it has ${names.slice(0, 3).join(", ")}`}`,
    {
      at: source,
      fix: "Declare the aggregates and projections whose rows are to come, with the names that they have in Python.",
    },
  );
}

function tablesOf(connection: Connection, schema: string): readonly string[] {
  return connection
    .all<{ name: string }>(
      `SELECT name FROM ${schema}.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name`,
    )
    .map(({ name }) => name);
}

const theirs = (table: string) => `${FROM}.${quoted(table)}`;
const ours = (table: string) => `main.${quoted(table)}`;
const countOf = (connection: Connection, sql: string, ...values: SqlValue[]) => connection.get<{ n: number }>(sql, ...values)?.n ?? 0;

function concernsOf(connection: Connection, part: Part): ImportConcern[] {
  const { table } = part;
  const concerns: ImportConcern[] = [];
  const there = columnsIn(connection, table, FROM);
  const rows = countOf(connection, `SELECT count(*) AS n FROM ${theirs(table)}`);
  for (const column of there) {
    if (part.columns.includes(column)) continue;
    const values = countOf(connection, `SELECT count(${quoted(column)}) AS n FROM ${theirs(table)}`);
    if (values > 0)
      concerns.push({
        kind: "undeclaredColumn",
        message: `table ${table}: column ${column} has ${counted(values, "value")} and is not declared here`,
      });
  }
  for (const column of part.required) {
    if (there.includes(column) || rows === 0) continue;
    concerns.push({ kind: "missingColumn", message: `table ${table}: there is no column ${column}, which every row must have here` });
  }
  for (const column of part.json.filter((one) => there.includes(one))) {
    const bad = connection.get<{ key: SqlValue }>(
      `SELECT ${quoted(part.key[0] ?? "")} AS key FROM ${theirs(table)} WHERE ${quoted(column)} IS NOT NULL AND NOT json_valid(${quoted(column)}) LIMIT 1`,
    );
    if (bad !== undefined)
      concerns.push({ kind: "unreadableValue", message: `table ${table}: column ${column} of row ${String(bad.key)} is no JSON` });
  }
  if (!part.oursCounts) {
    const shared = part.columns.filter((column) => there.includes(column));
    const tuple = (of: string) => `(${shared.map((column) => `${of}.${quoted(column)}`).join(", ")})`;
    const from = `FROM ${theirs(table)} AS t JOIN ${ours(table)} AS o ON ${sameKey(part)} WHERE ${tuple("t")} IS NOT ${tuple("o")}`;
    const differing = countOf(connection, `SELECT count(*) AS n ${from}`);
    if (differing > 0) {
      const first = connection.get<{ key: SqlValue }>(`SELECT t.${quoted(part.key[0] ?? "")} AS key ${from} LIMIT 1`)?.key;
      concerns.push({
        kind: "conflict",
        message: `table ${table}: ${counted(differing, "row")} are here already with other content, such as ${String(first)}`,
      });
    }
  }
  return concerns;
}

const sameKey = ({ key }: Part) => key.map((column) => `o.${quoted(column)} = t.${quoted(column)}`).join(" AND ");

function outboxConcerns(connection: Connection, now: string): ImportConcern[] {
  if (columnsIn(connection, OUTBOX.table, FROM).length === 0) return [];
  const concerns: ImportConcern[] = [];
  const locked = connection.get<{ n: number; who: string | null; until: string | null }>(
    `SELECT count(*) AS n, max(locked_by) AS who, max(locked_until) AS until FROM ${theirs("outbox")} WHERE status = 'processing' AND locked_until > ?`,
    now,
  );
  if (locked !== undefined && locked.n > 0) {
    concerns.push({
      kind: "locked",
      message: `outbox: ${counted(locked.n, "row")} locked by ${locked.who} until ${isoOfSqlTime(locked.until ?? "")}: a Python engine publishes them, or was killed less than five minutes ago`,
    });
  }
  let unreadable = 0;
  let example = "";
  for (let after = 0; ; ) {
    const page = connection.all<{ place: number; metadata_: Uint8Array }>(
      `SELECT rowid AS place, metadata_ FROM ${theirs("outbox")} WHERE rowid > ? AND status <> 'published' ORDER BY rowid LIMIT ${PAGE}`,
      after,
    );
    for (const { metadata_ } of page) {
      const text = metadata_ instanceof Uint8Array ? metadataOfColumn(metadata_) : "unreadable: no pickle";
      if (!text.startsWith("unreadable: ")) continue;
      unreadable += 1;
      example ||= text.slice("unreadable: ".length);
    }
    after = page.at(-1)?.place ?? after;
    if (page.length < PAGE) break;
  }
  if (unreadable > 0)
    concerns.push({ kind: "unreadableMetadata", message: `outbox: metadata of ${counted(unreadable, "row")} can't be read (${example})` });
  return concerns;
}

function leftBehind(connection: Connection, tables: readonly Table[]): ImportConcern[] {
  const known = new Set([...tables.map(({ name }) => name), OUTBOX.table, PROCESSED.table]);
  return tablesOf(connection, FROM)
    .filter((name) => !known.has(name))
    .map((name) => {
      const rows = countOf(connection, `SELECT count(*) AS n FROM ${theirs(name)}`);
      return { kind: "undeclaredTable", message: `table ${name} (${counted(rows, "row")}) is not declared here and stays behind` };
    });
}

/** In the order in which Python inserted them. */
function copy(connection: Connection, part: Part): ImportedTable {
  const { table } = part;
  const there = columnsIn(connection, table, FROM);
  const columns = part.columns.filter((column) => there.includes(column));
  const rows = countOf(connection, `SELECT count(*) AS n FROM ${theirs(table)}`);
  const { changes } = connection.run(
    `INSERT INTO ${ours(table)} (${columns.map(quoted).join(", ")})
     SELECT ${columns.map((column) => part.as.get(column) ?? `t.${quoted(column)}`).join(", ")} FROM ${theirs(table)} AS t
     WHERE NOT EXISTS (SELECT 1 FROM ${ours(table)} AS o WHERE ${sameKey(part)}) ORDER BY t.rowid`,
  );
  return { table, rows, added: changes, present: rows - changes };
}

function outboxEnd(connection: Connection): number {
  return countOf(connection, "SELECT coalesce(max(rowid), 0) AS n FROM main.outbox");
}

function outboxSince(connection: Connection, end: number): Pick<ImportReport, "outbox" | "unpublished"> {
  const outbox: Partial<Record<OutboxStatus, number>> = {};
  const unpublished = new Map<string, number>();
  const groups = connection.all<{ status: OutboxStatus; target_broker: string; n: number }>(
    "SELECT status, target_broker, count(*) AS n FROM main.outbox WHERE rowid > ? GROUP BY status, target_broker ORDER BY target_broker",
    end,
  );
  for (const { status, target_broker: broker, n } of groups) {
    outbox[status] = (outbox[status] ?? 0) + n;
    if (status === "pending" || status === "failed") unpublished.set(broker, (unpublished.get(broker) ?? 0) + n);
  }
  return { outbox, unpublished };
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
