import { TimeoutError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";

const PAUSE_ms = 2_000;
const LIMIT_ms = 2_000;

interface Check {
  readonly name: string;
  readonly ping: () => Promise<unknown>;
  /** null before the first answer. */
  error: string | null;
  isUp: boolean | null;
}

/**
 * Pings every store and broker in the background, each 2 s, so that probes read memory and a hung server never holds one up (known-traps A28).
 */
export class Reachability {
  readonly #clock: Clock;
  readonly #checks: Check[] = [];
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param name `database default`, unique */
  watch(name: string, ping: () => Promise<unknown>): void {
    this.#checks.push({ name, ping, error: null, isUp: null });
  }

  start(): void {
    if (this.#loops.length > 0) return;
    for (const check of this.#checks) this.#loops.push(this.#run(check));
  }

  stop(): void {
    this.#stopping.abort();
  }

  isUp(name: string): boolean {
    return this.#checks.some((check) => check.name === name && check.isUp === true);
  }

  /** Why, for each that isn't up. */
  reasons(): readonly string[] {
    return this.#checks.flatMap((check) => (check.isUp === true ? [] : [`${check.name}: ${check.error ?? "not asked yet"}`]));
  }

  async #run(check: Check): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#ask(check);
      await this.#clock.sleep(PAUSE_ms, signal);
    }
  }

  #ask(check: Check): Promise<void> {
    return new Promise((resolve) => {
      const answered = (error: unknown) => {
        cancel();
        check.isUp = error === null;
        check.error = error === null ? null : error instanceof Error ? error.message : String(error);
        resolve();
      };
      const cancel = this.#clock.timer(LIMIT_ms, () => answered(new TimeoutError(`no answer within ${LIMIT_ms} ms`)));
      try {
        check.ping().then(
          () => answered(null),
          (error: unknown) => answered(error ?? new Error("refused")),
        );
      } catch (error) {
        answered(error);
      }
    });
  }
}
