/**
 * The message envelope: writing it exactly as Python does, reading whatever Python ever wrote and then some.
 *
 * A reader takes the message apart by slices of its text: `data` stays untouched text until somebody asks for its values, its
 * checksum is made from that text, and only `metadata` is parsed. Unknown keys are ignored (D43); what can't be understood is a
 * `DeserializationError` and nothing else, so that one bad message is one dead letter and never a stuck consumer.
 */
import { Buffer } from "node:buffer";
import { DeserializationError, InvalidDataError } from "../errors.ts";
import { checksumOfText } from "./checksum.ts";
import { normalisedDateTime } from "./datetime.ts";
import type { JsonObject, JsonValue, MemberSpan, OpenedObject, WireObject } from "./json.ts";
import { objectMembers, openObject, parseJson, parseWire, pythonString, toJsonText } from "./json.ts";
import { MESSAGE_MAX_BYTES } from "./limits.ts";
import { parseType } from "./names.ts";
import type { TraceParent } from "./traceparent.ts";
import { readStoredTraceparent } from "./traceparent.ts";

export interface Headers {
  readonly id: string | null;
  /** Python ISO text; read with `parseDateTime`. */
  readonly time: string | null;
  readonly type: string | null;
  readonly stream: string | null;
  readonly traceparent: TraceParent | null;
  readonly idempotency_key: string | null;
  readonly deadline: string | null;
}

export interface EnvelopeInfo {
  readonly specversion: string;
  readonly checksum: string | null;
}

export interface DomainInfo {
  readonly fqn: string | null;
  /** `EVENT` or `COMMAND`, `READ_POSITION` on rows of the engine itself; null when the writer gave none. */
  readonly kind: string | null;
  readonly origin_stream: string | null;
  readonly stream_category: string | null;
  readonly version: number;
  readonly sequence_id: string | null;
  readonly asynchronous: boolean;
  readonly expected_version: number | null;
  readonly priority: number;
  readonly correlation_id: string | null;
  readonly causation_id: string | null;
}

export interface EventStoreInfo {
  readonly global_position: number;
  readonly position: number;
}

/** Everything about a message except its payload, in wire names. */
export interface Metadata {
  readonly headers: Headers;
  readonly envelope: EnvelopeInfo;
  readonly domain: DomainInfo;
  readonly event_store: EventStoreInfo | null;
  /** What enrichers returned. Values to be written as floats are `PyFloat`. */
  readonly extensions: WireObject;
}

/** Version of the envelope; written always, checked never. */
export const SPEC_VERSION = "1.0";

// ---------------------------------------------------------------------------------------------------------------- writing

function textOrNull(value: string | null): string {
  return value === null ? "null" : pythonString(value);
}

function headersText(headers: Headers): string {
  const { traceparent } = headers;
  const trace =
    traceparent === null
      ? "null"
      : `{"trace_id": ${pythonString(traceparent.trace_id)}, "parent_id": ${pythonString(traceparent.parent_id)}, "sampled": ${traceparent.sampled}}`;
  return (
    `{"id": ${textOrNull(headers.id)}, "time": ${textOrNull(headers.time)}, "type": ${textOrNull(headers.type)}, ` +
    `"stream": ${textOrNull(headers.stream)}, "traceparent": ${trace}, "idempotency_key": ${textOrNull(headers.idempotency_key)}, ` +
    `"deadline": ${textOrNull(headers.deadline)}}`
  );
}

/** Metadata as JSON text in Python's order and spacing; the column of stores and outbox rows, and the second half of a message. */
export function encodeMetadata(metadata: Metadata): string {
  const { domain, envelope, event_store } = metadata;
  const store = event_store === null ? "null" : `{"global_position": ${event_store.global_position}, "position": ${event_store.position}}`;
  return (
    `{"headers": ${headersText(metadata.headers)}, ` +
    `"envelope": {"specversion": ${pythonString(envelope.specversion)}, "checksum": ${textOrNull(envelope.checksum)}}, ` +
    `"domain": {"fqn": ${textOrNull(domain.fqn)}, "kind": ${textOrNull(domain.kind)}, "origin_stream": ${textOrNull(domain.origin_stream)}, ` +
    `"stream_category": ${textOrNull(domain.stream_category)}, "version": ${domain.version}, "sequence_id": ${textOrNull(domain.sequence_id)}, ` +
    `"asynchronous": ${domain.asynchronous}, "expected_version": ${domain.expected_version}, "priority": ${domain.priority}, ` +
    `"correlation_id": ${textOrNull(domain.correlation_id)}, "causation_id": ${textOrNull(domain.causation_id)}}, ` +
    `"event_store": ${store}, "extensions": ${toJsonText(metadata.extensions)}}`
  );
}

