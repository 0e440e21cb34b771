/**
 * Entries of dead-letter streams.
 *
 * `data` is what Python writes: the message with one key more, `_dlq_metadata`. That key is put into the original's text and taken
 * out of it again, so replaying writes the original's very characters. Beside it stand our `error` (what happened, attempt by attempt)
 * and, for originals that could not be decoded, `raw`: all their fields in base64 (D43). Originals above the message limit are kept
 * by reference only: id, size, hash (rulings 57).
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { DeserializationError, ProteanError } from "../errors.ts";
import type { JsonObject, JsonValue, MemberSpan, WireObject, WireValue } from "./json.ts";
import { objectMembers, parseJson, toJsonText } from "./json.ts";
import { MESSAGE_MAX_BYTES } from "./limits.ts";

/** The key Python adds to the message. */
export const DEAD_LETTER_KEY = "_dlq_metadata";

/** Longest stack and message kept in a dead letter, in characters. */
const STACK_MAX_CHARACTERS = 4_000;
const MESSAGE_MAX_CHARACTERS = 2_000;
/** Attempts kept: the newest ones. */
const ATTEMPTS_MAX = 20;

export interface DeadLetterAttempt {
  /** Python ISO text. */
  readonly time: string;
  readonly worker: string;
  readonly error?: string | undefined;
}

/** Where a message too large to be kept can still be recognised. */
export interface DeadLetterReference {
  /** Id of the entry in its own stream. */
  readonly id: string;
  readonly size_bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/** Our `error` field. */
export interface DeadLetterError {
  /** Name of the error's class, as configuration knows it (`dead_letter_at_once`). */
  readonly class: string;
  readonly message: string;
  readonly stack: string | null;
  readonly attempts: readonly DeadLetterAttempt[];
  /** Python ISO text. */
  readonly failed_at: string;
  readonly reference?: DeadLetterReference | undefined;
}

/** Fields of an entry that may hold any bytes. */
export type RawFields = Readonly<Record<string, string | Uint8Array>>;

export interface DeadLetterInput {
  /** The entry's `data` as text, or null when it had none or its bytes are no text. */
  readonly originalText: string | null;
  /** All fields of the entry; give them when the original could not be decoded. */
  readonly rawFields?: RawFields | undefined;
  /** Always the main stream, also after a failed replay (rulings 46). */
  readonly originalStream: string;
  /** Entry id in that stream. */
  readonly originalId: string;
  readonly consumerGroup: string;
  readonly consumer: string;
  /** When it was given up, Python ISO text (rulings 46). */
  readonly failedAt: string;
  /** Attempts made. */
  readonly retryCount: number;
  readonly error: Omit<DeadLetterError, "failed_at" | "reference">;
}

/** Fields of a dead letter as they go to the broker. */
export type DeadLetterFields = {
  readonly data: string;
  readonly error: string;
  readonly raw?: string;
};

/**
 * What a dead letter says about an error: class, message and stack, both without secrets and cut.
 * @param attempts oldest first; only the newest 20 are kept
 */
export function describeError(error: unknown, attempts: readonly DeadLetterAttempt[]): Omit<DeadLetterError, "failed_at" | "reference"> {
  const kept = attempts
    .slice(-ATTEMPTS_MAX)
    .map((attempt) =>
      attempt.error === undefined
        ? { time: attempt.time, worker: attempt.worker }
        : { time: attempt.time, worker: attempt.worker, error: shown(attempt.error, MESSAGE_MAX_CHARACTERS) },
    );
  if (error instanceof Error) {
    const name = error instanceof ProteanError ? error.name : error.name || error.constructor.name;
    const message = shown(error.message, MESSAGE_MAX_CHARACTERS);
    const stack = error.stack === undefined ? null : shown(error.stack, STACK_MAX_CHARACTERS);
    return { class: name, message, stack, attempts: kept };
  }
  return { class: typeof error, message: shown(String(error), MESSAGE_MAX_CHARACTERS), stack: null, attempts: kept };
}

/** Takes passwords of addresses and values of secret-looking settings out of a text that people will read. */
export function redact(text: string): string {
  return text
    .replace(/(:\/\/[^\s:/@]*):[^\s@]+@/g, "$1:***@")
    .replace(/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, "$1 ***")
    .replace(
      /\b(password|passwd|pwd|secret|token|api[_-]?key|authorization)(["']?\s*[=:]\s*["']?)(?!\*\*\*|(?:bearer|basic)\b)[^\s"',;&)}]+/gi,
      "$1$2***",
    );
}

