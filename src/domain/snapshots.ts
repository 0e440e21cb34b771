/**
 * Loading event-sourced aggregates, with snapshots to shorten it (wire-format §9, domain-model §3.9).
 *
 * A snapshot is a shortcut and nothing more: one that can't be read or doesn't fit the class any more is ignored with a warning, one that can't be
 * written is logged; the stream alone decides.
 */
import { IncorrectUsageError, ObjectNotFoundError } from "../errors.ts";
import { parseDateTime } from "../messages/datetime.ts";
import { type JsonObject, type JsonValue, parseJson } from "../messages/json.ts";
import { eventStream, factStream, snapshotStream } from "../messages/names.ts";
import type { StoredMessage } from "../ports/event-store.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { blank, fold, metaOf, stateOf } from "./instance.ts";
import { wireText } from "./message-metadata.ts";
import { decodeStored, readMessage } from "./read-message.ts";
import { stateFromWire, toWire } from "./wire.ts";

/** Rows read at a time. */
const PAGE = 500;

/** A past moment: after the event of this version (0 is the first), or what was stored by then. */
export type Moment = { readonly atVersion: number } | { readonly asOf: Date | string };

function categoryOf(meta: ElementMeta): string {
  if (meta.category === null) throw new IncorrectUsageError(`\`${meta.name}\` has no stream`);
  return meta.category;
}

/** What of a stream belongs to the moment. */
function limitsOf(at: Moment | undefined): { readonly lastVersion: number; readonly until_ms: number } {
  if (at === undefined) return { lastVersion: Number.POSITIVE_INFINITY, until_ms: Number.POSITIVE_INFINITY };
  if ("atVersion" in at) {
    if (!Number.isSafeInteger(at.atVersion) || at.atVersion < 0) throw new IncorrectUsageError(`atVersion: ${at.atVersion} is no version`);
    return { lastVersion: at.atVersion, until_ms: Number.POSITIVE_INFINITY };
  }
  const until_ms = at.asOf instanceof Date ? at.asOf.getTime() : (parseDateTime(at.asOf)?.epoch_ms ?? Number.NaN);
  if (Number.isNaN(until_ms)) throw new IncorrectUsageError(`asOf: ${String(at.asOf)} is no time`);
  return { lastVersion: Number.POSITIVE_INFINITY, until_ms };
}

/**
 * Rebuilds an aggregate from its newest usable snapshot and the events after it; null when its stream is empty, or had not got to `at` yet.
 * @throws DeserializationError when an event can't be read: half an aggregate is never returned
 */
export async function loadEventSourced(domain: Domain, meta: ElementMeta, id: string, at?: Moment): Promise<object | null> {
  const { eventStore, settings } = domain.stores;
  const category = categoryOf(meta);
  const stream = eventStream(category, id);
  const { lastVersion, until_ms } = limitsOf(at);

  // A snapshot says nothing of when its events came, so a moment in time is replayed from the start.
  const snapshot = until_ms === Number.POSITIVE_INFINITY ? await readSnapshot(domain, meta, id) : null;
  const usable = snapshot !== null && stateOf(snapshot).version <= lastVersion ? snapshot : null;
  const aggregate = usable ?? blank(meta, id);
  const from = usable === null ? 0 : stateOf(usable).version + 1;
  let position = from;
  reading: for (;;) {
    const rows = await eventStore.readStream(stream, position, PAGE);
    for (const row of rows) {
      if (row.position > lastVersion || timeOf(row) > until_ms) break reading;
      fold(aggregate, readMessage(domain, decodeStored(row)));
      position = row.position + 1;
    }
    if (rows.length < PAGE) break;
  }
  if (usable === null && position === 0) return null;
  if (at !== undefined) {
    if ("atVersion" in at && position - 1 < at.atVersion) return null;
    stateOf(aggregate).readOnly = true;
  } else if (settings.snapshotThreshold > 0 && position - from >= settings.snapshotThreshold) {
    try {
      await writeSnapshot(domain, meta, id, aggregate);
    } catch (error) {
      domain.stores.log.warning("snapshot.not_written", { aggregate: meta.name, id, error });
    }
  }
  return aggregate;
}

function timeOf(row: StoredMessage): number {
  return parseDateTime(row.time)?.epoch_ms ?? 0;
}

async function readSnapshot(domain: Domain, meta: ElementMeta, id: string): Promise<object | null> {
  const row = await domain.stores.eventStore.lastOfStream(snapshotStream(categoryOf(meta), id));
  if (row === null) return null;
  try {
    const data = parseJson(row.data);
    if (isObject(data)) {
      const aggregate = stateFromWire(meta, data);
      if (aggregate !== null) return aggregate;
    }
  } catch (error) {
    domain.stores.log.warning("snapshot.ignored", { aggregate: meta.name, id, error });
    return null;
  }
  domain.stores.log.warning("snapshot.ignored", { aggregate: meta.name, id, reason: "it does not fit the class" });
  return null;
}

function isObject(value: JsonValue): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function writeSnapshot(domain: Domain, meta: ElementMeta, id: string, aggregate: object): Promise<void> {
  const { eventStore, random } = domain.stores;
  await eventStore.append([
    {
      id: random.uuid(),
      stream: snapshotStream(categoryOf(meta), id),
      type: "SNAPSHOT",
      data: wireText({ ...toWire(aggregate), _version: stateOf(aggregate).version }),
      metadata: null,
      expectedVersion: null,
    },
  ]);
}

function requireEventSourced(target: object): ElementMeta {
  const meta = metaOf(target);
  if (meta.kind === "aggregate" && meta.options["eventSourced"] === true) return meta;
  throw new IncorrectUsageError(`\`${meta.name}\` is no event-sourced aggregate: there is nothing to take a snapshot of`);
}

/**
 * Writes a snapshot of an aggregate now, whatever the threshold.
 * @throws ObjectNotFoundError
 */
export async function createSnapshot(domain: Domain, target: object, id: unknown): Promise<void> {
  const meta = requireEventSourced(target);
  const aggregate = await loadEventSourced(domain, meta, String(id));
  if (aggregate === null) throw new ObjectNotFoundError(`\`${meta.name}\` object with identifier ${String(id)} does not exist.`);
  await writeSnapshot(domain, meta, String(id), aggregate);
}

/** Writes a snapshot of every aggregate of the class; answers how many. */
export async function createSnapshots(domain: Domain, target: object): Promise<number> {
  const meta = requireEventSourced(target);
  const category = categoryOf(meta);
  const prefix = eventStream(category, "");
  let count = 0;
  let after: string | null = null;
  for (;;) {
    const streams: readonly string[] = await domain.stores.eventStore.streams(category, after, PAGE);
    for (const stream of streams) {
      // Streams of fact events lie in the same category but are no aggregates.
      if (meta.options["factEvents"] === true && stream.startsWith(factStream(category, ""))) continue;
      const id = stream.slice(prefix.length);
      const aggregate = await loadEventSourced(domain, meta, id);
      if (aggregate === null) continue;
      await writeSnapshot(domain, meta, id, aggregate);
      count += 1;
    }
    const last = streams.at(-1);
    if (streams.length < PAGE || last === undefined) return count;
    after = last;
  }
}

/** Writes a snapshot of every event-sourced aggregate of the domain; answers how many. */
export async function createAllSnapshots(domain: Domain): Promise<number> {
  let count = 0;
  for (const meta of domain.elements.values()) {
    if (meta.kind === "aggregate" && meta.options["eventSourced"] === true) count += await createSnapshots(domain, meta.construct);
  }
  return count;
}
