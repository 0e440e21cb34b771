/** The bank and the ledger on PostgreSQL: rules, kills, restarts of the server, one and two databases (G40, G62, G63, C4, C28). */
import { afterEach, describe, expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "../../scripts/services.ts";
import { Domain, f } from "../../src/mod.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { LedgerOnPostgres } from "../support/ledger-on-postgres.ts";
import { type FreshDatabase, freshDatabase, startPostgres } from "../support/postgres.ts";
import { startRedis } from "../support/redis.ts";
import { endAll, mustRun, type Place, rowsOf, run, startProgram, untilRunning } from "../support/running.ts";
import { tcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const root = join(import.meta.dir, "..", "..");
const LIMIT_ms = 120_000;
const SETTLED_ms = 40_000;
const BACK_ms = 5_000;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  await endAll();
  for (const close of closers.splice(0).reverse()) await close();
});

async function database(): Promise<FreshDatabase> {
  const fresh = await freshDatabase("empty");
  closers.push(() => fresh.drop());
  return fresh;
}

async function redis(): Promise<string> {
  const service = await startRedis();
  closers.push(() => service.stop());
  return service.url;
}

async function ledger(options: {
  readonly databaseUrl: string;
  readonly storeUrl?: string;
  readonly redisUrl?: string;
}): Promise<LedgerOnPostgres> {
  const { databaseUrl, storeUrl = databaseUrl, redisUrl = null } = options;
  const made = await LedgerOnPostgres.make({ databaseUrl, storeUrl, redisUrl });
  closers.push(() => made.close());
  return made;
}

// ------------------------------------------------------------------------------------------------------------ the bank

async function bank(broker: "redis" | "embedded"): Promise<Place & { readonly folder: TemporaryFolder }> {
  const fresh = await database();
  const lines = broker === "redis" ? `[brokers.default]\nprovider = "redis"\nURI = "${await redis()}"\n` : "";
  const folder = temporaryFolder({
    "domain.toml": `[databases.default]
provider = "postgresql"
database_uri = "${fresh.url}"
[event_store]
provider = "message_db"
database_uri = "${fresh.url}"
${lines}`,
  });
  closers.push(() => folder.remove());
  cpSync(join(root, "examples", "fidelis", "handlers"), folder.at("handlers"), { recursive: true });
  const place = { directory: folder.path, folder };
  await mustRun(["db", "setup"], place);
  return place;
}

const send = (place: Place, name: string, payload: Readonly<Record<string, unknown>>) =>
  run(["send", "command", name, JSON.stringify(payload), "--wait", "20s"], place);

for (const broker of ["redis", "embedded"] as const) {
  test(
    `the bank keeps its rules on PostgreSQL and Message DB, messages over ${broker === "redis" ? "Redis" : "the embedded broker"}`,
    async () => {
      const place = await bank(broker);
      const server = await untilRunning(startProgram(["server", "--http", "off"], place));
      const sent = async (name: string, payload: Readonly<Record<string, unknown>>) => {
        const ran = await send(place, name, payload);
        if (ran.exitCode !== 0) throw new Error(`${name}: exit code ${ran.exitCode}\n${ran.stdout}${ran.stderr}`);
      };
      await sent("OpenAccount", { account_id: "ada", holder_name: "Ada", opening_deposit: 500 });
      await sent("OpenAccount", { account_id: "grace", holder_name: "Grace" });
      await sent("MakeDeposit", { account_id: "grace", amount: 10_000 });
      const transfer = (id: string, from: string, to: string, amount: number) => ({
        transfer_id: id,
        source_account_id: from,
        destination_account_id: to,
        amount,
      });
      await sent("InitiateTransfer", transfer("t1", "grace", "ada", 1_000));
      await sent("InitiateTransfer", transfer("t2", "ada", "grace", 9_000));
      expect((await send(place, "MakeWithdrawal", { account_id: "ada", amount: 1_000_000 })).exitCode).toBe(1);

      const accounts = await rowsOf(["query", "AccountSummary", "--order-by", "account_id"], place);
      expect(accounts.map((row) => [row["account_id"], row["balance"]])).toEqual([
        ["ada", 1_500],
        ["grace", 9_000],
      ]);
      const transfers = await rowsOf(["query", "TransferSummary", "--order-by", "transfer_id"], place);
      expect(transfers.map((row) => [row["transfer_id"], row["status"], row["reason"]])).toEqual([
        ["t1", "completed", null],
        ["t2", "failed", "insufficient funds"],
      ]);
      const letters = await rowsOf(["dlq", "list"], place);
      expect(letters.map((row) => JSON.stringify(row))).toEqual([expect.stringContaining("insufficient funds")]);
      const status = await rowsOf(["subscriptions", "status"], place);
      expect(status.filter((row) => row["lag"] !== 0).map((row) => row["handler"])).toEqual([]);
      expect(await rowsOf(["outbox", "status"], place)).toMatchObject([{ pending: 0, processing: 0, failed: 0, abandoned: 0 }]);
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
    },
    LIMIT_ms,
  );
}

