import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { HeldEntry } from "./stream-entry.ts";

/**
 * What was neither read nor refreshed within this time may belong to somebody else: a heartbeat lives 10 s, so a process that was stopped for longer
 * is taken for dead. It is asked about before it runs (rulings 3).
 */
const TRUST_ms = 8_000;

/** Everything that is pending under the name of one consumer, as far as it knows, by stream and id. */
export class HeldEntries {
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #stream: string;
  readonly #group: string;
  readonly #consumer: string;
  readonly #trust_ms: number;
  readonly #entries = new Map<string, HeldEntry>();
  #refreshing = false;
  #refreshedAt_ms = 0;

  constructor(options: {
    readonly broker: Broker;
    readonly clock: Clock;
    /** The stream that nearly all entries are of. */
    readonly stream: string;
    readonly group: string;
    readonly consumer: string;
    readonly claimIdle_ms: number;
  }) {
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#stream = options.stream;
    this.#group = options.group;
    this.#consumer = options.consumer;
    this.#trust_ms = Math.min(TRUST_ms, options.claimIdle_ms / 2);
  }

  get size(): number {
    return this.#entries.size;
  }

  [Symbol.iterator](): IterableIterator<HeldEntry> {
    return this.#entries.values();
  }

  add(entry: HeldEntry): void {
    this.#entries.set(this.#keyOf(entry.stream, entry.id), entry);
  }

  /**
   * Whether an entry is in hand. One that was lost is not, although its run may still go on: with the lease back it is taken again, and waits behind
   * that run as the first of its source stream.
   */
  has(stream: string, id: string): boolean {
    return this.#entries.get(this.#keyOf(stream, id))?.lost === false;
  }

  /** Whether this very object is still the one in hand. */
  includes(entry: HeldEntry): boolean {
    return this.#entries.get(this.#keyOf(entry.stream, entry.id)) === entry;
  }

  forget(entry: HeldEntry): void {
    const key = this.#keyOf(entry.stream, entry.id);
    if (this.#entries.get(key) === entry) this.#entries.delete(key);
  }

  /** What is in hand now needs no asking for a while: nobody else can have taken it. */
  trust(): void {
    this.#refreshedAt_ms = this.#clock.monotonic_ms();
  }

  /** Whether an entry is ours beyond doubt, so that it may run without asking. */
  isSurelyOurs(entry: HeldEntry, now_ms: number): boolean {
    return entry.orphan || now_ms - Math.max(entry.ownedAt_ms, this.#refreshedAt_ms) <= this.#trust_ms;
  }

  /**
   * Tells the broker that we are alive with all that we hold, and marks what isn't ours any more as lost. Answers how many were lost; null when a
   * refresh is under way already.
   * @throws ConnectionError
   */
  async refresh(): Promise<number | null> {
    if (this.#refreshing) return null;
    this.#refreshing = true;
    const asked_ms = this.#clock.monotonic_ms();
    try {
      const byStream = new Map<string, string[]>();
      for (const entry of this.#entries.values()) {
        if (entry.lost || entry.acknowledging) continue;
        const ids = byStream.get(entry.stream);
        if (ids === undefined) byStream.set(entry.stream, [entry.id]);
        else ids.push(entry.id);
      }
      let lost = 0;
      for (const [stream, ids] of byStream) {
        const kept = new Set(await this.#broker.refresh(stream, this.#group, this.#consumer, ids));
        for (const id of ids) {
          const entry = kept.has(id) ? undefined : this.#entries.get(this.#keyOf(stream, id));
          if (entry === undefined || entry.acknowledging || entry.orphan || entry.lost) continue;
          entry.lost = true;
          lost += 1;
        }
      }
      this.#refreshedAt_ms = asked_ms;
      return lost;
    } finally {
      this.#refreshing = false;
    }
  }

  /** An id is unique inside its stream only. */
  #keyOf(stream: string, id: string): string {
    return stream === this.#stream ? id : `${stream}|${id}`;
  }
}
