import { isoOfEpoch } from "../messages/datetime.ts";
import { describeError, encodeDeadLetter } from "../messages/dead-letter.ts";
import { deadLetterStream, replayStream } from "../messages/names.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Log } from "../ports/log.ts";
import type { Labels, Telemetry } from "../ports/telemetry.ts";
import { nameAndMessage } from "./delivery.ts";
import type { HeldEntries } from "./held-entries.ts";
import type { HeldEntry } from "./stream-entry.ts";
import { stageOf } from "./stream-entry.ts";

const WRITE_RETRY_ms = 500;
const HAND_BACK_BATCH = 500;

/** What the settlement needs of the subscription whose entries it settles. */
export interface Settling {
  /** False while the lease isn't safely ours: what we hold is the next owner's to settle then. */
  mayWrite(): boolean;
  /** The next entry of its source stream may run. */
  release(entry: HeldEntry): void;
  /** The same, from outside of a run: nobody is about to look for the next entry. */
  releaseAndGoOn(entry: HeldEntry): void;
  /** Its dead letter couldn't be written; that is to be tried again after the delay between attempts (G6). */
  later(entry: HeldEntry): void;
  /** A write ended, well or not. */
  written(): void;
  /** A write failed; it is tried again. */
  trouble(error: unknown): void;
}

/**
 * The ways out for entries of one consumer: acknowledged, dead-lettered or handed back. Nothing is written about an entry that somebody else has.
 *
 * A kill before one of these writes leaves the entry pending under a dead consumer's name, and the next one takes it over; a dead letter and its
 * acknowledgement are one step of the broker (C13).
 */
export class Settlement {
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #labels: Labels;
  readonly #held: HeldEntries;
  readonly #subscription: Settling;
  readonly #handler: string;
  readonly #stream: string;
  readonly #group: string;
  readonly #consumer: string;
  readonly #replayStream: string;
  readonly #deadLetterStream: string;
  readonly #enableDeadLetters: boolean;
  readonly #leavesTraces: boolean;
  /** Attempts counter of what was given up: whoever takes it over doesn't run it again. */
  readonly #spent: number;
  /** Done in this turn of the loop, to be acknowledged at its end. */
  #finished: HeldEntry[] = [];
  #unacknowledged: HeldEntry[] = [];
  #writes = 0;
  #settled = 0;
  #deadLettered = 0;
  #closed = false;

  constructor(options: {
    readonly broker: Broker;
    readonly clock: Clock;
    readonly log: Log;
    readonly telemetry: Telemetry;
    readonly labels: Labels;
    readonly held: HeldEntries;
    readonly subscription: Settling;
    readonly handler: string;
    readonly stream: string;
    readonly group: string;
    readonly consumer: string;
    readonly enableDeadLetters: boolean;
    readonly maxRuns: number;
    /** Messages leave traces, payloads of subscribers don't. */
    readonly leavesTraces: boolean;
  }) {
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#telemetry = options.telemetry;
    this.#labels = options.labels;
    this.#held = options.held;
    this.#subscription = options.subscription;
    this.#handler = options.handler;
    this.#stream = options.stream;
    this.#group = options.group;
    this.#consumer = options.consumer;
    this.#replayStream = replayStream(options.stream, options.group);
    this.#deadLetterStream = deadLetterStream(options.stream);
    this.#enableDeadLetters = options.enableDeadLetters;
    this.#leavesTraces = options.leavesTraces;
    this.#spent = Math.max(options.maxRuns, 2);
  }

  /** Writes under way, and acknowledgements that the end of this turn will write. */
  get writes(): number {
    return this.#writes;
  }

  /** Entries acknowledged or dead-lettered so far. */
  get settled(): number {
    return this.#settled;
  }

  get deadLettered(): number {
    return this.#deadLettered;
  }

  /** Failed writes are not tried again any more. */
  close(): void {
    this.#closed = true;
  }

