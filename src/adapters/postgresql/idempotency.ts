import { parseJson, toJsonText, type WireValue } from "../../messages/json.ts";
import type { SucceededKey } from "../../ports/database.ts";
import type { Idempotency, IdempotencyEntry, KeyReservation } from "../../ports/idempotency.ts";
import type { Statement } from "./pool.ts";
import type { Server } from "./server.ts";
import { interval, quoted } from "./sql.ts";

/** Entries that ran out are swept a few at a time, by one reservation in so many. */
const SWEEP_rows = 100;
const SWEEP_share = 1 / 32;

const FAILED = '{"status": "error", "error": "handler_failed"}';

const REPLACING = "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at";

/** Keys of commands in a table of ours; what Python would write in Redis, with the database's time. */
export class PostgresIdempotency implements Idempotency {
  readonly #server: Server;
  readonly #table: string;

  constructor(server: Server) {
    this.#server = server;
    this.#table = `${quoted(server.schema)}.protean_idempotency`;
  }

  async reserve({ key, by }: KeyReservation, ttl_ms: number): Promise<IdempotencyEntry> {
    for (;;) {
      const { rows } = await this.#server.change(
        `INSERT INTO ${this.#table} AS known VALUES ($1, $2, clock_timestamp() + ${interval("$3")})
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at WHERE known.expires_at <= clock_timestamp()
         RETURNING 1 AS reserved`,
        [key, pending(by), String(ttl_ms)],
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

  /** That the key's command is stored, to be part of a transaction: divides by zero when the reservation is somebody else's by now. */
  stored({ key, reservation, result, ttl_ms }: SucceededKey): Statement {
    return {
      text: `WITH ours AS MATERIALIZED (SELECT 1 FROM ${this.#table} WHERE key = $4 AND value = $5 FOR UPDATE)
       INSERT INTO ${this.#table} SELECT $1, $2, clock_timestamp() + ${interval("$3")} WHERE (SELECT 1 / count(*)::int FROM ours) = 1
       ${REPLACING}`,
      values: [key, succeeded(result), String(ttl_ms), reservation.key, pending(reservation.by)],
    };
  }

  async fail(key: string, ttl_ms: number): Promise<void> {
    await this.#put(this.#entry(key, FAILED, ttl_ms));
  }

  async release({ key, by }: KeyReservation): Promise<void> {
    await this.#server.change(`DELETE FROM ${this.#table} WHERE key = $1 AND value = $2`, [key, pending(by)]);
  }

  /** The pool belongs to its stores and is closed with them. */
  async close(): Promise<void> {}

  async #put({ text, values }: Statement): Promise<void> {
    await this.#server.change(text, values);
  }

  #entry(key: string, value: string, ttl_ms: number): Statement {
    return {
      text: `INSERT INTO ${this.#table} VALUES ($1, $2, clock_timestamp() + ${interval("$3")}) ${REPLACING}`,
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

/** Python takes a status that it doesn't know for "not known yet". */
function pending(by: string): string {
  return `{"status": "pending", "by": ${JSON.stringify(by)}}`;
}

function succeeded(result: unknown): string {
  return `{"status": "success", "result": ${toJsonText((result ?? null) as WireValue)}}`;
}

function entryOf(text: string): IdempotencyEntry {
  const value = parseJson(text) as { readonly status?: unknown; readonly result?: unknown };
  if (value.status === "success") return { state: "success", result: value.result ?? null };
  return { state: value.status === "error" ? "error" : "pending" };
}
