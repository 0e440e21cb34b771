import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Telemetry } from "../../ports/telemetry.ts";

/**
 * Whether one Redis can be used, over all our connections to it, so that an outage is two lines of log and not two for every connection
 * and try (known-traps B9): `broker.lost` when the first connection is lost, `broker.restored` when the last is back.
 */
export class Availability {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #broker: string;
  readonly #down = new Set<string>();
  #since_ms = 0;

  constructor(options: { readonly broker: string; readonly log: Log; readonly clock: Clock; readonly telemetry: Telemetry }) {
    this.#broker = options.broker;
    this.#log = options.log;
    this.#clock = options.clock;
    this.#telemetry = options.telemetry;
  }

  lost(connection: string, reason: string, fix: string | undefined): void {
    const wasUp = this.#down.size === 0;
    this.#down.add(connection);
    if (!wasUp) return;
    this.#since_ms = this.#clock.monotonic_ms();
    this.#telemetry.count("broker_outages", { broker: this.#broker });
    this.#log.warning("broker.lost", { connection, error: reason, ...(fix === undefined ? {} : { fix }) });
  }

  back(connection: string): void {
    if (!this.#down.delete(connection) || this.#down.size > 0) return;
    this.#log.info("broker.restored", { duration_ms: Math.round(this.#clock.monotonic_ms() - this.#since_ms) });
  }

  /** The connection was closed on purpose: it counts neither as lost nor as back. */
  forget(connection: string): void {
    this.#down.delete(connection);
  }
}
