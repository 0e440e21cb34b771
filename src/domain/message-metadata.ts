/**
 * Metadata of the messages that this domain makes: events as they are raised, commands as they are processed (wire-format §1.3, §2.1, §6, §9).
 * Everything that depends on the moment (priority, correlation, tenant) is taken here, not at commit (D32).
 */
import { Buffer } from "node:buffer";
import { InvalidDataError } from "../errors.ts";
import { checksumOfText, type EncodedPayload, encodePayload } from "../messages/checksum.ts";
import { isoOfEpoch } from "../messages/datetime.ts";
import type { Metadata } from "../messages/envelope.ts";
import { type JsonObject, objectMembers, toJsonText, type WireObject, type WireValue } from "../messages/json.ts";
import { commandStream } from "../messages/names.ts";
import { PyFloat } from "../messages/python-number.ts";
import { currentContext } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { metaOf } from "./instance.ts";
import { toWire } from "./wire.ts";

/** Payload texts by message: checksum and stored text must be the same bytes. Messages are frozen, so a text stays right. */
const payloads = new WeakMap<object, EncodedPayload>();

/** JSON text of a message's payload with its checksum. */
export function payloadOf(message: object): EncodedPayload {
  let payload = payloads.get(message);
  if (payload === undefined) {
    payload = encodePayload(toWire(message));
    payloads.set(message, payload);
  }
  return payload;
}

function requireSize(domain: Domain, meta: ElementMeta, dataText: string): void {
  const max = domain.stores.settings.maxMessage_bytes;
  // A UTF-16 unit is at most three bytes of UTF-8: short texts need no count.
  if (dataText.length * 3 <= max) return;
  const size = Buffer.byteLength(dataText);
  if (size <= max) return;
  const members = objectMembers(dataText);
  let largest = members[0];
  for (const member of members) if (largest === undefined || member.to - member.from > largest.to - largest.from) largest = member;
  const where =
    largest === undefined
      ? ""
      : `; its largest field is \`${largest.key}\` with ${Buffer.byteLength(dataText.slice(largest.from, largest.to))} bytes`;
  throw new InvalidDataError(`\`${meta.name}\` has ${size} bytes, more than max_message_bytes = ${max}${where}`, {
    fix: "Keep large content elsewhere (object storage, a table) and put its address into the message.",
  });
}

/** A value from user code as JSON: what JSON can't hold is named with its place instead of vanishing. */
export function wireValueOf(value: unknown, place: string): WireValue {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "bigint") return value;
  if (value instanceof PyFloat) return value;
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (value instanceof Date && !Number.isNaN(value.getTime())) return isoOfEpoch(value.getTime());
  if (Array.isArray(value)) return value.map((item, index) => wireValueOf(item, `${place}[${index}]`));
  if (typeof value === "object") {
    const result: Record<string, WireValue> = {};
    for (const [key, member] of Object.entries(value)) {
      if (member !== undefined) result[key] = wireValueOf(member, `${place}.${key}`);
    }
    return result;
  }
  throw new InvalidDataError(`${place} is ${typeof value === "number" ? String(value) : `a ${typeof value}`}, which a message can't hold`);
}

function mergeExtensions(results: readonly unknown[]): WireObject {
  const merged: Record<string, WireValue> = {};
  for (const result of results) {
    if (result === null || result === undefined || typeof result !== "object") continue;
    for (const [key, value] of Object.entries(result)) if (value !== undefined) merged[key] = wireValueOf(value, `enricher: ${key}`);
  }
  return Object.freeze(merged);
}

function now(domain: Domain): string {
  return isoOfEpoch(domain.stores.clock.now_ms());
}

/**
 * Metadata of an event at the moment it is raised.
 * @param at `expectedVersion` is the stream's last position before the event; null for fact events, and for state-based aggregates, whose
 *   position is only known at commit
 * @throws InvalidDataError when the payload is larger than `max_message_bytes` or an enricher returned something that JSON can't hold
 */
export function eventMetadata(
  aggregate: object,
  event: object,
  at: { readonly id: string; readonly stream: string; readonly sequenceId: string; readonly expectedVersion: number | null },
): Metadata {
  const meta = metaOf(event);
  const { domain } = meta;
  const context = currentContext();
  const inHand = context?.domain === domain ? context : null;
  const { dataText, checksum } = payloadOf(event);
  requireSize(domain, meta, dataText);
  const cause = inHand?.message ?? null;
  return {
    headers: {
      id: at.id,
      time: now(domain),
      type: meta.type,
      stream: at.stream,
      traceparent: cause?.headers.traceparent ?? null,
      idempotency_key: null,
      deadline: null,
    },
    envelope: { specversion: "1.0", checksum },
    domain: {
      fqn: meta.fqn,
      kind: "EVENT",
      origin_stream: cause?.domain.kind === "COMMAND" ? cause.domain.origin_stream : null,
      stream_category: metaOf(aggregate).category,
      version: meta.version,
      sequence_id: at.sequenceId,
      asynchronous: domain.stores.settings.eventProcessing === "async",
      expected_version: at.expectedVersion,
      priority: inHand?.priority ?? 0,
      correlation_id: inHand?.correlationId ?? null,
      causation_id: inHand?.causationId ?? null,
    },
    event_store: null,
    extensions: mergeExtensions(domain.eventEnrichers.map((enrich) => enrich(event as never, aggregate as never))),
  };
}

