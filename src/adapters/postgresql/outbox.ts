import { errorOfColumn, metadataOfColumn } from "../../messages/outbox-columns.ts";
import { pickleOfMetadata } from "../../messages/pickle.ts";
import type { OutboxCounts, OutboxInsert, OutboxOutcome, OutboxRow, OutboxStatus, OutboxStore } from "../../ports/outbox-store.ts";
import { isoOfSqlTime } from "./columns.ts";
import type { Statement, StoredRow } from "./pool.ts";
import type { Server } from "./server.ts";
import { arrayText, interval, quoted } from "./sql.ts";

/** Rows that a broker has still to get. */
const UNFINISHED = "status IN ('pending', 'processing', 'failed')";
/** Rows that one statement of `cleanup` deletes. */
const CLEANUP_rows = 5_000;

/**
 * The outbox table of one database, Python's but for two columns of ours: `protean_position`, the order of insertion, and `entry_id`.
 *
 * Times are compared and written in SQL only: the columns have no zone and hold the time of the session's zone, which is the server's default
 * for us as for Python (wire-format §10.4, rulings 33).
 *
 * A row is `pending`, then `processing` while its owner holds the lock, then `published`, `failed` (due again at `next_retry_at`) or
 * `abandoned`. A lock that ran out makes the row ready again as it is.
 */
export class PostgresOutbox implements OutboxStore {
  readonly #server: Server;
  readonly #table: string;

  constructor(server: Server) {
    this.#server = server;
    this.#table = `${quoted(server.schema)}.outbox`;
  }

  /** Adds rows inside a transaction, in their order. @throws InvalidDataError when metadata can't be pickled */
  insert(rows: readonly OutboxInsert[], skipPresent = false): Statement {
    const texts = (of: (row: OutboxInsert) => string | number | null) => arrayText(rows.map(of));
    return {
      text: `INSERT INTO ${this.#table} (id, message_id, stream_name, type, data, metadata_, correlation_id, causation_id, partition_key, priority,
          target_broker, max_retries, created_at, retry_count, last_error, status, _version)
        SELECT id, message_id, stream_name, type, data::json, decode(metadata, 'hex'), correlation_id, causation_id, partition_key, priority,
          target_broker, max_retries, localtimestamp, 0, 'null', 'pending', 0
        FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
          $10::int4[], $11::text[], $12::int4[]) WITH ORDINALITY AS given (id, message_id, stream_name, type, data, metadata, correlation_id,
          causation_id, partition_key, priority, target_broker, max_retries, n) ORDER BY n) AS given
        ${skipPresent ? "ON CONFLICT (message_id, target_broker) DO NOTHING" : ""}`,
      values: [
        texts(({ id }) => id),
        texts(({ messageId }) => messageId),
        texts(({ streamName }) => streamName),
        texts(({ type }) => type),
        texts(({ data }) => data),
        texts(({ metadata }) => Buffer.from(pickleOfMetadata(metadata)).toString("hex")),
        texts(({ correlationId }) => correlationId),
        texts(({ causationId }) => causationId),
        texts(({ partitionKey }) => partitionKey),
        texts(({ priority }) => priority),
        texts(({ targetBroker }) => targetBroker),
        texts(({ maxRetries }) => maxRetries),
      ],
    };
  }