/** Metadata of a published event's copy on other brokers: no checksum, no positions, nothing about our own scheduling. */
export function encodeExternalMetadata(metadata: Metadata): string {
  const { domain } = metadata;
  const extensions = Object.keys(metadata.extensions).length === 0 ? "" : `, "extensions": ${toJsonText(metadata.extensions)}`;
  return (
    `{"headers": ${headersText(metadata.headers)}, ` +
    `"domain": {"fqn": ${textOrNull(domain.fqn)}, "kind": ${textOrNull(domain.kind)}, "origin_stream": ${textOrNull(domain.origin_stream)}, ` +
    `"stream_category": ${textOrNull(domain.stream_category)}, "version": ${domain.version}, "sequence_id": ${textOrNull(domain.sequence_id)}, ` +
    `"correlation_id": ${textOrNull(domain.correlation_id)}, "causation_id": ${textOrNull(domain.causation_id)}}, ` +
    `"envelope": {"specversion": ${pythonString(metadata.envelope.specversion)}}${extensions}}`
  );
}

/** A payload as text with its metadata. */
export interface OutgoingMessage {
  /** JSON text of the payload; goes into the message as it is. */
  readonly dataText: string;
  readonly metadata: Metadata;
}

/**
 * Puts a message together from two JSON texts, neither of them parsed.
 * @throws InvalidDataError above 4 MiB, naming the largest field
 */
export function joinMessage(dataText: string, metadataText: string): string {
  const text = `{"data": ${dataText}, "metadata": ${metadataText}}`;
  requireSize(text, dataText);
  return text;
}

/**
 * The whole message as it stands on our own streams, as Python writes it.
 * @throws InvalidDataError above 4 MiB, naming the largest field
 */
export function encodeMessage(message: OutgoingMessage): string {
  return joinMessage(message.dataText, encodeMetadata(message.metadata));
}

/** The stripped form of a published event for other brokers. */
export function encodeExternal(message: OutgoingMessage): string {
  return joinMessage(message.dataText, encodeExternalMetadata(message.metadata));
}

function requireSize(text: string, dataText: string): void {
  // A UTF-16 unit is at most three bytes of UTF-8: short texts need no count.
  if (text.length * 3 <= MESSAGE_MAX_BYTES) return;
  const size = Buffer.byteLength(text);
  if (size <= MESSAGE_MAX_BYTES) return;
  const largest = objectMembers(dataText).reduce<MemberSpan | null>(
    (best, span) => (best === null || span.to - span.from > best.to - best.from ? span : best),
    null,
  );
  const where = largest === null ? "" : `; its largest field is "${largest.key}" with ${largest.to - largest.from} characters`;
  throw new InvalidDataError(`the message has ${size} bytes, more than the ${MESSAGE_MAX_BYTES} allowed${where}`, {
    fix: "Keep large content elsewhere (object storage, a table) and put its address into the message.",
  });
}

// ---------------------------------------------------------------------------------------------------------------- reading

interface MessageParts {
  readonly dataText: string;
  readonly metadataText: string | null;
  readonly metadata: Metadata;
  readonly id: string | null;
  readonly type: string;
  readonly stream: string | null;
  /** The payload's values, when they were parsed with the message. */
  readonly data: JsonObject | undefined;
}

/** A message that was read and whose checksum holds. Frozen; so is its payload. */
export class DecodedMessage {
  /** Source text of the payload; pass this on, never a rewritten one. */
  readonly dataText: string;
  /** Source text of the metadata, or null when there was none. */
  readonly metadataText: string | null;
  readonly metadata: Metadata;
  /** `headers.id`; null when the writer gave none. Of commands it is not unique. */
  readonly id: string | null;
  readonly type: string;
  /** Stream of the aggregate: `headers.stream`, for rows of a store the stream they stand in. */
  readonly stream: string | null;
  #data: JsonObject | undefined;
  #isFrozen = false;

  constructor(parts: MessageParts) {
    this.dataText = parts.dataText;
    this.metadataText = parts.metadataText;
    this.metadata = parts.metadata;
    this.id = parts.id;
    this.type = parts.type;
    this.stream = parts.stream;
    this.#data = parts.data;
    Object.freeze(this);
  }

