/** The engine on virtual time (simulation.ts). `bun scripts/sim.ts --seeds 10000` runs more of the same. */
import { describe, expect, test } from "bun:test";
import process from "node:process";
import { PLANTED } from "./planted.ts";
import { LAYOUTS, PROFILES, simulate, type Verdict } from "./simulation.ts";

const BUDGET_ms = 20_000;
/** A planted bug must be found within so many seeds. */
const WITHIN = 40;
const FIRST = Number(process.env["PROTEAN_SIM_SEED"] ?? 1);

function report({ seed, profile, layout, problems }: Verdict): string {
  return `seed ${seed} (${profile}, layout ${layout}); replay: bun scripts/sim.ts --seed ${seed}\n  ${problems.join("\n  ")}`;
}

describe("simulation", () => {
  test("a seed replays identically, whatever ran in between", async () => {
    const first = await simulate(7, { profile: "everything", layout: "two" });
    const other = await simulate(8, { profile: "everything", layout: "two" });
    const second = await simulate(7, { profile: "everything", layout: "two" });
    expect(second.hash).toBe(first.hash);
    expect([second.happened, second.virtual_ms, second.deaths]).toEqual([first.happened, first.virtual_ms, first.deaths]);
    expect(other.hash).not.toBe(first.hash);
    expect(first.happened).toBeGreaterThan(1_000);
  }, 60_000);

  test("whatever goes wrong, nothing is lost, order and effects are as promised, and all settles when it ends", async () => {
    const end_ms = performance.now() + BUDGET_ms;
    const failed: string[] = [];
    const seen = new Set<string>();
    let runs = 0;
    let deaths = 0;
    for (let seed = FIRST; performance.now() < end_ms; seed += 1) {
      const verdict = await simulate(seed);
      runs += 1;
      deaths += verdict.deaths;
      seen.add(`${verdict.profile} ${verdict.layout}`);
      if (verdict.problems.length > 0) failed.push(report(verdict));
    }
    process.stdout.write(`simulation: ${runs} seeds from ${FIRST}, ${deaths} deaths, ${failed.length} failed\n`);
    expect(failed).toEqual([]);
    if (runs > 200) expect(seen.size).toBe(PROFILES.length * LAYOUTS.length);
    expect(deaths).toBeGreaterThan(0);
  }, 90_000);
});

describe("a planted bug is found:", () => {
  for (const bug of PLANTED) {
    test(bug.name, async () => {
      let found: Verdict | null = null;
      for (let seed = 1; seed <= WITHIN && found === null; seed += 1) {
        const verdict = await simulate(seed, bug);
        if (verdict.problems.length > 0) found = verdict;
      }
      if (found === null) throw new Error(`not found within ${WITHIN} seeds`);
      // It was the bug: without it the same run is good.
      const healthy = await simulate(found.seed, { profile: bug.profile, layout: bug.layout });
      expect(healthy.problems).toEqual([]);
    }, 90_000);
  }
});
