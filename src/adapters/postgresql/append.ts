import { DatabaseError, ExpectedVersionError } from "../../errors.ts";
import { categoryOf } from "../../messages/names.ts";
import type { Append, Appended } from "../../ports/event-store.ts";
import { STATE, serverError } from "./failures.ts";
import { jsonbText, withoutChecksum } from "./jsonb-text.ts";
import type { Result, Statement } from "./pool.ts";
import { arrayText } from "./sql.ts";

const WRITE = `SELECT message_store.write_message(m.id, m.stream, m.type, m.data::jsonb, m.metadata::jsonb, m.expected) AS position,
  currval('message_store.messages_global_position_seq') AS global_position
FROM (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int8[])
  WITH ORDINALITY AS given (id, stream, type, data, metadata, expected, n) ORDER BY n) AS m`;
const LOCK =
  "SELECT message_store.acquire_lock(category) FROM (SELECT * FROM unnest($1::text[]) WITH ORDINALITY AS given (category, n) ORDER BY n) AS c";

/**
 * Takes the locks that Message DB's writers take, of all categories, in one order for everybody: two units of work that append to the same
 * categories in different order would block each other for good otherwise (rulings 18).
 */
export function lockStatement(messages: readonly Append[]): Statement {
  const categories = [...new Set(messages.map(({ stream }) => categoryOf(stream)))].sort();
  return { text: LOCK, values: [arrayText(categories)] };
}

export function categoryCount(messages: readonly Append[]): number {
  return new Set(messages.map(({ stream }) => categoryOf(stream))).size;
}

/** One statement for all messages, in their order. @throws InvalidDataError naming a field that can't be kept */
export function appendStatement(messages: readonly Append[]): Statement {
  const data: string[] = [];
  const metadata: (string | null)[] = [];
  for (const message of messages) {
    const kept = jsonbText(message.data, `data of ${message.type}`);
    data.push(kept.text);
    const about = message.metadata === null ? null : jsonbText(message.metadata, `metadata of ${message.type}`).text;
    metadata.push(about !== null && !kept.exact ? withoutChecksum(about) : about);
  }
  return {
    text: WRITE,
    values: [
      arrayText(messages.map(({ id }) => id)),
      arrayText(messages.map(({ stream }) => stream)),
      arrayText(messages.map(({ type }) => type)),
      arrayText(data),
      arrayText(metadata),
      arrayText(messages.map(({ expectedVersion }) => expectedVersion)),
    ],
  };
}

export function appendedOf(result: Result | undefined): Appended[] {
  return (result?.rows ?? []).map((row) => ({ position: Number(row["position"]), globalPosition: Number(row["global_position"]) }));
}

/** What the failure of an append means; null when it means nothing in particular. */
export function appendFailure(error: unknown): ExpectedVersionError | DatabaseError | null {
  const complaint = serverError(error);
  if (complaint === null) return null;
  if (complaint.code === STATE.raised && complaint.message.startsWith("Wrong expected version")) {
    return new ExpectedVersionError(complaint.message, { cause: error });
  }
  if (complaint.code !== STATE.uniqueViolation) return null;
  // Somebody wrote without Message DB's lock.
  return complaint.constraint_name === "messages_stream"
    ? new ExpectedVersionError(`Wrong expected version: ${complaint.detail ?? "the position exists"}`, { cause: error })
    : new DatabaseError(`a message with this id exists: ${complaint.detail ?? complaint.message}`, { cause: error });
}
