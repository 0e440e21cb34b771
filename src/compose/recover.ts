import type { Domain } from "../domain/domain.ts";
import { homeDatabase, providerOf } from "../domain/unit-of-work.ts";
import { rowOf } from "../engine/reconciliation.ts";
import type { RecoverySources } from "../engine/recovery/recover.ts";
import { planSubscriptions } from "../engine/subscription-plan.ts";
import { commandCategory } from "../messages/names.ts";
import type { ConnectedStores } from "./connect.ts";
import { publishedType } from "./engine.ts";
import { reconcileOutboxes } from "./reconcile.ts";
import { engineSettings } from "./settings.ts";

export { compareCheckpoints, compareRecovery, forgetStale, resetCheckpoint } from "../engine/recovery/checkpoints.ts";
export {
  compareStores,
  isConsistent,
  type RecoveryReport,
  type RecoverySources,
  repairStores,
} from "../engine/recovery/recover.ts";
export type { OrphanedEntry, StreamComparison } from "../engine/recovery/streams.ts";

/** What a comparison of the stores of an initialised domain works on. */
export function recoverySources(domain: Domain, stores: ConnectedStores): RecoverySources {
  const settings = engineSettings(stores.config, domain.reactions);
  const { outbox } = settings;
  return {
    databases: stores.databases,
    brokers: stores.brokers,
    eventStore: stores.eventStore,
    plans: planSubscriptions(domain.reactions, settings),
    outbox: outbox.enabled ? { broker: outbox.broker, externalBrokers: outbox.externalBrokers } : null,
    streamsOf: (database) => publishedStreams(domain, database),
    typeOf: (type) => publishedType(domain, domain.messageByType(type) ?? domain.upcastTarget(type)),
    rowOf: (message, broker) => rowOf(message, broker, { random: stores.random, maxAttempts: outbox.retry.maxAttempts }),
    reconcile: async (database, dryRun) => (await reconcileOutboxes({ domain, stores, only: [database], dryRun })).get(database) ?? 0,
    clock: stores.clock,
    random: stores.random,
    log: stores.log,
  };
}

/** Events of the aggregates that are kept in this database; commands where it is the home database. */
function publishedStreams(domain: Domain, database: string): readonly string[] {
  const isHome = homeDatabase(domain) === database;
  const streams = new Set<string>();
  for (const meta of domain.elements.values()) {
    if (meta.kind !== "aggregate" || meta.category === null) continue;
    if (providerOf(meta) === database) streams.add(meta.category);
    if (isHome) streams.add(commandCategory(meta.category));
  }
  return [...streams];
}
