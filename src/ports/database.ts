import { ProteanError } from "../errors.ts";
import type { Append, Appended } from "./event-store.ts";
import type { Idempotency, KeyReservation } from "./idempotency.ts";
import type { Lease, Leases } from "./leases.ts";
import type { OutboxInsert, OutboxStore } from "./outbox-store.ts";

/**
 * Values in rows are those of the wire: dates and times as ISO text, decimals as text, lists and dicts as JSON values. The adapter turns
 * them into its columns' own types and back (wire-format §11).
 */
export type ColumnValue = string | number | bigint | boolean | null | readonly ColumnValue[] | { readonly [key: string]: ColumnValue };
export type Row = Readonly<Record<string, ColumnValue>>;

export type ColumnType = "string" | "text" | "integer" | "float" | "decimal" | "boolean" | "date" | "datetime" | "list" | "json";

export interface Column {
  readonly name: string;
  readonly type: ColumnType;
  readonly required: boolean;
  readonly unique: boolean;
  /** For `string`; default 255. */
  readonly maxLength?: number;
  readonly precision?: number;
  readonly scale?: number;
  /** For `list`: type of its items. */
  readonly items?: ColumnType;
}

export interface Table {
  readonly name: string;
  /** Name of the element it holds, for errors. */
  readonly element: string;
  readonly columns: readonly Column[];
  /** Column name of the identity. */
  readonly key: string;
  /** Aggregates: a column `_version` guards every update. */
  readonly versioned: boolean;
  readonly indexes?: readonly { readonly columns: readonly string[]; readonly unique: boolean }[];
}

/** Protean's lookup names. */
export type Lookup =
  | "exact"
  | "iexact"
  | "contains"
  | "icontains"
  | "startswith"
  | "endswith"
  | "gt"
  | "gte"
  | "lt"
  | "lte"
  | "in"
  | "any"
  | "overlap"
  | "isnull";

export type Condition =
  | { readonly kind: "and" | "or"; readonly of: readonly Condition[] }
  | { readonly kind: "not"; readonly of: Condition }
  | { readonly kind: "test"; readonly column: string; readonly lookup: Lookup; readonly value: ColumnValue };

export interface Selection {
  readonly table: string;
  readonly where: Condition | null;
  /** In this order; ties are broken by the key so that pages never overlap. */
  readonly order: readonly { readonly column: string; readonly descending: boolean }[];
  /** null = no limit. */
  readonly limit: number | null;
  readonly offset: number;
}

export type RowWrite =
  /** Fails with a ValidationError naming the field when a unique column's value exists, ExpectedVersionError when the key itself does. */
  | { readonly kind: "insert"; readonly table: string; readonly row: Row }
  /**
   * Changes columns of one row. `version`: must be the stored `_version`, which becomes one more. `loaded`: every column named must still
   * hold this value (rows without version: projections). Either mismatch, or a missing row, is an ExpectedVersionError.
   */
  | {
      readonly kind: "update";
      readonly table: string;
      readonly key: ColumnValue;
      readonly set: Row;
      readonly version?: number;
      readonly loaded?: Row;
    }
  | { readonly kind: "delete"; readonly table: string; readonly key: ColumnValue }
  | { readonly kind: "updateWhere"; readonly table: string; readonly where: Condition | null; readonly set: Row }
  | { readonly kind: "deleteWhere"; readonly table: string; readonly where: Condition | null };

/** Says that `handler` has applied `messageId` (table `processed_message`, wire-format §11). */
export interface ProcessedMarker {
  readonly messageId: string;
  /** FQN of the handler's method. */
  readonly handler: string;
}

/** An idempotency key of this database whose command is stored with this commit (rulings 14). */
export interface SucceededKey {
  readonly key: string;
  /** Must still stand: of a command that was sent again because its commit seemed lost, the late commit must not become a second command. */
  readonly reservation: KeyReservation;
  /** A JSON value, as `Idempotency.succeed` takes it. */
  readonly result: unknown;
  readonly ttl_ms: number;
}

/** A change of a database's layout or content that `protean db` makes, and what it is to a person. */
export interface DatabaseStep {
  /** Such as `table outbox` or `column order.note`. */
  readonly what: string;
  readonly sql: string;
}

/** A backup that was put back in place of a database; times are ISO 8601. */
export interface Restored {
  /** null when the file doesn't say. */
  readonly takenAt: string | null;
  /** null when it was copied there by hand. */
  readonly restoredAt: string | null;
  /** Where other stores stood when it was made; null when the file doesn't say. */
  readonly note: string | null;
}

