import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatDateTime, isoOfEpoch, normalisedDateTime, parseDate, parseDateTime } from "../../../src/messages/datetime.ts";

describe("reading times", () => {
  test("a time without offset is UTC, whatever the machine's zone (D30)", () => {
    const naive = parseDateTime("2026-01-31T09:30:00.120000");
    expect(naive).toEqual({ epoch_ms: Date.UTC(2026, 0, 31, 9, 30, 0, 120), microsecond: 120_000, offset_minutes: null });
  });

  test.each([
    ["2026-01-31T09:30:00+05:30", "2026-01-31T04:00:00.000Z"],
    ["2026-07-01T23:59:59.000001-03:30", "2026-07-02T03:29:59.000Z"],
    ["2026-01-31 09:30", "2026-01-31T09:30:00.000Z"],
    ["2026-01-31T09:30:00+0200", "2026-01-31T07:30:00.000Z"],
    ["2026-01-31T09:30:00z", "2026-01-31T09:30:00.000Z"],
    ["2026-01-31", "2026-01-31T00:00:00.000Z"],
    ["2024-02-29T00:00:00", "2024-02-29T00:00:00.000Z"],
    ["0001-01-01T00:00:00", "0001-01-01T00:00:00.000Z"],
    ["1767323045", "2026-01-02T03:04:05.000Z"],
    [1767323045.5, "2026-01-02T03:04:05.500Z"],
    [-1, "1969-12-31T23:59:59.000Z"],
  ])("%p is %s", (value, iso) => {
    expect(new Date(parseDateTime(value)?.epoch_ms ?? Number.NaN).toISOString()).toBe(iso);
  });

  test.each([
    "",
    "not a time",
    "2026-13-01T00:00:00",
    "2026-02-30T00:00:00",
    "2025-02-29T00:00:00",
    "2026-01-01T24:00:00",
    "2026-01-01T00:60:00",
    "2026-01-01T00:00:00+24:00",
    "2026-01-01T00:00:00+00:00[UTC]",
    "0000-01-01T00:00:00",
    "26-01-01",
    Number.NaN,
    Number.POSITIVE_INFINITY,
    1e300,
  ])("%p is no time", (value) => expect(parseDateTime(value)).toBeNull());

  test("digits after the sixth are cut", () => {
    expect(normalisedDateTime("2026-01-01T00:00:00.123456789Z")).toBe("2026-01-01T00:00:00.123456+00:00");
  });

  test("what is in Python's form stays, what only looks like it does not", () => {
    for (const same of ["2026-11-22T01:00:23.007046+00:00", "2024-02-29T23:59:59.000001+00:00", "0001-01-31T00:00:00.999999+00:00"]) {
      expect(normalisedDateTime(same)).toBe(same);
    }
    expect(normalisedDateTime("2026-11-22T01:00:23.000000+00:00")).toBe("2026-11-22T01:00:23+00:00");
    for (const none of ["2026-02-29", "2026-02-30", "2026-04-31", "2026-13-01", "2026-00-01", "2026-01-32", "0000-01-01"]) {
      expect(normalisedDateTime(`${none}T01:00:23.007046+00:00`)).toBeNull();
    }
    for (const none of ["24:00:00", "23:60:00", "23:59:60"]) expect(normalisedDateTime(`2026-11-22T${none}.007046+00:00`)).toBeNull();
  });
});

describe("writing times", () => {
  test("whole seconds have no fraction, others six digits", () => {
    expect(isoOfEpoch(1767323045000)).toBe("2026-01-02T03:04:05+00:00");
    expect(isoOfEpoch(1767323045123)).toBe("2026-01-02T03:04:05.123000+00:00");
    expect(isoOfEpoch(1767323045123.456)).toBe("2026-01-02T03:04:05.123456+00:00");
    expect(isoOfEpoch(-1)).toBe("1969-12-31T23:59:59.999000+00:00");
  });

  test("any time read back is the same time in the same text", () => {
    const parts = fc.record({
      epoch_s: fc.integer({ min: -62_000_000_000, max: 253_000_000_000 }),
      microsecond: fc.integer({ min: 0, max: 999_999 }),
      offset_minutes: fc.option(fc.integer({ min: -1439, max: 1439 })),
    });
    fc.assert(
      fc.property(parts, ({ epoch_s, microsecond, offset_minutes }) => {
        const time = { epoch_ms: epoch_s * 1000 + Math.floor(microsecond / 1000), microsecond, offset_minutes };
        expect(parseDateTime(formatDateTime(time))).toEqual(time);
      }),
    );
  });
});

describe("dates", () => {
  test("are days of the calendar", () => {
    expect(parseDate("2026-01-31")).toBe("2026-01-31");
    expect(parseDate("2026-01-31T00:00:00")).toBe("2026-01-31");
    for (const text of ["2026-02-30", "2026-01-31T10:00:00", "2026-01-31T00:00:00.5", "31.1.2026", "1767323045", ""])
      expect(parseDate(text)).toBeNull();
  });
});
