/** Checksums of payloads: lower-case hex SHA-256 over the canonical text of `data`, computed from the text as it travels. */
import { hash } from "node:crypto";
import { canonicalTextOf, toJsonText, type WireObject, type WireValue } from "./json.ts";

/** Checksum form of a value: sorted keys, no spaces, numbers as Python prints them. */
export function canonicalText(value: WireValue): string {
  return canonicalTextOf(toJsonText(value));
}

/**
 * Checksum of a payload given as JSON text.
 * @returns 64 lower-case hex digits
 * @throws DeserializationError when the text is not JSON
 */
export function checksumOfText(dataText: string): string {
  return hash("sha256", canonicalTextOf(dataText), "hex");
}

/** A payload ready to be stored or sent. */
export interface EncodedPayload {
  /** JSON text as Python writes it; travels unchanged from here on. */
  readonly dataText: string;
  readonly checksum: string;
}

/**
 * Writes a payload and its checksum. Float fields must hold `PyFloat`.
 * @throws InvalidDataError for values that JSON can't hold
 */
export function encodePayload(data: WireObject): EncodedPayload {
  const dataText = toJsonText(data);
  return { dataText, checksum: checksumOfText(dataText) };
}