/** Everything that one unit of work writes into one database, applied in one transaction or not at all. */
export interface CommitSet {
  readonly rows: readonly RowWrite[];
  /** Only where `EventStore.identity` equals this database's. */
  readonly appends: readonly Append[];
  /** Without appends, their messages lie in another database: rows that reconciliation added meanwhile are left as they are. */
  readonly outbox: readonly OutboxInsert[];
  readonly markers: readonly ProcessedMarker[];
  /** Leases that must still be held (rulings 25); only leases of this database. */
  readonly fences: readonly Lease[];
  /** Entries of this database's `idempotency`, as `succeed` writes them, in this transaction. */
  readonly keys?: readonly SucceededKey[];
}

/** Another run of the same message was faster: its marker is there already, nothing was changed. */
export class AlreadyProcessedError extends ProteanError {
  override readonly name: string = "AlreadyProcessedError";
  constructor(message: string) {
    super("ALREADY_PROCESSED", message);
  }
}

/** The idempotency key was not reserved for this commit any more; nothing was changed. Whoever has it now decides. */
export class ReservationLostError extends ProteanError {
  override readonly name: string = "ReservationLostError";
  constructor(key: string) {
    super("RESERVATION_LOST", `the idempotency key "${key}" is not reserved for this commit any more`);
  }
}

/** The lease that this write depends on belongs to somebody else by now; nothing was changed. */
export class LeaseLostError extends ProteanError {
  override readonly name: string = "LeaseLostError";
  constructor(message: string) {
    super("LEASE_LOST", message);
  }
}

/**
 * A relational database. **A unit of work buffers its writes** (rulings 16, 17): nothing is open across an `await`, and `commit` is one short
 * transaction.
 *
 * Contract, checked by `test/conformance/database.ts`:
 * - `commit` applies all of its set or nothing; order: fences, appends, rows in the given order, markers, keys, outbox;
 * - it waits for other writers without blocking the loop, at most 5 s, then throws ConnectionError (transient);
 * - conflicts throw ExpectedVersionError `Wrong expected version: <n> (Aggregate: <Element>(<id>), Version: <m>)`, a marker that exists
 *   AlreadyProcessedError, a lost lease LeaseLostError, a lost reservation ReservationLostError, a unique violation ValidationError naming the column;
 * - `select` and `get` with `pending` see the database as if those writes were applied, and change nothing.
 */
export interface Database {
  readonly name: string;
  readonly provider: string;
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly outbox: OutboxStore;
  /** Idempotency keys kept in this database; used when `[idempotency] redis_url` isn't set. */
  readonly idempotency: Idempotency;

  /** Tells the adapter the tables before the first read; needed once. */
  declare(tables: readonly Table[]): void;
  get(table: string, key: ColumnValue): Promise<Row | null>;
  select(selection: Selection, pending: readonly RowWrite[]): Promise<readonly Row[]>;
  count(selection: Selection, pending: readonly RowWrite[]): Promise<number>;
  isProcessed(markers: readonly ProcessedMarker[]): Promise<readonly boolean[]>;
  commit(set: CommitSet): Promise<{ readonly appended: readonly Appended[] }>;
  /** Deletes processed markers older than `age_ms`, at most `limit`; answers how many went. */
  pruneMarkers(age_ms: number, limit: number): Promise<number>;

  /** Creates missing tables, columns and indexes of the declared tables and of ours; says what it did. `dryRun`: only says. */
  setup(options?: { readonly dryRun?: boolean }): Promise<readonly string[]>;
  /** What `setup` would have to create; empty when all is there. */
  missing(): Promise<readonly string[]>;
  /** What `setup` would do, with its SQL. */
  plan(): Promise<readonly DatabaseStep[]>;
  /**
   * Looks whether the role may use those tables that are there.
   * @throws ConfigurationError when a privilege is missing; ConnectionError when the server takes no writes
   */
  verify(): Promise<void>;
  /**
   * Empties the declared tables, the outbox, the markers and the idempotency keys (`rows`), or removes them (`tables`). What else lies in the
   * database stays, Message DB too. One transaction. Embedded databases keep their own tables, empty.
   * @returns what it did; with `dryRun` what it would do
   */
  clear(what: "rows" | "tables", options?: { readonly dryRun?: boolean }): Promise<readonly DatabaseStep[]>;
  /** Whether this is a backup that was put back and has not been compared with the other stores since (`protean recover`). */
  restored(): Promise<Restored | null>;
  /** It was compared, and what didn't fit was repaired. */
  settleRestored(): Promise<void>;
  ping(): Promise<void>;
  close(): Promise<void>;
}
