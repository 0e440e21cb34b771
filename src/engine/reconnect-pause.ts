import { ConnectionError } from "../errors.ts";
import type { Log, LogFields } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";

const FIRST_ms = 50;
const LONGEST_ms = 2_000;

/**
 * Pauses between tries while a store or broker is away: 50 ms doubling to 2 s, each between half and all of that (D21), so that work
 * resumes within 5 s of its return. Writes one line when it went away and one when it is back, however many tries lie between (B9).
 */
export class ReconnectPause {
  readonly #random: Random;
  readonly #log: Log;
  readonly #what: LogFields;
  readonly #isToldElsewhere: boolean;
  #failures = 0;
  #reason: string | null = null;
  #isTold = false;

  /**
   * @param options.isToldElsewhere somebody else writes the two lines of an outage (`Reachability`, the broker itself), so that one outage isn't two
   *     lines for each service that meets it; only what is no lost connection is told here. Default false.
   */
  constructor(options: { readonly random: Random; readonly log: Log; readonly what: LogFields; readonly isToldElsewhere?: boolean }) {
    this.#random = options.random;
    this.#log = options.log;
    this.#what = options.what;
    this.#isToldElsewhere = options.isToldElsewhere ?? false;
  }

  /** Why it is away; null while all is well. */
  get reason(): string | null {
    return this.#reason;
  }

  /** Notes a failed try; answers the pause before the next. */
  failed_ms(error: unknown): number {
    const message = error instanceof Error ? error.message : String(error);
    const fields = { ...this.#what, error: message };
    if (this.#isToldElsewhere && error instanceof ConnectionError) {
      if (this.#reason === null) this.#log.debug("service.unreachable", fields);
    } else if (!this.#isTold) {
      this.#isTold = true;
      this.#log.warning("service.unreachable", fields);
    }
    this.#reason = message;
    const cap_ms = Math.min(LONGEST_ms, FIRST_ms * 2 ** Math.min(this.#failures, 10));
    this.#failures += 1;
    return cap_ms / 2 + (cap_ms / 2) * this.#random.float();
  }

  succeeded(): void {
    if (this.#reason === null) return;
    this.#log[this.#isTold ? "info" : "debug"]("service.recovered", { ...this.#what, tries: this.#failures });
    this.#isTold = false;
    this.#reason = null;
    this.#failures = 0;
  }
}
