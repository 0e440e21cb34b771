import type { Clock } from "../ports/clock.ts";

/**
 * The place where one engine runs, one after another, the messages that were in hand when a process died. A message that kills takes with it what other
 * subscriptions have counted and begun at the same time; together they would use up their attempts together. One by one the killer is the only
 * one that loses an attempt by it (D40).
 */
export class Suspects {
  readonly #clock: Clock;
  #last: Promise<void> = Promise.resolve();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Resolves when the one before has left or had its time; answers the way to leave.
   * @param limit_ms how long others wait for this one: what runs for longer doesn't kill its process at once, and must not hold up the rest
   */
  async enter(limit_ms: number): Promise<() => void> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    await before;
    const cancel = this.#clock.timer(limit_ms, resolve);
    return () => {
      cancel();
      resolve();
    };
  }
}
