import type { Leases } from "./leases.ts";

/** A message to be written. `data` and `metadata` are JSON text and are stored as they are. */
export interface Append {
  /** Row id, a UUID; unrelated to the message's own id. */
  readonly id: string;
  readonly stream: string;
  readonly type: string;
  readonly data: string;
  readonly metadata: string | null;
  /** Position of the stream's last message, -1 for "must not exist", null for no check. */
  readonly expectedVersion: number | null;
}

export interface StoredMessage {
  readonly id: string;
  readonly stream: string;
  readonly type: string;
  readonly data: string;
  readonly metadata: string | null;
  /** In the stream, from 0, without gaps. */
  readonly position: number;
  /** In the whole store, from 1; may have gaps. */
  readonly globalPosition: number;
  /** ISO 8601 with offset. */
  readonly time: string;
}

export interface Appended {
  readonly position: number;
  readonly globalPosition: number;
}

/** The category that stands for every stream. */
export const ALL_STREAMS = "$all";

/**
 * An append-only store of streams, laid out as Message DB is (wire-format §9).
 *
 * Contract, checked by `test/conformance/event-store.ts`:
 * - `append` writes all messages or none, in the given order; several may go to one stream, and then `expectedVersion` is checked
 *   against what is there after those before it in the same call;
 * - a mismatch throws ExpectedVersionError `Wrong expected version: <n> (Stream: <s>, Stream Version: <m>)`;
 * - reads are inclusive (`>=`), ordered, and never return more than `limit`; a category is the text before a stream name's first `-`;
 * - inside one category, global positions become visible in order: who has read up to p never finds something new below p;
 * - every read of a tail is one index read, whatever the size of the store (G45).
 */
export interface EventStore {
  /** Provider's name: `sqlite`, `memory`, `message_db`. */
  readonly provider: string;
  /** What operators see: file or URL without its password. */
  readonly address: string;
  /** Two ports with the same identity are one database, and a unit of work over them is one transaction (D7). */
  readonly identity: string;
  /** Leases for its subscriptions. */
  readonly leases: Leases;

  append(messages: readonly Append[]): Promise<readonly Appended[]>;
  readStream(stream: string, fromPosition: number, limit: number): Promise<readonly StoredMessage[]>;
  /** `category` may be ALL_STREAMS. */
  readCategory(category: string, fromGlobalPosition: number, limit: number): Promise<readonly StoredMessage[]>;
  lastOfStream(stream: string): Promise<StoredMessage | null>;
  /** Newest by global position; `category` may be ALL_STREAMS. */
  lastOfCategory(category: string): Promise<StoredMessage | null>;
  /** Last position of each stream that exists, in one round trip. */
  heads(streams: readonly string[]): Promise<ReadonlyMap<string, number>>;
  /** Names of the category's streams, sorted, those after `after`. */
  streams(category: string, after: string | null, limit: number): Promise<readonly string[]>;
  /** Messages of the category with a global position above `after`, counted up to `cap`. */
  countAfter(category: string, after: number, cap: number): Promise<number>;
  /** Calls `wake` soon after somebody (this process or another) appended. May call it for nothing. Returns the way to stop. */
  onAppend(wake: () => void): () => void;

  /** Creates what is missing, says what it did; changes nothing that exists. */
  setup(): Promise<readonly string[]>;
  /** What `setup` would do, with its SQL; empty when all is there. */
  plan(): Promise<readonly { readonly what: string; readonly sql: string }[]>;
  /** @throws ConfigurationError when the store is missing, too old, or the role may not use it */
  verify(): Promise<void>;
  /** @throws ConnectionError when it doesn't answer in time */
  ping(): Promise<void>;
  close(): Promise<void>;
}
