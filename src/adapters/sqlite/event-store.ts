import { ExpectedVersionError } from "../../errors.ts";
import { ALL_STREAMS, type Append, type Appended, type EventStore, type StoredMessage } from "../../ports/event-store.ts";
import type { Leases } from "../../ports/leases.ts";
import type { Connection, SqlValue } from "./connection.ts";
import type { SqliteFile } from "./file.ts";
import { isoOfSqlTime, sqlTime } from "./time.ts";

interface MessageRow {
  readonly id: string;
  readonly stream_name: string;
  readonly type: string;
  readonly data: string;
  readonly metadata: string | null;
  readonly position: number;
  readonly global_position: number;
  readonly time: string;
}

const COLUMNS = "id, stream_name, type, data, metadata, position, global_position, time";

/** Appends inside a transaction that somebody else has begun. */
export function appendMessages(connection: Connection, messages: readonly Append[], now_ms: number): Appended[] {
  const versions = new Map<string, number>();
  const time = sqlTime(now_ms);
  return messages.map((message) => {
    const version =
      versions.get(message.stream) ??
      connection.get<{ version: number }>(
        "SELECT coalesce(max(position), -1) AS version FROM messages WHERE stream_name = ?",
        message.stream,
      )?.version ??
      -1;
    if (message.expectedVersion !== null && message.expectedVersion !== version) {
      throw new ExpectedVersionError(
        `Wrong expected version: ${message.expectedVersion} (Stream: ${message.stream}, Stream Version: ${version})`,
      );
    }
    const position = version + 1;
    versions.set(message.stream, position);
    const { rowid } = connection.run(
      "INSERT INTO messages (position, time, stream_name, type, data, metadata, id) VALUES (?, ?, ?, ?, ?, ?, ?)",
      position,
      time,
      message.stream,
      message.type,
      message.data,
      message.metadata,
      message.id,
    );
    return { position, globalPosition: rowid };
  });
}

/** Streams and categories in one table. Writers hold the database's only write lock, so global positions become visible in order. */
export class SqliteEventStore implements EventStore {
  readonly provider: string;
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly #file: SqliteFile;
  readonly #closed: () => void;

  constructor(file: SqliteFile, leases: Leases, closed: () => void) {
    this.provider = file.inMemory ? "memory" : "sqlite";
    this.address = file.address;
    this.identity = file.identity;
    this.leases = leases;
    this.#file = file;
    this.#closed = closed;
  }

  async append(messages: readonly Append[]): Promise<readonly Appended[]> {
    if (messages.length === 0) return [];
    const appended = await this.#file.writeDurably((connection) => appendMessages(connection, messages, this.#file.clock.now_ms()));
    this.#file.changes.committed();
    return appended;
  }

  readStream(stream: string, fromPosition: number, limit: number): Promise<readonly StoredMessage[]> {
    return this.#select("WHERE stream_name = ? AND position >= ? ORDER BY position LIMIT ?", stream, fromPosition, limit);
  }

  readCategory(category: string, fromGlobalPosition: number, limit: number): Promise<readonly StoredMessage[]> {
    if (category === ALL_STREAMS) {
      return this.#select("WHERE global_position >= ? ORDER BY global_position LIMIT ?", fromGlobalPosition, limit);
    }
    return this.#select(
      "WHERE category = ? AND global_position >= ? ORDER BY global_position LIMIT ?",
      category,
      fromGlobalPosition,
      limit,
    );
  }

  async lastOfStream(stream: string): Promise<StoredMessage | null> {
    const [last] = await this.#select("WHERE stream_name = ? ORDER BY position DESC LIMIT 1", stream);
    return last ?? null;
  }

  async lastOfCategory(category: string): Promise<StoredMessage | null> {
    const [last] =
      category === ALL_STREAMS
        ? await this.#select("ORDER BY global_position DESC LIMIT 1")
        : await this.#select("WHERE category = ? ORDER BY global_position DESC LIMIT 1", category);
    return last ?? null;
  }

  heads(streams: readonly string[]): Promise<ReadonlyMap<string, number>> {
    return this.#file.read((connection) => {
      const heads = new Map<string, number>();
      for (const stream of streams) {
        const head = connection.get<{ head: number | null }>(
          "SELECT max(position) AS head FROM messages WHERE stream_name = ?",
          stream,
        )?.head;
        if (head !== null && head !== undefined) heads.set(stream, head);
      }
      return heads;
    });
  }

  streams(category: string, after: string | null, limit: number): Promise<readonly string[]> {
    return this.#file.read((connection) => {
      // One index seek for each name, however many messages its stream has.
      const following =
        category === ALL_STREAMS
          ? (name: string) => connection.get<{ name: string }>(NEXT_STREAM, name)?.name
          : // A category's names lie between `category-` and `category.`, the character after the hyphen.
            (name: string) => connection.get<{ name: string }>(NEXT_STREAM_OF_CATEGORY, name, `${category}.`)?.name;
      const names: string[] = [];
      let last = after ?? "";
      if (category !== ALL_STREAMS) {
        if (last < category && connection.get("SELECT 1 FROM messages WHERE stream_name = ? LIMIT 1", category) !== undefined) {
          names.push(category);
        }
        if (last < `${category}-`) {
          last = `${category}-`;
          if (connection.get("SELECT 1 FROM messages WHERE stream_name = ? LIMIT 1", last) !== undefined) names.push(last);
        }
      }
      while (names.length < limit) {
        const name = following(last);
        if (name === undefined) break;
        names.push(name);
        last = name;
      }
      return names.slice(0, limit);
    });
  }

  countAfter(category: string, after: number, cap: number): Promise<number> {
    return this.#file.read((connection) => {
      const row =
        category === ALL_STREAMS
          ? connection.get<{ n: number }>(
              "SELECT count(*) AS n FROM (SELECT 1 FROM messages WHERE global_position > ? LIMIT ?)",
              after,
              cap,
            )
          : connection.get<{ n: number }>(
              "SELECT count(*) AS n FROM (SELECT 1 FROM messages WHERE category = ? AND global_position > ? LIMIT ?)",
              category,
              after,
              cap,
            );
      return row?.n ?? 0;
    });
  }

  onAppend(wake: () => void): () => void {
    return this.#file.changes.onMessages(wake);
  }

  /** The tables are made when the file is opened. */
  async setup(): Promise<readonly string[]> {
    return [];
  }

  async plan(): Promise<readonly []> {
    return [];
  }

  /** Opening the file has seen to it. */
  async verify(): Promise<void> {}

  async ping(): Promise<void> {
    await this.#file.read((connection) => connection.get("SELECT 1"));
  }

  async close(): Promise<void> {
    this.#closed();
  }

  #select(tail: string, ...values: SqlValue[]): Promise<StoredMessage[]> {
    return this.#file.read((connection) =>
      connection.all<MessageRow>(`SELECT ${COLUMNS} FROM messages ${tail}`, ...values).map(storedMessage),
    );
  }
}

const NEXT_STREAM = "SELECT stream_name AS name FROM messages WHERE stream_name > ? ORDER BY stream_name LIMIT 1";
const NEXT_STREAM_OF_CATEGORY =
  "SELECT stream_name AS name FROM messages WHERE stream_name > ? AND stream_name < ? ORDER BY stream_name LIMIT 1";

function storedMessage(row: MessageRow): StoredMessage {
  return {
    id: row.id,
    stream: row.stream_name,
    type: row.type,
    data: row.data,
    metadata: row.metadata,
    position: row.position,
    globalPosition: row.global_position,
    time: isoOfSqlTime(row.time),
  };
}