  /** At the end of this turn of the loop, together with all others of the turn (D46). */
  acknowledge(entry: HeldEntry): void {
    if (entry.lost || !this.#subscription.mayWrite()) {
      this.#held.forget(entry);
      return;
    }
    entry.acknowledging = true;
    this.#finished.push(entry);
    if (this.#finished.length > 1) return;
    this.#writes += 1;
    void this.#clock.turn().then(() => this.#endTurn());
  }

  /** At once: they were never run, so no turn has to be waited for. */
  acknowledgeNow(entries: readonly HeldEntry[]): void {
    for (const entry of entries) entry.acknowledging = true;
    this.#write(entries);
  }

  #endTurn(): void {
    const entries = this.#finished;
    this.#finished = [];
    this.#writes -= 1;
    // With the lease lost in between, they are the next owner's.
    for (const entry of entries) if (entry.lost) this.#held.forget(entry);
    this.#write(entries.filter((entry) => !entry.lost));
    this.#subscription.written();
  }

  #write(entries: readonly HeldEntry[]): void {
    const [first] = entries;
    if (first === undefined) return;
    const { stream } = first;
    let same = entries;
    if (entries.some((entry) => entry.stream !== stream)) {
      same = entries.filter((entry) => entry.stream === stream);
      this.#write(entries.filter((entry) => entry.stream !== stream));
    }
    const ids = same.map((entry) => entry.id);
    this.#writes += 1;
    this.#broker.acknowledge(stream, this.#group, ids).then(
      (acknowledged) => {
        this.#writes -= 1;
        this.#acknowledged(same);
        if (acknowledged < ids.length) {
          // Taken by somebody else, or the group was made anew: the effect is done, at least once is kept.
          this.#telemetry.count("protean_subscription_late_acknowledgements_total", this.#labels, ids.length - acknowledged);
          this.#log.debug("subscription.late_acknowledgement", { ids });
        }
        if (stream === this.#replayStream) this.#removeReplayed(ids);
        this.#subscription.written();
      },
      (error: unknown) => {
        this.#writes -= 1;
        this.#subscription.trouble(error);
        if (this.#unacknowledged.length === 0) this.#clock.timer(WRITE_RETRY_ms, () => this.#writeAgain());
        this.#unacknowledged.push(...same);
        this.#subscription.written();
      },
    );
  }

