/** protean db and protean outbox: what they print, add, delete and refuse, on PostgreSQL and SQLite. */
import { afterEach, describe, expect, test } from "bun:test";
import { DatabaseSync } from "node:sqlite";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { freshDatabase } from "../support/postgres.ts";
import { endAll, mustRun, rowsOf, run, startProgram, untilRunning } from "../support/running.ts";
import { until } from "../support/until.ts";
import { SHOP } from "./fixtures/shop.ts";

const LIMIT_ms = 60_000;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  await endAll();
  for (const close of closers.splice(0).reverse()) await close();
});

interface Shop {
  readonly directory: string;
  readonly folder: TemporaryFolder;
  query(sql: string): Promise<readonly Readonly<Record<string, unknown>>[]>;
}

const SETTINGS = `enable_outbox = true
command_processing = "async"
event_processing = "async"
[server]
default_subscription_type = "stream"
`;

async function shopOn(provider: "postgresql" | "sqlite"): Promise<Shop> {
  if (provider === "sqlite") {
    const folder = temporaryFolder({ "handlers/order.ts": SHOP, "domain.toml": `${SETTINGS}[event_store]\nprovider = "sqlite"\n` });
    closers.push(() => folder.remove());
    const query = async (sql: string) => {
      const database = new DatabaseSync(folder.at(".protean", "protean.db"));
      try {
        return database.prepare(sql).all() as Record<string, unknown>[];
      } finally {
        database.close();
      }
    };
    return { directory: folder.path, folder, query };
  }
  const fresh = await freshDatabase("empty");
  closers.push(() => fresh.drop());
  const part = (name: string, kind: string) => `[${name}]\nprovider = "${kind}"\ndatabase_uri = "${fresh.url}"\n`;
  const folder = temporaryFolder({
    "handlers/order.ts": SHOP,
    "domain.toml": `${SETTINGS}${part("databases.default", "postgresql")}${part("event_store", "message_db")}`,
  });
  closers.push(() => folder.remove());
  return { directory: folder.path, folder, query: async (sql) => await fresh.sql.unsafe(sql) };
}

const order = (id: string) => JSON.stringify({ order_id: id, customer: "Ada", amount: 10 });
/** One order that is handled, so that all tables have rows. */
async function withAnOrder(shop: Shop): Promise<void> {
  await mustRun(["db", "setup"], shop);
  await mustRun(["send", "command", "PlaceOrder", order("o1")], shop);
  await mustRun(["server", "--test-mode"], shop);
}

test("db setup --dry-run prints SQL that makes everything when somebody else runs it", async () => {
  const shop = await shopOn("postgresql");
  const { stdout } = await mustRun(["db", "setup", "--dry-run"], shop);
  expect(stdout).toContain("CREATE TABLE");
  expect(stdout).toContain("message_store");
  expect(await shop.query("SELECT 1 FROM pg_tables WHERE schemaname = 'public'")).toEqual([]);
  await shop.query(stdout);
  expect((await mustRun(["db", "setup", "--dry-run"], shop)).stdout).toBe("-- nothing is missing\n");
  expect((await mustRun(["db", "setup"], shop)).stdout).toBe("nothing is missing\n");
  await mustRun(["server", "--test-mode"], shop);
});

