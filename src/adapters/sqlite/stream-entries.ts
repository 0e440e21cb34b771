import type { EntryFields, StreamEntry } from "../../ports/broker.ts";

/** `<milliseconds>-<sequence>` in two numbers, as the tables keep it. */
export interface EntryId {
  readonly ms: number;
  readonly seq: number;
}

export interface EntryRow extends EntryId {
  readonly fields: Uint8Array;
}

export const FIRST_ID: EntryId = { ms: 0, seq: 0 };
const LAST_ID: EntryId = { ms: Number.MAX_SAFE_INTEGER, seq: Number.MAX_SAFE_INTEGER };

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function idText(id: EntryId): string {
  return `${id.ms}-${id.seq}`;
}

/** null for what is no id; the part after the hyphen may be missing and then is `missingSeq`. */
export function parseId(text: string, missingSeq = 0): EntryId | null {
  const match = /^(\d{1,16})(?:-(\d{1,16}))?$/.exec(text);
  if (match === null) return null;
  return { ms: Number(match[1]), seq: match[2] === undefined ? missingSeq : Number(match[2]) };
}

/** End of a range: `-` and `+` are the first and the last id there can be. */
export function rangeEnd(text: string, end: "from" | "to"): EntryId | null {
  if (text === "-") return FIRST_ID;
  if (text === "+") return LAST_ID;
  return parseId(text, end === "from" ? 0 : LAST_ID.seq);
}

/**
 * The fields as one value: for each its name's and its value's length (four bytes, big end first), then both. Values are kept as the
 * bytes that they are.
 */
export function packFields(fields: Readonly<Record<string, string | Uint8Array>>): Uint8Array {
  const parts: Uint8Array[] = [];
  let size_bytes = 0;
  for (const [name, value] of Object.entries(fields)) {
    for (const part of [encoder.encode(name), typeof value === "string" ? encoder.encode(value) : value]) {
      parts.push(part);
      size_bytes += 4 + part.byteLength;
    }
  }
  const packed = new Uint8Array(size_bytes);
  const view = new DataView(packed.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.byteLength);
    packed.set(part, at + 4);
    at += 4 + part.byteLength;
  }
  return packed;
}

export function unpackFields(packed: Uint8Array): EntryFields {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const fields: [string, Uint8Array][] = [];
  let at = 0;
  const next = (): Uint8Array => {
    const length = view.getUint32(at);
    const part = packed.subarray(at + 4, at + 4 + length);
    at += 4 + length;
    return part;
  };
  while (at < packed.byteLength) {
    const name = decoder.decode(next());
    fields.push([name, next()]);
  }
  return fields;
}

export function streamEntry(row: EntryRow): StreamEntry {
  return { id: idText(row), fields: unpackFields(row.fields) };
}
