/** Stored and delivered messages as instances of the classes that the user declared (domain-model §4.4). */
import { DeserializationError } from "../errors.ts";
import { type DecodedMessage, decodeRow, type Metadata } from "../messages/envelope.ts";
import type { JsonObject } from "../messages/json.ts";
import type { StoredMessage } from "../ports/event-store.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { metaOf, setMetadata } from "./instance.ts";
import { DROPPED_FIELDS } from "./message-metadata.ts";
import { messageFromWire } from "./wire.ts";

/** Reads a row of the event store. @throws DeserializationError */
export function decodeStored(row: StoredMessage): DecodedMessage {
  return decodeRow({
    type: row.type,
    dataText: row.data,
    metadataText: row.metadata,
    stream: row.stream,
    position: row.position,
    globalPosition: row.globalPosition,
    time: row.time,
    id: row.id,
  });
}

/** The element that a type string is read as: of this version, or the current one when upcasters lead there; null when nothing fits. */
export function readableAs(domain: Domain, type: string): ElementMeta | null {
  return domain.messageByType(type) ?? domain.upcastTarget(type);
}

/**
 * An instance of the declared class, upcast to its current version, with `$metadata`.
 * @throws DeserializationError naming the type and, where it is one field's fault, the field
 */
export function readMessage(domain: Domain, message: DecodedMessage): object {
  const found = readableData(domain, message);
  if (found === null) {
    throw new DeserializationError(`Message type ${message.type} is not registered with the domain.`, {
      messageId: message.id,
      fix: "Declare the message in this version, or an upcaster that leads from its version to the declared one.",
    });
  }
  const { meta, data } = found;
  const lenient =
    meta.options["lenient"] === true || (meta.options["lenient"] === undefined && domain.stores.settings.lenientDeserialization);
  let instance: object;
  try {
    instance = messageFromWire(meta, data, { lenient });
  } catch (error) {
    if (error instanceof DeserializationError && error.messageId === null) {
      throw new DeserializationError(error.message, { ...error.about, messageId: message.id, cause: error });
    }
    throw error;
  }
  setMetadata(instance, lenient ? withDroppedFields(meta, data, message.metadata) : message.metadata);
  return instance;
}

function readableData(domain: Domain, message: DecodedMessage): { readonly meta: ElementMeta; readonly data: JsonObject } | null {
  const meta = domain.messageByType(message.type);
  if (meta !== null) return { meta, data: message.data };
  return domain.upcast(message.type, message.copyData());
}

function withDroppedFields(meta: ElementMeta, data: JsonObject, metadata: Metadata): Metadata {
  if (meta.kind === "externalEvent") return metadata;
  const known = new Set<string>();
  for (const field of meta.fields.values()) {
    known.add(field.wireName);
    for (const alias of aliasesOf(field.options["renamedFrom"])) known.add(alias);
  }
  const dropped = Object.keys(data).filter((key) => !known.has(key));
  return dropped.length === 0 ? metadata : { ...metadata, extensions: { ...metadata.extensions, [DROPPED_FIELDS]: dropped } };
}

function aliasesOf(renamedFrom: unknown): readonly string[] {
  if (typeof renamedFrom === "string") return [renamedFrom];
  return Array.isArray(renamedFrom) ? renamedFrom.filter((name) => typeof name === "string") : [];
}

/**
 * An event that no class is declared for, as `handleAny` gets it (D28): `$name` is its full type string, its fields are those of the payload.
 */
export interface GenericEvent {
  readonly $name: string;
  readonly $kind: "event";
  readonly $metadata: Metadata;
  readonly [field: string]: unknown;
}

/** Fields of the payload can't take the place of `$name` and its like: those come last. */
export function genericEvent(message: DecodedMessage): GenericEvent {
  const event = { ...message.data, $name: message.type, $kind: "event" as const, $metadata: message.metadata, toJSON: undefined };
  Object.defineProperty(event, "toJSON", { value: () => message.data, enumerable: false });
  return Object.freeze(event);
}

/** The element of an instance, or null for a generic event. */
export function elementOf(message: object): ElementMeta | null {
  return "$name" in message && "$kind" in message && !isDeclared(message) ? null : metaOf(message);
}

function isDeclared(message: object): boolean {
  return Object.getPrototypeOf(message) !== Object.prototype;
}
