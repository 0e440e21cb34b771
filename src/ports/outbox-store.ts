/** A row as the unit of work gives it (wire-format §10.1); the store adds times and state. */
export interface OutboxInsert {
  readonly id: string;
  /** `headers.id`; with `targetBroker` unique. */
  readonly messageId: string;
  /** `headers.stream`: the source stream, inside which order is kept. */
  readonly streamName: string;
  readonly type: string;
  /** JSON text of the payload. */
  readonly data: string;
  /** JSON text of the metadata (wire-format §2.1). */
  readonly metadata: string;
  readonly correlationId: string | null;
  readonly causationId: string | null;
  readonly partitionKey: string | null;
  readonly priority: number;
  readonly targetBroker: string;
  /** `outbox.retry.max_attempts`. */
  readonly maxRetries: number;
}

export type OutboxStatus = "pending" | "processing" | "published" | "failed" | "abandoned";

export interface OutboxRow extends OutboxInsert {
  readonly status: OutboxStatus;
  readonly retryCount: number;
  readonly createdAt: string;
  readonly publishedAt: string | null;
  readonly nextRetryAt: string | null;
  readonly lastError: string | null;
  readonly lockedBy: string | null;
}

/** What became of the rows of a claimed batch; written in one transaction. */
export interface OutboxOutcome {
  /** `entryId`: the id that the broker gave, kept so that a Redis that forgot can be found out (rulings 13). */
  readonly published: readonly { readonly id: string; readonly entryId: string }[];
  readonly failed: readonly { readonly id: string; readonly error: string; readonly retryIn_ms: number }[];
  readonly abandoned: readonly { readonly id: string; readonly error: string; readonly reason: string }[];
  /** Given back untouched: the broker is away, or we are stopping. Uses up no attempt. */
  readonly released: readonly string[];
}

export interface OutboxCounts {
  readonly pending: number;
  readonly processing: number;
  readonly published: number;
  readonly failed: number;
  readonly abandoned: number;
  /** Age of the oldest row that is not published or abandoned; null when there is none. */
  readonly oldest_ms: number | null;
}

/**
 * The outbox table of one database.
 *
 * Contract, checked by `test/conformance/outbox-store.ts`:
 * - `claim` gives each row to one caller until its lock runs out, by the database's clock;
 * - **order** (D27, G31): rows of one source stream come out in commit order; a row is never given out while an earlier row of its
 *   stream, for the same broker, is unfinished (locked by somebody else, waiting for its retry): priority reorders streams, never one stream;
 * - a failed row is due again after `retryIn_ms`; no row is out of reach of both claim and cleanup (G10).
 */
export interface OutboxStore {
  claim(options: {
    readonly broker: string;
    readonly limit: number;
    readonly owner: string;
    readonly lock_ms: number;
  }): Promise<readonly OutboxRow[]>;
  settle(owner: string, outcome: OutboxOutcome): Promise<void>;
  /** Frees the locks of an owner that is known to be dead; answers how many rows. */
  releaseOwner(owner: string): Promise<number>;
  /** Owners that hold locks now. */
  owners(): Promise<readonly string[]>;
  /** Milliseconds until the next locked or failed row becomes due; null when none waits. */
  nextDue_ms(broker: string): Promise<number | null>;
  /** Of these message ids, those that have a row for `targetBroker`. */
  present(messageIds: readonly string[], targetBroker: string): Promise<ReadonlySet<string>>;
  /** Adds rows outside a unit of work (reconciliation); those that exist are left alone. Answers how many were added. */
  insertMissing(rows: readonly OutboxInsert[]): Promise<number>;
  counts(targetBroker?: string): Promise<OutboxCounts>;
  list(options: { readonly status?: OutboxStatus; readonly limit: number; readonly after?: string }): Promise<readonly OutboxRow[]>;
  /** Puts failed and abandoned rows back to pending with a retry count of 0; all of them when `ids` is null. */
  retry(ids: readonly string[] | null): Promise<number>;
  /** Notes of unfinished rows that the broker has them already (found after a restore). Answers how many were unfinished still. */
  notePublished(rows: readonly { readonly id: string; readonly entryId: string }[]): Promise<number>;
  /**
   * Ids of published rows whose entry id is above the newest of their source category: the broker has lost them (rulings 13). In commit order.
   * @param newest source category to the newest id in the broker; rows of other categories are left out
   */
  publishedAbove(broker: string, newest: ReadonlyMap<string, string>): Promise<readonly string[]>;
  /** Puts published rows back to pending: the broker has lost them. Answers how many were published still. */
  publishAgain(ids: readonly string[]): Promise<number>;
  cleanup(options: { readonly published_ms: number; readonly abandoned_ms: number; readonly limit: number }): Promise<number>;
  /** Calls `wake` soon after rows were added by this process or another. May call it for nothing. Returns the way to stop. */
  onInsert(wake: () => void): () => void;
}
