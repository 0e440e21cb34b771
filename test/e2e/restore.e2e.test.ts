/** protean db backup, db restore and recover: SQLite put back beside a real Redis that went on, or that lost what it had (rulings 13, 53). */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { Redis } from "ioredis";
import postgres from "postgres";
import { runBinary } from "../support/binary.ts";
import { onlyDocument } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { freshDatabase, sharedPostgres } from "../support/postgres.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { endAll, startProgram, untilRunning } from "../support/running.ts";
import { rowsIn } from "../support/sqlite-file.ts";
import { until } from "../support/until.ts";
import { SHOP } from "./fixtures/shop.ts";

const LIMIT_ms = 120_000;
const SETTINGS = `command_processing = "async"
event_processing = "async"
[event_store]
provider = "sqlite"
[server]
default_subscription_type = "stream"
`;

let redis: RedisService;
let folder: TemporaryFolder;
beforeAll(async () => {
  redis = await startRedis({ durable: false });
});
afterAll(() => redis.stop());
beforeEach(async () => {
  await redis.cli("FLUSHALL");
  folder = temporaryFolder({
    "handlers/order.ts": SHOP,
    "domain.toml": `${SETTINGS}[brokers.default]\nprovider = "redis"\nURI = "${redis.url}/0"\n`,
  });
});
afterEach(async () => {
  await endAll();
  folder.remove();
});

function protean(...words: readonly string[]) {
  return runBinary(words, { directory: folder.path });
}

function must(...words: readonly string[]) {
  const ran = protean(...words);
  if (ran.exitCode !== 0) throw new Error(`protean ${words.join(" ")}: exit code ${ran.exitCode}\n${ran.stdout}${ran.stderr}`);
  return ran;
}

const anOrder = (id: string, customer = "Ada") => JSON.stringify({ order_id: id, customer, amount: 10 });
const order = (id: string, customer = "Ada") => must("send", "command", "PlaceOrder", anOrder(id, customer));
const settle = () => must("server", "--test-mode");
/** The projection, as readers see it. */
const summaries = () =>
  must("query", "OrderSummary", "-o", "jsonl")
    .stdout.trim()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => (JSON.parse(line) as { order_id: string }).order_id)
    .sort();

const rows = (sql: string) => rowsIn(folder.at(".protean", "protean.db"), sql);

/** Ids of the messages in a stream; one that stands there twice is there twice. */
async function idsIn(stream: string): Promise<readonly string[]> {
  const text = await redis.cli("XRANGE", stream, "-", "+");
  return [...text.matchAll(/\\?"headers\\?": \{\\?"id\\?": \\?"([^"\\]+)/g)].map(([, id = ""]) => id);
}

function findings(words: readonly string[] = ["recover", "--json"]): Record<string, number | null> {
  const { stdout } = protean(...words);
  const found = onlyDocument(stdout).data["findings"] as { kind: string; where: string; count: number | null }[];
  return Object.fromEntries(found.map(({ kind, where, count }) => [`${kind}: ${where}`, count]));
}

