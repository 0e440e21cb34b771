import { isoOfEpoch } from "../messages/datetime.ts";
import { parseJson, toJsonText, type WireObject } from "../messages/json.ts";
import { failedStream, positionStream, recoveryCheckpointStream } from "../messages/names.ts";
import type { Clock } from "../ports/clock.ts";
import type { Append, EventStore, StoredMessage } from "../ports/event-store.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";

const PAGE = 1_000;

/** A position whose handling is still owed. */
export interface Unresolved {
  readonly position: number;
  /** Retries used; -1 for a message that was set aside behind a failed one of its stream and has not run yet. */
  readonly retryCount: number;
  readonly stream: string;
  readonly streamPosition: number;
}

/** What the records say of the message concerned; extra keys are ours and are ignored by Python. */
export interface FailureFacts {
  readonly messageType: string;
  readonly messageId: string;
  readonly error?: { readonly class: string; readonly message: string };
}

/**
 * The durable state of one event-store subscription, kept in three streams of the store itself exactly as Python writes them
 * (wire-format §9, subscriptions.md §3.1):
 *
 * position-…             `Read` {position}: the last one is the cursor
 * failed-…               `Failed` / `Resolved` / `Exhausted`: the history of positions that failed
 * recovery-checkpoint-…  `Checkpoint` {watermark, unresolved}: where a start may begin to read `failed-…`
 *
 * A failure is recorded before the cursor passes it (G7): a kill between the two leads to a second run, never to a skip.
 */
export class RecoveryLedger {
  readonly #store: EventStore;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #log: Log;
  readonly #category: string;
  readonly #positions: string;
  readonly #failures: string;
  readonly #checkpoints: string;
  readonly unresolved = new Map<number, Unresolved>();
  /** Positions whose failure may be recorded or not: the answer got lost. */
  readonly #unsure = new Set<number>();
  /** Of the position stream, for the guard against a second writer. */
  #positionHead = -1;
  #written = -1;

  constructor(options: {
    readonly store: EventStore;
    readonly subscriber: string;
    readonly category: string;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Log;
  }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#log = options.log;
    this.#category = options.category;
    this.#positions = positionStream(options.subscriber, options.category);
    this.#failures = failedStream(options.subscriber, options.category);
    this.#checkpoints = recoveryCheckpointStream(options.subscriber, options.category);
  }

  /** The cursor as last written; -1 when there is none. */
  get written(): number {
    return this.#written;
  }

  /** Reads the cursor and, with `recovery`, rebuilds what is unresolved; answers the cursor (-1 = start). */
  async load(recovery: boolean): Promise<number> {
    const last = await this.#store.lastOfStream(this.#positions);
    this.#positionHead = last?.position ?? -1;
    this.#written = last === null ? -1 : (numberIn(last, "position") ?? -1);
    if (recovery) await this.#loadUnresolved();
    return this.#written;
  }

  /** Reads what is unresolved and writes nothing. @returns how many records it read, and the position behind them */
  async readUnresolved(): Promise<{ readonly read: number; readonly next: number }> {
    this.unresolved.clear();
    this.#unsure.clear();
    const checkpoint = await this.#store.lastOfStream(this.#checkpoints);
    let next = 0;
    if (checkpoint !== null) {
      const data = objectIn(checkpoint);
      const watermark = data["watermark"];
      next = typeof watermark === "number" && Number.isInteger(watermark) ? watermark : 0;
      for (const [position, value] of Object.entries((data["unresolved"] ?? {}) as Record<string, Record<string, unknown>>)) {
        this.#note(Number(position), value);
      }
    }
    let read = 0;
    for (;;) {
      const page = await this.#store.readStream(this.#failures, next, PAGE);
      for (const row of page) {
        const data = objectIn(row);
        const position = data["position"];
        if (typeof position !== "number") continue;
        if (row.type === "Failed") this.#note(position, data);
        else this.unresolved.delete(position);
      }
      read += page.length;
      next = (page.at(-1)?.position ?? next - 1) + 1;
      if (page.length < PAGE) break;
    }
    return { read, next };
  }

