import { TimeoutError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import type { Log } from "../ports/log.ts";

const PAUSE_ms = 2_000;
const LIMIT_ms = 2_000;

interface Check {
  readonly name: string;
  readonly ping: () => Promise<unknown>;
  /** null before the first answer. */
  error: string | null;
  isUp: boolean | null;
  /** By the monotonic clock; null while it is up. */
  downSince_ms: number | null;
  /** Another one's line said the same. */
  isTold: boolean;
  readonly tells: boolean;
}

/**
 * Pings every store and broker in the background, each 2 s, so that probes read memory and a hung server never holds one up (known-traps A28).
 * An outage is two lines of log, one when it begins and one when it ends, however many services meet it (B9).
 */
export class Reachability {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #checks: Check[] = [];
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[] = [];

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  /**
   * @param name `database default`, unique
   * @param tells whether outages are told here; false for what writes its own lines, as brokers do
   */
  watch(name: string, ping: () => Promise<unknown>, tells: boolean): void {
    this.#checks.push({ name, ping, error: null, isUp: null, downSince_ms: null, isTold: false, tells });
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
        this.#note(check, error === null ? null : error instanceof Error ? error.message : String(error));
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

  #note(check: Check, error: string | null): void {
    check.isUp = error === null;
    check.error = error;
    if (!check.tells) return;
    const now_ms = this.#clock.monotonic_ms();
    if (error !== null) {
      if (check.downSince_ms !== null) return;
      // Database and event store are often one server.
      check.isTold = !this.#checks.some((other) => other.isTold && other.error === error);
      check.downSince_ms = now_ms;
      if (check.isTold) this.#log.warning("service.unreachable", { service: check.name, error });
    } else if (check.downSince_ms !== null) {
      if (check.isTold) this.#log.info("service.recovered", { service: check.name, duration_ms: Math.round(now_ms - check.downSince_ms) });
      check.downSince_ms = null;
      check.isTold = false;
    }
  }
}
