import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import type { EventStore } from "../ports/event-store.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import { type PublishedType, reconcileOutbox } from "./reconciliation.ts";
import { ReconnectPause } from "./reconnect-pause.ts";
import type { Activity, Service, ServiceState, ServiceStatus } from "./service.ts";
import type { OutboxSettings } from "./settings.ts";
import { WakeSignal } from "./wake-signal.ts";

/** What a killed process left is past the grace period of the second run at the latest (C4: rows are there 5 s after a start). */
const SECOND_RUN_ms = 4_000;
/** Later runs look for units of work of other processes that died. */
const PERIOD_ms = 60_000;

/**
 * Keeps the outbox of a database complete that is not one with the event store: reconciles at start, once more when what the last process left is
 * old enough to be judged, and then every minute. Any number of engines may do so at once.
 */
export class ReconciliationService implements Service {
  readonly name: string;
  readonly #options: ConstructorParameters<typeof ReconciliationService>[0];
  readonly #wake: WakeSignal;
  readonly #pause: ReconnectPause;
  #loop: Promise<void> | null = null;
  #stopping = false;
  #state: ServiceState = "starting";
  #cameRound_ms: number;
  #added = 0;

  constructor(options: {
    readonly store: EventStore;
    readonly database: Database;
    readonly typeOf: (type: string) => PublishedType | null;
    readonly settings: OutboxSettings;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Log;
    readonly activity: Activity;
  }) {
    this.name = `reconciliation-${options.database.name}`;
    this.#options = options;
    this.#wake = new WakeSignal(options.clock);
    this.#pause = new ReconnectPause({ random: options.random, log: options.log, what: { service: this.name }, isToldElsewhere: true });
    this.#cameRound_ms = options.clock.monotonic_ms();
  }

  start(): Promise<void> {
    if (this.#loop === null && !this.#stopping) this.#loop = this.#run();
    return Promise.resolve();
  }

  quiesce(): void {
    this.#stopping = true;
    this.#wake.wake();
  }

  async stop(_signal: AbortSignal): Promise<void> {
    this.quiesce();
    await this.#loop;
    this.#state = "stopped";
  }

  /** It sleeps for a minute by design; only what is beyond that counts. */
  idleFor_ms(): number {
    return Math.max(0, this.#options.clock.monotonic_ms() - this.#cameRound_ms - PERIOD_ms);
  }

  status(): ServiceStatus {
    return {
      name: this.name,
      kind: "maintenance",
      handler: this.name,
      stream: "$all",
      group: null,
      state: this.#state,
      reason: this.#pause.reason,
      handled: this.#added,
      failed: 0,
      retried: 0,
      deadLettered: 0,
      ignored: 0,
      inFlight: 0,
      parked: 0,
      lastError: this.#pause.reason,
      circuit: null,
      slow: null,
    };
  }

  async #run(): Promise<void> {
    const { activity } = this.#options;
    let runs = 0;
    while (!this.#stopping) {
      this.#cameRound_ms = this.#options.clock.monotonic_ms();
      let rest_ms = runs === 0 ? SECOND_RUN_ms : PERIOD_ms;
      try {
        const added = await this.#reconcile();
        this.#added += added;
        runs += 1;
        this.#state = "running";
        this.#pause.succeeded();
        if (added > 0) activity.productive(this.name);
        // Nothing it does later is awaited in test mode: what must be found at once was found.
        for (let reported = 0; reported < 2; reported += 1) activity.empty(this.name, null);
      } catch (error) {
        this.#state = "unreachable";
        activity.unknown(this.name);
        rest_ms = this.#pause.failed_ms(error);
      }
      if (!this.#stopping) await this.#wake.sleep(rest_ms);
    }
  }

  async #reconcile(): Promise<number> {
    const { store, database, typeOf, settings, clock, random, log } = this.#options;
    return await reconcileOutbox({
      store,
      database,
      typeOf,
      targetBroker: settings.broker,
      externalBrokers: settings.externalBrokers,
      maxAttempts: settings.retry.maxAttempts,
      retention_ms: Math.min(settings.cleanup.published_ms, settings.cleanup.abandoned_ms),
      clock,
      random,
      log,
    });
  }
}
