import { describe, expect, test } from "bun:test";
import { type Grammar, readArguments } from "../../../src/cli/arguments.ts";
import { CommandError } from "../../../src/cli/problem.ts";

const grammar: Grammar = {
  command: "demo",
  flags: {
    workers: { type: "text", hint: "N", description: "" },
    only: { type: "text", repeatable: true, description: "" },
    wait: { type: "optional", description: "" },
    format: { type: "text", short: "f", choices: ["rich", "json"], description: "" },
  },
  positionals: [
    { name: "NAME", description: "the name", required: true },
    { name: "JSON", description: "the payload" },
  ],
};
const read = (...words: string[]) => readArguments(words, grammar);
const refusal = (...words: string[]): CommandError => {
  try {
    read(...words);
  } catch (error) {
    if (error instanceof CommandError) return error;
    throw error;
  }
  throw new Error(`accepted: ${words.join(" ")}`);
};

describe("the reader of arguments", () => {
  test("takes values after a space or an equals sign, and short flags", () => {
    const values = read("n", "--workers", "2", "--only=a", "--only", "b,c", "-f", "json", "--json");
    expect(values.text("workers")).toBe("2");
    expect(values.texts("only", { split: true })).toEqual(["a", "b", "c"]);
    expect(values.text("format")).toBe("json");
    expect(values.has("json")).toBe(true);
    expect(values.has("wait")).toBe(false);
  });

  test("takes an optional value only where it is one", () => {
    const without = read("--wait", "n", '{"a": 1}');
    expect(without.duration_ms("wait")).toBeUndefined();
    expect(without.positionals).toEqual(["n", '{"a": 1}']);
    expect(read("n", "--wait", "10s").duration_ms("wait")).toBe(10_000);
    expect(read("n", "--wait=2m").duration_ms("wait")).toBe(120_000);
  });

  test("leaves numbers, a lone dash and what follows -- alone", () => {
    expect(read("-5", "-").positionals).toEqual(["-5", "-"]);
    expect(read("n", "--", "--wrokers").positionals).toEqual(["n", "--wrokers"]);
  });

  test("refuses an unknown flag and names the nearest (known-traps C11)", () => {
    const error = refusal("n", "--wrokers", "4");
    expect(error.message).toBe("unknown flag --wrokers");
    expect(error.about.fix).toBe("Did you mean --workers?");
    expect(error.exitCode).toBe(2);
  });

  test.each([
    [["n", "--workers"], "--workers needs a value"],
    [["n", "--workers", "--json"], "--workers needs a value"],
    [["n", "--workers="], "--workers has an empty value"],
    [["n", "--workers", ""], "--workers has an empty value"],
    [["n", "--json=yes"], "--json takes no value"],
    [["n", "--format", "xml"], "none of rich, json"],
    [[], "NAME is missing"],
    [["n", "{}", "more"], '"more" is not expected here'],
  ])("refuses %j", (words, message) => {
    expect(refusal(...words).message).toContain(message);
  });

  test("checks numbers and durations when they are asked for", () => {
    const values = read("n", "--workers", "many", "--timeout", "soon");
    expect(() => values.integer("workers", { least: 1 })).toThrow("no whole number");
    expect(() => values.duration_ms("timeout")).toThrow("no duration");
    expect(() => read("n", "--workers", "0").integer("workers", { least: 1 })).toThrow("at least 1");
  });
});