/** What `process` decides before the metadata is made. */
export interface CommandFacts {
  /** Value of the identity field, or a new one: decides the stream. */
  readonly identifier: string;
  readonly asynchronous: boolean;
  readonly streamCategory: string | null;
  readonly idempotencyKey: string | null;
  readonly deadline: string | null;
  readonly priority: number;
  readonly correlationId: string | null;
}

/**
 * Metadata of a command at the moment it is processed. The message id is always a new uuid; the stream keeps the identity (sdk-api §6).
 * @throws InvalidDataError as `eventMetadata`
 */
export function commandMetadata(command: object, category: string, facts: CommandFacts): Metadata {
  const meta = metaOf(command);
  const { domain } = meta;
  const context = currentContext();
  const inHand = context?.domain === domain ? context : null;
  const { dataText, checksum } = payloadOf(command);
  requireSize(domain, meta, dataText);
  const cause = inHand?.message ?? null;
  return {
    headers: {
      id: domain.stores.random.uuid(),
      time: now(domain),
      type: meta.type,
      stream: commandStream(category, facts.identifier),
      traceparent: cause?.headers.traceparent ?? null,
      idempotency_key: facts.idempotencyKey,
      deadline: facts.deadline,
    },
    envelope: { specversion: "1.0", checksum },
    domain: {
      fqn: meta.fqn,
      kind: "COMMAND",
      origin_stream: cause === null ? null : cause.domain.kind === "COMMAND" ? cause.domain.origin_stream : cause.headers.stream,
      stream_category: facts.streamCategory,
      version: meta.version,
      sequence_id: null,
      asynchronous: facts.asynchronous,
      expected_version: null,
      priority: facts.priority,
      correlation_id: facts.correlationId ?? inHand?.correlationId ?? domain.stores.random.hex(32),
      causation_id: inHand?.causationId ?? null,
    },
    event_store: null,
    extensions: mergeExtensions(domain.commandEnrichers.map((enrich) => enrich(command as never))),
  };
}

/** Metadata of a process manager's transition; it is no element of the domain, so nothing enriches it. */
export function transitionMetadata(
  domain: Domain,
  at: { readonly type: string; readonly fqn: string; readonly category: string; readonly stream: string; readonly version: number },
  dataText: string,
): Metadata {
  const context = currentContext();
  return {
    headers: {
      id: `${at.stream}-${at.version}`,
      time: null,
      type: at.type,
      stream: at.stream,
      traceparent: context?.message?.headers.traceparent ?? null,
      idempotency_key: null,
      deadline: null,
    },
    envelope: { specversion: "1.0", checksum: checksumOfText(dataText) },
    domain: {
      fqn: at.fqn,
      kind: "EVENT",
      origin_stream: null,
      stream_category: at.category,
      version: 1,
      sequence_id: String(at.version),
      asynchronous: domain.stores.settings.eventProcessing === "async",
      expected_version: at.version - 1,
      priority: context?.priority ?? 0,
      correlation_id: context?.correlationId ?? null,
      causation_id: context?.causationId ?? null,
    },
    event_store: null,
    extensions: {},
  };
}

/** The same metadata with the position that the event store will check. */
export function withExpectedVersion(metadata: Metadata, expectedVersion: number | null): Metadata {
  return { ...metadata, domain: { ...metadata.domain, expected_version: expectedVersion } };
}

/** Extension in which the wire names of fields dropped by a lenient reader are listed (domain-model §4.4). */
export const DROPPED_FIELDS = "_dropped_fields";

/** Values for `g` out of a message's extensions. */
export function contextValues(extensions: JsonObject | WireObject): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(extensions)) {
    // Made by the reader of a lenient message, not by an enricher.
    if (key === DROPPED_FIELDS) continue;
    values[key] = value instanceof PyFloat ? value.value : value;
  }
  return values;
}

/** Text of a wire object, for what is stored without being a message (snapshots, transitions). */
export function wireText(value: WireObject): string {
  return toJsonText(value);
}
