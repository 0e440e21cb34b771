/**
 * A database that was put back from a backup, beside a broker that was not: what the broker has and the database doesn't know of, and the reverse.
 *
 * What doesn't fit, what a repair does with it, and why nothing is lost (docs/restore.md has it in words for operators):
 *
 * - **published already**: rows that wait in the restored outbox and stand in the stream since. Published again they would be there twice. They are marked
 *   as published, with the entry that was found. A row without an entry stays, and is published: rather twice than never.
 * - **not in the store**: events in the stream that were stored after the backup. The aggregate doesn't know of them, and will use their ids
 *   for other events; an idempotent handler that had seen the old one would skip the new one, which would be a loss. So they are written to a file
 *   first, and then removed from the stream.
 * - **commands not in the store**: they were accepted, so they are kept, and run again with their group: they make the events of theirs anew.
 * - **groups ahead**: what a group acknowledged since the backup was done on a state that is gone. The group is taken back to where it stood, and to what
 *   was pending then, so all of it is delivered again. Where "once" holds, what is in the restored state already is skipped by its marker.
 * - **lost by the broker**: rows that are marked as published with an id that the stream never had (a Redis that was restored, or lost its end). They are
 *   published again, in their order.
 */
import { DeserializationError, InvalidDataError } from "../../errors.ts";
import { parseDateTime } from "../../messages/datetime.ts";
import { type DecodedMessage, decodeMessage, decodeMetadata, decodeRow } from "../../messages/envelope.ts";
import type { Broker, EntryFields, StreamEntry } from "../../ports/broker.ts";
import type { Database } from "../../ports/database.ts";
import type { EventStore } from "../../ports/event-store.ts";
import type { OutboxInsert, OutboxRow } from "../../ports/outbox-store.ts";
import { instanceOfConsumer } from "../instance-watch.ts";
import type { PublishedType } from "../reconciliation.ts";
import type { StreamPlan } from "../subscription-plan.ts";
import type { BrokerPositions, GroupPosition } from "./positions.ts";

const PAGE = 500;
/** The clocks of the database and of the broker may differ by this much. */
const SKEW_ms = 5 * 60_000;
const NOTHING_DELIVERED = "0-0";

/** What an entry that the store doesn't know of said, for the file in which it is kept. */
export interface OrphanedEntry {
  readonly broker: string;
  readonly stream: string;
  readonly id: string;
  readonly messageId: string;
  readonly type: string;
  /** Fields as text; the message is in `data`. */
  readonly fields: Readonly<Record<string, string>>;
}

/** What one group has to do again. */
export interface GroupRewind {
  readonly plan: StreamPlan;
  readonly to: Pick<GroupPosition, "lastDelivered" | "pending">;
  /** Entries that it will get again, among them those that it hasn't done yet. */
  readonly entries: number;
}

export interface StreamComparison {
  readonly broker: Broker;
  readonly external: boolean;
  readonly publishedAlready: readonly { readonly id: string; readonly entryId: string }[];
  /** Rows for messages that the (other) event store has, the broker too, and the restored outbox not. */
  readonly missingRows: readonly { readonly row: OutboxInsert; readonly entryId: string }[];
  readonly orphans: readonly OrphanedEntry[];
  readonly commands: number;
  readonly rewinds: readonly GroupRewind[];
  readonly lost: readonly string[];
}

/**
 * Compares; changes nothing.
 * @param options.then where the broker stood when the backup was made; null when nobody noted it
 * @param options.since_id id from which entries count as younger than the backup, where nobody noted it
 * @param options.restoredAt_ms rows younger than this belong to the time after, and are none of the backup's
 * @param options.streams what this database publishes to
 * @param options.rowOf the outbox row of a message
 */
