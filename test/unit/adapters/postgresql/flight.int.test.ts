/** What passes between us and the server: how often we take turns, and what we do when nothing passes any more. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { openMessageDb, openPostgres, type PostgresDatabase } from "../../../../src/adapters/postgresql/mod.ts";
import { ConnectionError } from "../../../../src/errors.ts";
import type { CommitSet, RowWrite } from "../../../../src/ports/database.ts";
import { TABLES } from "../../../conformance/database.ts";
import { type PostgresUnderTest, postgresUnderTest, tools } from "../../../support/postgres.ts";
import { type TcpProxy, tcpProxy } from "../../../support/tcp-proxy.ts";
import { until } from "../../../support/until.ts";

let under: PostgresUnderTest;
let proxy: TcpProxy;
let url: string;
let database: PostgresDatabase;
beforeEach(async () => {
  under = await postgresUnderTest();
  const direct = new URL(under.url);
  proxy = await tcpProxy({ host: direct.hostname, port: Number(direct.port) });
  direct.port = String(proxy.port);
  url = direct.href;
  under.database.declare(TABLES);
  await under.database.setup();
  database = await openPostgres({ url, poolMax: 1, statementTimeout_ms: 200, ...tools });
  database.declare(TABLES);
});
afterEach(async () => {
  await database.close();
  await proxy.close();
  await under.dispose();
});

const event = (stream: string) => ({ id: randomUUID(), stream, type: "T", data: "{}", metadata: null, expectedVersion: null });
const outboxRow = (streamName: string) => ({
  id: randomUUID(),
  messageId: randomUUID(),
  streamName,
  type: "T",
  data: "{}",
  metadata: "{}",
  correlationId: null,
  causationId: null,
  partitionKey: null,
  priority: 0,
  targetBroker: "default",
  maxRetries: 3,
});

/** Silence is what is waited for: nothing travels for so long. Fails when it never falls silent. */
async function stillFor(silence_ms: number): Promise<void> {
  let turns = proxy.turns();
  let since_ms = performance.now();
  await until(`nothing travels for ${silence_ms} ms`, () => {
    if (proxy.turns() !== turns) {
      turns = proxy.turns();
      since_ms = performance.now();
    }
    return performance.now() - since_ms >= silence_ms;
  });
}

test("a unit of work with rows, ten events of two categories, markers and outbox rows is one round trip", async () => {
  const lease = await database.leases.acquire("l", "me", 60_000);
  await database.commit({
    rows: ["a", "b"].map((account_id) => ({ kind: "insert", table: "account", row: { account_id, holder: "x" } })),
    appends: [],
    outbox: [],
    markers: [],
    fences: [],
  });
  const unit = (version: number): CommitSet => {
    const streams = Array.from({ length: 10 }, (_, n) => `c${n % 2}-${n}`);
    return {
      rows: ["a", "b"].map((key): RowWrite => ({ kind: "update", table: "account", key, set: { holder: "y" }, version })),
      appends: streams.map(event),
      outbox: streams.map(outboxRow),
      markers: [{ messageId: randomUUID(), handler: "h" }],
      fences: lease === null ? [] : [lease],
    };
  };
  // The first one teaches the connection its statements.
  await database.commit(unit(0));
  // Later than the notification that follows the commit, which would count as well.
  await stillFor(60);
  const before = proxy.turns();
  await database.commit(unit(1));
  expect(proxy.turns() - before).toBe(1);
  expect((await under.eventStore.heads(["c0-0", "c1-9"])).get("c1-9")).toBe(1);
});

test("a query that sees pending writes is one round trip too, and so is a claim", async () => {
  const pending: RowWrite[] = [{ kind: "insert", table: "account", row: { account_id: "p", holder: "x" } }];
  const select = () => database.select({ table: "account", where: null, order: [], limit: null, offset: 0 }, pending);
  const claim = () => database.outbox.claim({ broker: "default", limit: 10, owner: "me", lock_ms: 1_000 });
  await select();
  await claim();
  const before = proxy.turns();
  expect(await select()).toHaveLength(1);
  expect(proxy.turns() - before).toBe(1);
  await claim();
  expect(proxy.turns() - before).toBe(2);
});

test("a link that is dead without saying so is given up, and replaced as soon as another can be made (D5)", async () => {
  await database.ping();
  proxy.freeze();
  await expect(database.ping()).rejects.toBeInstanceOf(ConnectionError);
  proxy.thaw();
  await database.ping();
}, 20_000);

test("an idle process says nothing; one that listens asks four times a second, whoever listens (rulings 32)", async () => {
  const store = await openMessageDb({ url, databases: [database], ...tools });
  await database.ping();
  await stillFor(600);
  const stops = Array.from({ length: 20 }, () => store.onAppend(() => {}));
  stops.push(database.outbox.onInsert(() => {}));
  // What it takes to begin to listen is over.
  await stillFor(150);
  const before = proxy.turns();
  const began_ms = performance.now();
  await until("somebody asks three times", () => proxy.turns() - before >= 3);
  expect(performance.now() - began_ms).toBeGreaterThan(400);
  for (const stop of stops) stop();
  await stillFor(600);
  await store.close();
});
