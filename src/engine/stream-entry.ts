import { DeserializationError } from "../errors.ts";
import type { DeadLetterAttempt, DeadLetterFields, RawFields } from "../messages/dead-letter.ts";
import type { DecodedMessage, PeekedMessage } from "../messages/envelope.ts";
import { decodeMessage, decodeUtf8, peekMessage } from "../messages/envelope.ts";
import { parseJson } from "../messages/json.ts";
import type { EntryFields, StreamEntry } from "../ports/broker.ts";
import type { Queued } from "./source-queue.ts";

/** Field that holds the message. */
const DATA = "data";

export type Content =
  | { readonly kind: "message"; readonly message: DecodedMessage }
  | { readonly kind: "payload"; readonly payload: unknown }
  | { readonly kind: "undecodable"; readonly error: unknown };

/** One entry that this subscription holds: its bytes, what they turned out to be, and how its runs went. */
export class HeldEntry implements Queued {
  readonly id: string;
  readonly fields: EntryFields;
  /** The stream it lies in: the subscription's, or its replay stream. */
  readonly stream: string;
  /** Runs so far, here and at former owners. */
  used: number;
  /** The next run must be written to the broker's counter before it begins: retries and what was taken over (rulings 6). */
  counted: boolean;
  /** Since when it is known to be ours, by the monotonic clock. */
  ownedAt_ms: number;
  readonly failures: DeadLetterAttempt[] = [];
  /** Given up; waits for the dead-letter stream to take it. */
  letter: { readonly fields: DeadLetterFields; readonly error: unknown } | null = null;
  /** Somebody else has it now: nothing may be written about it. */
  lost = false;
  /** Done; only the acknowledgement is missing. */
  acknowledging = false;
  /** Its group vanished after it was read: ours, though the broker doesn't know. */
  orphan = false;
  readonly #isPayload: boolean;
  #text: string | null | undefined;
  /** What `peekType` parsed, until it is decoded. */
  #peeked: PeekedMessage | null = null;
  #content: Content | null = null;

  constructor(options: {
    readonly entry: StreamEntry;
    readonly stream: string;
    readonly isPayload: boolean;
    readonly used: number;
    readonly counted: boolean;
    readonly ownedAt_ms: number;
  }) {
    this.id = options.entry.id;
    this.fields = options.entry.fields;
    this.stream = options.stream;
    this.#isPayload = options.isPayload;
    this.used = options.used;
    this.counted = options.counted;
    this.ownedAt_ms = options.ownedAt_ms;
  }

  /** Type of the message without decoding it; null when it can't be told. */
  peekType(): string | null {
    const text = this.text;
    if (text === null) return null;
    this.#peeked = peekMessage(text);
    return this.#peeked?.type ?? null;
  }

  get content(): Content {
    if (this.#content === null) {
      this.#content = this.#decode();
      this.#peeked = null;
    }
    return this.#content;
  }

  /** `headers.stream`; null for foreign payloads and for what can't be read. */
  sourceStream(): string | null {
    const { content } = this;
    return content.kind === "message" ? content.message.stream : null;
  }

  /** The `data` field as text, null when it isn't there or no text. */
  get text(): string | null {
    if (this.#text === undefined) {
      try {
        this.#text = this.#dataText();
      } catch {
        this.#text = null; // decoding says why
      }
    }
    return this.#text;
  }

  get rawFields(): RawFields {
    return Object.fromEntries(this.fields);
  }

  #dataText(): string | null {
    for (const [name, value] of this.fields) if (name === DATA) return decodeUtf8(value);
    return null;
  }

  #decode(): Content {
    try {
      if (!this.#isPayload) {
        if (this.#peeked !== null) return { kind: "message", message: this.#peeked.decode() };
        const text = this.text ?? this.#dataText();
        if (text === null) throw new DeserializationError(`the entry has no field "${DATA}"`);
        return { kind: "message", message: decodeMessage(text) };
      }
      const text = this.#dataText();
      if (text !== null) return { kind: "payload", payload: parseJson(text) };
      return { kind: "payload", payload: Object.fromEntries(this.fields.map(([name, value]) => [name, decodeUtf8(value)])) };
    } catch (error) {
      return { kind: "undecodable", error };
    }
  }
}

/** What every trace event about an entry says of it. */
export function stageOf(entry: HeldEntry, handler: string, worker_id: string) {
  const message = entry.content.kind === "message" ? entry.content.message : null;
  return {
    stream: entry.stream,
    message_id: message?.id ?? entry.id,
    message_type: message?.type ?? "unknown",
    handler,
    worker_id,
    correlation_id: message?.metadata.domain.correlation_id ?? null,
    causation_id: message?.metadata.domain.causation_id ?? null,
  };
}