describe("a database that was put back beside a Redis that went on", () => {
  /** Two orders done, one waiting, backup; then that one and one more done, and everything of after the backup gone from the database. */
  function goneBack(): void {
    for (const id of ["o1", "o2"]) order(id);
    settle();
    order("o3");
    expect(must("db", "backup", "shop.bak").stdout).toMatch(
      /^backed up \.\/\.protean\/protean\.db to \.\/shop\.bak: .*with the positions of redis:\/\//,
    );
    settle();
    order("o4");
    settle();
    expect(summaries()).toEqual(["o1", "o2", "o3", "o4"]);
  }

  test(
    "is compared, holds everybody up until it is repaired, and loses nothing that was accepted, before or after the backup",
    async () => {
      goneBack();
      const restored = protean("db", "restore", "shop.bak", "--yes", "--json");
      expect(restored.exitCode).toBe(1);
      const { data } = onlyDocument(restored.stdout);
      expect(data).toMatchObject({ messages: 5, replaced: expect.stringContaining("protean.db.replaced-") });
      // What was restored to the old state has nothing of o3 and o4.
      expect(summaries()).toEqual(["o1", "o2"]);
      expect(rows("SELECT status, count(*) AS n FROM outbox GROUP BY status ORDER BY 1")).toEqual([
        { status: "pending", n: 1 },
        { status: "published", n: 4 },
      ]);
      expect(findings()).toEqual({
        "published_already: broker default": 1,
        "not_in_store: broker default, shop::order": 2,
        "command_not_in_store: broker default": 1,
        "group_ahead: shop::order:command, OrderCommandHandler": 2,
      });

      for (const words of [
        ["server", "--http", "off"],
        ["server", "--test-mode"],
        ["send", "command", "PlaceOrder", anOrder("o5")],
        ["outbox", "reconcile"],
      ]) {
        const refused = protean(...words);
        expect([words[0], refused.exitCode]).toEqual([words[0], 2]);
        expect(refused.stderr).toMatch(/was put back from a backup of \S+; redis:\/\/\S+ was not compared with it yet/);
        expect(refused.stderr).toContain("protean recover --repair");
      }

      expect(protean("recover", "--repair")).toMatchObject({ exitCode: 3, stderr: expect.stringContaining("There is no terminal to ask") });
      expect(protean("recover", "--repair", "--dry-run").exitCode).toBe(1);
      const repaired = onlyDocument(must("recover", "--repair", "--yes", "--json").stdout);
      const kept = String(repaired.data["removed_entries"]);
      const lines = readFileSync(kept, "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { stream: string; type: string; messageId: string; fields: { data: string } });
      expect(lines.map(({ stream, type, messageId }) => [stream, type, messageId])).toEqual(
        ["o3", "o4"].map((id) => ["shop::order", "Shop.OrderPlaced.v1", `shop::order-${id}-0.1`]),
      );
      expect(JSON.parse(lines[0]?.fields.data ?? "{}")).toMatchObject({ data: { order_id: "o3", customer: "Ada" } });

      expect(findings()).toEqual({});
      settle();
      expect(summaries()).toEqual(["o1", "o2", "o3", "o4"]);
      expect([...(await idsIn("shop::order"))].sort()).toEqual(["o1", "o2", "o3", "o4"].map((id) => `shop::order-${id}-0.1`));
      expect(new Set(await idsIn("shop::order:command")).size).toBe(4);
      expect(await idsIn("shop::order:command")).toHaveLength(4);
      expect(rows('SELECT count(*) AS n FROM "order"')).toEqual([{ n: 4 }]);
      order("o5");
      settle();
      expect(summaries()).toHaveLength(5);
    },
    LIMIT_ms,
  );

  test(
    "a repair that is killed at every step is done by repairing again, and nothing is lost or doubled",
    async () => {
      goneBack();
      expect(protean("db", "restore", "shop.bak", "--yes").exitCode).toBe(1);
      for (const point of ["R1", "R2", "R3", "R3", "R4"]) {
        const killed = runBinary(["recover", "--repair", "--yes"], { directory: folder.path, environment: { PROTEAN_CRASH_AT: point } });
        expect([point, killed.exitCode, killed.stdout]).toEqual([point, null, ""]);
        expect(protean("server", "--test-mode")).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("was put back") });
      }
      must("recover", "--repair", "--yes");
      settle();
      expect(summaries()).toEqual(["o1", "o2", "o3", "o4"]);
      expect([...(await idsIn("shop::order"))].sort()).toEqual(["o1", "o2", "o3", "o4"].map((id) => `shop::order-${id}-0.1`));
      expect(await idsIn("shop::order:command")).toHaveLength(4);
      // The two events of after the backup are kept, at least once.
      const kept = readdirSync(folder.at(".protean")).filter((name) => name.startsWith("removed-entries-"));
      const lines = kept.flatMap((name) => readFileSync(folder.at(".protean", name), "utf8").trim().split("\n"));
      expect(new Set(lines.map((line) => (JSON.parse(line) as { messageId: string }).messageId)).size).toBe(2);
    },
    LIMIT_ms,
  );

  test(
    "what a group had read and not done at the backup is done again, though it was done since",
    async () => {
      order("o1");
      order("o2", "Trouble");
      const server = await untilRunning(
        startProgram(["server", "--http", "off", "--except", "OrderSummaryProjector"], { directory: folder.path }),
      );
      await until("o1's command is done", async () => (await idsIn("shop::order")).length === 2);
      await server.end("SIGKILL");
      // The projector has read two, and died with them.
      const ids = (await redis.cli("XRANGE", "shop::order", "-", "+")).match(/^\d+-\d+$/gm) ?? [];
      await redis.cli("XGROUP", "CREATE", "shop::order", "shop.OrderSummaryProjector", "0");
      await redis.cli(
        "XREADGROUP",
        "GROUP",
        "shop.OrderSummaryProjector",
        "OrderSummaryProjector-dead-1-0123456789ab",
        "STREAMS",
        "shop::order",
        ">",
      );
      expect(ids).toHaveLength(2);
      must("db", "backup", "shop.bak");
      await redis.cli("XACK", "shop::order", "shop.OrderSummaryProjector", ...ids);
      protean("db", "restore", "shop.bak", "--yes");
      expect(findings()).toMatchObject({ "group_ahead: shop::order, OrderSummaryProjector": 2 });
      must("recover", "--repair", "--yes");
      protean("server", "--test-mode");
      expect(summaries()).toEqual(["o1", "o2"]);
    },
    LIMIT_ms,
  );

  test(
    "with a copy that says nothing, the time of it tells; without, nothing is repaired",
    async () => {
      goneBack();
      const taken = new DatabaseSync(folder.at("shop.bak"));
      const time = String(taken.prepare("SELECT taken_at FROM protean_backup").get()?.["taken_at"]);
      taken.exec("DROP TABLE protean_backup");
      taken.close();
      expect(protean("db", "restore", "shop.bak", "--yes").exitCode).toBe(1);
      expect(findings()).toMatchObject({ [`not_compared: ${redis.url}/0`]: null });
      const unknown = protean("recover", "--repair", "--yes");
      expect(unknown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("--since TIME") });
      const since = `${time.replace(" ", "T")}Z`;
      expect(findings(["recover", "--since", since, "--json"])).toMatchObject({
        "published_already: broker default": 1,
        "not_in_store: broker default, shop::order": 2,
        "group_ahead: shop::order:command, OrderCommandHandler": 2,
      });
      must("recover", "--since", since, "--repair", "--yes");
      settle();
      expect(summaries()).toEqual(["o1", "o2", "o3", "o4"]);
    },
    LIMIT_ms,
  );

  test(
    "nothing is touched while a server runs, by recover or by restore",
    async () => {
      order("o1");
      settle();
      must("db", "backup", "shop.bak");
      const server = await untilRunning(startProgram(["server", "--http", "off"], { directory: folder.path }));
      const before = readdirSync(folder.at(".protean"));
      expect(protean("db", "restore", "shop.bak", "--yes")).toMatchObject({
        exitCode: 5,
        stderr: expect.stringContaining("db restore: a server runs"),
      });
      // Also one that nobody can see any more: the file itself tells.
      expect(protean("db", "restore", "shop.bak", "--yes", "--force")).toMatchObject({
        exitCode: 5,
        stderr: expect.stringContaining("has"),
      });
      expect(protean("recover", "--repair", "--yes")).toMatchObject({
        exitCode: 5,
        stderr: expect.stringContaining("recover: a server runs"),
      });
      expect(readdirSync(folder.at(".protean")).filter((name) => !/-(wal|shm)$/.test(name))).toEqual(
        before.filter((name) => !/-(wal|shm)$/.test(name)),
      );
      expect((await server.end("SIGTERM")).exitCode).toBe(0);
      expect(must("db", "restore", "shop.bak", "--yes").stderr).toContain("Everything fits together");
    },
    LIMIT_ms,
  );
});

