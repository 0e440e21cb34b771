import { DeserializationError } from "../errors.ts";
import { type JsonObject, parseJson } from "../messages/json.ts";
import type { EventStore } from "../ports/event-store.ts";

const PAGE = 1_000;

/** A message that an event-store subscription gave up, as its failure stream says. */
export interface Exhausted {
  readonly position: number;
  readonly stream: string;
  readonly streamPosition: number;
  readonly retryCount: number;
  readonly messageType: string;
  readonly messageId: string;
  readonly errorClass: string | null;
  readonly error: string | null;
  readonly time: string;
}

/** Those of one failure stream (`failed-…`) that nobody resolved since, oldest first. */
export async function exhaustedPositions(store: EventStore, failures: string): Promise<readonly Exhausted[]> {
  const found = new Map<number, Exhausted>();
  for (let next = 0; ; ) {
    const rows = await store.readStream(failures, next, PAGE);
    for (const row of rows) {
      const data = objectIn(row.data);
      const position = data["position"];
      if (typeof position !== "number") continue;
      if (row.type !== "Exhausted") {
        // Failed again after a replay, resolved or purged: no longer given up, or told again later.
        if (row.type !== "Failed") found.delete(position);
        continue;
      }
      found.set(position, {
        position,
        stream: text(data["stream_name"]) ?? text(data["stream"]) ?? "",
        streamPosition: number(data["stream_position"]) ?? 0,
        retryCount: number(data["retry_count"]) ?? 0,
        messageType: text(data["message_type"]) ?? "unknown",
        messageId: text(data["message_id"]) ?? "unknown",
        errorClass: text(data["error_class"]) ?? text((data["error"] as JsonObject | null)?.["class"]),
        error: text(data["error_message"]) ?? text(data["error"]) ?? text((data["error"] as JsonObject | null)?.["message"]),
        time: row.time,
      });
    }
    if (rows.length < PAGE) return [...found.values()];
    next = (rows.at(-1)?.position ?? next) + 1;
  }
}

function objectIn(data: string): JsonObject {
  try {
    const value = parseJson(data);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : {};
  } catch (error) {
    if (error instanceof DeserializationError) return {};
    throw error;
  }
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}
