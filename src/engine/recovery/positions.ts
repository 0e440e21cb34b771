/**
 * Where the readers of other stores stand, noted in a backup before it is made. Restored without them a database would be behind what groups and
 * cursors say is done, and nobody would ever do it again.
 */
import { ConnectionError } from "../../errors.ts";
import { parseJson } from "../../messages/json.ts";
import { type Broker, CONTROL_STREAM } from "../../ports/broker.ts";
import type { Database } from "../../ports/database.ts";
import { ALL_STREAMS, type EventStore } from "../../ports/event-store.ts";
import { isBeside } from "./beside.ts";

/** Ids of pending entries that are noted for one group. With more, everything from there on counts as not delivered. */
const PENDING_most = 10_000;
const PAGE = 1_000;
/** Streams that are asked for at once. */
const AT_ONCE = 100;
const POSITION_CATEGORY = "position";

export interface GroupPosition {
  readonly stream: string;
  readonly group: string;
  readonly lastDelivered: string;
  /** Delivered and not acknowledged. */
  readonly pending: readonly string[];
}

export interface BrokerPositions {
  /** Key under `[brokers]`. */
  readonly broker: string;
  readonly address: string;
  readonly groups: readonly GroupPosition[];
  /** The newest id that each stream ever had. */
  readonly newest: Readonly<Record<string, string>>;
}

export interface EventStorePositions {
  readonly address: string;
  /** Of its last message; -1 when it was empty. */
  readonly head: number;
  /** Position stream (wire-format §9) to the cursor in it. */
  readonly cursors: Readonly<Record<string, number>>;
}

/** Only of stores that aren't the backed-up one. */
export interface StorePositions {
  readonly brokers: readonly BrokerPositions[];
  /** null when the event store is in the same file, or couldn't be reached. */
  readonly eventStore: EventStorePositions | null;
}

/**
 * Reads where everybody stands. To be called *before* the snapshot: what is acknowledged between the two is in the snapshot, and will at worst be run
 * again; the other way round it would be taken for done without being there.
 * @returns what could be read; a store that couldn't be reached is left out, and nothing can be compared with it later
 */
export async function readPositions(stores: {
  readonly database: Pick<Database, "identity">;
  readonly brokers: ReadonlyMap<string, Broker>;
  readonly eventStore: EventStore;
}): Promise<{ readonly positions: StorePositions; readonly unreachable: readonly ConnectionError[] }> {
  const { database, eventStore } = stores;
  const unreachable: ConnectionError[] = [];
  const orNull = async <T>(read: Promise<T>): Promise<T | null> => {
    try {
      return await read;
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      unreachable.push(error);
      return null;
    }
  };
  const brokers: (BrokerPositions | null)[] = [];
  for (const broker of stores.brokers.values()) if (isBeside(broker, database)) brokers.push(await orNull(brokerPositions(broker)));
  const positions: StorePositions = {
    brokers: brokers.filter((one) => one !== null),
    eventStore: isBeside(eventStore, database) ? await orNull(eventStorePositions(eventStore)) : null,
  };
  return { positions, unreachable };
}

async function brokerPositions(broker: Broker): Promise<BrokerPositions> {
  const streams = (await broker.streams("")).filter((stream) => stream !== CONTROL_STREAM && !stream.startsWith("protean:"));
  const groups: GroupPosition[] = [];
  for (let from = 0; from < streams.length; from += AT_ONCE) {
    const part = await Promise.all(streams.slice(from, from + AT_ONCE).map((stream) => groupPositions(broker, stream)));
    groups.push(...part.flat());
  }
  return { broker: broker.name, address: broker.address, groups, newest: Object.fromEntries(await broker.newestIds(streams)) };
}

async function groupPositions(broker: Broker, stream: string): Promise<readonly GroupPosition[]> {
  const groups = await broker.groups(stream);
  return await Promise.all(
    groups.map(async ({ name: group, lastDeliveredId }) => {
      // After the id: what is delivered in between shows up among the pending.
      const pending: string[] = [];
      while (pending.length < PENDING_most) {
        const page = await broker.pending(stream, group, { after: pending.at(-1) ?? null, count: PAGE });
        pending.push(...page.map(({ id }) => id));
        if (page.length < PAGE) return { stream, group, lastDelivered: lastDeliveredId, pending };
      }
      return { stream, group, lastDelivered: pending.at(-1) ?? lastDeliveredId, pending };
    }),
  );
}

async function eventStorePositions(store: EventStore): Promise<EventStorePositions> {
  const cursors: Record<string, number> = {};
  for (let after: string | null = null; ; ) {
    const page: readonly string[] = await store.streams(POSITION_CATEGORY, after, PAGE);
    for (const stream of page) {
      const cursor = cursorIn((await store.lastOfStream(stream))?.data ?? "{}");
      if (cursor !== null) cursors[stream] = cursor;
    }
    after = page.at(-1) ?? null;
    if (page.length < PAGE) break;
  }
  return { address: store.address, head: (await store.lastOfCategory(ALL_STREAMS))?.globalPosition ?? -1, cursors };
}

/** The cursor in a `Read` record; null when it says none. */
export function cursorIn(data: string): number | null {
  const { position } = parseJson(data) as { readonly position?: unknown };
  return typeof position === "number" && Number.isSafeInteger(position) ? position : null;
}

export function positionsText(positions: StorePositions): string {
  return JSON.stringify(positions);
}

/** null for a text that is none of ours. */
export function positionsIn(text: string | null): StorePositions | null {
  if (text === null) return null;
  try {
    const value = JSON.parse(text) as Partial<StorePositions> | null;
    return Array.isArray(value?.brokers) && value.eventStore !== undefined ? (value as StorePositions) : null;
  } catch {
    return null;
  }
}