export async function compareStreams(options: {
  readonly database: Database;
  readonly broker: Broker;
  /** The broker gets copies for others only: what is there already can't be taken back. */
  readonly external: boolean;
  readonly store: EventStore;
  readonly then: BrokerPositions | null;
  readonly since_id: string | null;
  readonly streams: readonly string[];
  readonly plans: readonly StreamPlan[];
  readonly typeOf: (type: string) => PublishedType | null;
  readonly rowOf: (message: DecodedMessage, broker: string) => OutboxInsert;
}): Promise<StreamComparison> {
  const { database, broker, external, then, since_id, plans } = options;
  const waiting = await unfinishedRows(database, broker.name);
  const found = new Map<string, string>();
  const missingRows: { row: OutboxInsert; entryId: string }[] = [];
  const orphans: OrphanedEntry[] = [];
  let commands = 0;
  for (const stream of options.streams) {
    const rows = waiting.get(stream);
    const isYounger = youngerThan(then?.newest[stream] ?? (then === null ? since_id : NOTHING_DELIVERED));
    const from = [rows?.oldest_id, isYounger?.from].filter((id) => id !== undefined).sort(byId)[0];
    if (from === undefined) continue;
    for await (const page of pagesOf(broker, stream, from)) {
      const unknown: { readonly entry: StreamEntry; readonly message: DecodedMessage }[] = [];
      for (const entry of page) {
        const message = messageIn(entry.fields);
        if (message === null || message.id === null) continue;
        const rowId = rows?.ids.get(message.id);
        if (rowId !== undefined) {
          if (!found.has(rowId)) found.set(rowId, entry.id);
        } else if (isYounger?.is(entry.id) === true && options.typeOf(message.type)?.database === database.name)
          unknown.push({ entry, message });
      }
      const present = await database.outbox.present(
        unknown.map(({ message }) => message.id ?? ""),
        broker.name,
      );
      for (const { entry, message } of unknown) {
        if (present.has(message.id ?? "")) continue;
        if (options.store.identity !== database.identity && (await isStored(options.store, message))) {
          missingRows.push({ row: options.rowOf(message, broker.name), entryId: entry.id });
        } else if (message.metadata.domain.kind === "COMMAND") commands += 1;
        else orphans.push(orphanOf(broker, stream, entry, message));
      }
    }
  }
  return {
    broker,
    external,
    publishedAlready: [...found].map(([id, entryId]) => ({ id, entryId })),
    missingRows,
    orphans,
    commands,
    rewinds: await rewindsOf(
      broker,
      plans,
      then,
      since_id,
      external ? new Set() : new Set(orphans.map(({ stream, id }) => `${stream} ${id}`)),
    ),
    lost: await lostRows(database, broker, options.streams),
  };
}

/** Of a database that wasn't put back only this can be told: what the broker has lost. */
export async function compareLost(
  database: Database,
  broker: Broker,
  external: boolean,
  streams: readonly string[],
): Promise<StreamComparison> {
  const lost = await lostRows(database, broker, streams);
  return { broker, external, publishedAlready: [], missingRows: [], orphans: [], commands: 0, rewinds: [], lost };
}

async function lostRows(database: Database, broker: Broker, streams: readonly string[]): Promise<readonly string[]> {
  return streams.length === 0 ? [] : await database.outbox.publishedAbove(broker.name, await broker.newestIds(streams));
}

/** Entries that servers hold which are gone; the next server takes them over. */
export async function strandedEntries(broker: Broker, plans: readonly StreamPlan[]): Promise<ReadonlyMap<StreamPlan, number>> {
  const alive = new Set((await broker.instances.alive()).map(({ id }) => id));
  const stranded = new Map<StreamPlan, number>();
  for (const plan of plans) {
    let entries = 0;
    for (const { name, pending } of await broker.consumers(plan.stream, plan.group)) {
      const owner = instanceOfConsumer(name);
      if (owner !== null && !alive.has(owner)) entries += pending;
    }
    if (entries > 0) stranded.set(plan, entries);
  }
  return stranded;
}

/** Does what can be done twice: a kill in between is made good by doing all of it again. The orphans must be safe elsewhere before. */
export async function repairStreams(database: Database, { broker, external, ...found }: StreamComparison): Promise<void> {
  await database.outbox.notePublished(found.publishedAlready);
  await database.outbox.insertMissing(found.missingRows.map(({ row }) => row));
  await database.outbox.notePublished(found.missingRows.map(({ row, entryId }) => ({ id: row.id, entryId })));
  if (!external) {
    for (const stream of new Set(found.orphans.map((orphan) => orphan.stream))) {
      await broker.remove(
        stream,
        found.orphans.filter((orphan) => orphan.stream === stream).map(({ id }) => id),
      );
    }
  }
  // After the removal: what is gone isn't delivered again.
  for (const { plan, to } of found.rewinds) await broker.rewind(plan.stream, plan.group, to);
  await database.outbox.publishAgain(found.lost);
}

async function unfinishedRows(database: Database, broker: string) {
  const streams = new Map<string, { readonly ids: Map<string, string>; oldest_id: string }>();
  for (const status of ["pending", "processing", "failed"] as const) {
    for (let after: string | undefined; ; ) {
      const page: readonly OutboxRow[] = await database.outbox.list({ status, limit: PAGE, ...(after === undefined ? {} : { after }) });
      for (const row of page) {
        const stream = row.targetBroker === broker ? streamOf(row) : null;
        if (stream === null) continue;
        const oldest_id = idAt((parseDateTime(row.createdAt)?.epoch_ms ?? 0) - SKEW_ms);
        const known = streams.get(stream);
        if (known === undefined) streams.set(stream, { ids: new Map([[row.messageId, row.id]]), oldest_id });
        else {
          known.ids.set(row.messageId, row.id);
          if (byId(oldest_id, known.oldest_id) < 0) known.oldest_id = oldest_id;
        }
      }
      after = page.at(-1)?.id;
      if (page.length < PAGE) break;
    }
  }
  return streams;
}

function streamOf(row: OutboxRow): string | null {
  try {
    return decodeMetadata(row.metadata).domain.stream_category;
  } catch (error) {
    if (error instanceof DeserializationError || error instanceof InvalidDataError) return null;
    throw error;
  }
}

/** null: everything counts as older. */
function youngerThan(id: string | null): { readonly from: string; is(id: string): boolean } | null {
  return id === null ? null : { from: id, is: (other) => byId(other, id) > 0 };
}

