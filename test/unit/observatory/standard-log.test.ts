import { describe, expect, test } from "bun:test";
import { type LogOptions, type LogSettings, standardLog } from "../../../src/observatory/standard-log.ts";

const setup = (settings: Partial<LogSettings> = {}, options: LogOptions = {}) => {
  const lines: string[] = [];
  const log = standardLog(
    { level: "INFO", format: "json", ...settings },
    { colour: false, write: (text) => void lines.push(text), ...options },
  );
  return { log, lines, parsed: () => lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
};

describe("the log", () => {
  test("as json is one object a line with timestamp, level, event and the fields", () => {
    const { log, lines, parsed } = setup();
    log.with({ engine: "e1" }).warning("engine.no_subscriptions", { count: 0 });
    expect(lines[0]?.match(/\n/g)?.length).toBe(1);
    expect(parsed()[0]).toMatchObject({ level: "warning", event: "engine.no_subscriptions", engine: "e1", count: 0 });
    expect(Date.parse(String(parsed()[0]?.["timestamp"]))).toBeGreaterThan(0);
  });

  test("for people is one line: time, level, event, fields, with texts quoted where they need it", () => {
    const { log, lines } = setup({ format: "console" });
    log.info("engine.started", { subscription_count: 4, reason: "two words", stream: "shop::order" });
    expect(lines[0]).toMatch(/^\d\d:\d\d:\d\d info {4}engine\.started subscription_count=4 reason="two words" stream=shop::order\n$/);
  });

  test("writes escape codes only when it may", () => {
    const plain = setup({ format: "console" });
    plain.log.error("x.failed", {});
    const coloured = setup({ format: "console" }, { colour: true });
    coloured.log.error("x.failed", {});
    expect(plain.lines.join("")).not.toContain("\x1b");
    expect(coloured.lines.join("")).toContain("\x1b[31m");
  });

  test("leaves out what lies below its level", () => {
    const { log, parsed } = setup({ level: "WARNING" });
    log.debug("a.b");
    log.info("a.b");
    log.warning("c.d");
    log.error("e.f");
    expect(parsed().map((line) => line["event"])).toEqual(["c.d", "e.f"]);
  });

  test("masks values under telling keys, at any depth, the user's own words, and passwords of addresses", () => {
    const { log, lines } = setup({ redact: ["iban"] });
    log.info("x.y", {
      password: "canary",
      headers: { Authorization: "canary", list: [{ api_key: "canary" }] },
      iban: "canary",
      url: "redis://app:canary@host:6379/0",
      error: new Error("can't reach postgresql://app:canary@host/db"),
    });
    expect(lines.join("")).not.toContain("canary");
    expect(lines.join("")).toContain("redis://app:***@host:6379/0");
  });

  test("writes an error as name and message, and its stack only when debugging", () => {
    const quiet = setup();
    quiet.log.error("x.y", { error: new TypeError("boom") });
    expect(quiet.parsed()[0]?.["error"]).toBe("TypeError: boom");
    expect(quiet.parsed()[0]).not.toHaveProperty("error_stack");
    const debug = setup({ level: "DEBUG" });
    debug.log.error("x.y", { error: new TypeError("boom") });
    expect(String(debug.parsed()[0]?.["error_stack"])).toContain("standard-log.test.ts");
  });

  test("writes the same line as often as it is logged", () => {
    const { log, lines } = setup();
    for (let index = 0; index < 20; index += 1) log.info("same.line", { n: 1 });
    expect(lines.length).toBe(20);
  });

  test("never throws: endless structures, big integers and hostile getters are survived", () => {
    const { log, lines } = setup();
    const endless: Record<string, unknown> = {};
    endless["self"] = endless;
    log.info("a.b", { endless, big: 10n ** 30n, missing: undefined });
    const hostile = Object.defineProperty({}, "trap", {
      enumerable: true,
      get: () => {
        throw new Error("no");
      },
    });
    log.info("c.d", { hostile });
    log.info("e.f", { text: "x".repeat(10_000) });
    expect(lines[0]).toContain("…");
    expect(lines.at(-1)?.length).toBeLessThan(3_000);
  });
});