describe("a Redis that lost what it had, beside a database that kept it", () => {
  test(
    "gets everything again that it lost, in order, and nothing takes effect twice",
    async () => {
      for (const id of ["o1", "o2", "o3"]) order(id);
      settle();
      await redis.cli("FLUSHALL");
      expect(findings()).toEqual({ "lost_by_broker: broker default": 6 });
      expect(protean("recover").exitCode).toBe(1);
      must("recover", "--repair", "--yes");
      settle();
      expect(await idsIn("shop::order")).toEqual(["o1", "o2", "o3"].map((id) => `shop::order-${id}-0.1`));
      expect(await idsIn("shop::order:command")).toHaveLength(3);
      expect(rows('SELECT count(*) AS n FROM "order"')).toEqual([{ n: 3 }]);
      expect(summaries()).toEqual(["o1", "o2", "o3"]);
      expect(findings()).toEqual({});
    },
    LIMIT_ms,
  );

  test(
    "put back from a backup of its own that is older than the database, it gets what it lacks, and groups that went back do nothing twice",
    async () => {
      order("o1");
      settle();
      const client = new Redis(redis.url);
      const streams = ["shop::order", "shop::order:command"];
      const dumps = await Promise.all(streams.map((stream) => client.dumpBuffer(stream)));
      order("o2");
      settle();
      await client.flushall();
      for (const [at, stream] of streams.entries()) await client.restore(stream, 0, dumps[at] ?? "");
      client.disconnect();
      expect(findings()).toEqual({ "lost_by_broker: broker default": 2 });
      must("recover", "--repair", "--yes");
      settle();
      expect(await idsIn("shop::order")).toEqual(["o1", "o2"].map((id) => `shop::order-${id}-0.1`));
      expect(await idsIn("shop::order:command")).toHaveLength(2);
      expect(rows('SELECT count(*) AS n FROM "order"')).toEqual([{ n: 2 }]);
      expect(summaries()).toEqual(["o1", "o2"]);
    },
    LIMIT_ms,
  );

  test(
    "only what is above the newest id of each stream is lost",
    async () => {
      order("o1");
      settle();
      await redis.cli("BGSAVE");
      order("o2");
      settle();
      // As after a restart that lost the last second: the stream ends earlier, and its newest id is lower.
      const ids = (await redis.cli("XRANGE", "shop::order", "-", "+")).match(/^\d+-\d+$/gm) ?? [];
      await redis.cli("XDEL", "shop::order", ids[1] ?? "");
      await redis.cli("XSETID", "shop::order", ids[0] ?? "");
      expect(findings()).toEqual({ "lost_by_broker: broker default": 1 });
      must("recover", "--repair", "--yes");
      settle();
      expect(await idsIn("shop::order")).toEqual(["o1", "o2"].map((id) => `shop::order-${id}-0.1`));
    },
    LIMIT_ms,
  );
});

