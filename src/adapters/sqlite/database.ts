import {
  AlreadyProcessedError,
  type ColumnValue,
  type CommitSet,
  type Database,
  LeaseLostError,
  type ProcessedMarker,
  type Restored,
  type Row,
  type RowWrite,
  type Selection,
  type Table,
} from "../../ports/database.ts";
import type { Appended } from "../../ports/event-store.ts";
import type { Idempotency } from "../../ports/idempotency.ts";
import type { Leases } from "../../ports/leases.ts";
import type { OutboxStore } from "../../ports/outbox-store.ts";
import { forgetRestored, restoredFrom } from "./backup.ts";
import { CONSTRAINT, type Connection, resultCode } from "./connection.ts";
import { appendMessages } from "./event-store.ts";
import type { SqliteFile } from "./file.ts";
import { noteStored } from "./idempotency.ts";
import { isHeld } from "./leases.ts";
import { insertOutboxRows } from "./outbox.ts";
import { RowTables } from "./rows.ts";
import { clearingSteps, missingSteps, type SetupStep } from "./table-setup.ts";
import { sqlTime } from "./time.ts";

export class SqliteDatabase implements Database {
  readonly name: string;
  readonly provider: string;
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly outbox: OutboxStore;
  readonly idempotency: Idempotency;
  readonly #file: SqliteFile;
  readonly #closed: () => void;
  readonly #tables = new RowTables();

  constructor(
    file: SqliteFile,
    parts: { readonly name: string; readonly leases: Leases; readonly outbox: OutboxStore; readonly idempotency: Idempotency },
    closed: () => void,
  ) {
    this.name = parts.name;
    this.provider = file.inMemory ? "memory" : "sqlite";
    this.address = file.address;
    this.identity = file.identity;
    this.leases = parts.leases;
    this.outbox = parts.outbox;
    this.idempotency = parts.idempotency;
    this.#file = file;
    this.#closed = closed;
  }

  declare(tables: readonly Table[]): void {
    this.#tables.declare(tables);
  }

  async get(table: string, key: ColumnValue): Promise<Row | null> {
    const rows = this.#tables.named(table);
    return this.#file.read((connection) => rows.get(connection, key));
  }

  async select(selection: Selection, pending: readonly RowWrite[]): Promise<readonly Row[]> {
    const rows = this.#tables.named(selection.table);
    return this.#seeing(pending, (connection) => rows.select(connection, selection));
  }

  async count(selection: Selection, pending: readonly RowWrite[]): Promise<number> {
    const rows = this.#tables.named(selection.table);
    return this.#seeing(pending, (connection) => rows.count(connection, selection));
  }

  isProcessed(markers: readonly ProcessedMarker[]): Promise<readonly boolean[]> {
    return this.#file.read((connection) =>
      markers.map(
        ({ messageId, handler }) =>
          connection.get("SELECT 1 FROM processed_message WHERE message_id = ? AND handler = ?", messageId, handler) !== undefined,
      ),
    );
  }

  async commit(set: CommitSet): Promise<{ readonly appended: readonly Appended[] }> {
    const appended = await this.#file.writeDurably((connection) => {
      const now_ms = this.#file.clock.now_ms();
      for (const lease of set.fences) {
        if (!isHeld(connection, lease, now_ms)) throw new LeaseLostError(`lease ${lease.name} is not held by ${lease.owner} any more`);
      }
      const positions = appendMessages(connection, set.appends, now_ms);
      this.#write(connection, set.rows);
      for (const marker of set.markers) this.#mark(connection, marker, now_ms);
      for (const key of set.keys ?? []) noteStored(connection, key, now_ms);
      // Messages that lie in another database were there first: reconciliation may have found them without rows, and been faster.
      insertOutboxRows(connection, set.outbox, now_ms, set.appends.length === 0);
      return positions;
    });
    if (set.appends.length > 0 || set.outbox.length > 0) this.#file.changes.committed();
    return { appended };
  }

  pruneMarkers(age_ms: number, limit: number): Promise<number> {
    return this.#file.writeQuickly((connection) => {
      const before = sqlTime(this.#file.clock.now_ms() - age_ms);
      return connection.run(
        "DELETE FROM processed_message WHERE rowid IN (SELECT rowid FROM processed_message WHERE processed_at < ? LIMIT ?)",
        before,
        limit,
      ).changes;
    });
  }

  async setup(options: { readonly dryRun?: boolean } = {}): Promise<readonly string[]> {
    const steps = await this.plan();
    if (steps.length === 0 || options.dryRun === true) return steps.map(({ what }) => what);
    return this.#file.writeDurably((connection) => {
      // Another process may have made some of it meanwhile.
      const stillMissing = missingSteps(connection, this.#tables.all());
      for (const { sql } of stillMissing) connection.execute(sql);
      return stillMissing.map(({ what }) => what);
    });
  }

  missing(): Promise<readonly string[]> {
    return this.setup({ dryRun: true });
  }

  async plan(): Promise<readonly SetupStep[]> {
    return await this.#file.read((connection) => missingSteps(connection, this.#tables.all()));
  }

  /** Opening the file has seen to it. */
  async verify(): Promise<void> {}

  async clear(what: "rows" | "tables", options: { readonly dryRun?: boolean } = {}): Promise<readonly SetupStep[]> {
    const plan = (connection: Connection) => clearingSteps(connection, this.#tables.all(), what);
    if (options.dryRun === true) return await this.#file.read(plan);
    return await this.#file.writeDurably((connection) => {
      const steps = plan(connection);
      for (const { sql } of steps) connection.execute(sql);
      return steps;
    });
  }

  restored(): Promise<Restored | null> {
    return this.#file.read(restoredFrom);
  }

  settleRestored(): Promise<void> {
    return this.#file.writeDurably(forgetRestored);
  }

  async ping(): Promise<void> {
    await this.#file.read((connection) => connection.get("SELECT 1"));
  }

  async close(): Promise<void> {
    this.#closed();
  }

  #seeing<R>(pending: readonly RowWrite[], read: (connection: Connection) => R): Promise<R> {
    if (pending.length === 0) return this.#file.read(read);
    return this.#file.preview((connection) => {
      this.#write(connection, pending);
      return read(connection);
    });
  }

  #write(connection: Connection, writes: readonly RowWrite[]): void {
    for (const write of writes) this.#tables.named(write.table).write(connection, write);
  }

  #mark(connection: Connection, { messageId, handler }: ProcessedMarker, now_ms: number): void {
    try {
      connection.run(
        "INSERT INTO processed_message (message_id, handler, processed_at, id, _version) VALUES (?, ?, ?, ?, 0)",
        messageId,
        handler,
        sqlTime(now_ms),
        this.#file.random.uuid(),
      );
    } catch (error) {
      if (resultCode(error) !== CONSTRAINT.unique) throw error;
      throw new AlreadyProcessedError(`${handler} has processed message ${messageId} already`);
    }
  }
}
