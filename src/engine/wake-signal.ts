import type { Clock } from "../ports/clock.ts";

/**
 * Lets one loop sleep until somebody wakes it or a time has passed. A wake between two sleeps isn't lost: the next sleep ends at once.
 */
export class WakeSignal {
  readonly #clock: Clock;
  #pending = false;
  #resolve: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  wake = (): void => {
    if (this.#resolve === null) this.#pending = true;
    else this.#resolve();
  };

  /** Sleeps at most `limit_ms`; answers whether it was woken. One sleeper at a time. */
  async sleep(limit_ms: number): Promise<boolean> {
    if (this.#pending) {
      this.#pending = false;
      return true;
    }
    return await new Promise<boolean>((resolve) => {
      const end = (woken: boolean) => {
        this.#resolve = null;
        cancel();
        resolve(woken);
      };
      const cancel = this.#clock.timer(limit_ms, () => end(false));
      this.#resolve = () => end(true);
    });
  }
}