test(
  "PostgreSQL put back from a dump is compared by the time of the dump",
  async () => {
    const fresh = await freshDatabase("empty");
    const admin = postgres(await sharedPostgres(), { max: 1, onnotice: () => {} });
    const kept = `${fresh.name}_dump`;
    try {
      const part = (name: string, kind: string) => `[${name}]\nprovider = "${kind}"\ndatabase_uri = "${fresh.url}"\n`;
      folder.write({
        "domain.toml": `${SETTINGS.replace(/\[event_store\]\n.*\n/, "")}${part("databases.default", "postgresql")}${part("event_store", "message_db")}[brokers.default]\nprovider = "redis"\nURI = "${redis.url}/0"\n`,
      });
      must("db", "setup");
      order("o1");
      settle();
      order("o2");
      const time = new Date().toISOString();
      await admin.unsafe(`CREATE DATABASE ${kept} TEMPLATE ${fresh.name}`);
      settle();
      order("o3");
      settle();
      await admin.unsafe(`DROP DATABASE ${fresh.name} WITH (FORCE)`);
      await admin.unsafe(`ALTER DATABASE ${kept} RENAME TO ${fresh.name}`);
      expect(findings()).toEqual({});
      expect(findings(["recover", "--since", time, "--json"])).toEqual({
        "published_already: broker default": 1,
        "not_in_store: broker default, shop::order": 2,
        "command_not_in_store: broker default": 1,
        "group_ahead: shop::order:command, OrderCommandHandler": 2,
      });
      must("recover", "--since", time, "--repair", "--yes");
      settle();
      expect(summaries()).toEqual(["o1", "o2", "o3"]);
      expect([...(await idsIn("shop::order"))].sort()).toEqual(["o1", "o2", "o3"].map((id) => `shop::order-${id}-0.1`));
    } finally {
      await admin.end();
      await fresh.drop();
    }
  },
  LIMIT_ms,
);

