import type { Clock } from "../../src/ports/clock.ts";

interface Waiting {
  readonly due_ms: number;
  readonly number: number;
  readonly run: () => void;
}

/**
 * A clock that stands until `advance` moves it. Timers and sleeps fire in order of their due time, each after everything that the one before set off
 * has settled as far as it can without more time.
 */
export class ManualClock implements Clock {
  #now_ms: number;
  #monotonic_ms = 1_000;
  #number = 0;
  #waiting: Waiting[] = [];

  constructor(now_ms = Date.parse("2026-11-22T12:00:00Z")) {
    this.#now_ms = now_ms;
  }

  now_ms(): number {
    return this.#now_ms;
  }

  monotonic_ms(): number {
    return this.#monotonic_ms;
  }

  sleep(delay_ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.timer(delay_ms, resolve);
      signal?.addEventListener(
        "abort",
        () => {
          cancel();
          resolve();
        },
        { once: true },
      );
    });
  }

  timer(delay_ms: number, run: () => void): () => void {
    this.#number += 1;
    const waiting = { due_ms: this.#monotonic_ms + Math.max(0, delay_ms), number: this.#number, run };
    this.#waiting.push(waiting);
    return () => {
      this.#waiting = this.#waiting.filter((other) => other !== waiting);
    };
  }

  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }

  /** Timers and sleeps that wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Lets everything run that is ready now. Stores in memory need a few turns of the loop for one call. */
  async settle(turns = 12): Promise<void> {
    for (let turn = 0; turn < turns; turn += 1) await this.turn();
  }

  /** Time passes; what becomes due on the way runs at its moment. */
  async advance(delay_ms: number): Promise<void> {
    await this.settle();
    const until_ms = this.#monotonic_ms + delay_ms;
    for (;;) {
      const next = this.#waiting.reduce<Waiting | null>(
        (best, waiting) =>
          best === null || waiting.due_ms < best.due_ms || (waiting.due_ms === best.due_ms && waiting.number < best.number)
            ? waiting
            : best,
        null,
      );
      if (next === null || next.due_ms > until_ms) break;
      this.#waiting = this.#waiting.filter((other) => other !== next);
      this.#pass(Math.max(0, next.due_ms - this.#monotonic_ms));
      next.run();
      await this.settle();
    }
    this.#pass(until_ms - this.#monotonic_ms);
    await this.settle();
  }

  /** The process stands still (SIGSTOP, a blocked loop): time passes, nothing runs. */
  stall(delay_ms: number): void {
    this.#pass(delay_ms);
  }

  #pass(delay_ms: number): void {
    this.#monotonic_ms += delay_ms;
    this.#now_ms += delay_ms;
  }
}
