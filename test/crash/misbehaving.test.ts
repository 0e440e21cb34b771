/** Handlers and entries that harm: what ends the process, always fails, can't be read, or never settles (D40, D41, G15; known-traps B3 to B5). */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { until } from "../support/until.ts";
import { BACKENDS, type Site } from "./harness.ts";
import { sitesOfFile } from "./sites.ts";

const LIMIT_ms = 60_000;
const siteOf = sitesOfFile();

async function lettersOf(site: Site, stream: string): Promise<readonly Record<string, unknown>[]> {
  const entries = await (await site.broker()).range(`${stream}:dlq`, { count: 100 });
  return entries.map(({ fields }) => JSON.parse(Buffer.from(fields.find(([name]) => name === "data")?.[1] ?? []).toString()));
}

/** What the dead letters say about why they are there. */
async function reasonsOf(site: Site, stream: string): Promise<readonly string[]> {
  const entries = await (await site.broker()).range(`${stream}:dlq`, { count: 100 });
  return entries.map(({ fields }) =>
    fields
      .filter(([name]) => name !== "data")
      .map(([, value]) => Buffer.from(value).toString())
      .join(" "),
  );
}

function metadataOf(letter: Record<string, unknown> | undefined): Record<string, unknown> {
  return (letter?.["_dlq_metadata"] ?? {}) as Record<string, unknown>;
}

describe.each([...BACKENDS])("on %s", (backend) => {
  test(
    "a message whose handler ends the process each time is dead-lettered after max_retries deaths, its neighbours are handled (D40, B4)",
    async () => {
      const site = await siteOf(backend);
      await site.produce("d", 15, { moods: ["deadly=10"], books: 3 });
      let deaths = 0;
      for (;;) {
        const server = site.launch();
        let ended = false;
        void server.ended.then(() => {
          ended = true;
        });
        await until("it dies or gives the message up", async () => ended || (await site.letters()) === 1, 20_000);
        if (!ended) break;
        expect((await server.ended).exitCode).toBe(17);
        site.diedByItself(server);
        deaths += 1;
        expect(deaths).toBeLessThanOrEqual(3);
      }
      await site.verify({ deadLetters: ["d-00010"] });
      expect(deaths).toBe(3);
      expect(
        site
          .runs("Recorder")
          .filter(({ entry }) => entry === "d-00010")
          .map(({ attempt }) => attempt),
      ).toEqual([1, 2, 3]);
      expect(await reasonsOf(site, "ledger::book")).toEqual([expect.stringContaining("the process handling it died 3 times")]);
    },
    LIMIT_ms,
  );

  test(
    "poison and entries that can't be read lie among the dead letters once each, and hold up nobody (G15, B3, B5)",
    async () => {
      const site = await siteOf(backend);
      await site.start();
      await site.produce("g", 10, { books: 2 });
      const broker = await site.broker();
      await broker.publish([
        { stream: "ledger::book", fields: { data: "{broken" } },
        { stream: "ledger::book", fields: { other: new Uint8Array([255, 0, 254]) } },
      ]);
      await site.produce("p", 20, { moods: ["poison=7"], books: 2 });
      // p-00007 and p-00014 for Recorder; each of the two unreadable entries for Recorder, Tally and Confirming.
      const deadLetters = ["p-00007", "p-00014"];
      await site.verify({ deadLetters, furtherLetters: 6, exactly: true });
      for (const entry of deadLetters) expect(site.runs("Recorder").filter((run) => run.entry === entry)).toHaveLength(3);
      const letters = await lettersOf(site, "ledger::book");
      expect(
        (await reasonsOf(site, "ledger::book")).filter((reason) => reason.includes("Error") && reason.includes("poison")),
      ).toHaveLength(2);
      expect(letters.filter((letter) => metadataOf(letter)["consumer_group"] === "ledger.Tally")).toHaveLength(2);
    },
    LIMIT_ms,
  );

  test(
    "a handler that doesn't settle is counted as failed at its limit, others go on, and what it writes later is refused (D41, rulings 9)",
    async () => {
      const site = await siteOf(backend, { config: "[server.subscriptions.Recorder]\nhandler_timeout_seconds = 1\nmax_retries = 2" });
      await site.start();
      await site.produce("n", 12, { moods: ["stuck=5"], books: 3 });
      // n-00005 and n-00010 never settle; the others of their books wait for them, the third book doesn't.
      await until("the others are handled", () => site.handledBy("Recorder").size >= 4, 10_000);
      await until("both are given up", async () => (await site.letters()) === 2, 30_000);
      site.openGate();
      await until("what came late was refused", () => existsSync(site.folder.at("refused.log")), 10_000);
      await site.verify({ deadLetters: ["n-00005", "n-00010"] });
      expect(site.handledBy("Recorder").has("n-00005")).toBe(false);
      const refused = readFileSync(site.folder.at("refused.log"), "utf8").trim().split("\n");
      expect([...new Set(refused)]).toEqual(["UnitOfWorkClosedError"]);
    },
    LIMIT_ms,
  );
});