describe("a database that was put back alone", () => {
  test(
    "in one file with everything needs no comparison",
    () => {
      folder.write({ "domain.toml": SETTINGS });
      order("o1");
      settle();
      expect(must("db", "backup", "shop.bak").stdout).not.toContain("positions");
      order("o2");
      settle();
      const restored = must("db", "restore", "shop.bak", "--yes");
      expect(restored.stderr).toContain("Everything fits together");
      settle();
      expect(summaries()).toEqual(["o1"]);
      order("o2");
      settle();
      expect(summaries()).toEqual(["o1", "o2"]);
      // Copied there by hand it is the same.
      writeFileSync(folder.at(".protean", "protean.db"), readFileSync(folder.at("shop.bak")));
      for (const end of ["-wal", "-shm"]) rmSync(folder.at(".protean", `protean.db${end}`), { force: true });
      settle();
      expect(summaries()).toEqual(["o1"]);
    },
    LIMIT_ms,
  );

  test(
    "beside an event store that went on has its cursors set back, and is told what it doesn't know",
    () => {
      folder.write({
        "domain.toml": SETTINGS.replace('provider = "sqlite"', 'provider = "sqlite"\ndatabase_uri = "sqlite:///events.db"').replace(
          '"stream"',
          '"event_store"',
        ),
      });
      order("o1");
      settle();
      expect(must("db", "backup", "shop.bak").stdout).toContain("with the positions of");
      order("o2");
      settle();
      expect(summaries()).toEqual(["o1", "o2"]);
      expect(protean("db", "restore", "shop.bak", "--yes").exitCode).toBe(1);
      const found = findings();
      expect(found["checkpoint_ahead: shop::order, OrderSummaryProjector"]).toBeGreaterThan(0);
      expect(found["event_store_ahead: event store"]).toBeGreaterThan(0);
      must("recover", "--repair", "--yes");
      expect(findings()).toEqual({});
      protean("server", "--test-mode");
      expect(summaries()).toEqual(["o1", "o2"]);
    },
    LIMIT_ms,
  );
});

describe("recover --verify-checkpoints", () => {
  const VERIFY = ["recover", "--verify-checkpoints"] as const;

  test(
    "says and does what the original's does, with its keys, words and exit codes",
    () => {
      folder.write({ "domain.toml": SETTINGS.replace('"stream"', '"event_store"') });
      order("o1");
      settle();
      const good = protean(...VERIFY, "--json");
      expect(good.exitCode).toBe(0);
      const { data, status } = onlyDocument(good.stdout);
      expect(status).toBe("pass");
      expect(Object.keys(data)).toEqual(["subscriptions", "summary"]);
      expect(data["summary"]).toEqual({ checked: 3, consistent: 3, beyond_head: 0, unknown: 0 });
      const [first] = data["subscriptions"] as Record<string, unknown>[];
      expect(Object.keys(first ?? {})).toEqual([
        "beyond_head",
        "checkpoint_position",
        "handler_name",
        "head_position",
        "name",
        "stream_category",
        "verdict",
      ]);

      const record = (stream: string, type: string, body: object) => {
        const database = new DatabaseSync(folder.at(".protean", "protean.db"));
        database
          .prepare(
            `INSERT INTO messages (position, time, stream_name, type, data, metadata, id)
             VALUES ((SELECT coalesce(max(position), -1) + 1 FROM messages WHERE stream_name = ?), '2026-01-01 00:00:00.000000', ?, ?, ?, '{"domain": {"kind": "READ_POSITION"}}', ?)`,
          )
          .run(stream, stream, type, JSON.stringify(body), crypto.randomUUID());
        database.close();
      };
      record("position-shop.Announcer-shop::order", "Read", { position: 9_000 });
      record("failed-shop.Announcer-shop::order", "Failed", {
        position: 8_000,
        retry_count: 0,
        stream_name: "shop::order-gone",
        stream_position: 3,
      });
      const bad = protean(...VERIFY, "--json");
      expect(bad.exitCode).toBe(1);
      const found = onlyDocument(bad.stdout);
      expect(found).toMatchObject({
        status: "fail",
        data: {
          summary: { checked: 3, consistent: 2, beyond_head: 1, recovery_stale: 1, recovery_stale_positions: 1, recovery_unknown: 0 },
        },
      });
      expect(found.data["subscriptions"]).toContainEqual(
        expect.objectContaining({ handler_name: "Announcer", checkpoint_position: "9000", beyond_head: true, verdict: "beyond_head" }),
      );
      expect(found.data["recovery"]).toEqual([
        expect.objectContaining({
          recovery_checkpoint_stream: "recovery-checkpoint-shop.Announcer-shop::order",
          verdict: "stale",
          stale_positions: [8_000],
        }),
      ]);
      expect(findings()).toMatchObject({ "stale_recovery: shop::order, Announcer": 1 });
      expect(protean(...VERIFY).stdout).toMatch(/Announcer +shop::order +9000 +\d+ +beyond head/);

      expect(protean("recover", "--reset-beyond-head")).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining("requires --verify-checkpoints"),
      });
      expect(protean(...VERIFY, "--reset-beyond-head", "--dry-run").exitCode).toBe(1);
      const reset = onlyDocument(must(...VERIFY, "--reset-beyond-head", "--json").stdout);
      expect(reset.data).toMatchObject({
        reset: [{ handler_name: "Announcer", stream_category: "shop::order", previous_position: "9000" }],
        reset_failures: [],
        recovery_reset: [{ cleared_positions: [8_000] }],
        summary: { reset: 1, reset_failed: 0, recovery_reset: 1, recovery_reset_failed: 0 },
      });
      expect(onlyDocument(must(...VERIFY, "--json").stdout).data["summary"]).toEqual({
        checked: 3,
        consistent: 3,
        beyond_head: 0,
        unknown: 0,
      });
      order("o2");
      settle();
      expect(summaries()).toEqual(["o1", "o2"]);
    },
    LIMIT_ms,
  );
});