  /**
   * The payload, deeply frozen at the first call. Integers beyond 2^53 are `bigint`; a `__proto__` key is an ordinary key
   * of an object without prototype.
   */
  get data(): JsonObject {
    const data = this.#data ?? (parseJson(this.dataText) as JsonObject);
    if (!this.#isFrozen) {
      deepFreeze(data);
      this.#data = data;
      this.#isFrozen = true;
    }
    return data;
  }

  /** A fresh copy of the payload that may be changed, for upcasters. */
  copyData(): Record<string, JsonValue> {
    return parseJson(this.dataText) as Record<string, JsonValue>;
  }
}

function deepFreeze(value: JsonValue): void {
  if (value === null || typeof value !== "object") return;
  for (const member of Array.isArray(value) ? (value as readonly JsonValue[]) : Object.values(value as JsonObject)) deepFreeze(member);
  Object.freeze(value);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Text of bytes that should be UTF-8.
 * @throws DeserializationError when they are not, or above 4 MiB
 */
export function decodeUtf8(bytes: Uint8Array): string {
  if (bytes.byteLength > MESSAGE_MAX_BYTES) throw tooLarge(bytes.byteLength);
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new DeserializationError("the message is not UTF-8", { cause });
  }
}

function tooLarge(size: number): DeserializationError {
  return new DeserializationError(`the message has ${size} bytes, more than the ${MESSAGE_MAX_BYTES} allowed`);
}

function lastOf(members: readonly MemberSpan[], key: string): MemberSpan | undefined {
  return members.findLast((member) => member.key === key);
}

/**
 * Reads a message in any form Python accepts: ours, the external form, old flat metadata, absent parts; extra keys are ignored.
 * @throws DeserializationError, and nothing else, when it can't be read: not UTF-8, not JSON, no object, no `data`, no type, a wrong
 *   checksum, a value of the wrong kind, too large or too deep
 */
export function decodeMessage(message: string | Uint8Array): DecodedMessage {
  const text = typeof message === "string" ? message : decodeUtf8(message);
  if (typeof message === "string") requireReadable(text);
  return decodeOpened(text, openObject(text, 0));
}

function requireReadable(text: string): void {
  if (text.length * 3 <= MESSAGE_MAX_BYTES) return;
  const size = Buffer.byteLength(text);
  if (size > MESSAGE_MAX_BYTES) throw tooLarge(size);
}

function decodeOpened(text: string, { values, members }: OpenedObject): DecodedMessage {
  const raw = asObject(values["metadata"], "metadata");
  const metadataSpan = lastOf(members, "metadata");
  if (raw === null || metadataSpan === undefined) throw new DeserializationError("the message has no metadata");
  const dataSpan = lastOf(members, "data");
  return finish({
    dataText: dataSpan === undefined ? null : text.slice(dataSpan.from, dataSpan.to),
    data: values["data"],
    metadataText: text.slice(metadataSpan.from, metadataSpan.to),
    raw,
    // Old writers put the envelope beside the metadata.
    envelope: raw["envelope"] === undefined ? values["envelope"] : raw["envelope"],
    row: null,
  });
}

/** A row of an event store. */
export interface StoredRow {
  readonly type: string;
  /** Source text of the payload, null when the column is. */
  readonly dataText: string | null;
  readonly metadataText: string | null;
  readonly stream: string;
  readonly position: number;
  readonly globalPosition: number;
  /** When the row was written, any form `parseDateTime` reads; without offset it is UTC. */
  readonly time: string;
  /** The row's own id, unrelated to `headers.id`. */
  readonly id: string;
}

/**
 * Reads a row of an event store. What its metadata lacks is taken from the row; where both have it, the metadata wins, as in Python.
 * Rows without metadata (snapshots, foreign writers) are read too.
 * @throws DeserializationError, and nothing else, when it can't be read
 */
export function decodeRow(row: StoredRow): DecodedMessage {
  const raw = row.metadataText === null ? {} : (asObject(parseJson(row.metadataText), "metadata") ?? {});
  const data = row.dataText === null ? undefined : parseJson(row.dataText);
  return finish({ dataText: row.dataText, data, metadataText: row.metadataText, raw, envelope: raw["envelope"], row });
}

