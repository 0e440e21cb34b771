import { DatabaseError } from "../../errors.ts";
import {
  AlreadyProcessedError,
  type ColumnValue,
  type CommitSet,
  type Database,
  LeaseLostError,
  type ProcessedMarker,
  ReservationLostError,
  type Row,
  type RowWrite,
  type Selection,
  type Table,
} from "../../ports/database.ts";
import type { Appended } from "../../ports/event-store.ts";
import type { Leases } from "../../ports/leases.ts";
import { appendedOf, appendFailure, appendStatement, categoryCount, lockStatement } from "./append.ts";
import { STATE, serverError } from "./failures.ts";
import { PostgresIdempotency } from "./idempotency.ts";
import { PostgresLeases } from "./leases.ts";
import { PostgresOutbox } from "./outbox.ts";
import { type Result, type SqlValue, type Statement, StatementFailure } from "./pool.ts";
import { RowTables } from "./rows.ts";
import type { Server } from "./server.ts";
import { arrayText, interval, quoted } from "./sql.ts";
import { clearingSteps, missingSteps, requirePrivileges, SETUP_LOCK, type SetupStep } from "./table-setup.ts";

/** A statement of a transaction, and what its failure means to the caller. */
interface Part {
  readonly statement: Statement;
  readonly meaning: (error: unknown) => unknown;
}

const asItIs = (error: unknown) => error;

/**
 * A unit of work is sent as one transaction in one flight: locks of the categories it appends to, fences, appends (one statement), rows, markers,
 * outbox rows (one statement). What must hold, and doesn't, fails its statement in the server, and so the transaction.
 */
export class PostgresDatabase implements Database {
  readonly name: string;
  readonly provider = "postgresql";
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly outbox: PostgresOutbox;
  readonly idempotency: PostgresIdempotency;
  readonly #server: Server;
  readonly #leases: PostgresLeases;
  readonly #markers: string;
  readonly #closed: () => void;
  readonly #tables: RowTables;

  constructor(server: Server, name: string, closed: () => void) {
    this.name = name;
    this.address = server.address;
    this.identity = server.identity;
    this.#server = server;
    this.#leases = new PostgresLeases(server, server.schema);
    this.leases = this.#leases;
    this.outbox = new PostgresOutbox(server);
    this.idempotency = new PostgresIdempotency(server);
    this.#markers = `${quoted(server.schema)}.processed_message`;
    this.#closed = closed;
    this.#tables = new RowTables(server.schema);
  }

  declare(tables: readonly Table[]): void {
    this.#tables.declare(tables);
  }

  async get(table: string, key: ColumnValue): Promise<Row | null> {
    const rows = this.#tables.named(table);
    const { text, values } = rows.get(key);
    const [stored] = (await this.#server.query(text, values)).rows;
    return stored === undefined ? null : rows.rowOf(stored);
  }

  async select(selection: Selection, pending: readonly RowWrite[]): Promise<readonly Row[]> {
    const rows = this.#tables.named(selection.table);
    const { rows: stored } = await this.#seeing(pending, rows.select(selection));
    return stored.map((row) => rows.rowOf(row));
  }

  async count(selection: Selection, pending: readonly RowWrite[]): Promise<number> {
    const { rows } = await this.#seeing(pending, this.#tables.named(selection.table).count(selection));
    return Number(rows[0]?.["n"] ?? 0);
  }

  async isProcessed(markers: readonly ProcessedMarker[]): Promise<readonly boolean[]> {
    if (markers.length === 0) return [];
    const { rows } = await this.#server.query(
      `SELECT EXISTS (SELECT 1 FROM ${this.#markers} AS p WHERE p.message_id = m.message_id AND p.handler = m.handler) AS is
       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS m (message_id, handler, n) ORDER BY n`,
      [arrayText(markers.map(({ messageId }) => messageId)), arrayText(markers.map(({ handler }) => handler))],
    );
    return rows.map((row) => row["is"] === "t");
  }

