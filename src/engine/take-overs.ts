import { replayStream } from "../messages/names.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Log } from "../ports/log.ts";
import type { Labels, Telemetry } from "../ports/telemetry.ts";
import type { InstanceWatch } from "./instance-watch.ts";
import type { ReconnectPause } from "./reconnect-pause.ts";
import type { StreamSettings } from "./settings.ts";
import type { TakenEntry } from "./take-over.ts";
import { removeDeadConsumers, takeOver } from "./take-over.ts";

/** Dead consumers' entries are looked for this often, besides notices on the control stream (rulings 24). */
const LOOK_ms = 10_000;
/** Dead consumers that hold nothing are removed this often. */
const CLEANUP_ms = 60_000;

/** What the look-outs need of the subscription they look for. */
export interface Heir {
  /** False: it takes nothing (any more). */
  isRunning(): boolean;
  holds(stream: string, id: string): boolean;
  /** Resolves when there is room for another batch; false: stop. */
  room(): Promise<boolean>;
  take(stream: string, entries: readonly TakenEntry[]): void;
  /** There are dead letters to be handled again in the replay stream. */
  replays(): Promise<void>;
  /** The broker is away, or this stream can't be read; resolves when it is time to try again. */
  pauseAfter(error: unknown): Promise<void>;
  /** A look failed. */
  trouble(error: unknown): void;
  /** A look ended. */
  looked(): void;
}

/**
 * Looks for what dead consumers left in one group: when the subscription begins, every 10 s, and when a notice comes. One look at a time; who asks
 * during a look has another one after it.
 */
export class TakeOvers {
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #labels: Labels;
  readonly #instances: InstanceWatch;
  readonly #pause: ReconnectPause;
  readonly #heir: Heir;
  readonly #settings: StreamSettings;
  readonly #stream: string;
  readonly #group: string;
  readonly #consumer: string;
  #due_ms = 0;
  #cleanupDue_ms = 0;
  #looking: Promise<void> | null = null;
  #again = false;
  #ownToo = false;

  constructor(options: {
    readonly broker: Broker;
    readonly clock: Clock;
    readonly log: Log;
    readonly telemetry: Telemetry;
    readonly labels: Labels;
    readonly instances: InstanceWatch;
    readonly pause: ReconnectPause;
    readonly heir: Heir;
    readonly settings: StreamSettings;
    readonly stream: string;
    readonly group: string;
    readonly consumer: string;
  }) {
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#telemetry = options.telemetry;
    this.#labels = options.labels;
    this.#instances = options.instances;
    this.#pause = options.pause;
    this.#heir = options.heir;
    this.#settings = options.settings;
    this.#stream = options.stream;
    this.#group = options.group;
    this.#consumer = options.consumer;
  }

  get isLooking(): boolean {
    return this.#looking !== null;
  }

  get isDue(): boolean {
    return this.#clock.monotonic_ms() >= this.#due_ms;
  }

  /** @param ownToo no read of ours is under way: what is pending for us and not held never reached us; tried until the broker answers */
  look(ownToo: boolean): Promise<void> {
    if (ownToo) this.#ownToo = true;
    if (this.#looking === null) {
      this.#looking = this.#lookThrough().finally(() => {
        this.#looking = null;
      });
    } else this.#again = true;
    return this.#looking;
  }

  async #lookThrough(): Promise<void> {
    try {
      do {
        this.#again = false;
        try {
          await this.#lookOnce();
          this.#pause.succeeded();
        } catch (error) {
          this.#heir.trouble(error);
          if (!this.#ownToo) break; // looked for again in 10 s
          this.#again = true;
          await this.#heir.pauseAfter(error);
        }
      } while (this.#again && this.#heir.isRunning());
    } finally {
      this.#due_ms = this.#clock.monotonic_ms() + LOOK_ms;
    }
    this.#heir.looked();
  }

  async #lookOnce(): Promise<void> {
    const ownToo = this.#ownToo;
    this.#ownToo = false;
    try {
      await this.takeOver(this.#stream, ownToo);
    } catch (error) {
      this.#ownToo ||= ownToo;
      throw error;
    }
    if ((await this.#broker.length(replayStream(this.#stream, this.#group))) > 0) await this.#heir.replays();
    const now_ms = this.#clock.monotonic_ms();
    if (now_ms < this.#cleanupDue_ms) return;
    this.#cleanupDue_ms = now_ms + CLEANUP_ms;
    const removed = await removeDeadConsumers(this.#broker, this.#stream, this.#group, this.#instances);
    if (removed.length > 0) this.#log.debug("subscription.dead_consumers_removed", { removed });
  }

  /** One look through a stream of this group. */
  async takeOver(stream: string, ownToo: boolean): Promise<void> {
    const heir = this.#heir;
    await takeOver({
      broker: this.#broker,
      clock: this.#clock,
      stream,
      group: this.#group,
      consumer: this.#consumer,
      instances: this.#instances,
      claimIdle_ms: this.#settings.claimIdle_ms,
      claimForeignIdle_ms: this.#settings.claimForeignIdle_ms,
      exclusive: !this.#settings.shared,
      ownToo,
      batch: Math.max(1, this.#settings.messagesPerTick),
      holds: (id) => heir.holds(stream, id),
      room: () => heir.room(),
      take: (entries) => heir.take(stream, entries),
      lostByTrim: (ids) => {
        this.#telemetry.count("protean_subscription_lost_by_trim_total", this.#labels, ids.length);
        this.#log.warning("subscription.lost_by_trim", { stream, count: ids.length, first: ids[0] });
      },
    });
  }
}
