import type { Domain } from "../domain/domain.ts";
import { reconcileOutbox } from "../engine/reconciliation.ts";
import type { ConnectedStores } from "./connect.ts";
import { publishedType } from "./engine.ts";
import { engineSettings } from "./settings.ts";

/**
 * Compares the whole event store with the outbox of every database, and adds the rows that are missing (G63). A running server does the same for what
 * was stored since its last look; this begins at the first message.
 * @param options.only these databases; default all
 * @param options.dryRun counts and writes nothing
 * @returns rows added (missing, with `dryRun`), by name under `[databases]`
 */
export async function reconcileOutboxes(options: {
  readonly domain: Domain;
  readonly stores: ConnectedStores;
  readonly only?: readonly string[];
  readonly dryRun: boolean;
}): Promise<ReadonlyMap<string, number>> {
  const { domain, stores, dryRun } = options;
  const { outbox } = engineSettings(stores.config, domain.reactions);
  const counts = new Map<string, number>();
  for (const database of stores.databases.values()) {
    if (options.only?.includes(database.name) === false) continue;
    const rows = await reconcileOutbox({
      store: stores.eventStore,
      database,
      typeOf: (type) => publishedType(domain, domain.messageByType(type)),
      targetBroker: outbox.broker,
      externalBrokers: outbox.externalBrokers,
      maxAttempts: outbox.retry.maxAttempts,
      retention_ms: Math.min(outbox.cleanup.published_ms, outbox.cleanup.abandoned_ms),
      fromStart: true,
      dryRun,
      clock: stores.clock,
      random: stores.random,
      log: stores.log,
    });
    counts.set(database.name, rows);
  }
  return counts;
}