  async commit(set: CommitSet): Promise<{ readonly appended: readonly Appended[] }> {
    const parts: Part[] = [];
    if (set.appends.length > 0 && (set.fences.length > 0 || categoryCount(set.appends) > 1)) {
      parts.push({ statement: lockStatement(set.appends), meaning: asItIs });
    }
    for (const lease of [...set.fences].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const lost = new LeaseLostError(`lease ${lease.name} is not held by ${lease.owner} any more`);
      parts.push({
        statement: this.#leases.fence(lease),
        meaning: (error) => (serverError(error)?.code === STATE.divisionByZero ? lost : error),
      });
    }
    let appending = -1;
    if (set.appends.length > 0) {
      appending = parts.length;
      parts.push({ statement: appendStatement(set.appends), meaning: (error) => appendFailure(error) ?? error });
    }
    parts.push(...this.#rowParts(set.rows));
    for (const marker of set.markers) parts.push(this.#markerPart(marker));
    for (const key of set.keys ?? []) {
      const lost = new ReservationLostError(key.key);
      parts.push({
        statement: this.idempotency.stored(key),
        meaning: (error) => (serverError(error)?.code === STATE.divisionByZero ? lost : error),
      });
    }
    // Messages that lie in another database were there first: reconciliation may have found them without rows, and been faster.
    if (set.outbox.length > 0) parts.push({ statement: this.outbox.insert(set.outbox, set.appends.length === 0), meaning: outboxFailure });
    if (parts.length === 0) return { appended: [] };

    const results = await this.#run(parts, "COMMIT");
    if (set.appends.length > 0 || set.outbox.length > 0) {
      this.#server.changes.committed({ messages: set.appends.length > 0, outbox: set.outbox.length > 0 });
    }
    return { appended: appending < 0 ? [] : appendedOf(results[appending]) };
  }

  async pruneMarkers(age_ms: number, limit: number): Promise<number> {
    const { count } = await this.#server.change(
      `DELETE FROM ${this.#markers} WHERE id IN
         (SELECT id FROM ${this.#markers} WHERE processed_at < localtimestamp - ${interval("$1")} ORDER BY processed_at LIMIT $2::int8)`,
      [String(age_ms), String(limit)],
    );
    return count;
  }

  async setup(options: { readonly dryRun?: boolean } = {}): Promise<readonly string[]> {
    let steps = await this.plan();
    if (steps.length > 0 && options.dryRun !== true) {
      await this.#server.define(SETUP_LOCK, async (query) => {
        // Another process may have made some of it meanwhile.
        steps = await missingSteps(query, this.#server.schema, this.#tables.all(), this.address);
        return steps.map(({ sql }) => sql);
      });
    }
    return steps.map(({ what }) => what);
  }

  /** What `setup` would do, with its SQL. */
  async plan(): Promise<SetupStep[]> {
    return await missingSteps((text, values) => this.#server.query(text, values), this.#server.schema, this.#tables.all(), this.address);
  }

  missing(): Promise<readonly string[]> {
    return this.setup({ dryRun: true });
  }

  async verify(): Promise<void> {
    const query = (text: string, values?: readonly SqlValue[]) => this.#server.query(text, values);
    await this.#server.requireWritable();
    await requirePrivileges(query, this.#server.schema, this.#tables.all(), this.address);
  }

  async clear(what: "rows" | "tables", options: { readonly dryRun?: boolean } = {}): Promise<readonly SetupStep[]> {
    const plan = (query: (text: string, values?: readonly SqlValue[]) => Promise<Result>) =>
      clearingSteps(query, this.#server.schema, this.#tables.all(), what);
    if (options.dryRun === true) return await plan((text, values) => this.#server.query(text, values));
    let steps: SetupStep[] = [];
    await this.#server.define(SETUP_LOCK, async (query) => {
      steps = await plan(query);
      return steps.map(({ sql }) => sql);
    });
    return steps;
  }

  /** A dump doesn't say that it was put back; whoever did it says so to `protean recover`. */
  async restored(): Promise<null> {
    return null;
  }

  async settleRestored(): Promise<void> {}

  ping(): Promise<void> {
    return this.#server.ping();
  }

  async close(): Promise<void> {
    this.#closed();
  }

  /** What a statement answers after the pending writes, which are undone in the same flight. */
  async #seeing(pending: readonly RowWrite[], { text, values }: Statement): Promise<Result> {
    if (pending.length === 0) return await this.#server.query(text, values);
    const results = await this.#run([...this.#rowParts(pending), { statement: { text, values }, meaning: asItIs }], "ROLLBACK");
    return results.at(-1) ?? { rows: [], count: 0 };
  }

  #rowParts(writes: readonly RowWrite[]): Part[] {
    return this.#tables.inLockOrder(writes).flatMap((write) => {
      const table = this.#tables.named(write.table);
      const statement = table.write(write);
      const meaning = (error: unknown) => table.failureOf(write, error, (key) => this.get(write.table, key));
      return statement === null ? [] : [{ statement, meaning }];
    });
  }

  #markerPart({ messageId, handler }: ProcessedMarker): Part {
    return {
      statement: {
        text: `INSERT INTO ${this.#markers} (message_id, handler, processed_at, id, _version) VALUES ($1, $2, localtimestamp, $3, 0)`,
        values: [messageId, handler, this.#server.random.uuid()],
      },
      meaning: (error) =>
        serverError(error)?.code === STATE.uniqueViolation
          ? new AlreadyProcessedError(`${handler} has processed message ${messageId} already`)
          : error,
    };
  }

  async #run(parts: readonly Part[], end: "COMMIT" | "ROLLBACK"): Promise<Result[]> {
    try {
      return await this.#server.transaction(
        parts.map(({ statement }) => statement),
        end,
      );
    } catch (error) {
      if (!(error instanceof StatementFailure)) throw error;
      const meaning = parts[error.index]?.meaning ?? asItIs;
      throw this.#server.translated(await meaning(error.cause));
    }
  }
}

function outboxFailure(error: unknown): unknown {
  const complaint = serverError(error);
  return complaint?.code === STATE.uniqueViolation
    ? new DatabaseError(`the outbox has a row for this message already: ${complaint.detail ?? complaint.message}`, { cause: error })
    : error;
}
