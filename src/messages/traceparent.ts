/** W3C trace context: the header's text and the object that is stored in `headers.traceparent`. */

/** As stored on the wire; not the W3C text. */
export interface TraceParent {
  /** 32 lower-case hex digits. */
  readonly trace_id: string;
  /** 16 lower-case hex digits. */
  readonly parent_id: string;
  readonly sampled: boolean;
}

/** Reads a `traceparent` header of version 00; null for anything else, all-zero ids included. */
export function parseTraceparent(header: string): TraceParent | null {
  const match = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(header.trim());
  if (match === null) return null;
  const [, trace_id = "", parent_id = "", flags = ""] = match;
  if (/^0+$/.test(trace_id) || /^0+$/.test(parent_id)) return null;
  // known-traps A25: the flags are bits, 03 is sampled too.
  return { trace_id, parent_id, sampled: (Number.parseInt(flags, 16) & 0x01) === 1 };
}

/** The W3C header of a stored object; only the sampled bit is kept of the flags. */
export function formatTraceparent(stored: TraceParent): string {
  return `00-${stored.trace_id}-${stored.parent_id}-${stored.sampled ? "01" : "00"}`;
}

/** A stored value of any shape as a trace parent. What can't be read is null: tracing must never cost a message. */
export function readStoredTraceparent(value: unknown): TraceParent | null {
  if (typeof value === "string") return parseTraceparent(value);
  if (value === null || typeof value !== "object") return null;
  const { trace_id, parent_id, sampled } = value as Record<string, unknown>;
  if (typeof trace_id !== "string" || typeof parent_id !== "string") return null;
  return parseTraceparent(`00-${trace_id}-${parent_id}-${sampled === true ? "01" : "00"}`);
}
