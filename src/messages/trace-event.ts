/** Trace events: one JSON object per stage of a message's life, on the stream `protean:traces` and the channel `protean:trace`. */
import { DeserializationError } from "../errors.ts";
import type { JsonObject, WireObject } from "./json.ts";
import { parseJson, pythonString, toJsonText } from "./json.ts";
import { pythonFloat } from "./python-number.ts";

/** Stream of traces on the default broker. */
export const TRACE_STREAM = "protean:traces";
/** Channel of traces on the default broker, published to only while somebody listens. */
export const TRACE_CHANNEL = "protean:trace";

/** What the original writes; a reader meets other words from newer writers. */
export type TraceEventName =
  | "outbox.published"
  | "outbox.external_published"
  | "outbox.failed"
  | "outbox.external_failed"
  | "handler.started"
  | "handler.completed"
  | "handler.failed"
  | "handler.skipped"
  | "message.acked"
  | "message.nacked"
  | "message.dlq"
  | "pm.transition"
  | "subscription.circuit_breaker.opened"
  | "subscription.circuit_breaker.half_open"
  | "subscription.circuit_breaker.closed";

export interface TraceEvent {
  readonly event: TraceEventName | (string & {});
  /** The domain's name as given to it. */
  readonly domain: string;
  /** Category; in `message.*` the broker's stream; `unknown` for commands. */
  readonly stream: string;
  readonly message_id: string;
  readonly message_type: string;
  readonly status: string;
  /** Bare class name. */
  readonly handler: string | null;
  /** Milliseconds, written with at most two decimals. */
  readonly duration_ms: number | null;
  readonly error: string | null;
  readonly metadata: WireObject;
  readonly worker_id: string | null;
  readonly correlation_id: string | null;
  readonly causation_id: string | null;
  /** Python ISO text. */
  readonly timestamp: string;
}

const text = (value: string | null): string => (value === null ? "null" : pythonString(value));

/**
 * JSON text of a trace event: all 15 keys, in Python's order and spacing.
 * @param payloadText source text of the message's payload, passed on as it is; null for stages without one
 */
export function encodeTraceEvent(trace: TraceEvent, payloadText: string | null = null): string {
  const duration = trace.duration_ms === null ? "null" : pythonFloat(Math.round(trace.duration_ms * 100) / 100);
  return (
    `{"event": ${pythonString(trace.event)}, "domain": ${pythonString(trace.domain)}, "stream": ${pythonString(trace.stream)}, ` +
    `"message_id": ${pythonString(trace.message_id)}, "message_type": ${pythonString(trace.message_type)}, ` +
    `"status": ${pythonString(trace.status)}, "handler": ${text(trace.handler)}, "duration_ms": ${duration}, ` +
    `"error": ${text(trace.error)}, "metadata": ${toJsonText(trace.metadata)}, "payload": ${payloadText ?? "null"}, ` +
    `"worker_id": ${text(trace.worker_id)}, "correlation_id": ${text(trace.correlation_id)}, ` +
    `"causation_id": ${text(trace.causation_id)}, "timestamp": ${pythonString(trace.timestamp)}}`
  );
}

/** A trace event as read, with its payload's values. */
export type DecodedTraceEvent = TraceEvent & { readonly payload: JsonObject | null };

/**
 * Reads a trace event; absent keys become null, empty or `unknown`.
 * @throws DeserializationError when the text is no JSON object or names no event
 */
export function decodeTraceEvent(source: string): DecodedTraceEvent {
  const raw = parseJson(source, 0);
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) throw new DeserializationError("the trace is no object");
  const object = raw as JsonObject;
  const string = (key: string): string | null => {
    const value = object[key];
    return typeof value === "string" ? value : null;
  };
  const inner = (key: string): JsonObject | null => {
    const value = object[key];
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : null;
  };
  const event = string("event");
  if (event === null) throw new DeserializationError("the trace names no event");
  const duration = object["duration_ms"];
  return {
    event,
    domain: string("domain") ?? "unknown",
    stream: string("stream") ?? "unknown",
    message_id: string("message_id") ?? "unknown",
    message_type: string("message_type") ?? "unknown",
    status: string("status") ?? "unknown",
    handler: string("handler"),
    duration_ms: typeof duration === "number" ? duration : null,
    error: string("error"),
    metadata: inner("metadata") ?? {},
    payload: inner("payload"),
    worker_id: string("worker_id"),
    correlation_id: string("correlation_id"),
    causation_id: string("causation_id"),
    timestamp: string("timestamp") ?? "",
  };
}