  async claim(options: {
    readonly broker: string;
    readonly limit: number;
    readonly owner: string;
    readonly lock_ms: number;
  }): Promise<readonly OutboxRow[]> {
    if (options.limit <= 0) return [];
    const { rows } = await this.#server.change(this.#claimText, [
      options.broker,
      String(options.limit),
      options.owner,
      String(options.lock_ms),
    ]);
    return [...rows].sort((a, b) => Number(a["place"]) - Number(b["place"])).map(outboxRow);
  }

  async settle(owner: string, outcome: OutboxOutcome): Promise<void> {
    const { published, failed, abandoned, released } = outcome;
    const statements: Statement[] = [];
    const owned = `o.id = given.id AND o.locked_by = $1 AND o.status = 'processing'`;
    const unlocked = "locked_by = NULL, locked_until = NULL";
    if (published.length > 0) {
      statements.push({
        text: `UPDATE ${this.#table} AS o SET status = 'published', published_at = localtimestamp, last_processed_at = localtimestamp,
            entry_id = given.entry_id, last_error = 'null', ${unlocked}, _version = coalesce(_version, 0) + 1
          FROM unnest($2::text[], $3::text[]) AS given (id, entry_id) WHERE ${owned}`,
        values: [owner, arrayText(published.map(({ id }) => id)), arrayText(published.map(({ entryId }) => entryId))],
      });
    }
    if (failed.length > 0) {
      statements.push({
        text: `UPDATE ${this.#table} AS o SET status = 'failed', retry_count = retry_count + 1, last_processed_at = localtimestamp,
            next_retry_at = localtimestamp + ${interval("given.retry_ms")}, last_error = ${ERROR}, ${unlocked}, _version = coalesce(_version, 0) + 1
          FROM unnest($2::text[], $3::text[], $4::float8[]) AS given (id, error, retry_ms) WHERE ${owned}`,
        values: [
          owner,
          arrayText(failed.map(({ id }) => id)),
          arrayText(failed.map(({ error }) => keepable(error))),
          arrayText(failed.map(({ retryIn_ms }) => retryIn_ms)),
        ],
      });
    }
    if (abandoned.length > 0) {
      statements.push({
        text: `UPDATE ${this.#table} AS o SET status = 'abandoned', retry_count = retry_count + 1, last_processed_at = localtimestamp,
            next_retry_at = NULL, last_error = ${ERROR.replace(/\)$/, ", 'reason', given.reason)")}, ${unlocked}, _version = coalesce(_version, 0) + 1
          FROM unnest($2::text[], $3::text[], $4::text[]) AS given (id, error, reason) WHERE ${owned}`,
        values: [
          owner,
          arrayText(abandoned.map(({ id }) => id)),
          arrayText(abandoned.map(({ error }) => keepable(error))),
          arrayText(abandoned.map(({ reason }) => keepable(reason))),
        ],
      });
    }
    if (released.length > 0) {
      statements.push({
        text: `UPDATE ${this.#table} AS o SET status = ${AS_BEFORE}, ${unlocked} FROM unnest($2::text[]) AS given (id) WHERE ${owned}`,
        values: [owner, arrayText(released)],
      });
    }
    const [first] = statements;
    if (first === undefined) return;
    if (statements.length === 1) await this.#server.change(first.text, first.values);
    else {
      await this.#server.transaction(statements).catch((error: unknown) => {
        throw this.#server.translated(error);
      });
    }
    if (released.length > 0) this.#server.changes.committed({ outbox: true });
  }

  async releaseOwner(owner: string): Promise<number> {
    const { count } = await this.#server.change(
      `UPDATE ${this.#table} SET status = ${AS_BEFORE}, locked_by = NULL, locked_until = NULL WHERE locked_by = $1 AND status = 'processing'`,
      [owner],
    );
    if (count > 0) this.#server.changes.committed({ outbox: true });
    return count;
  }

  async owners(): Promise<readonly string[]> {
    const { rows } = await this.#server.query(
      `SELECT DISTINCT locked_by COLLATE "C" AS owner FROM ${this.#table}
       WHERE status = 'processing' AND locked_by IS NOT NULL AND locked_until > localtimestamp ORDER BY 1`,
    );
    return rows.map(({ owner }) => owner ?? "");
  }

  async nextDue_ms(broker: string): Promise<number | null> {
    // A row that is locked and waits is due at the later of the two.
    const { rows } = await this.#server.query(
      `SELECT extract(epoch FROM min(greatest(locked_until, next_retry_at, '-infinity')) - localtimestamp) * 1000 AS due_ms,
         bool_or(greatest(locked_until, next_retry_at) IS NULL) AS now
       FROM ${this.#table} WHERE target_broker = $1 AND status IN ('processing', 'failed')`,
      [broker],
    );
    const due = rows[0]?.["due_ms"];
    if (rows[0]?.["now"] === "t") return 0;
    return due == null ? null : Math.max(0, Number(due));
  }

  async present(messageIds: readonly string[], targetBroker: string): Promise<ReadonlySet<string>> {
    if (messageIds.length === 0) return new Set();
    const { rows } = await this.#server.query(
      `SELECT message_id FROM ${this.#table} WHERE message_id = ANY($1::text[]) AND target_broker = $2`,
      [arrayText(messageIds), targetBroker],
    );
    return new Set(rows.map((row) => row["message_id"] ?? ""));
  }

  async insertMissing(rows: readonly OutboxInsert[]): Promise<number> {
    if (rows.length === 0) return 0;
    const { text, values } = this.insert(rows, true);
    const { count } = await this.#server.change(text, values);
    if (count > 0) this.#server.changes.committed({ outbox: true });
    return count;
  }

  async counts(targetBroker?: string): Promise<OutboxCounts> {
    const { rows } = await this.#server.query(
      `SELECT status, count(*) AS n, CASE WHEN ${UNFINISHED} THEN extract(epoch FROM localtimestamp - min(created_at)) * 1000 END AS oldest_ms
       FROM ${this.#table} WHERE $1::text IS NULL OR target_broker = $1 GROUP BY status`,
      [targetBroker ?? null],
    );
    const counts: Record<OutboxStatus, number> = { pending: 0, processing: 0, published: 0, failed: 0, abandoned: 0 };
    let oldest_ms: number | null = null;
    for (const row of rows) {
      counts[row["status"] as OutboxStatus] = Number(row["n"]);
      const age = row["oldest_ms"];
      if (age != null) oldest_ms = Math.max(0, oldest_ms ?? 0, Number(age));
    }
    return { ...counts, oldest_ms };
  }

  async list(options: { readonly status?: OutboxStatus; readonly limit: number; readonly after?: string }): Promise<readonly OutboxRow[]> {
    const { rows } = await this.#server.query(
      `SELECT ${SELECTED} FROM ${this.#table} AS o WHERE ($1::text IS NULL OR status = $1)
         AND ($2::text IS NULL OR protean_position > (SELECT protean_position FROM ${this.#table} WHERE id = $2))
       ORDER BY protean_position LIMIT $3::int8`,
      [options.status ?? null, options.after ?? null, String(options.limit)],
    );
    return rows.map(outboxRow);
  }

  async retry(ids: readonly string[] | null): Promise<number> {
    const { count } = await this.#server.change(
      `UPDATE ${this.#table} SET status = 'pending', retry_count = 0, next_retry_at = NULL
       WHERE status IN ('failed', 'abandoned') AND ($1::text[] IS NULL OR id = ANY($1::text[]))`,
      [ids === null ? null : arrayText(ids)],
    );
    if (count > 0) this.#server.changes.committed({ outbox: true });
    return count;
  }

  async notePublished(rows: readonly { readonly id: string; readonly entryId: string }[]): Promise<number> {
    if (rows.length === 0) return 0;
    const { count } = await this.#server.change(
      `UPDATE ${this.#table} AS o SET status = 'published', published_at = localtimestamp, last_processed_at = localtimestamp, entry_id = given.entry_id,
         last_error = 'null', next_retry_at = NULL, locked_by = NULL, locked_until = NULL, _version = coalesce(_version, 0) + 1
       FROM unnest($1::text[], $2::text[]) AS given (id, entry_id) WHERE o.id = given.id AND o.${UNFINISHED}`,
      [arrayText(rows.map(({ id }) => id)), arrayText(rows.map(({ entryId }) => entryId))],
    );
    return count;
  }

  async publishedAbove(broker: string, newest: ReadonlyMap<string, string>): Promise<readonly string[]> {
    const idParts = (column: string) => `split_part(${column}, '-', 1)::numeric, split_part(${column}, '-', 2)::numeric`;
    const { rows } = await this.#server.query(
      `SELECT o.id FROM ${this.#table} AS o JOIN unnest($1::text[], $2::text[]) AS n (category, newest) ON split_part(o.stream_name, '-', 1) = n.category
       WHERE o.status = 'published' AND o.target_broker = $3 AND o.entry_id ~ '^[0-9]+-[0-9]+$' AND (${idParts("o.entry_id")}) > (${idParts("n.newest")})
       ORDER BY o.protean_position`,
      [arrayText([...newest.keys()]), arrayText([...newest.values()]), broker],
    );
    return rows.map(({ id }) => id ?? "");
  }

  async publishAgain(ids: readonly string[]): Promise<number> {
    if (ids.length === 0) return 0;
    const { count } = await this.#server.change(
      `UPDATE ${this.#table} SET status = 'pending', published_at = NULL, entry_id = NULL, retry_count = 0, _version = coalesce(_version, 0) + 1
       WHERE status = 'published' AND id = ANY($1::text[])`,
      [arrayText(ids)],
    );
    if (count > 0) this.#server.changes.committed({ outbox: true });
    return count;
  }

  async cleanup(options: { readonly published_ms: number; readonly abandoned_ms: number; readonly limit: number }): Promise<number> {
    let removed = 0;
    for (const [status, age_ms] of [
      ["published", options.published_ms],
      ["abandoned", options.abandoned_ms],
    ] as const) {
      while (removed < options.limit) {
        const rows = Math.min(CLEANUP_rows, options.limit - removed);
        const { count } = await this.#server.change(
          `DELETE FROM ${this.#table} WHERE id IN (SELECT id FROM ${this.#table}
             WHERE status = '${status}' AND last_processed_at <= localtimestamp - ${interval("$1")} ORDER BY last_processed_at LIMIT $2::int8)`,
          [String(age_ms), String(rows)],
        );
        removed += count;
        if (count < rows) break;
      }
    }
    return removed;
  }

  onInsert(wake: () => void): () => void {
    return this.#server.changes.onOutbox(wake);
  }

  /**
   * Which rows may go out now, claimed in the same statement.
   *
   * - `held`: source streams with a row that is locked by somebody or waits for its retry; nothing behind it goes out (D27);
   * - `wanted`: the rows by priority, then age, that aren't behind such a row;
   * - `pulled`: before each of them, rows of its stream that are older but of a lower priority;
   * - `locked`: of these, those that nobody else (Python, another claim) is just changing. They are looked at again after the lock;
   * - `given`: of each stream the rows up to the first that wasn't locked. Memberships are written so that the server hashes them.
   */
  get #claimText(): string {
    const ready = (row: string) =>
      `((${row}.locked_until IS NULL OR ${row}.locked_until <= localtimestamp) AND (${row}.next_retry_at IS NULL OR ${row}.next_retry_at <= localtimestamp))`;
    return `WITH held AS MATERIALIZED (
        SELECT stream_name, min(protean_position) AS position FROM ${this.#table} AS o
        WHERE target_broker = $1 AND status IN ('processing', 'failed') AND NOT ${ready("o")} GROUP BY stream_name
      ), wanted AS MATERIALIZED (
        SELECT o.id, o.stream_name, o.priority, o.protean_position AS position,
          row_number() OVER (ORDER BY o.priority DESC, o.protean_position) AS rank
        FROM ${this.#table} AS o
        WHERE o.target_broker = $1 AND o.${UNFINISHED} AND ((o.stream_name IN (SELECT stream_name FROM held)) IS NOT TRUE
          OR o.protean_position < (SELECT position FROM held WHERE held.stream_name = o.stream_name))
        ORDER BY o.priority DESC, o.protean_position LIMIT $2::int8
      ), pulled AS MATERIALIZED (
        SELECT w.rank, o.id, o.stream_name, o.protean_position AS position FROM wanted AS w
        CROSS JOIN LATERAL (
          SELECT e.id, e.stream_name, e.protean_position FROM ${this.#table} AS e
          WHERE e.target_broker = $1 AND e.stream_name = w.stream_name AND e.priority < w.priority AND e.${UNFINISHED}
            AND e.protean_position < w.position
          ORDER BY e.protean_position LIMIT $2::int8
        ) AS o
      ), ranked AS (
        SELECT id, stream_name, position, min(rank) AS rank FROM (
          SELECT id, stream_name, position, rank FROM wanted UNION ALL SELECT id, stream_name, position, rank FROM pulled
        ) AS every GROUP BY id, stream_name, position
      ), chosen AS MATERIALIZED (
        SELECT id, stream_name, position, row_number() OVER (ORDER BY rank, position) AS place FROM ranked ORDER BY rank, position LIMIT $2::int8
      ), locked AS MATERIALIZED (
        SELECT o.id FROM ${this.#table} AS o WHERE o.id IN (SELECT id FROM chosen) AND o.${UNFINISHED} AND ${ready("o")} FOR UPDATE SKIP LOCKED
      ), given AS (
        SELECT id, place FROM (
          SELECT id, place, bool_and((id IN (SELECT id FROM locked)) IS TRUE) OVER (PARTITION BY stream_name ORDER BY position) AS free FROM chosen
        ) AS c WHERE free
      )
      UPDATE ${this.#table} AS o SET status = 'processing', locked_by = $3, locked_until = localtimestamp + ${interval("$4")},
        last_processed_at = localtimestamp
      FROM given WHERE o.id = given.id RETURNING given.place, ${SELECTED}`;
  }
}

