import type { Idempotency, IdempotencyEntry, KeyReservation } from "../../ports/idempotency.ts";
import type { Connection } from "./connection.ts";
import { textOf } from "./replies.ts";
import { RESERVE, UNRESERVE } from "./scripts.ts";

const FAILED = '{"status": "error", "error": "handler_failed"}';

/**
 * Keys of commands as the original keeps them (wire-format §13), with a third state of ours: `{"status": "pending"}` while a command is being
 * submitted. Python takes a status it doesn't know for "not known yet". `by` tells our reservation from one that came after it ran out.
 * A text under the key that can't be read counts as nothing and is replaced.
 */
export class RedisIdempotency implements Idempotency {
  readonly #connection: Connection;
  readonly #ownsConnection: boolean;

  constructor(connection: Connection, ownsConnection: boolean) {
    this.#connection = connection;
    this.#ownsConnection = ownsConnection;
  }

  async reserve({ key, by }: KeyReservation, ttl_ms: number): Promise<IdempotencyEntry> {
    let unreadable = "";
    for (;;) {
      const known = await this.#connection.run(RESERVE, [keyOf(key)], [pending(by), Math.ceil(ttl_ms), unreadable]);
      if (known === null) return { state: "reserved" };
      const entry = entryOf(textOf(known));
      if (entry !== null) return entry;
      unreadable = textOf(known);
    }
  }

  async get(key: string): Promise<IdempotencyEntry | null> {
    const known = await this.#connection.call("get", [keyOf(key)]);
    return known === null ? null : entryOf(textOf(known));
  }

  async succeed(key: string, result: unknown, ttl_ms: number): Promise<void> {
    const text = `{"status": "success", "result": ${JSON.stringify(result) ?? "null"}}`;
    await this.#connection.call("set", [keyOf(key), text, "PX", Math.ceil(ttl_ms)]);
  }

  async fail(key: string, ttl_ms: number): Promise<void> {
    await this.#connection.call("set", [keyOf(key), FAILED, "PX", Math.ceil(ttl_ms)]);
  }

  async release({ key, by }: KeyReservation): Promise<void> {
    await this.#connection.run(UNRESERVE, [keyOf(key)], [pending(by)]);
  }

  async close(): Promise<void> {
    if (this.#ownsConnection) await this.#connection.close();
  }
}

function pending(by: string): string {
  return `{"status": "pending", "by": ${JSON.stringify(by)}}`;
}

function keyOf(key: string): string {
  return `idempotency:${key}`;
}

function entryOf(text: string): IdempotencyEntry | null {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof stored !== "object" || stored === null) return null;
  const { status, result } = stored as { readonly status?: unknown; readonly result?: unknown };
  if (status === "success") return { state: "success", result: result ?? null };
  if (status === "error") return { state: "error" };
  return status === "pending" ? { state: "pending" } : null;
}
