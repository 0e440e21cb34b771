import type { ServiceStatus } from "../engine/service.ts";
import { deadLetterStream } from "../messages/names.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import type { EventStore } from "../ports/event-store.ts";
import type { Backlog } from "./health.ts";

const PERIOD_ms = 2_000;
/** Nobody asked for this long: nothing is collected, so that an idle engine without probes costs nothing (G44). */
const INTEREST_ms = 30_000;
const COUNT_CAP = 10_000;

/**
 * Collects lag, pending entries and dead letters of all services in the background, while somebody is interested. One look per stream, not per
 * service: a stream's groups come in one reply.
 */
export class BacklogCollector {
  readonly #services: () => readonly ServiceStatus[];
  readonly #brokerOf: (service: ServiceStatus) => Broker | null;
  readonly #store: EventStore;
  readonly #databases: ReadonlyMap<string, Database>;
  readonly #cursorOf: (service: ServiceStatus) => number | null;
  readonly #clock: Clock;
  #latest: { readonly of: ReadonlyMap<string, Backlog>; readonly at_ms: number; readonly failed: boolean } | null = null;
  #askedAt_ms = Number.NEGATIVE_INFINITY;
  #cancel: (() => void) | null = null;
  #collecting = false;
  #closed = false;

  constructor(options: {
    readonly services: () => readonly ServiceStatus[];
    /** The broker whose stream the service reads; null for others. */
    readonly brokerOf: (service: ServiceStatus) => Broker | null;
    readonly store: EventStore;
    readonly databases: ReadonlyMap<string, Database>;
    /** In-memory position of an event-store subscription; the written one lags behind it. */
    readonly cursorOf: (service: ServiceStatus) => number | null;
    readonly clock: Clock;
  }) {
    this.#services = options.services;
    this.#brokerOf = options.brokerOf;
    this.#store = options.store;
    this.#databases = options.databases;
    this.#cursorOf = options.cursorOf;
    this.#clock = options.clock;
  }

  /** The newest figures; asking keeps the collection going. */
  latest(): { readonly of: ReadonlyMap<string, Backlog>; readonly age_ms: number; readonly failed: boolean } | null {
    this.#askedAt_ms = this.#clock.monotonic_ms();
    if (this.#cancel === null && !this.#collecting && !this.#closed) void this.collect();
    if (this.#latest === null) return null;
    return { of: this.#latest.of, age_ms: this.#clock.monotonic_ms() - this.#latest.at_ms, failed: this.#latest.failed };
  }

  close(): void {
    this.#closed = true;
    this.#cancel?.();
  }

  async collect(): Promise<void> {
    if (this.#collecting) return;
    this.#collecting = true;
    this.#cancel = null;
    try {
      this.#latest = { of: await this.#look(), at_ms: this.#clock.monotonic_ms(), failed: false };
    } catch {
      // Whatever is away is in the readiness checks already; the old figures stay, marked.
      this.#latest = this.#latest === null ? null : { ...this.#latest, failed: true };
    }
    this.#collecting = false;
    if (this.#closed || this.#clock.monotonic_ms() - this.#askedAt_ms > INTEREST_ms) return;
    this.#cancel = this.#clock.timer(PERIOD_ms, () => void this.collect());
  }

  async #look(): Promise<ReadonlyMap<string, Backlog>> {
    const streams = new Map<string, Promise<{ readonly groups: Awaited<ReturnType<Broker["groups"]>>; readonly deadLetters: number }>>();
    const streamOf = (broker: Broker, stream: string) => {
      const key = `${broker.name} ${stream}`;
      let look = streams.get(key);
      if (look === undefined) {
        look = Promise.all([broker.groups(stream), broker.length(deadLetterStream(stream))]).then(([groups, deadLetters]) => ({
          groups,
          deadLetters,
        }));
        streams.set(key, look);
      }
      return look;
    };
    const found = new Map<string, Backlog>();
    await Promise.all(
      this.#services().map(async (service) => {
        const broker = this.#brokerOf(service);
        if (service.kind === "outbox") {
          const counts = await this.#databases
            .get(service.handler.split(" -> ")[0] ?? "default")
            ?.outbox.counts(service.handler.split(" -> ")[1]);
          if (counts === undefined) return;
          found.set(service.name, {
            lag: counts.pending + counts.processing,
            pending: counts.processing,
            deadLetters: counts.failed + counts.abandoned,
          });
        } else if (service.kind === "event_store") {
          const cursor = this.#cursorOf(service);
          const lag = cursor === null ? null : await this.#store.countAfter(service.stream, cursor, COUNT_CAP);
          found.set(service.name, { lag, pending: service.parked, deadLetters: service.deadLettered });
        } else if (broker !== null) {
          const { groups, deadLetters } = await streamOf(broker, service.stream);
          const group = groups.find((one) => one.name === service.group);
          const lag = group === undefined || group.lag === null ? null : group.lag + group.pending;
          found.set(service.name, { lag, pending: group?.pending ?? null, deadLetters });
        }
      }),
    );
    return found;
  }
}
