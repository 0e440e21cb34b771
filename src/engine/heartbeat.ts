import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { InstanceRecord } from "../ports/instances.ts";
import type { ReconnectPause } from "./reconnect-pause.ts";

const BEAT_ms = 3_000;
/** A missing beat means death after this long: the others take our entries then. */
const TTL_ms = 10_000;
/** A stop removes the record if it can; else it runs out. */
const REMOVE_ms = 200;

/**
 * Keeps our record among the living of one broker (rulings 62).
 *
 * starting   the first beat; nothing may read before it is written, or others would take what we read for a dead one's
 * beating    every 3 s
 * away       the broker doesn't answer: tried again after growing pauses
 */
export class Heartbeat {
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #pause: ReconnectPause;
  readonly #record: () => InstanceRecord;
  readonly #stopping = new AbortController();
  #first: Promise<void> | null = null;
  #loop: Promise<void> | null = null;

  /** @param options.record asked before each beat, so that state and subscriptions in it are of today */
  constructor(options: {
    readonly broker: Broker;
    readonly clock: Clock;
    readonly pause: ReconnectPause;
    readonly record: () => InstanceRecord;
  }) {
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#pause = options.pause;
    this.#record = options.record;
  }

  /** Resolves after the first beat, however long the broker is away, or when stopped. */
  start(): Promise<void> {
    this.#first ??= new Promise((resolve) => {
      this.#loop = this.#run(resolve);
    });
    return this.#first;
  }

  /** Says it at once: used when the state changes. */
  async beat(): Promise<void> {
    await this.#broker.instances.beat(this.#record(), TTL_ms);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    if (this.#loop === null) return;
    const waiting = new AbortController();
    await Promise.race([this.#end(), this.#clock.sleep(REMOVE_ms, waiting.signal)]);
    waiting.abort();
  }

  async #end(): Promise<void> {
    await this.#loop;
    await this.#broker.instances.remove(this.#record().id).catch(() => {}); // it runs out by itself
  }

  async #run(begun: () => void): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      let wait_ms = BEAT_ms;
      try {
        await this.beat();
        this.#pause.succeeded();
        begun();
      } catch (error) {
        wait_ms = this.#pause.failed_ms(error);
      }
      await this.#clock.sleep(wait_ms, signal);
    }
    begun();
  }
}
