import { isoOfEpoch } from "../../messages/datetime.ts";
import { toJsonText } from "../../messages/json.ts";
import { errorOfColumn, metadataOfColumn } from "../../messages/outbox-columns.ts";
import { pickleOfMetadata } from "../../messages/pickle.ts";
import type { OutboxCounts, OutboxInsert, OutboxOutcome, OutboxRow, OutboxStatus, OutboxStore } from "../../ports/outbox-store.ts";
import { signalOutbox } from "./changes.ts";
import type { Connection, SqlValue } from "./connection.ts";
import type { SqliteFile } from "./file.ts";
import { epochOf_ms, isoOfSqlTime, sqlTime } from "./time.ts";

interface StoredRow {
  readonly id: string;
  readonly message_id: string;
  readonly stream_name: string;
  readonly type: string;
  readonly data: string;
  readonly metadata_: Uint8Array | string;
  readonly created_at: string;
  readonly published_at: string | null;
  readonly retry_count: number;
  readonly last_error: string | null;
  readonly status: OutboxStatus;
  readonly max_retries: number;
  readonly next_retry_at: string | null;
  readonly locked_by: string | null;
  readonly correlation_id: string | null;
  readonly causation_id: string | null;
  readonly partition_key: string | null;
  readonly priority: number;
  readonly target_broker: string;
}

/** What of a row decides whether it may go out. `place` is its rowid: the order of insertion. */
interface QueueRow {
  readonly place: number;
  readonly stream_name: string;
  readonly priority: number;
  readonly ready: number;
}

// SQLite uses a partial index only where its condition stands in the query word for word: these are the ones of migrations.ts.
/** Rows that a broker has still to get. */
const UNFINISHED = "status IN ('pending', 'processing', 'failed')";
/** Those of them that may have a lock or a time to wait for. */
const BUSY = "status IN ('processing', 'failed')";
const DONE = "status IN ('published', 'abandoned')";
/** Neither locked by somebody nor waiting for its retry; takes the time twice. */
const READY = "((locked_until IS NULL OR locked_until <= ?) AND (next_retry_at IS NULL OR next_retry_at <= ?))";
/** Rows that one statement of `cleanup` deletes, so that the loop goes on between. */
const CLEANUP_rows = 1_000;

const READ = `id, message_id, stream_name, type, data, metadata_, created_at, published_at, retry_count, last_error, status, max_retries, next_retry_at,
  locked_by, correlation_id, causation_id, partition_key, priority, target_broker`;

/**
 * Adds rows inside a transaction that somebody else has begun. Rows whose message has one for the same broker are left out on request.
 * @throws InvalidDataError when metadata can't be pickled
 */
export function insertOutboxRows(connection: Connection, rows: readonly OutboxInsert[], now_ms: number, skipPresent = false): number {
  const created = sqlTime(now_ms);
  let added = 0;
  for (const row of rows) {
    added += connection.run(
      `INSERT ${skipPresent ? "OR IGNORE " : ""}INTO outbox
         (message_id, stream_name, type, data, metadata_, created_at, retry_count, last_error, status, max_retries,
          correlation_id, causation_id, partition_key, priority, target_broker, id, _version)
       VALUES (?, ?, ?, ?, ?, ?, 0, 'null', 'pending', ?, ?, ?, ?, ?, ?, ?, 0)`,
      row.messageId,
      row.streamName,
      row.type,
      row.data,
      pickleOfMetadata(row.metadata),
      created,
      row.maxRetries,
      row.correlationId,
      row.causationId,
      row.partitionKey,
      row.priority,
      row.targetBroker,
      row.id,
    ).changes;
  }
  return added;
}

/**
 * The outbox of one file: Python's table, with one column of ours, `entry_id`.
 *
 * Commit order is the `rowid`: SQLite gives a new row one more than the highest that exists, under the write lock, also to rows that Python inserts.
 * Rows leave the table from its old end (or once published), so the number of a new row is above those of all that are still there, also when a
 * number is used again. VACUUM may number anew, in the same order; so a rowid is kept nowhere.
 *
 * A row is `pending`, then `processing` while its owner holds the lock, then `published`, `failed` (due again at `next_retry_at`) or
 * `abandoned`. A lock that ran out makes the row ready again as it is.
 */