describe.each(["postgresql", "sqlite"] as const)("on %s", (provider) => {
  test(
    "db migrate adds a column for a new field and keeps the rows; a field that went leaves its column",
    async () => {
      const shop = await shopOn(provider);
      await withAnOrder(shop);
      shop.folder.write({
        "handlers/order.ts": SHOP.replace(
          "fields: { orderId: f.identifier({ identifier: true }), customer: f.string(), amount: f.float({ min: 0 }) },",
          "fields: { orderId: f.identifier({ identifier: true }), customer: f.string(), amount: f.float({ min: 0 }), note: f.string({ optional: true }) },",
        ),
      });
      if (provider === "postgresql") {
        const planned = await mustRun(["db", "migrate", "--dry-run"], shop);
        expect(planned.stdout).toMatch(/ALTER TABLE .*order.* ADD COLUMN .*note/);
        expect(planned.stdout).not.toMatch(/DROP|DELETE/);
        expect(await shop.query("SELECT 1 FROM pg_attribute WHERE attname = 'note'")).toEqual([]);
      }
      const done = await mustRun(["db", "migrate"], shop);
      // The embedded database is brought up to date by opening it.
      expect(done.stdout).toBe(provider === "sqlite" ? "nothing is missing\n" : "database default: column order.note\n");
      expect(await shop.query(`SELECT order_id, note FROM "order"`)).toEqual([{ order_id: "o1", note: null }]);
      shop.folder.write({ "handlers/order.ts": SHOP });
      expect((await mustRun(["db", "migrate"], shop)).stdout).toBe("nothing is missing\n");
      expect(await shop.query(`SELECT note FROM "order"`)).toEqual([{ note: null }]);
    },
    LIMIT_ms,
  );

  test(
    "db truncate and db drop refuse in production, without an answer and while a server runs; then they do it",
    async () => {
      const shop = await shopOn(provider);
      await withAnOrder(shop);
      const production = { ...shop, environment: { PROTEAN_ENV: "production" } };
      for (const command of ["truncate", "drop"]) {
        expect(await run(["db", command, "--yes"], production)).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("--force") });
        expect(await run(["db", command], shop)).toMatchObject({ exitCode: 3, stderr: expect.stringContaining("--yes") });
      }
      const planned = (await mustRun(["db", "drop", "--dry-run"], shop)).stdout;
      expect(planned).toMatch(/-- table order \(1 row\)\nDROP TABLE .*order/);
      const server = await untilRunning(startProgram(["server", "--http", "off"], shop));
      expect(await run(["db", "truncate", "--yes"], shop)).toMatchObject({ exitCode: 5, stderr: expect.stringContaining("a server runs") });
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      expect(await shop.query(`SELECT order_id FROM "order"`)).toHaveLength(1);

      await mustRun(["db", "truncate", "--yes"], shop);
      for (const table of ['"order"', "order_summary", "outbox", "processed_message"])
        expect(await shop.query(`SELECT * FROM ${table}`)).toEqual([]);
      await mustRun(["db", "drop", "--yes"], shop);
      expect(await run(["query", "OrderSummary"], shop)).toMatchObject({ exitCode: provider === "sqlite" ? 0 : 2 });
      await mustRun(["db", "setup"], shop);
      await mustRun(["send", "command", "PlaceOrder", order("o2")], shop);
      await mustRun(["server", "--test-mode"], shop);
      // The event store and the broker stayed: nothing of the first order is handled again.
      expect((await rowsOf(["query", "OrderSummary"], shop)).map((row) => row["order_id"])).toEqual(["o2"]);
      expect(await run(["db", "drop", "--yes", "--force"], production)).toMatchObject({ exitCode: 0 });
    },
    LIMIT_ms,
  );

  test(
    "outbox list shows rows by state with their errors; outbox retry gives them new attempts",
    async () => {
      const shop = await shopOn(provider);
      await mustRun(["db", "setup"], shop);
      for (const id of ["o1", "o2", "o3"]) await mustRun(["send", "command", "PlaceOrder", order(id)], shop);
      expect((await rowsOf(["outbox", "list"], shop)).map((row) => [row["status"], row["type"]])).toEqual(
        Array.from({ length: 3 }, () => ["pending", "Shop.PlaceOrder.v1"]),
      );
      await shop.query(`UPDATE outbox SET status = 'abandoned', retry_count = 3, last_error = '{"message": "too big"}'`);
      const given = await rowsOf(["outbox", "list", "--status", "abandoned"], shop);
      expect(given.map((row) => [row["attempts"], row["error"]])).toEqual(Array.from({ length: 3 }, () => [3, "too big"]));
      expect(await rowsOf(["outbox", "list", "--status", "failed"], shop)).toEqual([]);
      expect((await run(["outbox", "list", "--status", "lost"], shop)).exitCode).toBe(2);

      expect((await run(["outbox", "retry"], shop)).exitCode).toBe(2);
      expect((await run(["outbox", "retry", "nobody"], shop)).exitCode).toBe(4);
      const first = String(given[0]?.["id"]);
      expect((await mustRun(["outbox", "retry", first, "--dry-run"], shop)).stdout).toBe("would retry 1 rows\n");
      expect((await mustRun(["outbox", "retry", first], shop)).stdout).toBe("1 row is pending again\n");
      expect((await mustRun(["outbox", "retry", "--all"], shop)).stdout).toBe("2 rows are pending again\n");
      await mustRun(["server", "--test-mode"], shop);
      expect((await rowsOf(["query", "OrderSummary"], shop)).length).toBe(3);
    },
    LIMIT_ms,
  );

  test(
    "outbox reconcile finds a hole at any depth, adds the row once, and changes nothing with --dry-run",
    async () => {
      const shop = await shopOn(provider);
      await mustRun(["db", "setup"], shop);
      for (const id of ["o1", "o2", "o3"]) await mustRun(["send", "command", "PlaceOrder", order(id)], shop);
      await shop.query(`DELETE FROM outbox WHERE data ${provider === "sqlite" ? "" : "::text "}LIKE '%"o2"%'`);
      // What is younger than three seconds may be about to be committed.
      await until(
        "the hole is old enough",
        async () =>
          (JSON.parse((await mustRun(["outbox", "reconcile", "--dry-run", "--json"], shop)).stdout) as { data: { would_add: number } }).data
            .would_add === 1,
        15_000,
      );
      expect((await shop.query("SELECT count(*) AS n FROM outbox")).map((row) => Number(row["n"]))).toEqual([2]);
      expect((await mustRun(["outbox", "reconcile"], shop)).stdout).toBe("database default: 1 row added\n");
      expect((await mustRun(["outbox", "reconcile"], shop)).stdout).toBe("database default: 0 rows added\n");
      await mustRun(["server", "--test-mode"], shop);
      expect((await rowsOf(["query", "OrderSummary", "--order-by", "order_id"], shop)).map((row) => row["order_id"])).toEqual([
        "o1",
        "o2",
        "o3",
      ]);
    },
    LIMIT_ms,
  );
});
