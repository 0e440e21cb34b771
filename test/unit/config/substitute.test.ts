// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${NAME} is what domain.toml writes
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { substitute } from "../../../src/config/substitute.ts";
import { ConfigurationError } from "../../../src/errors.ts";
import { load } from "./setup.ts";

describe("substitution, by the original's rules", () => {
  test.each([
    ["${A}", { A: "x" }, "x"],
    ["${A|d}", {}, "d"],
    ["${A|d}", { A: "" }, ""],
    ["${A|}", {}, ""],
    ["${A|b|c}", {}, "b|c"],
    ["${A|redis://h:6379/0}", {}, "redis://h:6379/0"],
    ["x-${A}-${B|b}", { A: "1" }, "x-1-b"],
    ["${A}", { A: "<${B|z}>" }, "<z>"],
    ["${ A |d}", { A: "x" }, "d"],
    ["${A}", { A: "$& $1 $$" }, "$& $1 $$"],
    ["${}", {}, "${}"],
    ["$A {A}", { A: "x" }, "$A {A}"],
  ])("%p with %p gives %p", (text, environment, expected) => {
    expect(substitute(text, environment)).toBe(expected);
  });

  test("an unset variable without default is refused by name; so is one that only a prototype has", () => {
    expect(() => substitute("${A}", {})).toThrow("Environment variable A is not set");
    expect(() => substitute("${toString}", {})).toThrow("Environment variable toString is not set");
  });

  test("a variable that refers to itself ends in an error, where the original loops for ever", () => {
    expect(() => substitute("${A}", { A: "${A}" })).toThrow("does not come to an end");
    expect(() => substitute("${A}", { A: "${B}", B: "${A}" })).toThrow(ConfigurationError);
  });

  test("variables that multiply each other don't fill the memory", () => {
    expect(() => substitute("${A}", { A: "${B}".repeat(1000), B: "${C}".repeat(1000), C: "${D}".repeat(1000), D: "x" })).toThrow(
      ConfigurationError,
    );
  });

  test("reaches strings in tables and directly in lists, not those of tables in lists, and no keys", async () => {
    const config = await load("[custom]\na = { b = '${V}' }\nlist = ['${V}', { c = '${V}' }]\n'${V}' = 1\n", { environment: { V: "v" } });
    expect(JSON.stringify(config.custom)).toBe(JSON.stringify({ a: { b: "v" }, list: ["v", { c: "${V}" }], "${V}": 1 }));
  });

  test("it always ends, with a text or a ConfigurationError, and the same one each time", () => {
    const text = fc
      .array(fc.constantFrom("${A}", "${B|x}", "${C|${A}}", "$", "{", "}", "|", "a", "${"), { maxLength: 12 })
      .map((parts) => parts.join(""));
    const outcome = (given: string, environment: Record<string, string>): string => {
      try {
        return substitute(given, environment);
      } catch (error) {
        if (error instanceof ConfigurationError) return `refused: ${error.message}`;
        throw error;
      }
    };
    fc.assert(
      fc.property(text, fc.record({ A: text, B: text, C: text }, { requiredKeys: [] }), (given, environment) => {
        const first = outcome(given, environment);
        expect(outcome(given, environment)).toBe(first);
        if (!first.startsWith("refused")) expect(first.length).toBeLessThanOrEqual(65_536);
      }),
      { numRuns: 300 },
    );
  });
});
