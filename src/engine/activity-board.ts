import type { Clock } from "../ports/clock.ts";
import type { Activity } from "./service.ts";

interface Loop {
  /** Empty turns reported since the last productive turn of any loop. */
  empties: number;
  /** When it has something to do again, by the monotonic clock; Infinity for nothing. */
  dueAt_ms: number;
}

/**
 * Tells test mode when nothing is going on any more (engine.md §4).
 *
 * A loop reports an empty turn at its end, so the turn may have begun before another loop published something for it. Two empty turns in a row
 * are proof: the second began after the first was reported. Quiet is when every loop has reported two since the last productive turn of any,
 * and none has anything due within the waiting time.
 */
export class ActivityBoard implements Activity {
  readonly restMax_ms = 10;
  readonly #clock: Clock;
  readonly #loops = new Map<string, Loop>();
  #waiters: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Loops that have to be quiet; one that never reports is never quiet. */
  expect(loop: string): void {
    if (!this.#loops.has(loop)) this.#loops.set(loop, { empties: 0, dueAt_ms: Number.POSITIVE_INFINITY });
  }

  productive(loop: string): void {
    this.expect(loop);
    for (const each of this.#loops.values()) each.empties = 0;
  }

  empty(loop: string, due_ms: number | null): void {
    this.expect(loop);
    const own = this.#loops.get(loop);
    if (own === undefined) return;
    own.empties += 1;
    own.dueAt_ms = due_ms === null ? Number.POSITIVE_INFINITY : this.#clock.monotonic_ms() + due_ms;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }

  unknown(loop: string): void {
    this.expect(loop);
    const own = this.#loops.get(loop);
    if (own !== undefined) own.empties = 0;
  }

  /** Whether all is quiet and nothing becomes due before `until_ms` of the monotonic clock. */
  isQuiet(until_ms: number): boolean {
    for (const { empties, dueAt_ms } of this.#loops.values()) if (empties < 2 || dueAt_ms <= until_ms) return false;
    return true;
  }

  /** Resolves true once it is quiet, false at `until_ms`. */
  async quiet(until_ms: number): Promise<boolean> {
    for (;;) {
      if (this.isQuiet(until_ms)) return true;
      const left_ms = until_ms - this.#clock.monotonic_ms();
      if (left_ms <= 0) return false;
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.timer(left_ms, resolve);
        this.#waiters.push(() => {
          cancel();
          resolve();
        });
      });
    }
  }
}