/** Redacted and cut; of a huge text only the front is looked at, well beyond the part that stays. */
function shown(text: string, longest: number): string {
  return cut(redact(text.slice(0, 5 * longest)), longest);
}

function cut(text: string, longest: number): string {
  return text.length <= longest ? text : `${text.slice(0, longest)}… (cut)`;
}

/** Makes the entry for a message that is given up. Never throws because of what the original holds. */
export function encodeDeadLetter(input: DeadLetterInput): DeadLetterFields {
  const extra = toJsonText({
    original_stream: input.originalStream,
    original_id: input.originalId,
    consumer_group: input.consumerGroup,
    consumer: input.consumer,
    failed_at: input.failedAt,
    retry_count: input.retryCount,
  });
  const size_bytes = sizeOf(input);
  const tooLarge = size_bytes > MESSAGE_MAX_BYTES;
  const error: Record<string, WireValue> = {
    class: input.error.class,
    message: input.error.message,
    stack: input.error.stack,
    attempts: input.error.attempts as unknown as readonly WireObject[],
    failed_at: input.failedAt,
  };
  if (tooLarge) error["reference"] = { id: input.originalId, size_bytes, sha256: hashOf(input) };
  const text = tooLarge ? null : input.originalText;
  const inserted = text === null ? null : insertMetadata(text, extra);
  const fields = { data: inserted?.data ?? `{"${DEAD_LETTER_KEY}": ${extra}}`, error: toJsonText(error) };
  const raw = input.rawFields ?? (text !== null && inserted?.exact !== true ? { data: text } : undefined);
  return raw === undefined || tooLarge ? fields : { ...fields, raw: encodeRaw(raw) };
}

function sizeOf(input: DeadLetterInput): number {
  if (input.rawFields === undefined) return Buffer.byteLength(input.originalText ?? "");
  return Object.values(input.rawFields).reduce((sum, value) => sum + Buffer.byteLength(value), 0);
}

function hashOf(input: DeadLetterInput): string {
  const hash = createHash("sha256");
  hash.update(input.rawFields?.["data"] ?? input.originalText ?? "");
  return hash.digest("hex");
}

function encodeRaw(fields: RawFields): string {
  const encoded: Record<string, string> = {};
  for (const [name, value] of Object.entries(fields)) {
    encoded[name] = (typeof value === "string" ? Buffer.from(value, "utf8") : Buffer.from(value)).toString("base64");
  }
  return toJsonText(encoded);
}

/**
 * Puts the key in as the last one, leaving all other characters alone. `exact` says that taking it out again gives the same text,
 * which is not so when the original had such a key itself. Null when the text is no JSON object.
 */
function insertMetadata(original: string, extra: string): { readonly data: string; readonly exact: boolean } | null {
  let text = original;
  let members: readonly MemberSpan[];
  try {
    members = objectMembers(text, 0);
    while (members.some((member) => member.key === DEAD_LETTER_KEY)) {
      text = removeMetadata(text, members);
      members = objectMembers(text, 0);
    }
  } catch (error) {
    if (error instanceof DeserializationError) return null;
    throw error;
  }
  // Right after the last value: what stands between it and the brace stays where it is.
  const at = members.at(-1)?.to ?? text.indexOf("{") + 1;
  const data = `${text.slice(0, at)}${members.length === 0 ? "" : ", "}"${DEAD_LETTER_KEY}": ${extra}${text.slice(at)}`;
  return { data, exact: text === original };
}

/** Takes out the last member of this name, with the comma before it, or the one after it when it is the first. */
function removeMetadata(text: string, members: readonly MemberSpan[]): string {
  const index = members.findLastIndex((member) => member.key === DEAD_LETTER_KEY);
  const member = members[index];
  if (member === undefined) return text;
  const before = members[index - 1];
  if (before !== undefined) return text.slice(0, before.to) + text.slice(member.to);
  const after = members[index + 1];
  return text.slice(0, member.keyFrom) + text.slice(after === undefined ? member.to : after.keyFrom);
}

