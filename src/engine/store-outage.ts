import { ConnectionError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import { silentLog } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import { ReconnectPause } from "./reconnect-pause.ts";

/** A store that doesn't answer within this is away. */
const ANSWER_ms = 2_000;

interface Store {
  readonly address: string;
  ping(): Promise<void>;
}

/**
 * Tells handlers whose store went away under them from handlers that fail. The first kind waits and runs again: an outage of PostgreSQL uses up no
 * attempt, opens no circuit and fills no dead letters (G42), whatever its length.
 */
export class StoreOutage {
  readonly #stores: readonly Store[];
  readonly #addresses: ReadonlySet<string>;
  readonly #clock: Clock;
  readonly #random: Random;
  /** One wait for all runs. */
  #waiting: Promise<void> | null = null;
  #waiters = 0;

  constructor(options: { readonly stores: Iterable<Store>; readonly clock: Clock; readonly random: Random }) {
    this.#stores = [...options.stores];
    this.#addresses = new Set(this.#stores.map(({ address }) => address));
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /** Whether a store of ours couldn't be used. A ConnectionError of the user's own, about some service of theirs, is theirs. */
  concerns(error: unknown): boolean {
    if (error instanceof AggregateError) return error.errors.some((single) => this.concerns(single));
    return error instanceof ConnectionError && error.about.at !== undefined && this.#addresses.has(error.about.at);
  }

  /**
   * Waits while a store is away.
   * @returns true when one was and all are back; false when all answer at once, or `signal` ended the wait
   */
  async isOver(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted || (this.#waiting === null && (await this.#away()) === null)) return false;
    this.#waiters += 1;
    this.#waiting ??= this.#wait();
    let stop: () => void = () => {};
    const stopped = new Promise<void>((resolve) => {
      stop = resolve;
      signal.addEventListener("abort", stop, { once: true });
    });
    await Promise.race([this.#waiting, stopped]);
    signal.removeEventListener("abort", stop);
    this.#waiters -= 1;
    return !signal.aborted;
  }

  /** Ends when all stores answer, or soon after nobody waits any more. */
  async #wait(): Promise<void> {
    const pause = new ReconnectPause({ random: this.#random, log: silentLog, what: {}, isToldElsewhere: true });
    while (this.#waiters > 0) {
      const error = await this.#away();
      if (error === null) break;
      await this.#clock.sleep(pause.failed_ms(error));
    }
    this.#waiting = null;
  }

  /** Why a store is away; null when all answer. */
  async #away(): Promise<unknown> {
    const late = new AbortController();
    const limit = this.#clock.sleep(ANSWER_ms, late.signal).then(() => {
      throw new ConnectionError(`no answer within ${ANSWER_ms} ms`);
    });
    limit.catch(() => {});
    try {
      await Promise.race([Promise.all(this.#stores.map((store) => store.ping())), limit]);
      return null;
    } catch (error) {
      return error;
    } finally {
      late.abort();
    }
  }
}