async function* pagesOf(broker: Broker, stream: string, from: string): AsyncGenerator<readonly StreamEntry[]> {
  for (let next = from; ; ) {
    const page = await broker.range(stream, { from: next, count: PAGE });
    if (page.length > 0) yield page;
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) return;
    next = following(last.id);
  }
}

/** null for what is no message: nobody's, or a subscriber's. */
function messageIn(fields: EntryFields): DecodedMessage | null {
  const data = fields.find(([name]) => name === "data")?.[1];
  if (data === undefined) return null;
  try {
    return decodeMessage(data);
  } catch (error) {
    if (error instanceof DeserializationError) return null;
    throw error;
  }
}

/** Looks through the message's own stream; positions in it aren't known to a published message. */
async function isStored(store: EventStore, message: DecodedMessage): Promise<boolean> {
  if (message.stream === null) return false;
  for (let next = 0; ; ) {
    const page = await store.readStream(message.stream, next, PAGE);
    for (const row of page) if (decodeRow({ ...row, dataText: row.data, metadataText: row.metadata }).id === message.id) return true;
    next = (page.at(-1)?.position ?? next) + 1;
    if (page.length < PAGE) return false;
  }
}

function orphanOf(broker: Broker, stream: string, { id, fields }: StreamEntry, message: DecodedMessage): OrphanedEntry {
  const decoder = new TextDecoder();
  return {
    broker: broker.name,
    stream,
    id,
    messageId: message.id ?? "",
    type: message.type,
    fields: Object.fromEntries(fields.map(([name, value]) => [name, decoder.decode(value)])),
  };
}

async function rewindsOf(
  broker: Broker,
  plans: readonly StreamPlan[],
  then: BrokerPositions | null,
  since_id: string | null,
  /** Streams and ids of entries that will be gone by then. */
  removed: ReadonlySet<string>,
): Promise<readonly GroupRewind[]> {
  const rewinds: GroupRewind[] = [];
  for (const plan of plans) {
    const now = (await broker.groups(plan.stream)).find(({ name }) => name === plan.group);
    // The engine makes it anew, at the start: everything is delivered.
    if (now === undefined) continue;
    const to = positionThen(plan, then, since_id);
    if (to === null) continue;
    let entries = 0;
    if (byId(now.lastDeliveredId, to.lastDelivered) > 0) {
      for await (const page of pagesOf(broker, plan.stream, following(to.lastDelivered))) {
        entries += page.filter(({ id }) => byId(id, now.lastDeliveredId) <= 0 && !removed.has(`${plan.stream} ${id}`)).length;
        if (byId(page.at(-1)?.id ?? "", now.lastDeliveredId) >= 0) break;
      }
    }
    const stillPending = await pendingIds(broker, plan, to.pending);
    const again = to.pending.filter((id) => byId(id, to.lastDelivered) <= 0 && !stillPending.has(id));
    for (const id of again) entries += (await broker.range(plan.stream, { from: id, to: id, count: 1 })).length;
    if (entries > 0 || byId(now.lastDeliveredId, to.lastDelivered) > 0)
      rewinds.push({ plan, to: { lastDelivered: to.lastDelivered, pending: again }, entries });
  }
  return rewinds;
}

/** A group that wasn't there when the backup was made has begun after it, where it begins by its settings. */
function positionThen(
  plan: StreamPlan,
  then: BrokerPositions | null,
  since_id: string | null,
): Pick<GroupPosition, "lastDelivered" | "pending"> | null {
  if (then === null) return since_id === null ? null : { lastDelivered: since_id, pending: [] };
  const known = then.groups.find(({ stream, group }) => stream === plan.stream && group === plan.group);
  if (known !== undefined) return known;
  const newest = then.newest[plan.stream] ?? NOTHING_DELIVERED;
  return { lastDelivered: plan.settings.startFrom === "now" ? newest : NOTHING_DELIVERED, pending: [] };
}

async function pendingIds(broker: Broker, plan: StreamPlan, among: readonly string[]): Promise<ReadonlySet<string>> {
  const pending = new Set<string>();
  if (among.length === 0) return pending;
  for (let after: string | null = null; ; ) {
    const page: readonly { readonly id: string }[] = await broker.pending(plan.stream, plan.group, { after, count: PAGE });
    for (const { id } of page) pending.add(id);
    after = page.at(-1)?.id ?? null;
    if (page.length < PAGE) return pending;
  }
}

/** The first id of that millisecond. */
export function idAt(epoch_ms: number): string {
  return `${Math.max(0, Math.floor(epoch_ms))}-0`;
}

function following(id: string): string {
  const [ms = "0", sequence = "0"] = id.split("-");
  return `${ms}-${Number(sequence) + 1}`;
}

function byId(one: string, other: string): number {
  const [oneMs = 0, oneSequence = 0] = one.split("-").map(Number);
  const [otherMs = 0, otherSequence = 0] = other.split("-").map(Number);
  return oneMs - otherMs || oneSequence - otherSequence;
}