test(
  "positions that an event-store subscription has given up are listed and replayed out of Message DB",
  async () => {
    const place = await bank("embedded");
    place.folder.write({
      "handlers/audit.ts": `import { existsSync } from "node:fs";
import { Account, AccountOpened } from "./account.ts";
import { domain } from "./domain.ts";
export const Audit = domain
  .eventHandler("Audit", { partOf: Account, subscriptionType: "event_store" })
  .handle(AccountOpened, async () => {
    if (!existsSync("repaired")) throw new Error("the auditor is ill");
  });
`,
      "more.toml": "",
    });
    const toml = place.folder.at("domain.toml");
    place.folder.write({
      "domain.toml": `${await Bun.file(toml).text()}[server.event_store_subscription]\nmax_retries = 1\nretry_delay_seconds = 0.1\nrecovery_interval_seconds = 0.1\n`,
    });
    const server = await untilRunning(startProgram(["server", "--http", "off"], place));
    await send(place, "OpenAccount", { account_id: "ada", holder_name: "Ada", opening_deposit: 500 });
    let letters: readonly Readonly<Record<string, unknown>>[] = [];
    await until(
      "it is given up",
      async () => {
        letters = await rowsOf(["dlq", "list"], place);
        return letters.length === 1;
      },
      SETTLED_ms,
    );
    const id = String(letters[0]?.["id"]);
    expect(id).toMatch(/^es:\d+$/);
    expect((await mustRun(["dlq", "inspect", id], place)).stdout).toContain("the auditor is ill");
    place.folder.write({ repaired: "" });
    await mustRun(["dlq", "replay", id, "--yes"], place);
    await until("nothing is given up any more", async () => (await rowsOf(["dlq", "list"], place)).length === 0, SETTLED_ms);
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
  },
  LIMIT_ms,
);

// ------------------------------------------------------------------------------------------------------------ what reaches the server

test("a command that is handled at once costs as many round trips and transactions with twenty events as with one", async () => {
  const fresh = await database();
  const direct = new URL(fresh.url);
  const proxy = await tcpProxy({ host: direct.hostname, port: Number(direct.port) });
  closers.push(() => proxy.close());
  direct.port = String(proxy.port);
  const part = { provider: "postgresql", database_uri: direct.href, pool_size: 1, max_overflow: 0 };
  const domain = new Domain("counting", {
    config: {
      command_processing: "sync",
      event_processing: "async",
      enable_outbox: true,
      server: { default_subscription_type: "stream" },
      databases: { default: part },
      event_store: { provider: "message_db", database_uri: direct.href },
      brokers: { default: { provider: "inline" } },
    },
  });
  const Stepped = domain.event("Stepped", { fields: { walkId: f.identifier(), step: f.integer() } });
  class Walk extends domain.aggregate("Walk", {
    fields: { walkId: f.identifier({ identifier: true }), steps: f.integer({ default: 0 }) },
    events: [Stepped],
  }) {}
  const Go = domain.command("Go", { partOf: Walk, fields: { walkId: f.identifier(), steps: f.integer() } });
  domain.commandHandler("Walking", { partOf: Walk }).handle(Go, async ({ walkId, steps }) => {
    const walks = domain.repositoryFor(Walk);
    const walk = await walks.get(walkId);
    for (let step = 1; step <= steps; step += 1) {
      walk.steps += 1;
      walk.raise(new Stepped({ walkId, step }));
    }
    await walks.add(walk);
  });
  await domain.init();
  closers.push(() => domain.close());
  const { databases, eventStore } = domain.stores;
  await databases.get("default")?.setup();
  await eventStore.setup();
  await domain.repositoryFor(Walk).add(new Walk({ walkId: "w1" }));

  const cost = async (steps: number) => {
    const [commits] = await fresh.sql<[{ n: string }]>`SELECT pg_current_xact_id()::text AS n`;
    const before = proxy.turns();
    await domain.process(new Go({ walkId: "w1", steps }));
    const turns = proxy.turns() - before;
    const [later] = await fresh.sql<[{ n: string }]>`SELECT pg_current_xact_id()::text AS n`;
    return { turns, writing: Number(later.n) - Number(commits.n) - 1 };
  };
  /** The cheapest of several: now and then a wake-up for other processes lies between, which belongs to no unit of work. */
  const least = async (steps: number) => {
    const costs = [await cost(steps), await cost(steps), await cost(steps), await cost(steps), await cost(steps)];
    return { turns: Math.min(...costs.map(({ turns }) => turns)), writing: Math.min(...costs.map(({ writing }) => writing)) };
  };
  await cost(1); // connections and prepared statements
  const few = await least(1);
  expect(await least(20)).toEqual(few);
  // Storing the command, reading the aggregate, the handler's unit of work; beside them at most one wake-up.
  expect(few.turns).toBeLessThanOrEqual(4);
  // The command is stored before its handler runs; the handler's unit of work is one transaction.
  expect(few.writing).toBe(2);
  const [sums] = await fresh.sql<[{ events: string; rows: string }]>`SELECT
    (SELECT count(*) FROM message_store.messages WHERE type = 'Counting.Stepped.v1') AS events, (SELECT count(*) FROM outbox) AS rows`;
  expect([Number(sums.events), Number(sums.rows)]).toEqual([106, 106]);
});