const AS_BEFORE = "CASE WHEN retry_count > 0 THEN 'failed' ELSE 'pending' END";
/** As Python writes it (wire-format §10.3). */
const ERROR = `json_build_object('message', given.error, 'traceback', E'NoneType: None\\n', 'failed_at',
  to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || '+00:00', 'retry_count', o.retry_count + 1)`;

const utc = (column: string) => `(o.${column}::timestamptz AT TIME ZONE 'UTC')::text AS ${column}`;
const SELECTED = `o.id, o.message_id, o.stream_name, o.type, o.data::text, o.metadata_::text AS metadata_, ${utc("created_at")}, ${utc("published_at")},
  ${utc("next_retry_at")}, o.retry_count::text, o.last_error::text, o.status, o.max_retries::text, o.locked_by, o.correlation_id, o.causation_id,
  o.partition_key, o.priority::text, o.target_broker`;

/** Text that PostgreSQL takes, of an error that may quote anything. */
function keepable(text: string): string {
  return text.replaceAll("\0", "\ufffd").toWellFormed();
}

function outboxRow(row: StoredRow): OutboxRow {
  return {
    id: row["id"] ?? "",
    messageId: row["message_id"] ?? "",
    streamName: row["stream_name"] ?? "",
    type: row["type"] ?? "",
    data: row["data"] ?? "null",
    metadata: metadataOfColumn(Buffer.from((row["metadata_"] ?? "").slice(2), "hex")),
    correlationId: row["correlation_id"] ?? null,
    causationId: row["causation_id"] ?? null,
    partitionKey: row["partition_key"] ?? null,
    priority: Number(row["priority"] ?? 0),
    targetBroker: row["target_broker"] ?? "",
    maxRetries: Number(row["max_retries"] ?? 0),
    status: (row["status"] ?? "pending") as OutboxStatus,
    retryCount: Number(row["retry_count"] ?? 0),
    createdAt: isoOfSqlTime(row["created_at"] ?? ""),
    publishedAt: row["published_at"] == null ? null : isoOfSqlTime(row["published_at"]),
    nextRetryAt: row["next_retry_at"] == null ? null : isoOfSqlTime(row["next_retry_at"]),
    lastError: errorOfColumn(row["last_error"] ?? null),
    lockedBy: row["locked_by"] ?? null,
  };
}
