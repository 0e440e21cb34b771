import { ConfigurationError } from "../../errors.ts";
import { categoryOf } from "../../messages/names.ts";
import { ALL_STREAMS, type Append, type Appended, type EventStore, type StoredMessage } from "../../ports/event-store.ts";
import type { Leases } from "../../ports/leases.ts";
import { appendedOf, appendFailure, appendStatement, categoryCount, lockStatement } from "./append.ts";
import { isoOfSqlTime } from "./columns.ts";
import { installSteps, messageDbVersion } from "./message-db.ts";
import { StatementFailure, type StoredRow } from "./pool.ts";
import type { Server } from "./server.ts";
import { SettledPrefix } from "./settled-prefix.ts";
import { arrayText, quoted } from "./sql.ts";
import { SETUP_LOCK } from "./table-setup.ts";

/** Message DB keeps times of UTC in columns without zone. */
const COLUMNS = "id, stream_name, type, position, global_position, data, metadata, time";
const FROM = "FROM message_store.messages";
const POSITION_max = "9223372036854775807";

/** Message DB in a PostgreSQL database, over its own functions where it has one for the purpose (wire-format §9). */
export class MessageDbEventStore implements EventStore {
  readonly provider = "message_db";
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly #server: Server;
  readonly #leaseSchema: string;
  readonly #closed: () => void;
  readonly #settled = new SettledPrefix();

  constructor(
    server: Server,
    parts: { readonly leases: Leases; readonly leaseSchema: string; readonly identity: string },
    closed: () => void,
  ) {
    this.address = server.address;
    this.identity = parts.identity;
    this.leases = parts.leases;
    this.#leaseSchema = parts.leaseSchema;
    this.#server = server;
    this.#closed = closed;
  }