  #acknowledged(entries: readonly HeldEntry[]): void {
    this.#settled += entries.length;
    const isTracing = this.#leavesTraces && this.#telemetry.isTracing !== false;
    for (const entry of entries) {
      this.#held.forget(entry);
      // Ignored entries leave no trace: they were never decoded.
      if (isTracing && entry.used > 0) {
        this.#telemetry.trace({ ...stageOf(entry, this.#handler, this.#consumer), event: "message.acked", status: "ok" });
      }
    }
  }

  #writeAgain(): void {
    const again = this.#unacknowledged.filter((entry) => !entry.lost);
    this.#unacknowledged = [];
    if (!this.#closed) this.#write(again);
  }

  #removeReplayed(ids: readonly string[]): void {
    this.#broker.remove(this.#replayStream, ids).catch((error: unknown) => {
      this.#log.debug("subscription.replayed_entry_left", { ids, error: nameAndMessage(error) });
    });
  }

  /**
   * No further attempts.
   * @param settled resolves when the run, which still goes on, has ended: its source stream goes on then, and when the dead letter is written
   */
  giveUp(entry: HeldEntry, error: unknown, settled: Promise<void> | null): void {
    if (entry.lost || !this.#subscription.mayWrite()) {
      this.#held.forget(entry);
      this.#subscription.release(entry);
      return;
    }
    if (!this.#enableDeadLetters) {
      this.#log.warning("subscription.discarded_without_dead_letter", {
        id: entry.id,
        attempts: entry.used,
        error: nameAndMessage(error),
      });
      this.acknowledge(entry);
      if (settled === null) this.#subscription.release(entry);
      else void settled.then(() => this.#subscription.releaseAndGoOn(entry));
      return;
    }
    const undecodable = entry.content.kind === "undecodable";
    entry.letter = {
      error,
      fields: encodeDeadLetter({
        originalText: entry.text,
        rawFields: undecodable || entry.text === null ? entry.rawFields : undefined,
        originalStream: this.#stream,
        originalId: entry.id,
        consumerGroup: this.#group,
        consumer: this.#consumer,
        failedAt: isoOfEpoch(this.#clock.now_ms()),
        retryCount: entry.used,
        error: describeError(error, entry.failures),
      }),
    };
    void this.sendDeadLetter(entry, settled);
  }

  /** Writes the dead letter that `giveUp` made; a dead-letter stream that can't take it is tried again later (G6). */
  async sendDeadLetter(entry: HeldEntry, settled: Promise<void> | null): Promise<void> {
    const { letter } = entry;
    if (letter === null || entry.lost) {
      this.#held.forget(entry);
      this.#subscription.releaseAndGoOn(entry);
      return;
    }
    this.#writes += 1;
    try {
      await this.#broker.deadLetter({
        stream: entry.stream,
        group: this.#group,
        id: entry.id,
        deadLetterStream: this.#deadLetterStream,
        fields: letter.fields,
      });
    } catch (error) {
      this.#writes -= 1;
      this.#log.warning("subscription.dead_letter_failed", { id: entry.id, error: nameAndMessage(error) });
      this.#telemetry.count("protean_subscription_dead_letter_failures_total", this.#labels);
      this.#subscription.later(entry);
      this.#subscription.written();
      return;
    }
    this.#writes -= 1;
    this.#deadLettered += 1;
    this.#settled += 1;
    this.#held.forget(entry);
    this.#telemetry.count("protean_subscription_dlq_routed_total", this.#labels);
    this.#telemetry.trace({
      ...stageOf(entry, this.#handler, this.#consumer),
      event: "message.dlq",
      status: "error",
      error: nameAndMessage(letter.error),
      metadata: { dlq_stream: this.#deadLetterStream, retry_count: entry.used },
    });
    this.#log.warning("subscription.dead_letter", {
      id: entry.id,
      dead_letter_stream: this.#deadLetterStream,
      attempts: entry.used,
      error: nameAndMessage(letter.error),
    });
    if (entry.stream === this.#replayStream) this.#removeReplayed([entry.id]);
    if (settled !== null) await settled;
    this.#subscription.releaseAndGoOn(entry);
    this.#subscription.written();
  }

  /** Lets others take them at once, with the exact number of attempts that they used (G4). */
  handBack(entries: readonly HeldEntry[]): void {
    const byStream = new Map<string, { readonly id: string; readonly attempt: number }[]>();
    for (const entry of entries) {
      this.#held.forget(entry);
      if (entry.lost || entry.acknowledging) continue;
      const list = byStream.get(entry.stream) ?? [];
      // One that was given up must not run again, only be dead-lettered.
      list.push({ id: entry.id, attempt: entry.letter === null ? entry.used : Math.max(entry.used, this.#spent) });
      byStream.set(entry.stream, list);
    }
    for (const [stream, list] of byStream) {
      for (let at = 0; at < list.length; at += HAND_BACK_BATCH) {
        this.#writes += 1;
        this.#broker
          .handBack(stream, this.#group, this.#consumer, list.slice(at, at + HAND_BACK_BATCH))
          .catch((error: unknown) => {
            // They stay pending for a consumer that will be dead soon: the others find them by that.
            this.#log.warning("subscription.hand_back_failed", { stream, entries: list.length, error: nameAndMessage(error) });
          })
          .finally(() => {
            this.#writes -= 1;
            this.#subscription.written();
          });
      }
    }
  }
}
