/** Servers that are killed under load (G1 to G3, G20 to G26, G31; rulings 8, 11, 74). */
import { describe, expect, test } from "bun:test";
import { until } from "../support/until.ts";
import { BACKENDS, type Server, type Site } from "./harness.ts";
import { sitesOfFile } from "./sites.ts";

const LIMIT_ms = 120_000;
const IS_LONG = process.env["PROTEAN_TEST_ALL"] === "1";
const ROUNDS = IS_LONG ? 24 : 8;
const ENTRIES = IS_LONG ? 500 : 160;
const siteOf = sitesOfFile();

/** Waits until handlers have begun `more` runs since now, or everything is done. */
async function afterRuns(site: Site, more: number, done: () => boolean): Promise<void> {
  const before = site.runs().length;
  await until(`${more} further runs`, () => done() || site.runs().length >= before + more, 30_000);
}

describe.each([...BACKENDS])("on %s", (backend) => {
  test(
    `a server killed ${ROUNDS} times at random moments loses nothing, keeps the order and doubles no protected effect (G1, G2, G3)`,
    async () => {
      const site = await siteOf(backend, { maxRetries: 2 * ROUNDS });
      let server = await site.start();
      let accepted = false;
      const producing = site.produce("k", ENTRIES).then(() => {
        accepted = true;
      });
      for (let round = 0; round < ROUNDS; round += 1) {
        await afterRuns(site, 1 + Math.floor(Math.random() * 2 * ENTRIES * (3 / ROUNDS)), () => false);
        await server.kill();
        server = await site.start();
      }
      await producing;
      expect(accepted).toBe(true);
      await site.verify();
      expect(site.dead.size).toBe(ROUNDS);
    },
    LIMIT_ms * (IS_LONG ? 5 : 1),
  );

  test(
    "of two servers on the same stores one is killed and started again, over and over: order, effects and books are right (rulings 8, 74)",
    async () => {
      const site = await siteOf(backend, { maxRetries: 2 * ROUNDS });
      const servers: Server[] = [await site.start(), await site.start()];
      const producing = site.produce("t", ENTRIES);
      const rounds = IS_LONG ? 20 : 5;
      for (let round = 0; round < rounds; round += 1) {
        await afterRuns(site, 1 + Math.floor(Math.random() * ENTRIES), () => false);
        const victim = servers[round % 2];
        await victim?.kill();
        servers[round % 2] = await site.start();
      }
      await producing;
      await site.verify({ competing: true });
      expect(site.dead.size).toBe(rounds);
    },
    LIMIT_ms * (IS_LONG ? 5 : 1),
  );
});