describe("db backup", () => {
  test(
    "refuses to replace, to copy what isn't there, and says what PostgreSQL needs",
    () => {
      expect(protean("db", "backup", "shop.bak")).toMatchObject({
        exitCode: 4,
        stderr: expect.stringContaining("there is no file ./.protean/protean.db yet"),
      });
      order("o1");
      must("db", "backup", "shop.bak");
      expect(protean("db", "backup", "shop.bak")).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("shop.bak exists") });
      expect(protean("db", "backup", ".protean/protean.db", "--force")).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining("is the database itself"),
      });
      must("db", "backup", "shop.bak", "--force");
      expect(protean("db", "restore", "nowhere.bak")).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining("there is no file nowhere.bak"),
      });
      expect(must("db", "restore", "shop.bak", "--dry-run").stdout).toMatch(
        /^\.\/\.protean\/protean\.db would be replaced by \.\/shop\.bak: \d+ KB of /,
      );
      expect(protean("db", "restore", "shop.bak")).toMatchObject({ exitCode: 3 });

      folder.write({
        "domain.toml": '[databases.default]\nprovider = "postgresql"\ndatabase_uri = "postgresql://app:geheim@127.0.0.1:1/shop"\n',
      });
      for (const [words, fix] of [
        [["db", "backup", "x.bak"], "pg_dump"],
        [["db", "restore", "shop.bak"], "pg_restore"],
      ] as const) {
        const refused = protean(...words);
        expect(refused).toMatchObject({ exitCode: 2, stdout: "" });
        expect(refused.stderr).toContain('database "default" is PostgreSQL');
        expect(refused.stderr).toContain(fix);
        expect(refused.stderr).not.toContain("geheim");
      }
    },
    LIMIT_ms,
  );

  test(
    "while Redis is away makes the backup, and says what it couldn't note",
    async () => {
      order("o1");
      folder.write({ "domain.toml": `${SETTINGS}[brokers.default]\nprovider = "redis"\nURI = "redis://127.0.0.1:1/0"\n` });
      const made = protean("db", "backup", "shop.bak", "--json");
      expect(made.exitCode).toBe(1);
      expect(onlyDocument(made.stdout)).toMatchObject({ data: { noted: [], outbox_rows: 1 }, diagnostics: [{ code: "NOT_NOTED" }] });
      const away = protean("db", "restore", "shop.bak", "--yes", "--force", "--timeout", "1s");
      expect(away).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("it was not compared with the other stores") });
      folder.write({ "domain.toml": `${SETTINGS}[brokers.default]\nprovider = "redis"\nURI = "${redis.url}/0"\n` });
      protean("db", "restore", "shop.bak", "--yes");
      expect(findings()).toEqual({ [`not_compared: ${redis.url}/0`]: null });
    },
    LIMIT_ms,
  );
});