/**
 * Reads metadata alone, to be written again in another form (outbox rows for other brokers): floats in `extensions` stay floats.
 * @throws DeserializationError when it can't be read
 */
export function decodeMetadata(metadataText: string): Metadata {
  const { values, members } = openObject(metadataText, 1);
  const metadata = readMetadata(values, values["envelope"], null);
  const span = lastOf(members, "extensions");
  if (span === undefined || values["extensions"] === null) return metadata;
  return Object.freeze({ ...metadata, extensions: parseWire(metadataText.slice(span.from, span.to)) as WireObject });
}

interface Found {
  readonly dataText: string | null;
  readonly data: JsonValue | undefined;
  readonly metadataText: string | null;
  readonly raw: JsonObject;
  readonly envelope: JsonValue | undefined;
  readonly row: StoredRow | null;
}

function finish({ dataText, data, metadataText, raw, envelope, row }: Found): DecodedMessage {
  const messageId = peekId(raw);
  if (dataText === null || data === null || data === undefined) throw new DeserializationError("the message has no data", { messageId });
  if (!isObject(data)) throw new DeserializationError("data is no object", { messageId });
  let metadata: Metadata;
  try {
    metadata = readMetadata(raw, envelope, row);
  } catch (error) {
    if (error instanceof DeserializationError && error.messageId === null && messageId !== null) {
      throw new DeserializationError(error.message, { messageId, cause: error });
    }
    throw error;
  }
  const { headers } = metadata;
  if (headers.type === null) throw new DeserializationError("the message has no type", { messageId });
  const { checksum } = metadata.envelope;
  if (checksum !== null) {
    const computed = checksumOfText(dataText);
    if (computed !== checksum) {
      throw new DeserializationError(`wrong checksum: the message says ${checksum.slice(0, 64)}, its data has ${computed}`, { messageId });
    }
  }
  return new DecodedMessage({
    dataText,
    data,
    metadataText,
    metadata,
    id: headers.id,
    type: headers.type,
    stream: row?.stream ?? headers.stream,
  });
}

function peekId(raw: JsonObject): string | null {
  const headers = raw["headers"];
  const id = isObject(headers) ? headers["id"] : raw["id"];
  return typeof id === "string" ? id : null;
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The object, null for null or absent; anything else can't be read. */
function asObject(value: JsonValue | undefined, name: string): JsonObject | null {
  if (value === undefined || value === null) return null;
  if (!isObject(value)) throw new DeserializationError(`${name} is no object`);
  return value;
}

function readText(value: JsonValue | undefined, name: string): string | null {
  if (typeof value === "string") return value;
  if (value === undefined || value === null) return null;
  if (typeof value === "object") throw new DeserializationError(`${name} is no text`);
  return String(value);
}

function readTime(value: JsonValue | undefined, name: string): string | null {
  if (value === undefined || value === null) return null;
  const time = typeof value === "string" || typeof value === "number" ? normalisedDateTime(value) : null;
  if (time === null) throw new DeserializationError(`${name} is no time`);
  return time;
}

function readInteger(value: JsonValue | undefined, name: string): number | null {
  if (value === undefined || value === null) return null;
  const number = typeof value === "string" && /^[+-]?\d+$/.test(value.trim()) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isSafeInteger(number)) throw new DeserializationError(`${name} is no integer`);
  return number;
}

/** `"v1"` in old metadata, a number since; null stands for the type's own version. */
function readVersion(value: JsonValue | undefined, type: string | null): number {
  const version = readInteger(typeof value === "string" ? value.replace(/^v/, "") : value, "domain.version");
  return version ?? (type === null ? null : parseType(type)?.version) ?? 1;
}

const NO_EXTENSIONS: WireObject = Object.freeze({});

