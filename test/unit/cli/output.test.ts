import { describe, expect, test } from "bun:test";
import { durationText, parseDuration_ms } from "../../../src/cli/duration.ts";
import { envelope, type Listing, Output, table } from "../../../src/cli/output.ts";
import { CommandError, tell } from "../../../src/cli/problem.ts";
import { ConfigurationError, ObjectNotFoundError } from "../../../src/errors.ts";

const list: Listing = {
  columns: [
    { key: "name", title: "NAME" },
    { key: "count", title: "COUNT" },
    { key: "long", title: "LONG", rank: 1 },
  ],
  rows: [
    { name: "a,b", count: 12_000, long: "x".repeat(60) },
    { name: "c", count: null, long: "" },
  ],
  empty: "Nothing.",
  hint: "next: protean x",
};

const setup = (options: Partial<ConstructorParameters<typeof Output>[0]> = {}) => {
  const written = { out: "", error: "" };
  const output = new Output({
    json: false,
    quiet: false,
    format: "table",
    terminal: { isTerminal: false, columns: 80, colour: false },
    writeOut: (text) => {
      written.out += text;
    },
    writeError: (text) => {
      written.error += text;
    },
    ...options,
  });
  return { output, written };
};

describe("the result envelope", () => {
  test("has four sorted keys, sorted inside, and a status by the exit code", () => {
    expect(envelope({ data: { b: 1, a: [{ d: 1n, c: undefined }] } })).toBe(
      '{\n  "data": {\n    "a": [\n      {\n        "d": 1\n      }\n    ],\n    "b": 1\n  },\n  "diagnostics": [],\n  "status": "pass",\n  "version": "0.1.0"\n}\n',
    );
    expect([0, 1, 2, 4, 70].map((exitCode) => (JSON.parse(envelope({ exitCode })) as { status: string }).status)).toEqual([
      "pass",
      "fail",
      "error",
      "error",
      "error",
    ]);
  });
});

describe("a list", () => {
  test("in a pipe is plain aligned columns, nothing cut, with a dash for what is empty", () => {
    const text = table(list, { isTerminal: false, columns: 20 });
    expect(text).not.toMatch(/[│─]/);
    expect(text.split("\n")[0]).toMatch(/^NAME {2}COUNT {2}LONG$/);
    expect(text).toContain("x".repeat(60));
    expect(text.split("\n")[2]).toMatch(/^c +- +-$/);
  });

  test("on a narrow terminal drops the least important columns, not characters", () => {
    const text = table(list, { isTerminal: true, columns: 40 });
    expect(text).toContain("│ a,b  │ 12,000 │");
    expect(text).not.toContain("LONG");
  });

  test("goes out as csv and jsonl; the hint stays on stderr and is silenced by --quiet", () => {
    const csv = setup({ format: "csv" });
    csv.output.finish({ list });
    expect(csv.written.out.split("\r\n")[1]).toBe(`"a,b",12000,${"x".repeat(60)}`);
    const lines = setup({ format: "jsonl" });
    lines.output.finish({ list });
    expect(
      lines.written.out
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { name: string }).name),
    ).toEqual(["a,b", "c"]);
    const shown = setup();
    shown.output.finish({ list });
    expect(shown.written.error).toBe("next: protean x\n");
    const quiet = setup({ quiet: true });
    quiet.output.finish({ list });
    expect(quiet.written.error).toBe("");
  });

  test("that is empty says so on stderr and leaves stdout empty", () => {
    const { output, written } = setup();
    output.finish({ list: { ...list, rows: [] } });
    expect(written).toEqual({ out: "", error: "Nothing.\n" });
  });
});

describe("a fault", () => {
  test("is told with place and fix, without a stack and without passwords", () => {
    const error = new ConfigurationError("can't reach redis://app:canary@host", { at: "domain.toml:3", fix: "Start it." });
    const told = tell(error, false);
    expect(told?.lines).toEqual(["error: can't reach redis://app:***@host", "  at   domain.toml:3", "  fix  Start it."]);
    expect(told?.exitCode).toBe(2);
    expect(tell(error, true)?.lines.join("\n")).toContain("output.test.ts");
    expect(tell(error, true)?.lines.join("\n")).not.toContain("canary");
  });

  test("has the exit code of its kind; a fault of ours is not told here", () => {
    expect(tell(new ObjectNotFoundError("x"), false)?.exitCode).toBe(4);
    expect(tell(new CommandError(5, "X", "x"), false)?.exitCode).toBe(5);
    expect(tell(new TypeError("x"), false)).toBeNull();
  });
});

test("durations are read with their unit and shown for people", () => {
  expect(["500ms", "10s", "1.5m", "2h", "7d", "3"].map(parseDuration_ms)).toEqual([500, 10_000, 90_000, 7_200_000, 604_800_000, 3_000]);
  expect(["", "10 parsecs", "-1s", "s"].map(parseDuration_ms)).toEqual([null, null, null, null]);
  expect([12, 1_500, 65_000, 600_000, 10_800_000].map(durationText)).toEqual(["12 ms", "1.5 s", "65 s", "10 min", "3 h"]);
});
