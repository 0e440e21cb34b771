import { describe, expect, test } from "bun:test";
import { DeserializationError } from "../../../src/errors.ts";
import type { TraceEvent } from "../../../src/messages/trace-event.ts";
import { decodeTraceEvent, encodeTraceEvent } from "../../../src/messages/trace-event.ts";

const trace: TraceEvent = {
  event: "handler.completed",
  domain: "Corner Bank",
  stream: "corner_bank::account",
  message_id: "m1",
  message_type: "CornerBank.AccountOpened.v1",
  status: "ok",
  handler: "AuditTrail",
  duration_ms: 2.00499,
  error: null,
  metadata: { retry_count: 2 },
  worker_id: "w",
  correlation_id: null,
  causation_id: null,
  timestamp: "2026-01-02T03:04:05+00:00",
};

describe("trace events", () => {
  test("have 15 keys in Python's order, durations as floats of two decimals, payloads untouched", () => {
    const text = encodeTraceEvent(trace, '{"a":10.0}');
    expect(text).toContain('"duration_ms": 2.0, ');
    expect(text).toContain('"payload": {"a":10.0}, ');
    expect(Object.keys(JSON.parse(text) as object)).toEqual(
      "event domain stream message_id message_type status handler duration_ms error metadata payload worker_id correlation_id causation_id timestamp".split(
        " ",
      ),
    );
    expect(decodeTraceEvent(text)).toEqual({ ...trace, duration_ms: 2, payload: { a: 10 } });
  });

  test("of others may lack anything but the event's name", () => {
    expect(decodeTraceEvent('{"event": "x", "metadata": [], "duration_ms": "1"}')).toMatchObject({
      event: "x",
      stream: "unknown",
      metadata: {},
      duration_ms: null,
    });
    for (const text of ["", "[]", "null", "{}", '{"event": 1}']) expect(() => decodeTraceEvent(text)).toThrow(DeserializationError);
  });
});
