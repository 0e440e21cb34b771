import { isoOfEpoch, parseDateTime } from "../messages/datetime.ts";
import { type DecodedMessage, decodeRow, encodeMetadata } from "../messages/envelope.ts";
import { toJsonText } from "../messages/json.ts";
import { positionStream } from "../messages/names.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import { ALL_STREAMS, type EventStore, type StoredMessage } from "../ports/event-store.ts";
import type { Log } from "../ports/log.ts";
import type { OutboxInsert } from "../ports/outbox-store.ts";
import type { Random } from "../ports/random.ts";
import { isBookkeeping } from "./recovery-ledger.ts";

const PAGE = 1_000;
/** A unit of work may have appended and not yet committed its rows: messages younger than this are left to it. */
const GRACE_ms = 3_000;

/** What reconciliation must know of a message type of this domain. */
export interface PublishedType {
  /** Name under `[databases]` of the aggregate's database. */
  readonly database: string;
  /** Copies go to the external brokers. */
  readonly published: boolean;
}

/**
 * Finds messages that are in the event store but have no outbox row, and adds the rows (outbox.md §8, rulings 10, G63).
 *
 * Only needed where event store and database are two: there a unit of work appends first and commits its rows second, and a kill between the two
 * leaves events that nobody would publish. Reads the store from a low-water mark (kept as a `Read` record of its own) to the tail and repairs every
 * hole on the way, however deep. Adding is idempotent by the unique (message_id, target_broker), so any number of engines may run it.
 * A kill half-way leaves some rows added and the mark unmoved: the next run adds the rest.
 *
 * Commands: only those that were to be published (`stream_category` set and asynchronous); Python's are handled from the store.
 *
 * @returns how many rows were added; with `dryRun` how many are missing
 */
export async function reconcileOutbox(options: {
  readonly store: EventStore;
  readonly database: Database;
  /** null for types that aren't ours. */
  readonly typeOf: (type: string) => PublishedType | null;
  readonly targetBroker: string;
  readonly externalBrokers: readonly string[];
  readonly maxAttempts: number;
  /** Older messages are left alone: their rows may have been cleaned up. */
  readonly retention_ms: number;
  /** From the first message of the store on, whatever was looked at before. Default false. */
  readonly fromStart?: boolean;
  /** Counts what is missing and writes nothing. Default false. */
  readonly dryRun?: boolean;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}): Promise<number> {
  const { store, database, clock } = options;
  const markStream = positionStream(`protean.outbox.${database.name}`, ALL_STREAMS);
  const last = await store.lastOfStream(markStream);
  let mark = last === null || options.fromStart === true ? 0 : (JSON.parse(last.data) as { position: number }).position;
  const start = mark;
  const oldest_ms = clock.now_ms() - options.retention_ms;
  const youngest_ms = clock.now_ms() - GRACE_ms;
  let added = 0;
  let settled = true;
  for (let next = mark + 1; settled; ) {
    const page = await store.readCategory(ALL_STREAMS, next, PAGE);
    if (page.length === 0) break;
    const candidates: { readonly message: DecodedMessage; readonly published: boolean }[] = [];
    for (const row of page) {
      const written_ms = timeOf(row);
      if (written_ms > youngest_ms) {
        settled = false;
        break;
      }
      mark = row.globalPosition;
      if (written_ms < oldest_ms || isBookkeeping(row)) continue;
      const known = options.typeOf(row.type);
      if (known === null || known.database !== database.name) continue;
      const message = decode(row, options.log);
      if (message !== null && wasToBePublished(message)) candidates.push({ message, published: known.published });
    }
    added += await addMissing(candidates, options);
    next = mark + 1;
    if (page.length < PAGE) break;
  }
  if (options.dryRun === true || options.fromStart === true) return added;
  if (mark - start >= PAGE || added > 0) await writeMark(mark, markStream, last?.position ?? -1, options);
  if (added > 0) options.log.info("engine.outbox_reconciled", { rows: added, database: database.name });
  return added;
}

async function addMissing(
  candidates: readonly { readonly message: DecodedMessage; readonly published: boolean }[],
  options: Parameters<typeof reconcileOutbox>[0],
): Promise<number> {
  const { outbox } = options.database;
  let added = 0;
  for (const broker of [options.targetBroker, ...options.externalBrokers]) {
    const wanted = broker === options.targetBroker ? candidates : candidates.filter((candidate) => candidate.published);
    if (wanted.length === 0) continue;
    const present = await outbox.present(
      wanted.flatMap(({ message }) => (message.id === null ? [] : [message.id])),
      broker,
    );
    const rows = wanted
      .filter(({ message }) => message.id !== null && !present.has(message.id))
      .map(({ message }) => rowOf(message, broker, options));
    if (rows.length > 0) added += options.dryRun === true ? rows.length : await outbox.insertMissing(rows);
  }
  return added;
}

/** The outbox row of a message that has none. */
export function rowOf(
  message: DecodedMessage,
  targetBroker: string,
  options: { readonly random: Random; readonly maxAttempts: number },
): OutboxInsert {
  const { domain } = message.metadata;
  return {
    id: options.random.uuid(),
    messageId: message.id ?? "",
    streamName: message.stream ?? "",
    type: message.type,
    data: message.dataText,
    metadata: encodeMetadata(message.metadata),
    correlationId: domain.correlation_id,
    causationId: domain.causation_id,
    partitionKey: null,
    priority: domain.priority,
    targetBroker,
    maxRetries: options.maxAttempts,
  };
}

function wasToBePublished(message: DecodedMessage): boolean {
  const { kind, stream_category, asynchronous } = message.metadata.domain;
  if (kind === "EVENT") return stream_category !== null;
  return kind === "COMMAND" && stream_category !== null && asynchronous;
}

async function writeMark(
  position: number,
  stream: string,
  head: number,
  options: { readonly store: EventStore; readonly random: Random; readonly clock: Clock },
): Promise<void> {
  const metadata = {
    headers: { id: options.random.uuid(), type: "Read", time: isoOfEpoch(options.clock.now_ms()), stream },
    domain: { kind: "READ_POSITION", origin_stream: ALL_STREAMS },
  };
  await options.store.append([
    {
      id: options.random.uuid(),
      stream,
      type: "Read",
      data: toJsonText({ position }),
      metadata: toJsonText(metadata),
      expectedVersion: head,
    },
  ]);
}

function timeOf(row: StoredMessage): number {
  const parts = parseDateTime(row.time);
  return parts?.epoch_ms ?? 0;
}

function decode(row: StoredMessage, log: Log): DecodedMessage | null {
  try {
    return decodeRow({ ...row, dataText: row.data, metadataText: row.metadata });
  } catch (error) {
    log.warning("reconciliation.row_unreadable", { position: row.globalPosition, error: String(error) });
    return null;
  }
}
