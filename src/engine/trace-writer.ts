import { isoOfEpoch } from "../messages/datetime.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Log } from "../ports/log.ts";
import type { Labels, Telemetry, TraceEvent } from "../ports/telemetry.ts";
import type { Counters } from "./counters.ts";

/** Events that may wait for the broker; beyond it the oldest go. */
const QUEUE_MAX = 10_000;
/** One pipeline; more would hold up the acknowledgements behind it. */
const WRITE_MAX = 1_000;
/** After a failed write. */
const PAUSE_ms = 1_000;
/** Without a trace stream: how often we look whether somebody listens on the channel. */
const ASK_ms = 2_000;
/** `close` waits this long for the last ones. */
const CLOSE_ms = 300;

type StampedEvent = TraceEvent & { readonly timestamp: string };

/**
 * Counts in memory and sends trace events to the broker, where they stand beside Python's.
 *
 * Events of one turn of the loop go out in one call, one call at a time; while one is under way the next collect. Nothing here throws or is waited
 * for: a broker that is away costs the oldest events, which are counted (`protean_traces_dropped_total`), and nothing else.
 */
export class TraceWriter implements Telemetry {
  readonly counters: Counters;
  readonly #broker: Broker | null;
  readonly #domain: string;
  readonly #retention_days: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #listeners = new Set<(event: StampedEvent) => void>();
  #queue: StampedEvent[] = [];
  #writing: Promise<void> | null = null;
  #failing = false;
  #closed = false;
  /** Somebody listens on the broker's channel; true until we know better. */
  #isListened = true;
  #askedAt_ms = 0;
  #asking = false;

  /** @param options.broker where traces go; null = nowhere, only listeners of this process get them */
  constructor(options: {
    readonly broker: Broker | null;
    /** As given to the Domain, not normalised. */
    readonly domain: string;
    /** 0 = no trace stream; listeners on the channel get them all the same. */
    readonly retention_days: number;
    readonly counters: Counters;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    this.counters = options.counters;
    this.#broker = options.broker;
    this.#domain = options.domain;
    this.#retention_days = options.retention_days;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  /** With nothing kept and nobody there events aren't even built; who begins to listen on the channel gets them after 2 s. */
  get isTracing(): boolean {
    if (this.#closed) return false;
    return this.#listeners.size > 0 || this.#isWritten();
  }

  #isWritten(): boolean {
    if (this.#broker === null) return false;
    if (this.#retention_days > 0 || this.#isListened) return true;
    if (!this.#asking && this.#clock.monotonic_ms() - this.#askedAt_ms >= ASK_ms) void this.#ask(this.#broker);
    return false;
  }

  async #ask(broker: Broker): Promise<void> {
    this.#asking = true;
    try {
      this.#isListened = await broker.writeTraces(this.#domain, [], this.#retention_days);
    } catch {
      // It is away; asked again.
    }
    this.#askedAt_ms = this.#clock.monotonic_ms();
    this.#asking = false;
  }

  trace(event: TraceEvent): void {
    if (!this.isTracing) return;
    const stamped: StampedEvent = { ...event, timestamp: isoOfEpoch(this.#clock.now_ms()) };
    for (const listener of this.#listeners) listener(stamped);
    if (this.#broker === null || !this.#isWritten()) return;
    this.#queue.push(stamped);
    if (this.#queue.length > QUEUE_MAX) {
      const dropped = this.#queue.length - QUEUE_MAX + WRITE_MAX;
      this.#queue.splice(0, dropped);
      this.counters.count("protean_traces_dropped_total", undefined, dropped);
    }
    this.#writing ??= this.#write(this.#broker);
  }

  count(name: string, labels?: Labels, by?: number): void {
    this.counters.count(name, labels, by);
  }

  observe(name: string, value: number, labels?: Labels): void {
    this.counters.observe(name, value, labels);
  }

  /** Gives every event to `listener` too (the dashboard of this process). Returns the way to stop. */
  listen(listener: (event: StampedEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Writes what waits, for at most 300 ms; later events are dropped. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#writing === null) return;
    const waiting = new AbortController();
    await Promise.race([this.#writing, this.#clock.sleep(CLOSE_ms, waiting.signal)]);
    waiting.abort();
    this.#queue = [];
  }

  async #write(broker: Broker): Promise<void> {
    // The rest of this turn's events come along.
    await this.#clock.turn();
    while (this.#queue.length > 0) {
      const events = this.#queue.length <= WRITE_MAX ? this.#queue : this.#queue.slice(0, WRITE_MAX);
      this.#queue = this.#queue.length <= WRITE_MAX ? [] : this.#queue.slice(WRITE_MAX);
      try {
        this.#isListened = await broker.writeTraces(this.#domain, events, this.#retention_days);
        this.#askedAt_ms = this.#clock.monotonic_ms();
        this.#failing = false;
      } catch (error) {
        this.counters.count("protean_traces_dropped_total", undefined, events.length);
        if (!this.#failing) this.#log.warning("traces.not_written", { error: error instanceof Error ? error.message : String(error) });
        this.#failing = true;
        if (this.#closed) break;
        await this.#clock.sleep(PAUSE_ms);
      }
    }
    this.#writing = null;
  }
}
