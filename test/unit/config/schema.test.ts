import { describe, expect, test } from "bun:test";
import { describeKeys, describeKeysAsMarkdown } from "../../../src/config/describe-keys.ts";
import { SCHEMA } from "../../../src/config/schema.ts";
import { coerce, parseDuration_s } from "../../../src/config/values.ts";

describe("the table of keys", () => {
  test("names each key once, with one sentence", () => {
    expect(new Set(SCHEMA.map((spec) => spec.path)).size).toBe(SCHEMA.length);
    for (const spec of SCHEMA) expect(spec.doc).toMatch(/^\S.*\.$/);
  });

  test("accepts its own defaults", () => {
    for (const spec of SCHEMA) {
      if (spec.default !== undefined) expect([spec.path, coerce(spec.default, spec)]).toEqual([spec.path, spec.default]);
    }
  });

  test("has a row in the documentation for every key, with unit, default and what is allowed", () => {
    const rows = describeKeys();
    expect(rows).toHaveLength(SCHEMA.length);
    expect(rows.find((row) => row.key === "claim_idle_seconds" && row.section === "[server.stream_subscription]")).toEqual({
      section: "[server.stream_subscription]",
      key: "claim_idle_seconds",
      type: "number",
      default: "30",
      unit: "seconds",
      allowed: "a number > 0",
      doc: expect.any(String),
      ours: true,
      later: "",
    });
  });

  test("as Markdown it keeps its columns, and can be cut to our own keys (D17)", () => {
    const ours = describeKeysAsMarkdown({ oursOnly: true });
    expect(ours).toContain("### `[protean]`");
    expect(ours).toContain("`max_message_bytes`");
    expect(ours).not.toContain("`snapshot_threshold`");
    for (const line of describeKeysAsMarkdown().split("\n")) {
      if (line.startsWith("| `")) expect(line.replaceAll("\\|", "").split("|")).toHaveLength(7);
    }
  });
});

test.each([
  ["7d", 604_800],
  ["12h", 43_200],
  ["30m", 1800],
  ["45s", 45],
  ["2w", 1_209_600],
  ["OFF", null],
  ["0d", undefined],
  ["7", undefined],
  ["-1d", undefined],
  ["1y", undefined],
])("the duration %p is %p seconds", (text, expected) => {
  expect(parseDuration_s(text)).toBe(expected as number | null);
});
