/** Redis that dies, stands still, forgets, or isn't there yet (G9, G42, C27; known-traps A9, B9, B10). */
import { expect, test } from "bun:test";
import { freePort } from "../../scripts/services.ts";
import { until } from "../support/until.ts";
import type { Server, Site } from "./harness.ts";
import { sitesOfFile } from "./sites.ts";

const LIMIT_ms = 90_000;
const BACK_ms = 5_000;
const LINES = 40;
const siteOf = sitesOfFile();

async function ready(url: string): Promise<number> {
  return (await fetch(`${url}/readyz`)).status;
}

/** Log lines that a server wrote since `from`. */
function linesSince(server: Server, from: number): readonly string[] {
  return server
    .output()
    .slice(from)
    .split("\n")
    .filter((line) => line.trim() !== "");
}

/** An outage under load: what is to be true while Redis is away, when it is back, and in the end. */
async function outage(site: Site, away: () => Promise<void>, back: () => Promise<void>): Promise<void> {
  const { redis } = site;
  if (redis === null) throw new Error("this is about Redis");
  const url = `http://127.0.0.1:${await freePort()}`;
  const server = await site.start({ http: url.slice("http://".length) });
  await until("it is ready", async () => (await ready(url)) === 200);
  const producing = site.produce("o", 160, { foreign: false });
  const before = site.runs().length;
  await until("some runs", () => site.runs().length > before + 150, 20_000);

  const from = server.output().length;
  await away();
  await until("the probe says so", async () => (await ready(url)) === 503, 15_000);
  expect((await fetch(`${url}/livez`)).status).toBe(200);
  // Commands are accepted all the same: they lie in the outbox.
  await site.produce("m", 20, { foreign: false });
  await back();
  const back_ms = Date.now();
  await until("handlers run again", () => site.runs().some(({ at, handler }) => at > back_ms && handler === "Recorder"), 2 * BACK_ms);
  const first = site.runs("Recorder").find(({ at }) => at > back_ms);
  expect((first?.at ?? Number.POSITIVE_INFINITY) - back_ms).toBeLessThan(BACK_ms);
  await until("the probe says so", async () => (await ready(url)) === 200, BACK_ms);
  await producing;
  await site.settled({}, 20_000);
  const lines = linesSince(server, from);
  expect(lines.length, lines.join("\n")).toBeLessThan(LINES);
  expect(site.query("SELECT status FROM outbox WHERE status <> 'published'")).toEqual([]);
}

test(
  "Redis killed and started again under load: nothing is lost, work goes on within 5 s, no outbox row is given up (G9, G42)",
  async () => {
    // With appendfsync everysec Redis loses what it took in its last second or two, and says otherwise.
    const site = await siteOf("redis", { redis: ["--appendfsync", "always"] });
    await outage(
      site,
      async () => await site.redis?.down("SIGKILL"),
      async () => await site.redis?.up(),
    );
    await site.verify({ outage: true });
  },
  LIMIT_ms,
);

test(
  "Redis that stands still is a Redis that is away (B9)",
  async () => {
    const site = await siteOf("redis");
    await outage(
      site,
      async () => site.redis?.pause(),
      async () => site.redis?.resume(),
    );
    await site.verify({ outage: true });
  },
  LIMIT_ms,
);

test(
  "Redis that forgot everything: the server says so, makes its groups again and goes on (B10, C27)",
  async () => {
    const site = await siteOf("redis");
    const server = await site.start();
    await site.produce("a", 20);
    await site.settled();
    await site.redis?.cli("FLUSHALL");
    await until("the loss is said", () => server.output().includes("subscription.group_lost"), 15_000);
    await site.produce("b", 20);
    await site.verify({ exactly: true });
    const said = server
      .output()
      .split("\n")
      .filter((line) => line.includes("subscription.group_lost"));
    expect(said.length).toBeLessThanOrEqual(8);
    expect(said.every((line) => line.includes("error"))).toBe(true);
  },
  LIMIT_ms,
);

test(
  "Redis that isn't there at the start: 503, bounded words, and work within 5 s of its coming (G42)",
  async () => {
    const site = await siteOf("redis", { redisDown: true });
    const url = `http://127.0.0.1:${await freePort()}`;
    const server = await site.start({ http: url.slice("http://".length) });
    const from = server.output().length;
    expect(await ready(url)).toBe(503);
    expect((await fetch(`${url}/livez`)).status).toBe(200);
    await site.produce("e", 20, { foreign: false });
    await until("a while has passed in vain", () => linesSince(server, 0).some((line) => line.includes("unreachable")), 10_000);
    expect(await ready(url)).toBe(503);
    await site.redis?.up();
    const back_ms = performance.now();
    await until("handlers run", () => site.runs("Recorder").length > 0, 2 * BACK_ms);
    expect(performance.now() - back_ms).toBeLessThan(BACK_ms);
    await until("the probe says so", async () => (await ready(url)) === 200, BACK_ms);
    await site.verify({ exactly: true });
    const lines = linesSince(server, from);
    expect(lines.length, lines.join("\n")).toBeLessThan(LINES);
  },
  LIMIT_ms,
);
