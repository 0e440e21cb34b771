/** Servers that are told to stop, and servers that stand still and come back (G3, G4, C24; rulings 3, 8, 25). */
import { describe, expect, test } from "bun:test";
import { until } from "../support/until.ts";
import { BACKENDS } from "./harness.ts";
import { sitesOfFile } from "./sites.ts";

const LIMIT_ms = 90_000;
const BATCH = 30;
const siteOf = sitesOfFile();

describe.each([...BACKENDS])("on %s", (backend) => {
  test(
    "SIGTERM with a batch read and one message running: that one ends, the others run elsewhere within a second, no attempt is used up (G4, C24)",
    async () => {
      const site = await siteOf(backend);
      const first = await site.start();
      await site.produce("s", BATCH, { moods: ["gated=1"], books: 1 });
      await until("the whole batch is read", async () => (await site.pendingOf("ledger::book", "Recorder")).length === BATCH, 20_000);
      const second = await site.start();
      expect(site.runs("Recorder").map(({ pid }) => pid)).toEqual([first.pid]);

      const asked_ms = Date.now();
      const stopping = first.stop();
      await until("the second server runs one of them", () => site.runs("Recorder").some(({ pid }) => pid === second.pid), 5_000);
      const begun = site.runs("Recorder").find(({ pid }) => pid === second.pid);
      expect((begun?.at ?? Number.POSITIVE_INFINITY) - asked_ms).toBeLessThan(1_000);
      site.openGate();
      const output = await stopping;
      expect(output.split("\n").filter((line) => line.startsWith("Stopped:"))).toHaveLength(1);
      expect(output).toMatch(/^Stopped: .*interrupted 0; drained in/m);

      await site.verify({ exactly: true });
      const runs = site.runs("Recorder");
      expect(runs).toHaveLength(BATCH);
      expect(runs.filter(({ pid }) => pid === first.pid)).toHaveLength(1);
      expect(runs.every(({ attempt }) => attempt === 1)).toBe(true);
    },
    LIMIT_ms,
  );

  test(
    "SIGTERM under load, over and over: nothing is lost and nothing runs twice (G4, G20)",
    async () => {
      const site = await siteOf(backend);
      let server = await site.start();
      const producing = site.produce("l", 120);
      for (let round = 0; round < 4; round += 1) {
        const before = site.runs().length;
        await until("some further runs", () => site.runs().length >= before + 1 + Math.floor(Math.random() * 150), 20_000);
        const output = await server.stop();
        expect(output.split("\n").filter((line) => line.startsWith("Stopped:"))).toHaveLength(1);
        server = await site.start();
      }
      await producing;
      await site.verify({ exactly: true });
    },
    LIMIT_ms,
  );

  test(
    "a server that stood still beyond lease and claim writes nothing about what another took over (rulings 3, 25)",
    async () => {
      const site = await siteOf(backend, { config: "[server.subscriptions.Recorder]\nclaim_idle_seconds = 2" });
      const sleeper = await site.start();
      // In hand at that moment: a run of a projector, and one of a handler without a marker.
      await site.produce("z", 1, { moods: ["gated=1"], books: 1 });
      await until("it is in hand", () => site.runs("Tally").length === 1 && site.runs("Recorder").length === 1, 20_000);
      await sleeper.pause();
      const other = await site.start();
      await site.produce("y", 40, { books: 2 });
      site.openGate();
      await until(
        "the other server has done everything",
        () => site.handledBy("Recorder").size === 41 && site.handledBy("Tally").size === 41 && site.handledBy("Confirming.end").size === 41,
        40_000,
      );
      expect(site.query("SELECT pid FROM handled WHERE handler = 'Tally' AND entry_id = 'z-00001'")).toEqual([{ pid: other.pid }]);
      sleeper.resume();
      await until("the sleeper's late run has ended", () => site.handledBy("Recorder").size === 41, 10_000);
      await site.produce("x", 40, { books: 2 });
      await site.settled();
      // Awake again it is one of two: it has taken its part, or stands by.
      await other.stop();
      await site.produce("w", 20, { books: 2 });
      await site.verify({ competing: true });
      expect(site.runs("Tally").some(({ pid, entry }) => pid === sleeper.pid && entry.startsWith("w-"))).toBe(true);
      expect(site.query("SELECT pid FROM handled WHERE handler = 'Tally' AND entry_id = 'z-00001'")).toEqual([{ pid: other.pid }]);
    },
    LIMIT_ms,
  );
});