  async #loadUnresolved(): Promise<void> {
    const { read, next } = await this.readUnresolved();
    if (read > 0) await this.#writeCheckpoint(next);
  }

  async #writeCheckpoint(watermark: number): Promise<void> {
    const unresolved: Record<string, WireObject> = {};
    for (const entry of this.unresolved.values()) {
      unresolved[String(entry.position)] = {
        retry_count: entry.retryCount,
        stream_name: entry.stream,
        stream_position: entry.streamPosition,
      };
    }
    await this.#store.append([this.#record(this.#checkpoints, "Checkpoint", { watermark, unresolved }, null)]);
  }

  /** Positions whose message is gone from the store (a restore) are owed no longer. Nobody may run the subscription meanwhile. */
  async forget(positions: readonly number[]): Promise<void> {
    const { next } = await this.readUnresolved();
    for (const position of positions) this.unresolved.delete(position);
    await this.#writeCheckpoint(next);
  }

  #note(position: number, data: Readonly<Record<string, unknown>>): void {
    const { retry_count, stream_name, stream_position } = data;
    if (typeof stream_name !== "string" || typeof stream_position !== "number") {
      this.#log.warning("recovery.record_unreadable", { position, stream: this.#failures });
      return;
    }
    this.unresolved.set(position, {
      position,
      retryCount: typeof retry_count === "number" ? retry_count : 0,
      stream: stream_name,
      streamPosition: stream_position,
    });
  }

  /** Whether a failure of the position is, or may be, recorded without its end. */
  isOpen(position: number): boolean {
    return this.unresolved.has(position) || this.#unsure.has(position);
  }

  /** Records that a position failed, or failed again. */
  async failed(entry: Unresolved, facts: FailureFacts): Promise<void> {
    this.#unsure.add(entry.position);
    await this.#append("Failed", entry, facts);
    this.#unsure.delete(entry.position);
    this.unresolved.set(entry.position, entry);
  }

  async resolved(entry: Unresolved, facts: FailureFacts): Promise<void> {
    await this.#append("Resolved", entry, facts);
    this.unresolved.delete(entry.position);
    this.#unsure.delete(entry.position);
  }

  /** No further retries: this record is the dead letter of an event-store subscription. */
  async exhausted(entry: Unresolved, facts: FailureFacts): Promise<void> {
    await this.#append("Exhausted", entry, facts);
    this.unresolved.delete(entry.position);
    this.#unsure.delete(entry.position);
  }

  async #append(type: string, entry: Unresolved, facts: FailureFacts): Promise<void> {
    const data: Record<string, WireObject[string]> = {
      position: entry.position,
      message_type: facts.messageType,
      message_id: facts.messageId,
      retry_count: entry.retryCount,
      stream_name: entry.stream,
      stream_position: entry.streamPosition,
    };
    if (facts.error !== undefined) data["error"] = { class: facts.error.class, message: facts.error.message };
    await this.#store.append([this.#record(this.#failures, type, data, null)]);
  }

  /**
   * Writes the cursor. The position stream's own version guards it: a former owner that wakes up late finds a newer record and writes nothing.
   * @throws ExpectedVersionError when somebody else wrote since we read it
   */
  async write(cursor: number): Promise<void> {
    if (cursor <= this.#written) return;
    await this.#store.append([this.#record(this.#positions, "Read", { position: cursor }, this.#positionHead)]);
    this.#positionHead += 1;
    this.#written = cursor;
  }

  /**
   * Sets the cursor, backwards too, after a restore. Nobody may run the subscription meanwhile.
   * @throws ExpectedVersionError when somebody wrote since `load`
   */
  async reset(cursor: number): Promise<void> {
    await this.#store.append([this.#record(this.#positions, "Read", { position: cursor }, this.#positionHead)]);
    this.#positionHead += 1;
    this.#written = cursor;
  }

  #record(stream: string, type: string, data: WireObject, expectedVersion: number | null): Append {
    const metadata = {
      headers: { id: this.#random.uuid(), type, time: isoOfEpoch(this.#clock.now_ms()), stream },
      domain: { kind: "READ_POSITION", origin_stream: this.#category },
    };
    return { id: this.#random.uuid(), stream, type, data: toJsonText(data), metadata: toJsonText(metadata), expectedVersion };
  }
}

/** Whether a row is the engine's own bookkeeping or a snapshot: there, but nothing to hand to a handler (known-traps B7, G14). */
export function isBookkeeping(row: StoredMessage): boolean {
  return row.type === "SNAPSHOT" || row.metadata === null || row.metadata.includes('"READ_POSITION"');
}

function objectIn(row: StoredMessage): Record<string, unknown> {
  return parseJson(row.data) as Record<string, unknown>;
}

function numberIn(row: StoredMessage, key: string): number | null {
  const value = objectIn(row)[key];
  return typeof value === "number" ? value : null;
}
