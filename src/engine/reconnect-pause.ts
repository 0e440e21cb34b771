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
  #failures = 0;
  #reason: string | null = null;

  constructor(options: { readonly random: Random; readonly log: Log; readonly what: LogFields }) {
    this.#random = options.random;
    this.#log = options.log;
    this.#what = options.what;
  }

  /** Why it is away; null while all is well. */
  get reason(): string | null {
    return this.#reason;
  }

  /** Notes a failed try; answers the pause before the next. */
  failed_ms(error: unknown): number {
    const message = error instanceof Error ? error.message : String(error);
    if (this.#reason === null) this.#log.warning("service.unreachable", { ...this.#what, error: message });
    this.#reason = message;
    const cap_ms = Math.min(LONGEST_ms, FIRST_ms * 2 ** Math.min(this.#failures, 10));
    this.#failures += 1;
    return cap_ms / 2 + (cap_ms / 2) * this.#random.float();
  }

  succeeded(): void {
    if (this.#reason !== null) this.#log.info("service.recovered", { ...this.#what, tries: this.#failures });
    this.#reason = null;
    this.#failures = 0;
  }
}
