import { SystemClock } from "../../src/runtime/clock.ts";

/** Its pauses take no real time: the clock jumps over them. */
export class HurriedClock extends SystemClock {
  #ahead_ms = 0;

  override now_ms(): number {
    return super.now_ms() + this.#ahead_ms;
  }

  override monotonic_ms(): number {
    return super.monotonic_ms() + this.#ahead_ms;
  }

  override async sleep(delay_ms: number): Promise<void> {
    this.#ahead_ms += delay_ms;
  }
}