export class SqliteOutbox implements OutboxStore {
  readonly #file: SqliteFile;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  claim(options: {
    readonly broker: string;
    readonly limit: number;
    readonly owner: string;
    readonly lock_ms: number;
  }): Promise<readonly OutboxRow[]> {
    return this.#claim(options);
  }

  async settle(owner: string, outcome: OutboxOutcome): Promise<void> {
    const { published, failed, abandoned, released } = outcome;
    if (published.length + failed.length + abandoned.length + released.length === 0) return;
    await this.#file.writeQuickly((connection) => {
      const now_ms = this.#file.clock.now_ms();
      const now = sqlTime(now_ms);
      for (const { id, entryId } of published) {
        connection.run(
          `UPDATE outbox SET status = 'published', published_at = ?, last_processed_at = ?, entry_id = ?, last_error = 'null',
             locked_by = NULL, locked_until = NULL, _version = _version + 1 ${OWNED}`,
          now,
          now,
          entryId,
          id,
          owner,
        );
      }
      for (const { id, error, retryIn_ms } of failed) {
        connection.run(
          `UPDATE outbox SET status = 'failed', retry_count = retry_count + 1, next_retry_at = ?, last_processed_at = ?,
             last_error = json_set(?, '$.retry_count', retry_count + 1), locked_by = NULL, locked_until = NULL, _version = _version + 1 ${OWNED}`,
          sqlTime(now_ms + retryIn_ms),
          now,
          errorText(error, now_ms),
          id,
          owner,
        );
      }
      for (const { id, error, reason } of abandoned) {
        connection.run(
          `UPDATE outbox SET status = 'abandoned', retry_count = retry_count + 1, next_retry_at = NULL, last_processed_at = ?,
             last_error = json_set(?, '$.retry_count', retry_count + 1, '$.reason', ?),
             locked_by = NULL, locked_until = NULL, _version = _version + 1 ${OWNED}`,
          now,
          errorText(error, now_ms),
          reason,
          id,
          owner,
        );
      }
      if (released.length > 0) signalOutbox(connection);
      for (const id of released) {
        connection.run(`UPDATE outbox SET status = ${AS_BEFORE}, locked_by = NULL, locked_until = NULL ${OWNED}`, id, owner);
      }
    });
    if (released.length > 0) this.#file.changes.committed();
  }

  async releaseOwner(owner: string): Promise<number> {
    const freed = await this.#file.writeQuickly((connection) => {
      const { changes } = connection.run(
        `UPDATE outbox SET status = ${AS_BEFORE}, locked_by = NULL, locked_until = NULL WHERE ${BUSY} AND locked_by = ? AND status = 'processing'`,
        owner,
      );
      if (changes > 0) signalOutbox(connection);
      return changes;
    });
    if (freed > 0) this.#file.changes.committed();
    return freed;
  }

  owners(): Promise<readonly string[]> {
    return this.#file.read((connection) =>
      connection
        .all<{ locked_by: string }>(
          `SELECT DISTINCT locked_by FROM outbox
           WHERE ${BUSY} AND status = 'processing' AND locked_by IS NOT NULL AND locked_until > ? ORDER BY locked_by`,
          sqlTime(this.#file.clock.now_ms()),
        )
        .map(({ locked_by }) => locked_by),
    );
  }

  nextDue_ms(broker: string): Promise<number | null> {
    return this.#file.read((connection) => {
      const now_ms = this.#file.clock.now_ms();
      // A row that is locked and waits is due at the later of the two.
      const due = connection.get<{ due: string | null }>(
        `SELECT min(max(coalesce(locked_until, ''), coalesce(next_retry_at, ''))) AS due FROM outbox
         WHERE target_broker = ? AND ${BUSY}`,
        broker,
      )?.due;
      if (due === null || due === undefined) return null;
      return due === "" ? 0 : Math.max(0, epochOf_ms(due) - now_ms);
    });
  }

  present(messageIds: readonly string[], targetBroker: string): Promise<ReadonlySet<string>> {
    return this.#file.read(
      (connection) =>
        new Set(
          messageIds.filter(
            (id) => connection.get("SELECT 1 FROM outbox WHERE message_id = ? AND target_broker = ?", id, targetBroker) !== undefined,
          ),
        ),
    );
  }

  async insertMissing(rows: readonly OutboxInsert[]): Promise<number> {
    if (rows.length === 0) return 0;
    const added = await this.#file.writeDurably((connection) => insertOutboxRows(connection, rows, this.#file.clock.now_ms(), true));
    if (added > 0) this.#file.changes.committed();
    return added;
  }

  counts(targetBroker?: string): Promise<OutboxCounts> {
    return this.#file.read((connection) => {
      const where = targetBroker === undefined ? "" : "AND target_broker = ?";
      const values = targetBroker === undefined ? [] : [targetBroker];
      const counts: Record<OutboxStatus, number> = { pending: 0, processing: 0, published: 0, failed: 0, abandoned: 0 };
      for (const kind of [UNFINISHED, DONE]) {
        const groups = connection.all<{ status: OutboxStatus; n: number }>(
          `SELECT status, count(*) AS n FROM outbox WHERE ${kind} ${where} GROUP BY status`,
          ...values,
        );
        for (const { status, n } of groups) counts[status] = n;
      }
      const oldest = connection.get<{ created_at: string }>(
        `SELECT created_at FROM outbox WHERE rowid = (SELECT min(rowid) FROM outbox WHERE ${UNFINISHED} ${where})`,
        ...values,
      )?.created_at;
      return { ...counts, oldest_ms: oldest === undefined ? null : Math.max(0, this.#file.clock.now_ms() - epochOf_ms(oldest)) };
    });
  }

  list(options: { readonly status?: OutboxStatus; readonly limit: number; readonly after?: string }): Promise<readonly OutboxRow[]> {
    return this.#file.read((connection) => {
      const where = ["1"];
      const values: SqlValue[] = [];
      if (options.status !== undefined) {
        where.push("status = ?");
        values.push(options.status);
      }
      if (options.after !== undefined) {
        where.push("rowid > (SELECT rowid FROM outbox WHERE id = ?)");
        values.push(options.after);
      }
      return connection
        .all<StoredRow>(`SELECT ${READ} FROM outbox WHERE ${where.join(" AND ")} ORDER BY rowid LIMIT ?`, ...values, options.limit)
        .map(outboxRow);
    });
  }

  async retry(ids: readonly string[] | null): Promise<number> {
    const changed = await this.#file.writeQuickly((connection) => {
      const update = "UPDATE outbox SET status = 'pending', retry_count = 0, next_retry_at = NULL WHERE status IN ('failed', 'abandoned')";
      let count = 0;
      if (ids === null) count = connection.run(update).changes;
      else for (const id of ids) count += connection.run(`${update} AND id = ?`, id).changes;
      if (count > 0) signalOutbox(connection);
      return count;
    });
    if (changed > 0) this.#file.changes.committed();
    return changed;
  }

  async notePublished(rows: readonly { readonly id: string; readonly entryId: string }[]): Promise<number> {
    if (rows.length === 0) return 0;
    return await this.#file.writeDurably((connection) => {
      const now = sqlTime(this.#file.clock.now_ms());
      let count = 0;
      for (const { id, entryId } of rows) {
        count += connection.run(
          `UPDATE outbox SET status = 'published', published_at = ?, last_processed_at = ?, entry_id = ?, last_error = 'null', next_retry_at = NULL,
             locked_by = NULL, locked_until = NULL, _version = coalesce(_version, 0) + 1 WHERE id = ? AND ${UNFINISHED}`,
          now,
          now,
          entryId,
          id,
        ).changes;
      }
      return count;
    });
  }

  publishedAbove(broker: string, newest: ReadonlyMap<string, string>): Promise<readonly string[]> {
    return this.#file.read((connection) =>
      connection
        .all<{ id: string }>(
          `SELECT o.id FROM json_each(?) AS n JOIN outbox AS o
             ON n.key = CASE instr(o.stream_name, '-') WHEN 0 THEN o.stream_name ELSE substr(o.stream_name, 1, instr(o.stream_name, '-') - 1) END
           WHERE o.status = 'published' AND o.target_broker = ? AND o.entry_id IS NOT NULL
             AND (${idPart("o.entry_id", "ms")}, ${idPart("o.entry_id", "seq")}) > (${idPart("n.value", "ms")}, ${idPart("n.value", "seq")})
           ORDER BY o.rowid`,
          JSON.stringify(Object.fromEntries(newest)),
          broker,
        )
        .map(({ id }) => id),
    );
  }

  async publishAgain(ids: readonly string[]): Promise<number> {
    if (ids.length === 0) return 0;
    const changed = await this.#file.writeDurably((connection) => {
      const { changes } = connection.run(
        `UPDATE outbox SET status = 'pending', published_at = NULL, entry_id = NULL, retry_count = 0, _version = coalesce(_version, 0) + 1
         WHERE status = 'published' AND id IN (SELECT value FROM json_each(?))`,
        JSON.stringify(ids),
      );
      if (changes > 0) signalOutbox(connection);
      return changes;
    });
    if (changed > 0) this.#file.changes.committed();
    return changed;
  }

  async cleanup(options: { readonly published_ms: number; readonly abandoned_ms: number; readonly limit: number }): Promise<number> {
    let removed = 0;
    for (const [status, age_ms] of [
      ["published", options.published_ms],
      ["abandoned", options.abandoned_ms],
    ] as const) {
      const before = sqlTime(this.#file.clock.now_ms() - age_ms);
      while (removed < options.limit) {
        const rows = Math.min(CLEANUP_rows, options.limit - removed);
        const { changes } = await this.#file.writeQuickly((connection) =>
          connection.run(
            `DELETE FROM outbox WHERE rowid IN (
               SELECT rowid FROM outbox WHERE ${DONE} AND status = '${status}' AND last_processed_at <= ? ORDER BY last_processed_at LIMIT ?)`,
            before,
            rows,
          ),
        );
        removed += changes;
        if (changes < rows) break;
        await this.#file.clock.turn();
      }
    }
    return removed;
  }

  onInsert(wake: () => void): () => void {
    return this.#file.changes.onOutbox(wake);
  }

  async #claim(options: {
    readonly broker: string;
    readonly limit: number;
    readonly owner: string;
    readonly lock_ms: number;
  }): Promise<readonly OutboxRow[]> {
    // Looking takes no lock: an idle processor writes nothing.
    const waits = await this.#file.read((connection) => {
      const now = sqlTime(this.#file.clock.now_ms());
      return (
        connection.get(`SELECT 1 FROM outbox WHERE target_broker = ? AND ${UNFINISHED} AND ${READY} LIMIT 1`, options.broker, now, now) !==
        undefined
      );
    });
    if (!waits || options.limit <= 0) return [];
    return this.#file.writeQuickly((connection) => {
      const now_ms = this.#file.clock.now_ms();
      const places = claimable(connection, options.broker, options.limit, sqlTime(now_ms));
      const claimed = connection.all<StoredRow & { readonly place: number }>(
        `UPDATE outbox SET status = 'processing', locked_by = ?, locked_until = ?, last_processed_at = ?
         WHERE rowid IN (SELECT value FROM json_each(?)) RETURNING rowid AS place, ${READ}`,
        options.owner,
        sqlTime(now_ms + options.lock_ms),
        sqlTime(now_ms),
        JSON.stringify(places),
      );
      // RETURNING promises no order.
      const byPlace = new Map(claimed.map((row) => [row.place, row]));
      return places.flatMap((place) => {
        const row = byPlace.get(place);
        return row === undefined ? [] : [outboxRow(row)];
      });
    });
  }
}

