/** What lies in columns of Python's outbox (wire-format §10), the same in every database. */
import { DeserializationError } from "../errors.ts";
import { metadataOfPickle } from "./pickle.ts";

/**
 * JSON text of the metadata in a row. What can't be read is no metadata, and says why: its publisher refuses this one row, and goes on with the
 * others (D3).
 */
export function metadataOfColumn(pickle: Uint8Array): string {
  try {
    return metadataOfPickle(pickle);
  } catch (error) {
    if (!(error instanceof DeserializationError)) throw error;
    return `unreadable: ${error.message}`;
  }
}

/** The message in `last_error`; null when there is none. */
export function errorOfColumn(text: string | null): string | null {
  if (text === null) return null;
  const value = JSON.parse(text) as { readonly message?: unknown } | string | null;
  return value === null ? null : String((typeof value === "object" ? value.message : value) ?? text);
}