// ------------------------------------------------------------------------------------------------------------ the ledger

describe("one database", () => {
  test(
    "a server killed under load, five times: nothing is lost, nothing that is protected happens twice (G62)",
    async () => {
      const { url } = await database();
      const site = await ledger({ databaseUrl: url, redisUrl: await redis() });
      const count = 150;
      const producing = site.produce("k", count);
      let server = await site.start();
      for (const share of [0.05, 0.2, 0.4, 0.6, 0.8]) {
        await until(`${share} is handled`, async () => (await site.recorded()) >= share * count, SETTLED_ms);
        await server.end("SIGKILL");
        server = await site.start();
      }
      await producing;
      await site.settled();
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      expect(await site.wrong()).toEqual([]);
    },
    LIMIT_ms,
  );

  test(
    "a kill before a commit leaves neither events nor rows, one behind it both",
    async () => {
      const { url } = await database();
      const site = await ledger({ databaseUrl: url });
      await site.produce("k", 20);
      // Reading of a set's parts: before anything was sent. Then everything is there, and done again.
      for (const crashAt of ["C2:2/Posting", "C5:3", "C6:2/Tally", "C6:4/Confirming", "C8:2"]) {
        const server = site.launch({ crashAt });
        const { exitCode, stderr } = await server.ended;
        expect([crashAt, exitCode, stderr]).toEqual([crashAt, null, expect.any(String)]);
        // Whoever dies: events and their outbox rows are there together.
        const orphans = await site.query(
          `SELECT type FROM message_store.messages m WHERE type LIKE 'Ledger.%' AND metadata->'domain'->>'kind' = 'EVENT' AND type NOT LIKE 'Ledger.\\_%'
             AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.message_id = m.metadata->'headers'->>'id')`,
        );
        expect(orphans).toEqual([]);
      }
      const server = await site.start();
      await site.settled();
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      expect(await site.wrong()).toEqual([]);
    },
    LIMIT_ms,
  );

  test(
    "PostgreSQL restarted and its backends terminated under load: the server stays, goes on within 5 s, nothing is lost (C28)",
    async () => {
      // A server that answers before it has written loses what it answered when it is killed.
      const postgres = await startPostgres({ settings: { synchronous_commit: "on" } });
      closers.push(() => postgres.stop());
      const site = await ledger({ databaseUrl: postgres.url, redisUrl: await redis() });
      const address = `127.0.0.1:${await freePort()}`;
      const server = await site.start({ http: address });
      const ready = async () => (await fetch(`http://${address}/readyz`)).status;
      const recorded = () => site.recorded().catch(() => 0);
      /** Under load: what happens to the server must not show for longer than 5 s after its end. */
      const disturbed = async (what: string, happens: () => Promise<unknown>) => {
        const begun = await recorded();
        const producing = site.produce(what, 80);
        await until(`${what}: under way`, async () => (await recorded()) >= begun + 10, SETTLED_ms);
        await happens();
        const before = await recorded();
        const back_ms = performance.now();
        await until(`${what}: work goes on`, async () => (await recorded()) > before, 2 * BACK_ms);
        expect(performance.now() - back_ms).toBeLessThan(BACK_ms);
        await until(`${what}: ready`, async () => (await ready()) === 200, BACK_ms);
        await producing;
      };
      await disturbed("restarted", async () => {
        await postgres.down();
        await until("the probe says so", async () => (await ready()) === 503, 15_000);
        expect((await fetch(`http://${address}/livez`)).status).toBe(200);
        await postgres.up();
      });
      for (const round of ["once", "twice"]) {
        await disturbed(`terminated-${round}`, () =>
          site.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'protean' AND pid <> pg_backend_pid()",
          ),
        );
      }
      await disturbed("crashed", () => postgres.restart("SIGKILL"));
      await site.settled();
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      expect(await site.wrong()).toEqual([]);
    },
    LIMIT_ms,
  );
});

describe("two databases", () => {
  test(
    "a kill between append and commit: the outbox is repaired at start, and every event goes out once (C4, G63)",
    async () => {
      const [rows, events] = [await database(), await database()];
      const site = await ledger({ databaseUrl: rows.url, storeUrl: events.url, redisUrl: await redis() });
      // The producer dies when its command lies in the store and its outbox row doesn't.
      await site.produce("c", 10, { crashAt: "C4:4" });
      const commands = Number(
        (await site.inStore("SELECT count(*) n FROM message_store.messages WHERE type = 'Ledger.Post.v1'"))[0]?.["n"],
      );
      expect([commands, Number((await site.query("SELECT count(*) n FROM outbox"))[0]?.["n"])]).toEqual([4, 3]);
      const server = await site.start();
      await site.settled();
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      const recorded = await site.query(
        "SELECT entry_id, count(*) n FROM handled WHERE handler = 'Recorder' GROUP BY entry_id ORDER BY entry_id",
      );
      expect(recorded.map((row) => [row["entry_id"], Number(row["n"])])).toEqual(site.produced().map((entry) => [entry, 1]));
    },
    LIMIT_ms,
  );
});