/** A dead letter as read; from Python `error` is null, from foreign writers everything may be. */
export interface DeadLetterRecord {
  readonly originalStream: string | null;
  readonly originalId: string | null;
  readonly consumerGroup: string | null;
  readonly consumer: string | null;
  readonly failedAt: string | null;
  readonly retryCount: number | null;
  readonly error: DeadLetterError | null;
  /** The original's text as `data` holds it, without our key; null when there is none (see `restoreOriginal`). */
  readonly originalText: string | null;
  /** The original was too large to be kept: it can't be replayed. */
  readonly reference: DeadLetterReference | null;
}

/** Reads a dead letter of ours or Python's. Never throws: what can't be read is null. */
export function decodeDeadLetter(fields: RawFields): DeadLetterRecord {
  const text = fieldText(fields["data"]);
  const error = readError(fieldText(fields["error"]));
  let originalText: string | null = text;
  let metadata: JsonObject = {};
  if (text !== null) {
    try {
      const members = objectMembers(text, 0);
      const span = members.findLast((member) => member.key === DEAD_LETTER_KEY);
      if (span !== undefined) {
        metadata = objectOrEmpty(parseJson(text.slice(span.from, span.to)));
        originalText = removeMetadata(text, members);
      }
    } catch (failure) {
      if (!(failure instanceof DeserializationError)) throw failure;
    }
  }
  const reference = error?.reference ?? null;
  const retries = metadata["retry_count"];
  return {
    originalStream: stringOf(metadata["original_stream"]),
    originalId: stringOf(metadata["original_id"]),
    consumerGroup: stringOf(metadata["consumer_group"]),
    consumer: stringOf(metadata["consumer"]),
    failedAt: stringOf(metadata["failed_at"]),
    retryCount: typeof retries === "number" ? retries : null,
    error,
    originalText: reference === null ? originalText : null,
    reference,
  };
}

/**
 * The fields the original entry had, byte for byte, for replaying it.
 * @throws DeserializationError when the dead letter holds the original by reference only, or nothing at all
 */
export function restoreOriginal(fields: RawFields): RawFields {
  const record = decodeDeadLetter(fields);
  if (record.reference !== null) {
    throw new DeserializationError(
      `the original had ${record.reference.size_bytes} bytes and was too large to be kept (entry ${record.reference.id}, SHA-256 ${record.reference.sha256})`,
      { fix: "Publish the message again from its source." },
    );
  }
  const raw = fieldText(fields["raw"]);
  if (raw !== null) {
    const restored: Record<string, Uint8Array> = {};
    for (const [name, value] of Object.entries(objectOrEmpty(parseJson(raw)))) {
      if (typeof value === "string") restored[name] = new Uint8Array(Buffer.from(value, "base64"));
    }
    return restored;
  }
  if (record.originalText === null) throw new DeserializationError("the dead letter holds no message");
  return { data: record.originalText };
}

function fieldText(value: string | Uint8Array | undefined): string | null {
  if (value === undefined) return null;
  return typeof value === "string" ? value : Buffer.from(value).toString("utf8");
}

function stringOf(value: JsonValue | undefined): string | null {
  return typeof value === "string" ? value : null;
}

function objectOrEmpty(value: JsonValue | undefined): JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
}

function readError(text: string | null): DeadLetterError | null {
  if (text === null) return null;
  let object: JsonObject;
  try {
    object = objectOrEmpty(parseJson(text));
  } catch (failure) {
    if (failure instanceof DeserializationError) return null;
    throw failure;
  }
  const attempts = object["attempts"];
  const reference = objectOrEmpty(object["reference"]);
  const { id, size_bytes, sha256 } = reference;
  return {
    class: stringOf(object["class"]) ?? "unknown",
    message: stringOf(object["message"]) ?? "",
    stack: stringOf(object["stack"]),
    attempts: Array.isArray(attempts) ? attempts.map(readAttempt) : [],
    failed_at: stringOf(object["failed_at"]) ?? "",
    ...(typeof id === "string" && typeof size_bytes === "number" && typeof sha256 === "string"
      ? { reference: { id, size_bytes, sha256 } }
      : {}),
  };
}

function readAttempt(value: JsonValue): DeadLetterAttempt {
  const attempt = objectOrEmpty(value);
  const error = stringOf(attempt["error"]);
  return {
    time: stringOf(attempt["time"]) ?? "",
    worker: stringOf(attempt["worker"]) ?? "",
    ...(error === null ? {} : { error }),
  };
}
