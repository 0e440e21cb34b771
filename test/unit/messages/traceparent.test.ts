import { describe, expect, test } from "bun:test";
import { formatTraceparent, parseTraceparent, readStoredTraceparent } from "../../../src/messages/traceparent.ts";

const TRACE = "0af7651916cd43dd8448eb211c80319c";
const PARENT = "b7ad6b7169203331";

describe("trace parents", () => {
  test.each([
    `00-${"0".repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${"0".repeat(16)}-01`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}`,
    "",
  ])("%s is none", (header) => expect(parseTraceparent(header)).toBeNull());

  test("the sampled flag is a bit (known-traps A25)", () => {
    expect(parseTraceparent(`00-${TRACE}-${PARENT}-03`)?.sampled).toBe(true);
    expect(parseTraceparent(`00-${TRACE}-${PARENT}-02`)?.sampled).toBe(false);
  });

  test("stored ones are read as object or header, anything else is none", () => {
    const stored = { trace_id: TRACE, parent_id: PARENT, sampled: true };
    expect(readStoredTraceparent(stored)).toEqual(stored);
    expect(readStoredTraceparent(formatTraceparent(stored))).toEqual(stored);
    for (const value of [null, undefined, 7, {}, [], { trace_id: 1, parent_id: 2 }, { ...stored, trace_id: "x" }])
      expect(readStoredTraceparent(value)).toBeNull();
  });
});
