import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { ProteanError } from "../../errors.ts";
import { pickleOfMetadata } from "../../messages/pickle.ts";

/** A value that SQLite takes or gives. */
export type SqlValue = null | number | bigint | string | Uint8Array;

/** Prepared statements kept per connection; the one not used for longest goes first. */
const STATEMENTS_max = 512;

/** Primary result codes of SQLite (sqlite.org/rescode.html). */
export const RESULT = {
  busy: 5,
  locked: 6,
  readonly: 8,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cantOpen: 14,
  constraint: 19,
  notADatabase: 26,
} as const;
/** Extended result codes that tell what constraint failed. */
export const CONSTRAINT = { notNull: 1299, primaryKey: 1555, unique: 2067 } as const;

/** The extended result code of an error from SQLite; null for any other error. */
export function resultCode(error: unknown): number | null {
  if (!(error instanceof Error)) return null;
  const { code, errcode } = error as { code?: unknown; errcode?: unknown };
  return code === "ERR_SQLITE_ERROR" && typeof errcode === "number" ? errcode : null;
}

/** The primary result code, without its refinement. */
export function primaryCode(error: unknown): number | null {
  const code = resultCode(error);
  return code === null ? null : code & 0xff;
}

/**
 * One connection, used synchronously only. Transactions begin and end inside one call: nothing stays open when the loop goes on
 * (rulings 16), no statement is left half read (rulings 29).
 */
export class Connection {
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(file: string) {
    this.#database = new DatabaseSync(file);
    // A wait inside SQLite would stop the whole loop (rulings 16): a lock is answered at once, and waited for by the caller.
    this.get("PRAGMA busy_timeout = 0");
    this.#database.function("protean_lower", { deterministic: true }, (value: unknown) =>
      typeof value === "string" ? value.toLowerCase() : ((value ?? null) as SQLInputValue),
    );
    this.#database.function("protean_pickle", { deterministic: true }, (value: unknown) => pickled(value) as SQLInputValue);
  }

  run(sql: string, ...values: SqlValue[]): { readonly changes: number; readonly rowid: number } {
    const { changes, lastInsertRowid } = this.#statement(sql).run(...values);
    return { changes: Number(changes), rowid: Number(lastInsertRowid) };
  }

  get<R>(sql: string, ...values: SqlValue[]): R | undefined {
    return this.#statement(sql).get(...values) as R | undefined;
  }

  all<R>(sql: string, ...values: SqlValue[]): R[] {
    return this.#statement(sql).all(...values) as R[];
  }

  /** As `all`, with every integer as bigint: numbers beyond 2^53 would be an error otherwise. */
  allWithBigInts(sql: string, ...values: SqlValue[]): Record<string, SqlValue>[] {
    return this.#statement(sql, true).all(...values) as Record<string, SqlValue>[];
  }

  /** Several statements without values (table definitions). */
  execute(sql: string): void {
    this.#database.exec(sql);
  }

  /** Runs `body` inside one write transaction, which `end` closes (it may tell by the result); an error undoes it. */
  transaction<R>(body: () => R, end: "COMMIT" | "ROLLBACK" | ((result: R) => "COMMIT" | "ROLLBACK") = "COMMIT"): R {
    // Prepared, because `exec` loses the result code under Deno.
    this.run("BEGIN IMMEDIATE");
    try {
      const result = body();
      this.run(typeof end === "string" ? end : end(result));
      return result;
    } catch (error) {
      try {
        this.run("ROLLBACK");
      } catch {
        // Some faults (disk full, I/O) have rolled back already, then there is nothing to undo.
      }
      throw error;
    }
  }

  close(): void {
    this.#statements.clear();
    this.#database.close();
  }

  #statement(sql: string, bigInts = false): StatementSync {
    const key = bigInts ? `big ${sql}` : sql;
    const known = this.#statements.get(key);
    if (known !== undefined) {
      if (this.#statements.size > STATEMENTS_max / 2) {
        this.#statements.delete(key);
        this.#statements.set(key, known);
      }
      return known;
    }
    const statement = this.#database.prepare(sql);
    if (bigInts) statement.setReadBigInts(true);
    this.#statements.set(key, statement);
    if (this.#statements.size > STATEMENTS_max) {
      const [oldest] = this.#statements.keys();
      if (oldest !== undefined) this.#statements.delete(oldest);
    }
    return statement;
  }
}

/** For migrations: what is no metadata stays as it is, and is refused where it is read. */
function pickled(value: unknown): unknown {
  if (typeof value !== "string" && !(value instanceof Uint8Array)) return value;
  try {
    return pickleOfMetadata(typeof value === "string" ? value : new TextDecoder().decode(value));
  } catch (error) {
    if (error instanceof ProteanError) return value;
    throw error;
  }
}

/** An identifier as SQL takes it, whatever it is made of. */
export function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
