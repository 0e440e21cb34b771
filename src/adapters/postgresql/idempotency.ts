import { parseJson, toJsonText, type WireValue } from "../../messages/json.ts";
import type { Idempotency, IdempotencyEntry } from "../../ports/idempotency.ts";
import type { Statement } from "./pool.ts";
import type { Server } from "./server.ts";
import { interval, quoted } from "./sql.ts";

/** Entries that ran out are swept a few at a time, by one reservation in so many. */
const SWEEP_rows = 100;
const SWEEP_share = 1 / 32;

const PENDING = '{"status": "pending"}';
const FAILED = '{"status": "error", "error": "handler_failed"}';

/** Keys of commands in a table of ours; what Python would write in Redis, with the database's time. */
export class PostgresIdempotency implements Idempotency {
  readonly #server: Server;
  readonly #table: string;

  constructor(server: Server) {
    this.#server = server;
    this.#table = `${quoted(server.schema)}.protean_idempotency`;
  }

  async reserve(key: string, ttl_ms: number): Promise<IdempotencyEntry> {
    for (;;) {
      const { rows } = await this.#server.change(
        `INSERT INTO ${this.#table} AS known VALUES ($1, $2, clock_timestamp() + ${interval("$3")})
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at WHERE known.expires_at <= clock_timestamp()
         RETURNING 1 AS reserved`,
        [key, PENDING, String(ttl_ms)],
      );
      if (rows.length > 0) {
        if (this.#server.random.float() < SWEEP_share) await this.#sweep();
        return { state: "reserved" };
      }
      // Null when it ran out just now: then it can be had.
      const entry = await this.get(key);
      if (entry !== null) return entry;
    }
  }

  async get(key: string): Promise<IdempotencyEntry | null> {
    const { rows } = await this.#server.query(`SELECT value FROM ${this.#table} WHERE key = $1 AND expires_at > clock_timestamp()`, [key]);
    const value = rows[0]?.["value"];
    return value == null ? null : entryOf(value);
  }

  async succeed(key: string, result: unknown, ttl_ms: number): Promise<void> {
    await this.#put(this.#entry(key, succeeded(result), ttl_ms));
  }

  /**
   * That the key's command is stored, to be part of a transaction. A commit that arrives late, when its command was sent again and handled meanwhile,
   * must not make the key forget that.
   */
  stored(key: string, result: unknown, ttl_ms: number): Statement {
    const { text, values } = this.#entry(key, succeeded(result), ttl_ms);
    return {
      text: `${text} WHERE ${this.#table}.value IN ($4, $5) OR ${this.#table}.expires_at <= clock_timestamp()`,
      values: [...values, PENDING, FAILED],
    };
  }

  async fail(key: string, ttl_ms: number): Promise<void> {
    await this.#put(this.#entry(key, FAILED, ttl_ms));
  }

  async release(key: string): Promise<void> {
    await this.#server.change(`DELETE FROM ${this.#table} WHERE key = $1 AND value = $2`, [key, PENDING]);
  }

  /** The pool belongs to its stores and is closed with them. */
  async close(): Promise<void> {}

  async #put({ text, values }: Statement): Promise<void> {
    await this.#server.change(text, values);
  }

  #entry(key: string, value: string, ttl_ms: number): Statement {
    return {
      text: `INSERT INTO ${this.#table} VALUES ($1, $2, clock_timestamp() + ${interval("$3")})
       ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at`,
      values: [key, value, String(ttl_ms)],
    };
  }

  async #sweep(): Promise<void> {
    await this.#server.change(
      `DELETE FROM ${this.#table} WHERE key IN
         (SELECT key FROM ${this.#table} WHERE expires_at <= clock_timestamp() LIMIT ${SWEEP_rows} FOR UPDATE SKIP LOCKED)`,
    );
  }
}

function succeeded(result: unknown): string {
  return `{"status": "success", "result": ${toJsonText((result ?? null) as WireValue)}}`;
}

function entryOf(text: string): IdempotencyEntry {
  const value = parseJson(text) as { readonly status?: unknown; readonly result?: unknown };
  if (value.status === "success") return { state: "success", result: value.result ?? null };
  return { state: value.status === "error" ? "error" : "pending" };
}
