import type { Clock } from "../ports/clock.ts";

/** A wall clock that differs from the running estimate by more than this was set, or the machine slept. */
const JUMP_ms = 5;

/** The real clock. */
export class SystemClock implements Clock {
  /** Wall time minus monotonic time, so that wall times have microseconds: `Date.now()` alone has none. */
  #offset_ms: number;

  constructor() {
    this.#offset_ms = Date.now() - performance.now();
  }

  now_ms(): number {
    const wall_ms = Date.now();
    const estimate_ms = this.#offset_ms + performance.now();
    if (Math.abs(estimate_ms - wall_ms) <= JUMP_ms) return Math.floor(estimate_ms * 1000) / 1000;
    this.#offset_ms = wall_ms - performance.now();
    return wall_ms;
  }

  monotonic_ms(): number {
    return performance.now();
  }

  sleep(delay_ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const end = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, timerDelay_ms(delay_ms));
      signal?.addEventListener("abort", end, { once: true });
    });
  }

  timer(delay_ms: number, run: () => void): () => void {
    const timer = setTimeout(run, timerDelay_ms(delay_ms));
    timer.unref();
    return () => clearTimeout(timer);
  }

  turn(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

/** Timers take 32 bits; a longer wait would fire at once. Waiters look at the clock again when they wake. */
function timerDelay_ms(delay_ms: number): number {
  return Math.min(Math.max(delay_ms, 0), 2_147_483_647);
}
