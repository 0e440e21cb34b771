import { expect, test } from "bun:test";
import { wantsColour } from "../../../src/runtime/terminal.ts";

for (const [variables, isTerminal, expected] of [
  [{}, true, true],
  [{}, false, false],
  [{ NO_COLOR: "1" }, true, false],
  [{ NO_COLOR: "" }, true, true],
  [{ NO_COLOR: "1", FORCE_COLOR: "1" }, true, false],
  [{ FORCE_COLOR: "1" }, false, true],
  [{ FORCE_COLOR: "0" }, true, false],
  [{ TERM: "dumb" }, true, false],
  [{ TERM: "dumb", FORCE_COLOR: "1" }, true, true],
] as const) {
  test(`colours are ${expected ? "on" : "off"} with ${JSON.stringify(variables)} on ${isTerminal ? "a terminal" : "a pipe"}`, () => {
    expect(wantsColour(variables, isTerminal)).toBe(expected);
  });
}