/** Half of an entry id, `<milliseconds>-<sequence>`, as a number. */
function idPart(column: string, part: "ms" | "seq"): string {
  return `CAST(substr(${column}, ${part === "ms" ? `1, instr(${column}, '-') - 1` : `instr(${column}, '-') + 1`}) AS INTEGER)`;
}

const OWNED = "WHERE id = ? AND locked_by = ? AND status = 'processing'";
const AS_BEFORE = "CASE WHEN retry_count > 0 THEN 'failed' ELSE 'pending' END";

/**
 * Which rows may go out now, in the order in which they have to.
 *
 * Goes through the unfinished rows by priority, then commit order. A row is preceded by all rows of its source stream that were
 * committed before it, whatever their priority; when one of those isn't ready, nothing of this stream goes out (D27). Where no row has a lower
 * priority, those before it were all seen already, and nothing has to be looked up.
 */
function claimable(connection: Connection, broker: string, limit: number, now: string): number[] {
  const chosen: number[] = [];
  /** Source stream to its last chosen row. */
  const reached = new Map<string, number>();
  const held = new Set<string>();
  const lowest = connection.get<{ priority: number | null }>(
    `SELECT min(priority) AS priority FROM outbox WHERE target_broker = ? AND ${UNFINISHED}`,
    broker,
  )?.priority;
  let from: QueueRow | null = null;
  while (chosen.length < limit) {
    const page: QueueRow[] = connection.all<QueueRow>(
      `SELECT rowid AS place, stream_name, priority, ${READY} AS ready FROM outbox
       WHERE target_broker = ? AND ${UNFINISHED}
         ${from === null ? "" : "AND (priority < ? OR (priority = ? AND rowid > ?))"}
         AND stream_name NOT IN (SELECT value FROM json_each(?))
       ORDER BY priority DESC, rowid LIMIT ?`,
      now,
      now,
      broker,
      ...(from === null ? [] : [from.priority, from.priority, from.place]),
      JSON.stringify([...held]),
      limit * 2,
    );
    for (const row of page) {
      const { stream_name: stream } = row;
      from = row;
      if (held.has(stream) || (reached.get(stream) ?? 0) >= row.place) continue;
      const due =
        row.priority === lowest
          ? [row]
          : connection.all<QueueRow>(
              `SELECT rowid AS place, ${READY} AS ready FROM outbox
               WHERE target_broker = ? AND stream_name = ? AND ${UNFINISHED} AND rowid > ? AND rowid <= ?
               ORDER BY rowid LIMIT ?`,
              now,
              now,
              broker,
              stream,
              reached.get(stream) ?? 0,
              row.place,
              limit - chosen.length,
            );
      for (const { place, ready } of due) {
        if (ready === 0) {
          held.add(stream);
          break;
        }
        chosen.push(place);
        reached.set(stream, place);
      }
      if (chosen.length >= limit) return chosen;
    }
    if (page.length < limit * 2) break;
  }
  return chosen;
}

/** As Python writes it (wire-format §10.3); the retry count is added by the statement, which knows it. */
function errorText(message: string, now_ms: number): string {
  return toJsonText({ message, traceback: "NoneType: None\n", failed_at: isoOfEpoch(now_ms) });
}

function outboxRow(row: StoredRow): OutboxRow {
  return {
    id: row.id,
    messageId: row.message_id,
    streamName: row.stream_name,
    type: row.type,
    data: row.data,
    metadata: metadataOfColumn(typeof row.metadata_ === "string" ? Buffer.from(row.metadata_) : row.metadata_),
    correlationId: row.correlation_id,
    causationId: row.causation_id,
    partitionKey: row.partition_key,
    priority: row.priority,
    targetBroker: row.target_broker,
    maxRetries: row.max_retries,
    status: row.status,
    retryCount: row.retry_count,
    createdAt: isoOfSqlTime(row.created_at),
    publishedAt: row.published_at === null ? null : isoOfSqlTime(row.published_at),
    nextRetryAt: row.next_retry_at === null ? null : isoOfSqlTime(row.next_retry_at),
    lastError: errorOfColumn(row.last_error),
    lockedBy: row.locked_by,
  };
}
