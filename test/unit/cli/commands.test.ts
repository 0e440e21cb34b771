import { expect, test } from "bun:test";
import { GLOBAL_FLAGS } from "../../../src/cli/arguments.ts";
import { COMMANDS } from "../../../src/cli/commands.ts";

test("every command can be loaded and declares no flag that clashes with a global one", async () => {
  for (const [name, entry] of Object.entries(COMMANDS)) {
    const command = await entry.load();
    const shorts = Object.values(GLOBAL_FLAGS).flatMap((spec) => ("short" in spec ? [spec.short as string] : []));
    for (const [flag, spec] of Object.entries(command.flags ?? {})) {
      expect([name, flag, flag in GLOBAL_FLAGS]).toEqual([name, flag, false]);
      if (spec.short !== undefined) expect([name, flag, shorts.includes(spec.short)]).toEqual([name, flag, false]);
    }
    expect(entry.summary).not.toBe("");
  }
});