function readMetadata(raw: JsonObject, rawEnvelope: JsonValue | undefined, row: StoredRow | null): Metadata {
  const rawHeaders = asObject(raw["headers"], "headers");
  // Old metadata had its keys flat, side by side.
  const flat = rawHeaders === null && raw["domain"] === undefined && (raw["type"] !== undefined || raw["kind"] !== undefined);
  const headers = rawHeaders ?? (flat ? raw : {});
  const fromRow = rawHeaders === null && !flat ? row : null;
  const domain = (flat ? raw : asObject(raw["domain"], "domain")) ?? {};
  const envelope = asObject(rawEnvelope, "envelope") ?? {};
  const store = asObject(raw["event_store"], "event_store");
  const extensions = asObject(raw["extensions"], "extensions");
  const type = readText(headers["type"], "headers.type") ?? row?.type ?? null;
  return Object.freeze({
    headers: Object.freeze({
      id: readText(headers["id"], "headers.id") ?? fromRow?.id ?? null,
      time: readTime(headers["time"] ?? (flat ? headers["timestamp"] : undefined) ?? fromRow?.time, "headers.time"),
      type,
      stream: readText(headers["stream"] ?? (flat ? headers["stream_name"] : undefined), "headers.stream"),
      traceparent: readStoredTraceparent(headers["traceparent"]),
      idempotency_key: readText(headers["idempotency_key"], "headers.idempotency_key"),
      deadline: readTime(headers["deadline"], "headers.deadline"),
    }),
    envelope: Object.freeze({
      specversion: readText(envelope["specversion"], "envelope.specversion") ?? SPEC_VERSION,
      checksum: readText(envelope["checksum"], "envelope.checksum"),
    }),
    domain: Object.freeze({
      fqn: readText(domain["fqn"], "domain.fqn"),
      kind: readText(domain["kind"], "domain.kind"),
      origin_stream: readText(domain["origin_stream"], "domain.origin_stream"),
      stream_category: readText(domain["stream_category"], "domain.stream_category"),
      version: readVersion(domain["version"], type),
      sequence_id: readText(domain["sequence_id"], "domain.sequence_id"),
      asynchronous: !(domain["asynchronous"] === false || domain["asynchronous"] === 0 || domain["asynchronous"] === "false"),
      expected_version: readInteger(domain["expected_version"], "domain.expected_version"),
      priority: readInteger(domain["priority"], "domain.priority") ?? 0,
      correlation_id: readText(domain["correlation_id"], "domain.correlation_id"),
      causation_id: readText(domain["causation_id"], "domain.causation_id"),
    }),
    event_store: readPositions(store, row),
    extensions: extensions === null ? NO_EXTENSIONS : frozen(extensions),
  });
}

function frozen(extensions: JsonObject): WireObject {
  deepFreeze(extensions);
  return extensions;
}

function readPositions(store: JsonObject | null, row: StoredRow | null): EventStoreInfo | null {
  if (row !== null) return Object.freeze({ global_position: row.globalPosition, position: row.position });
  if (store === null) return null;
  const global_position = readInteger(store["global_position"], "event_store.global_position");
  const position = readInteger(store["position"], "event_store.position");
  return global_position === null || position === null ? null : Object.freeze({ global_position, position });
}

// ---------------------------------------------------------------------------------------------------------------- peeking

/**
 * A message whose JSON was parsed and nothing more: enough to tell its type. What is not handled here is acknowledged before it is decoded (D28);
 * what is handled is decoded from the same parse.
 */
export class PeekedMessage {
  readonly text: string;
  /** Agrees with `decode()` in every message that it can read, or is null when there is none or it is no text: then decode it. */
  readonly type: string | null;
  readonly #parsed: unknown;

  constructor(text: string, parsed: unknown) {
    this.text = text;
    this.type = typeOf(parsed);
    this.#parsed = parsed;
  }

  /** As `decodeMessage`. @throws DeserializationError, and nothing else */
  decode(): DecodedMessage {
    requireReadable(this.text);
    return decodeOpened(this.text, openObject(this.text, 0, this.#parsed));
  }
}

/** @returns null when the text is no JSON; then decode it to learn why */
export function peekMessage(text: string): PeekedMessage | null {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return null; // Decoding it will say what is wrong.
  }
  return new PeekedMessage(text, parsed);
}

/** The type of a message, without the work of decoding it; null when it has none or the text is no message. */
export function peekType(text: string): string | null {
  return peekMessage(text)?.type ?? null;
}

function typeOf(message: unknown): string | null {
  const metadata = memberObject(message, "metadata");
  if (metadata === null) return null;
  const headers = memberObject(metadata, "headers");
  const isFlat = headers === null && (metadata["headers"] ?? null) === null && metadata["domain"] === undefined;
  const type = headers === null ? (isFlat ? metadata["type"] : undefined) : headers["type"];
  return typeof type === "string" ? type : null;
}

function memberObject(value: unknown, key: string): Record<string, unknown> | null {
  if (typeof value !== "object" || value === null) return null;
  const member: unknown = Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined;
  return typeof member === "object" && member !== null && !Array.isArray(member) ? (member as Record<string, unknown>) : null;
}