  async append(messages: readonly Append[]): Promise<readonly Appended[]> {
    if (messages.length === 0) return [];
    const statement = appendStatement(messages);
    try {
      // One category is locked by the write itself, so one statement does.
      const result =
        categoryCount(messages) === 1
          ? await this.#server.change(statement.text, statement.values)
          : (await this.#server.transaction([lockStatement(messages), statement]))[1];
      this.#server.changes.committed({ messages: true });
      return appendedOf(result);
    } catch (error) {
      const cause =
        error instanceof StatementFailure ? error.cause : error instanceof Error && error.cause !== undefined ? error.cause : error;
      throw appendFailure(cause) ?? this.#server.translated(error);
    }
  }

  readStream(stream: string, fromPosition: number, limit: number): Promise<readonly StoredMessage[]> {
    const values = [stream, String(fromPosition), String(limit)];
    // The function refuses names without a hyphen; such a stream can be written all the same.
    return stream.includes("-")
      ? this.#select(`FROM message_store.get_stream_messages($1, $2::int8, $3::int8)`, values)
      : this.#select(`${FROM} WHERE stream_name = $1 AND position >= $2::int8 ORDER BY position LIMIT $3::int8`, values);
  }

  async readCategory(category: string, fromGlobalPosition: number, limit: number): Promise<readonly StoredMessage[]> {
    if (category === ALL_STREAMS) return await this.#readAll(fromGlobalPosition, limit);
    return await this.#select("FROM message_store.get_category_messages($1, $2::int8, $3::int8)", [
      category,
      String(fromGlobalPosition),
      String(limit),
    ]);
  }

  async lastOfStream(stream: string): Promise<StoredMessage | null> {
    const [last] = await this.#select("FROM message_store.get_last_stream_message($1)", [stream]);
    return last ?? null;
  }

  async lastOfCategory(category: string): Promise<StoredMessage | null> {
    if (category === ALL_STREAMS) return (await this.#select(`${FROM} ORDER BY global_position DESC LIMIT 1`, []))[0] ?? null;
    // By a row comparison, because only the index on (category, position) can give its order: with `category = $1` the planner may choose to
    // walk all messages backwards until one fits (G45).
    const [last] = await this.#select(
      `${FROM} WHERE (message_store.category(stream_name), global_position) <= ($1::text, ${POSITION_max})
       ORDER BY message_store.category(stream_name) DESC, global_position DESC LIMIT 1`,
      [category],
    );
    return last !== undefined && categoryOf(last.stream) === category ? last : null;
  }

  async heads(streams: readonly string[]): Promise<ReadonlyMap<string, number>> {
    if (streams.length === 0) return new Map();
    const { rows } = await this.#server.query(
      `SELECT name, (SELECT max(position) ${FROM} WHERE stream_name = name) AS head FROM unnest($1::text[]) AS given (name)`,
      [arrayText(streams)],
    );
    return new Map(rows.flatMap(({ name, head }) => (name == null || head == null ? [] : [[name, Number(head)] as const])));
  }

  /** Reads the first message of each stream of the category: as many index entries as the category has messages, a page at a time. */
  async streams(category: string, after: string | null, limit: number): Promise<readonly string[]> {
    const where = category === ALL_STREAMS ? "$1::text IS NOT NULL" : "message_store.category(stream_name) = $1::text";
    const { rows } = await this.#server.query(
      `SELECT stream_name COLLATE "C" AS name ${FROM} WHERE ${where} AND position = 0 AND stream_name COLLATE "C" > $2 ORDER BY 1 LIMIT $3::int8`,
      [category, after ?? "", String(limit)],
    );
    return rows.map(({ name }) => name ?? "");
  }

  async countAfter(category: string, after: number, cap: number): Promise<number> {
    const { rows } =
      category === ALL_STREAMS
        ? await this.#server.query(
            `SELECT count(*) AS n FROM (SELECT 1 ${FROM} WHERE global_position > $1::int8 LIMIT $2::int8) AS found`,
            [String(after), String(cap)],
          )
        : await this.#server.query(
            `SELECT count(*) AS n FROM (SELECT 1 ${FROM} WHERE (message_store.category(stream_name), global_position) > ($1::text, $2::int8)
             AND (message_store.category(stream_name), global_position) <= ($1::text, ${POSITION_max}) LIMIT $3::int8) AS found`,
            [category, String(after), String(cap)],
          );
    return Number(rows[0]?.["n"] ?? 0);
  }

  onAppend(wake: () => void): () => void {
    return this.#server.changes.onMessages(wake);
  }

  /**
   * Installs Message DB where it is missing, and the table of leases beside it.
   * @throws ConfigurationError when an older Message DB is there, or the role may not create it
   */
  async setup(): Promise<readonly string[]> {
    const done: string[] = [];
    await this.#server.define(SETUP_LOCK, async (query) => {
      const steps = await installSteps(query, this.#leaseSchema);
      done.push(...steps.map(({ what }) => what));
      return steps.map(({ sql }) => sql);
    });
    return done;
  }

  /** What `setup` would do, with its SQL. */
  async plan(): Promise<readonly { readonly what: string; readonly sql: string }[]> {
    return await installSteps((text, values) => this.#server.query(text, values), this.#leaseSchema);
  }

  /** @throws ConfigurationError when Message DB is missing or older than what we need */
  async verify(): Promise<void> {
    const version = await messageDbVersion((text, values) => this.#server.query(text, values), this.address);
    if (version === null) {
      throw new ConfigurationError(`there is no Message DB at ${this.address}`, {
        code: "MESSAGE_DB_MISSING",
        at: this.address,
        fix: "Run: protean db setup",
      });
    }
    const { rows } = await this.#server.query(
      `SELECT has_schema_privilege('message_store', 'USAGE') AND has_table_privilege('message_store.messages', 'SELECT')
         AND has_table_privilege('message_store.messages', 'INSERT') AS may`,
    );
    if (rows[0]?.["may"] === "t") return;
    throw new ConfigurationError(`role "${this.#server.username}" may not use Message DB at ${this.address}`, {
      at: this.address,
      fix: `Run as its owner: GRANT message_store TO ${quoted(this.#server.username)};`,
    });
  }

  ping(): Promise<void> {
    return this.#server.ping();
  }

  async close(): Promise<void> {
    this.#closed();
  }

  /** Only what is settled: rows behind a hole whose writer may still commit are held back, and readers are woken to look again (D16). */
  async #readAll(from: number, limit: number): Promise<readonly StoredMessage[]> {
    const { rows } = await this.#server.query(
      `SELECT ${COLUMNS}, pg_snapshot_xmin(s)::text AS oldest, pg_snapshot_xmax(s)::text AS next,
         extract(epoch FROM clock_timestamp() - time AT TIME ZONE 'UTC') * 1000 AS age_ms
       ${FROM}, pg_current_snapshot() AS s WHERE global_position >= $1::int8 ORDER BY global_position LIMIT $2::int8`,
      [String(from), String(limit)],
    );
    const [first] = rows;
    if (first === undefined) return [];
    const positioned = rows.map((row) => ({ globalPosition: Number(row["global_position"]), age_ms: Number(row["age_ms"]) }));
    const snapshot = { oldest: BigInt(first["oldest"] ?? 0), next: BigInt(first["next"] ?? 0) };
    const length = this.#settled.length(from, positioned, snapshot, this.#server.clock.monotonic_ms());
    if (length < rows.length) this.#server.changes.lookAgain();
    return rows.slice(0, length).map(storedMessage);
  }

  async #select(tail: string, values: readonly string[]): Promise<StoredMessage[]> {
    const { rows } = await this.#server.query(`SELECT ${COLUMNS} ${tail}`, values);
    return rows.map(storedMessage);
  }
}

/** Where the leases of an event store lie that has its database to itself. */
export const EVENT_STORE_SCHEMA = "message_store";

function storedMessage(row: StoredRow): StoredMessage {
  return {
    id: row["id"] ?? "",
    stream: row["stream_name"] ?? "",
    type: row["type"] ?? "",
    data: row["data"] ?? "null",
    metadata: row["metadata"] ?? null,
    position: Number(row["position"]),
    globalPosition: Number(row["global_position"]),
    time: isoOfSqlTime(row["time"] ?? ""),
  };
}
