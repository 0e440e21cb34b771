import { ConnectionError } from "../errors.ts";
import type { Broker, ReadRequest, StreamEntry, Wakeups } from "../ports/broker.ts";
import { CONTROL_STREAM } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { ReconnectPause } from "./reconnect-pause.ts";
import { WakeSignal } from "./wake-signal.ts";

/** One (stream, group) that wants entries. All calls come from the reader's loop; none may throw. */
export interface ReadSource {
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  /** How many entries it would take now; 0 = none. */
  room(): number;
  entries(entries: readonly StreamEntry[]): void;
  /** A read found nothing. */
  empty(): void;
  groupLost(): void;
  /** This source alone can't be read (a key of another type, say); it is tried again with the net. */
  readFailed(error: unknown): void;
  /** The connection broke under a read of this source: entries may have been given to it by an answer that got lost. */
  interrupted(): void;
}

/** Every source is looked at this often, woken or not. */
const DEFAULT_NET_ms = 5_000;
/** A stop waits this long for a read in flight. */
const STOP_ms = 200;

/**
 * Reads all streams of one broker for all subscriptions, in one loop.
 *
 * waiting      no source both wants entries and may have some; ends by a wake-up of a stream, by a source that has room again, or by the net, which
 *              takes every source for interesting once in 5 s because wake-ups can be lost (rulings 22)
 * reading      one call for all interesting sources with room; a source stays interesting until a read of it is empty
 * unreachable  the broker is away: pauses, one log line, then everything is interesting again
 *
 * `protean:control` is among the streams that wake; its notices go to `onControl` listeners.
 */
export class StreamReader {
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #pause: ReconnectPause;
  readonly #net_ms: number;
  readonly #wake: WakeSignal;
  /** Sources to their interest: true = may have something. */
  readonly #sources = new Map<ReadSource, boolean>();
  readonly #byStream = new Map<string, Set<ReadSource>>();
  readonly #controlListeners = new Set<() => void>();
  #wakeups: Wakeups | null = null;
  #loop: Promise<void> | null = null;
  readonly #stopping = new AbortController();
  /** The read under way: whether it was answered. */
  #reading: Promise<boolean> | null = null;
  #netDue_ms = 0;
  #cameRound_ms: number;

  constructor(options: { readonly broker: Broker; readonly clock: Clock; readonly pause: ReconnectPause; readonly net_ms?: number }) {
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#pause = options.pause;
    this.#net_ms = options.net_ms ?? DEFAULT_NET_ms;
    this.#wake = new WakeSignal(options.clock);
    this.#cameRound_ms = options.clock.monotonic_ms();
  }

  /** Why the broker can't be read; null while it can. */
  get unreachable(): string | null {
    return this.#pause.reason;
  }

  idleFor_ms(): number {
    return Math.max(0, this.#clock.monotonic_ms() - this.#cameRound_ms - this.#net_ms);
  }

  add(source: ReadSource): void {
    if (this.#stopping.signal.aborted || this.#sources.has(source)) return;
    this.#sources.set(source, true);
    const same = this.#byStream.get(source.stream);
    if (same === undefined) {
      this.#byStream.set(source.stream, new Set([source]));
      this.#wakeups?.add(source.stream);
    } else same.add(source);
    this.#start();
    this.#wake.wake();
  }

  remove(source: ReadSource): void {
    if (!this.#sources.delete(source)) return;
    const same = this.#byStream.get(source.stream);
    same?.delete(source);
    if (same?.size === 0) {
      this.#byStream.delete(source.stream);
      this.#wakeups?.remove(source.stream);
    }
  }

  /** Resolves when no read is under way that was begun before; false when it ended without an answer, so that nobody knows what it gave to whom. */
  async settled(): Promise<boolean> {
    return (await this.#reading) ?? true;
  }

  /** A source has room again; cheap when there is nothing for it. */
  poke(source: ReadSource): void {
    if (this.#sources.get(source) === true) this.#wake.wake();
  }

  /** Something was handed back, died or is to be replayed (rulings 22). Returns the way to stop listening. */
  onControl(listener: () => void): () => void {
    this.#controlListeners.add(listener);
    this.#start();
    return () => this.#controlListeners.delete(listener);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake.wake();
    // A call that hangs has a deadline of its own, but nobody waits that long for a stop.
    if (this.#loop !== null) await Promise.race([this.#loop, this.#clock.sleep(STOP_ms)]);
    const wakeups = this.#wakeups;
    this.#wakeups = null;
    if (wakeups !== null) await Promise.race([wakeups.close(), this.#clock.sleep(STOP_ms)]);
  }

  #start(): void {
    if (this.#loop !== null || this.#stopping.signal.aborted) return;
    this.#wakeups = this.#broker.wakeups((stream) => this.#woken(stream));
    this.#wakeups.add(CONTROL_STREAM);
    for (const stream of this.#byStream.keys()) this.#wakeups.add(stream);
    this.#netDue_ms = this.#clock.monotonic_ms() + this.#net_ms;
    this.#loop = this.#run();
  }

  #woken(stream: string): void {
    if (stream === CONTROL_STREAM) {
      for (const listener of [...this.#controlListeners]) listener();
      return;
    }
    const sources = this.#byStream.get(stream);
    if (sources === undefined) return;
    for (const source of sources) this.#sources.set(source, true);
    this.#wake.wake();
  }

  async #run(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const now_ms = this.#clock.monotonic_ms();
      this.#cameRound_ms = now_ms;
      if (now_ms >= this.#netDue_ms) {
        this.#netDue_ms = now_ms + this.#net_ms;
        for (const source of this.#sources.keys()) this.#sources.set(source, true);
      }
      const sources: ReadSource[] = [];
      const requests: ReadRequest[] = [];
      for (const [source, interesting] of this.#sources) {
        if (!interesting) continue;
        const count = source.room();
        if (count <= 0) continue;
        sources.push(source);
        requests.push({ stream: source.stream, group: source.group, consumer: source.consumer, count });
        // Whoever wakes us during the read makes it interesting again.
        this.#sources.set(source, false);
      }
      if (requests.length === 0) {
        await this.#wake.sleep(Math.max(1, this.#netDue_ms - now_ms));
        continue;
      }
      const answered = Promise.withResolvers<boolean>();
      this.#reading = answered.promise;
      try {
        await this.#read(sources, requests);
        answered.resolve(true);
        this.#pause.succeeded();
      } catch (error) {
        answered.resolve(false);
        for (const source of sources) {
          if (this.#sources.has(source)) this.#sources.set(source, true);
          if (error instanceof ConnectionError) source.interrupted();
        }
        await this.#clock.sleep(this.#pause.failed_ms(error), this.#stopping.signal);
      }
    }
  }

  async #read(sources: readonly ReadSource[], requests: readonly ReadRequest[]): Promise<void> {
    try {
      const results = await this.#broker.read(requests);
      for (const [index, result] of results.entries()) {
        const source = sources[index];
        if (source === undefined) continue;
        if (result.kind === "groupLost") source.groupLost();
        else if (result.entries.length === 0) source.empty();
        else {
          // It may be gone meanwhile, but what was read for it is its own to give back.
          if (this.#sources.has(source)) this.#sources.set(source, true);
          source.entries(result.entries);
        }
      }
    } catch (error) {
      if (error instanceof ConnectionError) throw error;
      const [source] = sources;
      if (sources.length === 1 && source !== undefined) {
        source.readFailed(error);
        return;
      }
      // One of them is at fault and must not stop the others.
      for (const [index, request] of requests.entries()) await this.#read(sources.slice(index, index + 1), [request]);
    }
  }
}
