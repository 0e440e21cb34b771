import { ConnectionError } from "../errors.ts";
import { decodeMetadata, encodeExternalMetadata, joinMessage } from "../messages/envelope.ts";
import { categoryOf } from "../messages/names.ts";
import type { Broker, OutgoingEntry } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import type { Log } from "../ports/log.ts";
import type { OutboxOutcome, OutboxRow } from "../ports/outbox-store.ts";
import type { Random } from "../ports/random.ts";
import type { Telemetry } from "../ports/telemetry.ts";
import type { LeaseKeeper } from "./lease-keeper.ts";
import { LeasedLoop, messageOf } from "./leased-loop.ts";
import type { Activity, Service, ServiceStatus } from "./service.ts";
import type { OutboxSettings } from "./settings.ts";

/** Without a wake the table is looked at this often: rows of writers that can't wake us, claims of others that ran out. */
const NET_ms = 2_000;

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer Item)[] ? Item[] : T[K] };

/**
 * Publishes the outbox of one database to one broker. Exactly one engine does so at a time, by lease, so that the order of a source
 * stream survives any number of engines (rulings 27).
 *
 * standby      another engine holds the lease
 * claiming     asks for the oldest publishable rows of each source stream; none: sleeps until woken or something is due
 * publishing   hands the whole batch to the broker, all or nothing; a batch that is refused is halved down to the row at fault, and rows behind it
 *              in its source stream are given back, never sent ahead of it
 * settling     marks what was published, failed, abandoned or given back, in one transaction; tried until it is written or the lease is lost
 * unreachable  the broker is away: all claims are given back, no attempt is used up (W20); tries again after growing pauses
 * stopping     ends after the batch in hand
 *
 * What a kill leaves: before publishing, claims that the next owner frees at once because their owner name is one of ours and it holds the
 * lease; between publishing and settling, entries that will be published once more with the same message ids (C8); after settling, nothing.
 */
export class OutboxProcessor implements Service {
  readonly name: string;
  readonly #database: Database;
  readonly #broker: Broker;
  readonly #external: boolean;
  readonly #settings: OutboxSettings;
  readonly #loop: LeasedLoop;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #activity: Activity;
  /** Claims carry it; the part before the instance is the same in every engine, so a successor knows a predecessor's claims. */
  readonly #owner: string;
  #cleanupDue_ms: number;
  #published = 0;
  #failed = 0;
  #abandoned = 0;
  #inFlight = 0;

