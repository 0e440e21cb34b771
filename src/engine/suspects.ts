import type { Clock } from "../ports/clock.ts";

/** One that runs for this long doesn't kill its process at once; the next may begin beside it. */
const LIMIT_ms = 5_000;

/**
 * The place where the messages of one engine run one after another that were in hand at every death of a process so far and have one attempt left.
 * A message that kills takes with it what other subscriptions run at the same time; together they would use up their attempts together. Alone, the
 * killer is the only one that loses its last.
 */
export class Suspects {
  readonly #clock: Clock;
  #last: Promise<void> = Promise.resolve();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Resolves when the one before has left, or after 5 s; answers the way to leave. */
  async enter(): Promise<() => void> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    const waiting = new AbortController();
    await Promise.race([before, this.#clock.sleep(LIMIT_ms, waiting.signal)]);
    waiting.abort();
    return resolve;
  }
}
