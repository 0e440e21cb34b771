import { SystemClock } from "../../src/runtime/clock.ts";

/** The real clock, whose wall time can be set ahead: what runs out by the store's clock runs out without waiting. */
export class ShiftedClock extends SystemClock {
  ahead_ms = 0;

  override now_ms(): number {
    return super.now_ms() + this.ahead_ms;
  }
}
