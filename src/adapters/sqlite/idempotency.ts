import { parseJson, toJsonText, type WireValue } from "../../messages/json.ts";
import { ReservationLostError, type SucceededKey } from "../../ports/database.ts";
import type { Idempotency, IdempotencyEntry, KeyReservation } from "../../ports/idempotency.ts";
import type { Connection } from "./connection.ts";
import type { SqliteFile } from "./file.ts";

/** Entries that ran out are swept a few at a time, so that no call pays for many. */
const SWEEP_rows = 20;

const FAILED = '{"status": "error", "error": "handler_failed"}';

export class SqliteIdempotency implements Idempotency {
  readonly #file: SqliteFile;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  reserve({ key, by }: KeyReservation, ttl_ms: number): Promise<IdempotencyEntry> {
    return this.#file.writeDurably((connection) => {
      const now_ms = this.#file.clock.now_ms();
      const value = connection.get<{ value: string }>(
        "SELECT value FROM protean_idempotency WHERE key = ? AND expires_ms > ?",
        key,
        now_ms,
      )?.value;
      if (value !== undefined) return entryOf(value);
      connection.run(
        "DELETE FROM protean_idempotency WHERE key IN (SELECT key FROM protean_idempotency WHERE expires_ms <= ? LIMIT ?)",
        now_ms,
        SWEEP_rows,
      );
      connection.run("INSERT OR REPLACE INTO protean_idempotency VALUES (?, ?, ?)", key, pending(by), now_ms + ttl_ms);
      return { state: "reserved" };
    });
  }

  get(key: string): Promise<IdempotencyEntry | null> {
    return this.#file.read((connection) => {
      const value = connection.get<{ value: string }>(
        "SELECT value FROM protean_idempotency WHERE key = ? AND expires_ms > ?",
        key,
        this.#file.clock.now_ms(),
      )?.value;
      return value === undefined ? null : entryOf(value);
    });
  }

  succeed(key: string, result: unknown, ttl_ms: number): Promise<void> {
    return this.#file.writeDurably((connection) => writeSucceeded(connection, { key, result, ttl_ms }, this.#file.clock.now_ms()));
  }

  fail(key: string, ttl_ms: number): Promise<void> {
    return this.#put(key, FAILED, ttl_ms);
  }

  release({ key, by }: KeyReservation): Promise<void> {
    return this.#file.writeQuickly((connection) => {
      connection.run("DELETE FROM protean_idempotency WHERE key = ? AND value = ?", key, pending(by));
    });
  }

  /** The file belongs to its stores and is closed with them. */
  async close(): Promise<void> {}

  #put(key: string, value: string, ttl_ms: number): Promise<void> {
    return this.#file.writeDurably((connection) => {
      connection.run("INSERT OR REPLACE INTO protean_idempotency VALUES (?, ?, ?)", key, value, this.#file.clock.now_ms() + ttl_ms);
    });
  }
}

function writeSucceeded(connection: Connection, entry: Omit<SucceededKey, "reservation">, now_ms: number): void {
  connection.run("INSERT OR REPLACE INTO protean_idempotency VALUES (?, ?, ?)", entry.key, succeeded(entry), now_ms + entry.ttl_ms);
}

/** Part of a transaction: the key's command is stored. @throws ReservationLostError */
export function noteStored(connection: Connection, entry: SucceededKey, now_ms: number): void {
  const { key, by } = entry.reservation;
  const isOurs = connection.get("SELECT 1 FROM protean_idempotency WHERE key = ? AND value = ?", key, pending(by)) !== undefined;
  if (!isOurs) throw new ReservationLostError(entry.key);
  writeSucceeded(connection, entry, now_ms);
}

/** Python takes a status that it doesn't know for "not known yet". */
function pending(by: string): string {
  return `{"status": "pending", "by": ${JSON.stringify(by)}}`;
}

function succeeded({ result }: { readonly result: unknown }): string {
  return `{"status": "success", "result": ${toJsonText((result ?? null) as WireValue)}}`;
}

function entryOf(text: string): IdempotencyEntry {
  const value = parseJson(text) as { readonly status?: unknown; readonly result?: unknown };
  if (value.status === "success") return { state: "success", result: value.result ?? null };
  return { state: value.status === "error" ? "error" : "pending" };
}
