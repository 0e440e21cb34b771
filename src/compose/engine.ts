import type { Domain } from "../domain/domain.ts";
import type { ElementMeta } from "../domain/element.ts";
import { homeDatabase, providerOf } from "../domain/unit-of-work.ts";
import { Engine, type EngineContext } from "../engine/engine.ts";
import { EventStoreSubscription } from "../engine/event-store-subscription.ts";
import { OutboxProcessor } from "../engine/outbox-processor.ts";
import type { PublishedType } from "../engine/reconciliation.ts";
import { ReconciliationService } from "../engine/reconciliation-service.ts";
import type { Service } from "../engine/service.ts";
import { ConfigurationError } from "../errors.ts";
import { BacklogCollector } from "../observatory/backlog.ts";
import type { HealthSource } from "../observatory/health.ts";
import type { Broker } from "../ports/broker.ts";
import { type HostIdentity, hostIdentity, isProcessRunning } from "../runtime/host.ts";
import type { ConnectedStores } from "./connect.ts";
import { engineSettings } from "./settings.ts";

export interface EngineFlags {
  readonly drainTimeout_ms?: number | undefined;
  readonly only?: readonly string[];
  readonly except?: readonly string[];
  readonly testMode?: boolean;
}

/** An engine, and what probes and status displays read of it. */
export interface ComposedEngine {
  readonly engine: Engine;
  readonly health: HealthSource;
  /** Ends the background collection of figures; the engine is stopped by its own `stop`. */
  close(): void;
}

/** Who a process is among the others, and what it can know of them. */
export interface Surroundings {
  readonly identity: HostIdentity;
  /** Whether a process of this host and pid namespace still runs. */
  readonly isRunning: (pid: number) => boolean;
}

/**
 * An engine for an initialised domain.
 * @param options.version of this program, for the heartbeat
 * @param options.surroundings default: as the operating system tells; simulation has its own
 * @throws ConfigurationError when handlers and domain.toml contradict each other
 */
export function composeEngine(options: {
  readonly domain: Domain;
  readonly stores: ConnectedStores;
  readonly version: string;
  readonly flags?: EngineFlags;
  readonly surroundings?: Surroundings;
}): ComposedEngine {
  const { domain, stores, flags = {} } = options;
  const { identity, isRunning } = options.surroundings ?? { identity: hostIdentity(), isRunning: isProcessRunning };
  requireBrokers(stores);
  const { host, pid, bootId, pidNamespace, startedAt_ms } = identity;
  const cursors = new Map<string, () => number>();
  const engine = new Engine({
    domain: { name: domain.name, reactions: domain.reactions, stores },
    settings: engineSettings(stores.config, domain.reactions, flags),
    instance: { id: stores.random.hex(12), host, pid, bootId, pidNamespace, startedAt_ms, version: options.version, http: null },
    processExists: isRunning,
    moreServices: (context) => moreServices(context, domain, cursors),
    testMode: flags.testMode ?? false,
  });
  const backlog = new BacklogCollector({
    services: () => engine.status().services,
    brokerOf: (service) => brokerOf(domain, stores, service),
    store: stores.eventStore,
    databases: stores.databases,
    cursorOf: (service) => cursors.get(service.name)?.() ?? null,
    clock: stores.clock,
  });
  return {
    engine,
    health: {
      facts: () => engine.status(),
      backlog: () => backlog.latest(),
      drain: () => engine.drain(),
      pid,
    },
    close: () => backlog.close(),
  };
}

/** Services that look at the event store and the outbox; the engine makes those of the brokers itself. */
function moreServices(context: EngineContext, domain: Domain, cursors: Map<string, () => number>): readonly Service[] {
  const { activity, clock, instanceId, keeper, log, random, settings, telemetry } = context;
  const { brokers, databases, eventStore } = context.domain.stores;
  const services: Service[] = [];
  for (const work of context.eventStoreSubscriptions) {
    const service = new EventStoreSubscription({
      group: work.group,
      handler: work.handler,
      category: work.stream,
      delivery: work.delivery,
      store: eventStore,
      settings: work.settings,
      workerId: work.workerId,
      keeper,
      clock,
      random,
      log,
      telemetry,
      activity,
    });
    cursors.set(service.name, () => service.cursor);
    services.push(service);
  }
  if (!context.wantsOutbox) return services;
  for (const database of databases.values()) {
    for (const name of [settings.outbox.broker, ...settings.outbox.externalBrokers]) {
      const broker = brokers.get(name);
      if (broker === undefined) continue;
      const external = name !== settings.outbox.broker;
      services.push(
        new OutboxProcessor({
          database,
          broker,
          external,
          settings: settings.outbox,
          instanceId,
          keeper,
          clock,
          random,
          log,
          telemetry,
          activity,
        }),
      );
    }
    if (database.identity === eventStore.identity) continue;
    const typeOf = (type: string) => publishedType(domain, domain.messageByType(type));
    services.push(
      new ReconciliationService({ store: eventStore, database, typeOf, settings: settings.outbox, clock, random, log, activity }),
    );
  }
  return services;
}

/** Events of our aggregates and our commands; external events belong to somebody else's outbox. */
export function publishedType(domain: Domain, meta: ElementMeta | null): PublishedType | null {
  if (meta === null || meta.owner === null) return null;
  // Rows of commands lie in the home database, rows of events in that of their aggregate: as the unit of work wrote them.
  if (meta.kind === "command") return { database: homeDatabase(domain), published: false };
  return meta.kind === "event" ? { database: providerOf(meta.owner), published: meta.options["published"] === true } : null;
}

function brokerOf(
  domain: Domain,
  stores: ConnectedStores,
  service: { readonly kind: string; readonly group: string | null },
): Broker | null {
  if (service.kind !== "stream" && service.kind !== "broker") return null;
  const name = service.kind === "broker" ? (domain.reactions.find((one) => one.fqn === service.group)?.broker ?? "default") : "default";
  return stores.brokers.get(name) ?? null;
}

/** @throws ConfigurationError when the outbox publishes to a broker that isn't there */
function requireBrokers({ brokers, config }: ConnectedStores): void {
  if (!config.hasOutbox) return;
  for (const [key, names] of [
    ["outbox.broker", [config.outbox.broker]],
    ["outbox.external_brokers", config.outbox.externalBrokers],
  ] as const) {
    for (const name of names) {
      if (brokers.has(name)) continue;
      throw new ConfigurationError(`${key} names "${name}", which is not configured`, {
        at: config.origins.get(key) ?? key,
        fix: `Add [brokers.${name}], or use one of: ${[...brokers.keys()].join(", ")}.`,
      });
    }
  }
}