  constructor(options: {
    readonly database: Database;
    readonly broker: Broker;
    readonly external: boolean;
    readonly settings: OutboxSettings;
    readonly instanceId: string;
    readonly keeper: LeaseKeeper;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Log;
    readonly telemetry: Telemetry;
    readonly activity: Activity;
  }) {
    this.name = `outbox-processor-${options.database.name}-to-${options.broker.name}${options.external ? "-external" : ""}`;
    this.#database = options.database;
    this.#broker = options.broker;
    this.#external = options.external;
    this.#settings = options.settings;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#log = options.log.with({ processor: this.name });
    this.#telemetry = options.telemetry;
    this.#activity = options.activity;
    this.#owner = `${this.name}:${options.instanceId}`;
    this.#loop = new LeasedLoop({
      name: this.name,
      work: { begin: () => this.#freePredecessors(), turn: () => this.#turn(), end: () => Promise.resolve() },
      keeper: options.keeper,
      leases: options.database.leases,
      leaseName: `outbox:${options.database.name}:${options.broker.name}`,
      clock: options.clock,
      random: options.random,
      log: options.log,
      what: { processor: this.name, broker: options.broker.address },
      activity: options.activity,
    });
    this.#cleanupDue_ms = options.clock.monotonic_ms() + options.settings.cleanup.interval_ms;
  }

  start(): Promise<void> {
    this.#loop.start((wake) => this.#database.outbox.onInsert(wake));
    return Promise.resolve();
  }

  /** Committed work goes on being published while the engine drains. */
  quiesce(): void {}

  stop(_signal: AbortSignal): Promise<void> {
    return this.#loop.stop();
  }

  idleFor_ms(): number {
    return this.#loop.idleFor_ms();
  }

  status(): ServiceStatus {
    const { lastError, state, unreachable } = this.#loop;
    return {
      name: this.name,
      kind: "outbox",
      handler: `${this.#database.name} -> ${this.#broker.name}`,
      stream: "outbox",
      group: null,
      state,
      reason: unreachable ?? (state === "standby" ? "another engine publishes this outbox" : null),
      handled: this.#published,
      failed: this.#failed,
      retried: this.#failed,
      deadLettered: this.#abandoned,
      ignored: 0,
      inFlight: this.#inFlight,
      parked: 0,
      lastError,
      circuit: null,
      slow: null,
    };
  }

  /** Whoever of us held claims before holds them no more: the lease says so. Claims of other programs (Python) are left to run out. */
  async #freePredecessors(): Promise<void> {
    for (const owner of await this.#database.outbox.owners()) {
      if (owner === this.#owner || !owner.startsWith(`${this.name}:`)) continue;
      const rows = await this.#database.outbox.releaseOwner(owner);
      if (rows > 0) this.#log.info("outbox.claims_released", { owner, rows });
    }
  }

  async #turn(): Promise<void> {
    if (await this.#publishBatch()) {
      this.#activity.productive(this.name);
      return;
    }
    await this.#cleanup();
    const due_ms = await this.#database.outbox.nextDue_ms(this.#broker.name);
    this.#activity.empty(this.name, due_ms);
    await this.#loop.rest(Math.min(NET_ms, due_ms ?? NET_ms));
  }

  /** Answers whether anything became of a row. */
  async #publishBatch(): Promise<boolean> {
    const rows = await this.#database.outbox.claim({
      broker: this.#broker.name,
      limit: this.#settings.messagesPerTick,
      owner: this.#owner,
      lock_ms: this.#settings.lock_ms,
    });
    if (rows.length === 0) return false;
    this.#inFlight = rows.length;
    const outcome: Mutable<OutboxOutcome> = { published: [], failed: [], abandoned: [], released: [] };
    const held = new Set<string>();
    let away: unknown = null;
    try {
      await this.#publish(rows, outcome, held);
    } catch (error) {
      away = error;
      const settled = new Set([...outcome.published.map((row) => row.id), ...outcome.failed.map((row) => row.id)]);
      for (const row of outcome.abandoned) settled.add(row.id);
      outcome.released = rows.flatMap((row) => (settled.has(row.id) ? [] : [row.id]));
    }
    await this.#settle(outcome);
    this.#inFlight = 0;
    this.#report(rows, outcome);
    if (away !== null) throw away;
    return outcome.published.length + outcome.failed.length + outcome.abandoned.length > 0;
  }

  /**
   * Publishes rows in order. `held` are source streams with a row that failed in this batch.
   * @throws ConnectionError when the broker is away; `outcome` then holds what was settled before
   */
  async #publish(rows: readonly OutboxRow[], outcome: Mutable<OutboxOutcome>, held: Set<string>): Promise<void> {
    const sendable: OutboxRow[] = [];
    const entries: OutgoingEntry[] = [];
    for (const row of rows) {
      if (held.has(row.streamName)) {
        outcome.released.push(row.id);
        continue;
      }
      try {
        entries.push(this.#entryOf(row));
        sendable.push(row);
      } catch (error) {
        // Can never be published: set aside at once, without delaying what is behind it (G11).
        outcome.abandoned.push({ id: row.id, error: messageOf(error), reason: "Unpublishable" });
      }
    }
    if (sendable.length === 0) return;
    try {
      const ids = await this.#broker.publish(entries);
      for (const [index, row] of sendable.entries()) outcome.published.push({ id: row.id, entryId: ids[index] ?? "" });
    } catch (error) {
      if (error instanceof ConnectionError) throw error;
      const [only] = sendable;
      if (sendable.length > 1 || only === undefined) {
        const half = sendable.length >> 1;
        await this.#publish(sendable.slice(0, half), outcome, held);
        await this.#publish(sendable.slice(half), outcome, held);
        return;
      }
      held.add(only.streamName);
      const attempt = only.retryCount + 1;
      if (attempt >= this.#settings.retry.maxAttempts) {
        outcome.abandoned.push({ id: only.id, error: messageOf(error), reason: "Max retries exceeded" });
      } else {
        outcome.failed.push({
          id: only.id,
          error: messageOf(error),
          retryIn_ms: outboxRetryWait_ms(attempt, this.#settings.retry, this.#random),
        });
      }
    }
  }

  /** @throws DeserializationError, InvalidDataError when the row can't become a message */
  #entryOf(row: OutboxRow): OutgoingEntry {
    const metadata = decodeMetadata(row.metadata);
    const stream = metadata.domain.stream_category;
    if (stream === null) throw new Error("the row names no stream category to publish to");
    const text = joinMessage(row.data, this.#external ? encodeExternalMetadata(metadata) : row.metadata);
    return { stream, fields: { data: text } };
  }

  /** What reached the broker must be marked, or it is sent again: so this goes on until it is written or the lease is gone. */
  async #settle(outcome: OutboxOutcome): Promise<void> {
    for (;;) {
      try {
        await this.#database.outbox.settle(this.#owner, outcome);
        return;
      } catch (error) {
        if (!this.#loop.isOwner) throw error;
        await this.#loop.pauseAfter(error);
      }
    }
  }

  #report(rows: readonly OutboxRow[], outcome: OutboxOutcome): void {
    this.#published += outcome.published.length;
    this.#failed += outcome.failed.length;
    this.#abandoned += outcome.abandoned.length;
    const broker = this.#broker.name;
    if (outcome.published.length > 0) this.#telemetry.count("outbox.published", { broker }, outcome.published.length);
    const byId = new Map(rows.map((row) => [row.id, row]));
    const prefix = this.#external ? "outbox.external_" : "outbox.";
    for (const { id, entryId } of outcome.published) this.#trace(byId.get(id), `${prefix}published`, "ok", null, entryId);
    for (const { id, error } of [...outcome.failed, ...outcome.abandoned]) {
      this.#loop.noteError(error);
      this.#telemetry.count("outbox.failed", { broker });
      this.#log.warning("outbox.publish_failed", { message_id: byId.get(id)?.messageId, error });
      this.#trace(byId.get(id), `${prefix}failed`, "error", error);
    }
    if (outcome.published.length > 0) {
      this.#log.debug("outbox.batch_completed", {
        total: rows.length,
        successful: outcome.published.length,
        failed: outcome.failed.length,
      });
    }
  }

  /** `entry_id` is ours: with it, whoever follows a message finds its entry in the broker's stream. */
  #trace(row: OutboxRow | undefined, event: string, status: string, error: string | null, entryId?: string): void {
    if (row === undefined) return;
    this.#telemetry.trace({
      event,
      stream: categoryOf(row.streamName),
      message_id: row.messageId,
      message_type: row.type,
      status,
      error,
      metadata: error === null ? { entry_id: entryId ?? null } : { retry_count: row.retryCount + 1 },
      payload: error === null ? row.data : null,
      worker_id: this.name,
      correlation_id: row.correlationId,
      causation_id: row.causationId,
    });
  }

  async #cleanup(): Promise<void> {
    const { cleanup } = this.#settings;
    if (this.#clock.monotonic_ms() < this.#cleanupDue_ms) return;
    const total = await this.#database.outbox.cleanup({
      published_ms: cleanup.published_ms,
      abandoned_ms: cleanup.abandoned_ms,
      limit: cleanup.batch,
    });
    // A full batch means there is more: go on with the next idle turn, not in one long transaction.
    this.#cleanupDue_ms = this.#clock.monotonic_ms() + (total >= cleanup.batch ? 0 : cleanup.interval_ms);
    if (total > 0) this.#log.info("outbox.cleanup_completed", { total });
  }
}

/**
 * Wait after the `attempt`-th failure (first = 1): `base · multiplier^(attempt−1)`, capped, then spread uniformly by ± `jitterFactor`. These are
 * the documented keys; the original reads only two of them (W20).
 * @returns milliseconds
 */
export function outboxRetryWait_ms(attempt: number, retry: OutboxSettings["retry"], random: Random): number {
  const wait_ms = Math.min(retry.baseDelay_ms * retry.multiplier ** (attempt - 1), retry.maxBackoff_ms);
  return wait_ms * (1 + retry.jitterFactor * (2 * random.float() - 1));
}
