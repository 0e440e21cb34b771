import type { DecodedMessage } from "../../messages/envelope.ts";
import type { Broker } from "../../ports/broker.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Database, Restored } from "../../ports/database.ts";
import { ALL_STREAMS, type EventStore } from "../../ports/event-store.ts";
import type { Log } from "../../ports/log.ts";
import type { OutboxInsert } from "../../ports/outbox-store.ts";
import type { Random } from "../../ports/random.ts";
import type { PublishedType } from "../reconciliation.ts";
import type { EventStorePlan, StreamPlan, SubscriptionPlan } from "../subscription-plan.ts";
import { isBeside } from "./beside.ts";
import {
  type CheckpointStatus,
  compareCheckpoints,
  compareRecovery,
  forgetStale,
  resetCheckpoint,
  type StaleRecovery,
} from "./checkpoints.ts";
import { type EventStorePositions, positionsIn, type StorePositions } from "./positions.ts";
import { compareLost, compareStreams, idAt, type OrphanedEntry, repairStreams, type StreamComparison, strandedEntries } from "./streams.ts";

/** More messages than this are "at least so many". */
const COUNT_CAP = 1_000_000;

export interface RecoverySources {
  readonly databases: ReadonlyMap<string, Database>;
  readonly brokers: ReadonlyMap<string, Broker>;
  readonly eventStore: EventStore;
  readonly plans: readonly SubscriptionPlan[];
  /** null: nothing is published by an outbox. */
  readonly outbox: { readonly broker: string; readonly externalBrokers: readonly string[] } | null;
  /** Streams that the database of this name publishes to. */
  streamsOf(database: string): readonly string[];
  typeOf(type: string): PublishedType | null;
  rowOf(message: DecodedMessage, broker: string): OutboxInsert;
  /** Counts messages of the event store without outbox rows, or adds these. Only asked for databases apart from the event store. */
  reconcile(database: string, dryRun: boolean): Promise<number>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface DatabaseComparison {
  readonly database: Database;
  /** What it says of having been put back; null when it says nothing. */
  readonly restored: Restored | null;
  /** Addresses of stores beside it, where nothing tells what came after the backup. */
  readonly uncompared: readonly string[];
  readonly streams: readonly StreamComparison[];
  /** Messages that were stored after the backup in an event store of their own, which wasn't restored; null when there is none. */
  readonly storedSince: number | null;
}

export interface RecoveryReport {
  readonly checkpoints: readonly CheckpointStatus[];
  readonly stale: readonly StaleRecovery[];
  readonly databases: readonly DatabaseComparison[];
  /** Messages without outbox rows, by name of the database. */
  readonly gaps: ReadonlyMap<string, number>;
  /** Only told: the next server takes these entries over. */
  readonly stranded: ReadonlyMap<StreamPlan, number>;
}

/**
 * Compares everything that may not fit together after a restore; changes nothing. What was not restored is only looked at for what needs no
 * comparison with another time: cursors beyond the head, stale recovery, outbox gaps.
 * @param since_ms when databases were put back that don't say it themselves (a dump of PostgreSQL): the time of the dump, since 1970
 */
export async function compareStores(sources: RecoverySources, since_ms: number | null): Promise<RecoveryReport> {
  const { eventStore, clock, random, log } = sources;
  const databases: DatabaseComparison[] = [];
  for (const database of sources.databases.values()) databases.push(await compareDatabase(sources, database, since_ms));
  const positions = databases.map(({ restored }) => positionsIn(restored?.note ?? null));
  const plans = sources.plans.filter((plan): plan is EventStorePlan => plan.kind === "event_store");
  const checkpoints = await compareCheckpoints(plans, earliestOf(positions), { store: eventStore });
  const stale = await compareRecovery(checkpoints, { store: eventStore, clock, random, log });
  const gaps = new Map<string, number>();
  if (sources.outbox !== null) {
    for (const [name, database] of sources.databases) {
      if (database.identity === eventStore.identity) continue;
      const known = databases.find((one) => one.database === database)?.streams.flatMap(({ missingRows }) => missingRows).length ?? 0;
      gaps.set(name, Math.max(0, (await sources.reconcile(name, true)) - known));
    }
  }
  const stranded = new Map<StreamPlan, number>();
  for (const broker of sources.brokers.values()) {
    for (const [plan, entries] of await strandedEntries(broker, readersOf(sources.plans, broker))) stranded.set(plan, entries);
  }
  return { checkpoints, stale, databases, gaps, stranded };
}

function readersOf(plans: readonly SubscriptionPlan[], broker: Broker): readonly StreamPlan[] {
  return plans.filter((plan) => plan.kind !== "event_store").filter((plan) => plan.broker === broker.name);
}

async function compareDatabase(sources: RecoverySources, database: Database, since_ms: number | null): Promise<DatabaseComparison> {
  const { brokers, eventStore, plans, outbox } = sources;
  const restored = await database.restored();
  const wasPutBack = restored !== null || since_ms !== null;
  const positions = positionsIn(restored?.note ?? null);
  const streams: StreamComparison[] = [];
  const uncompared: string[] = [];
  for (const broker of brokers.values()) {
    if (!isBeside(broker, database)) continue;
    const then = positions?.brokers.find(({ broker: name }) => name === broker.name) ?? null;
    const isPublishedTo = outbox !== null && [outbox.broker, ...outbox.externalBrokers].includes(broker.name);
    if (then === null && since_ms === null) {
      if (wasPutBack) uncompared.push(broker.address);
      else if (isPublishedTo) {
        streams.push(await compareLost(database, broker, broker.name !== outbox.broker, sources.streamsOf(database.name)));
      }
      continue;
    }
    streams.push(
      await compareStreams({
        database,
        broker,
        external: broker.name !== outbox?.broker,
        store: eventStore,
        then,
        since_id: since_ms === null ? null : idAt(since_ms),
        streams: isPublishedTo ? sources.streamsOf(database.name) : [],
        plans: readersOf(plans, broker),
        typeOf: (type) => {
          const known = sources.typeOf(type);
          return broker.name === outbox?.broker || known?.published === true ? known : null;
        },
        rowOf: (message, name) => sources.rowOf(message, name),
      }),
    );
  }
  const head = isBeside(eventStore, database) ? (positions?.eventStore?.head ?? null) : null;
  if (wasPutBack && head === null && isBeside(eventStore, database)) uncompared.push(eventStore.address);
  return {
    database,
    restored,
    uncompared,
    streams,
    storedSince: head === null ? null : await eventStore.countAfter(ALL_STREAMS, head, COUNT_CAP),
  };
}

/** With several databases put back, each cursor has to go back to where it stood for the oldest. */
function earliestOf(all: readonly (StorePositions | null)[]): EventStorePositions | null {
  let earliest: EventStorePositions | null = null;
  for (const positions of all) {
    const eventStore: EventStorePositions | null = positions?.eventStore ?? null;
    if (eventStore !== null && (earliest === null || eventStore.head < earliest.head)) earliest = eventStore;
  }
  return earliest;
}

/** Whether a repair would change anything. */
export function isConsistent({ checkpoints, stale, databases, gaps }: RecoveryReport): boolean {
  return (
    checkpoints.every(({ target }) => target === null) &&
    stale.every(({ verdict }) => verdict === "unknown") &&
    [...gaps.values()].every((rows) => rows === 0) &&
    databases.every(({ streams }) => streams.every(streamsFit))
  );
}

function streamsFit({ external, publishedAlready, missingRows, orphans, rewinds, lost }: StreamComparison): boolean {
  return publishedAlready.length + missingRows.length + rewinds.length + lost.length === 0 && (external || orphans.length === 0);
}

/**
 * Repairs what was found. No engine may run. Each step can be done twice, and the note that a database was put back goes last: a kill anywhere is made
 * good by comparing and repairing again.
 * @param keep writes down entries that will be removed, and resolves when they are safe
 */
export async function repairStores(
  sources: RecoverySources,
  report: RecoveryReport,
  keep: (orphans: readonly OrphanedEntry[]) => Promise<void>,
): Promise<void> {
  const orphans = report.databases.flatMap(({ streams }) => streams.filter(({ external }) => !external).flatMap((one) => one.orphans));
  if (orphans.length > 0) await keep(orphans);
  for (const { database, streams } of report.databases) for (const found of streams) await repairStreams(database, found);
  const { eventStore: store, clock, random, log } = sources;
  for (const status of report.checkpoints) await resetCheckpoint(status, { store, clock, random, log });
  for (const found of report.stale) if (found.verdict === "stale") await forgetStale(found, { store, clock, random, log });
  for (const [name, rows] of report.gaps) if (rows > 0) await sources.reconcile(name, false);
  for (const { database } of report.databases) await database.settleRestored();
}
