/** One SQLite file and both programs: Python's is imported and published by ours, ours is read and published by Python, and both work on one at once. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { pythonPeer } from "../../scripts/python-peer.ts";
import { importPythonFile } from "../../src/adapters/sqlite/python-import.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { rowsIn } from "../support/sqlite-file.ts";
import { until } from "../support/until.ts";
import { Account, AccountSummary, Customer, domain, notes } from "./bank.ts";
import { publishAccount, publishAll } from "./publish.ts";
import { openPython, type Python } from "./python.ts";
import { MEMORY_CONFIG, openDomain, type RunningDomain } from "./running.ts";

const ACCOUNT = "corner_bank::account";
const STREAMS = [ACCOUNT, "corner_bank::ledger", "corner_bank::customer"] as const;

const peer = await pythonPeer();
const isThere = "python" in peer;
if (!isThere) {
  if (peer.missing === "packages" && process.env["PROTEAN_TEST_ALL"]) throw new Error(peer.reason);
  process.stdout.write(`skipped: one SQLite file with Python, ${peer.reason}\n`);
}

describe.skipIf(!isThere)("one SQLite file and the Python peer", () => {
  let redis: RedisService;
  let folder: TemporaryFolder;
  let python: Python;
  let number = 0;
  const opened: RunningDomain[] = [];

  /** The file that the Python program of this test works on. */
  const pythons = () => folder.at(`bank-${number}.db`);

  beforeAll(async () => {
    if (!isThere) return;
    redis = await startRedis({ durable: false });
    folder = temporaryFolder();
  });
  afterAll(async () => {
    await redis?.stop();
    folder?.remove();
  });
  beforeEach(async () => {
    if (!isThere) return;
    await redis.cli("FLUSHALL");
    notes.length = 0;
    number += 1;
    python = openPython(peer, { redis: redis.url, folder, name: `bank-${number}` });
  });
  afterEach(async () => {
    for (const running of opened.splice(0)) await running.close();
    await python?.close();
  });

  async function open(file: string): Promise<RunningDomain> {
    const running = await openDomain(domain, {
      ...MEMORY_CONFIG,
      databases: { default: { provider: "sqlite", database_uri: file } },
      brokers: {
        default: { provider: "redis", URI: `${redis.url}/0` },
        partners: { provider: "redis", URI: `${redis.url}/1` },
      },
    });
    opened.push(running);
    return running;
  }

  /** Ids of the messages in the streams, sorted; a message that stands there twice is there twice. */
  async function published(bank: RunningDomain): Promise<readonly string[]> {
    const ids: string[] = [];
    for (const stream of STREAMS) {
      for (const { fields } of await bank.broker.range(stream, { count: 10_000 })) {
        ids.push(
          (JSON.parse(Buffer.from(fields[0]?.[1] ?? []).toString()) as { metadata: { headers: { id: string } } }).metadata.headers.id,
        );
      }
    }
    return ids.sort();
  }

  test("what Python stored and hadn't published is imported, read, published and handled by ours", async () => {
    await python.app("publish", "all", "-n", "2");
    const [state] = (await python.app("state")) as unknown as [{ accounts: Record<string, unknown>[] }];
    const waiting = rowsIn(pythons(), "SELECT message_id FROM outbox WHERE target_broker = 'default' AND status = 'pending'");
    expect(waiting.length).toBeGreaterThan(12);
    const file = folder.at("imported.db");
    const report = await importPythonFile({
      source: pythons(),
      target: { file, clock: new SystemClock(), random: new SystemRandom(), log: silentLog },
      tables: domain.tablesIn("default"),
      dryRun: false,
      force: false,
    });
    expect([report.refused, report.concerns]).toEqual([[], []]);
    const bank = await open(file);
    for (const theirs of state.accounts) {
      const ours = await domain.repositoryFor(Account).get(String(theirs["account_id"]));
      expect(ours.toJSON()).toMatchObject({
        account_id: theirs["account_id"],
        holder: theirs["holder"],
        balance: theirs["balance"],
        rate: theirs["rate"] ?? null,
        tags: theirs["tags"],
        limits: theirs["limits"],
        notes: theirs["notes"],
        beneficiaries: (theirs["beneficiaries"] as Record<string, unknown>[]).map(({ name, iban, added_on }) => ({ name, iban, added_on })),
      });
    }
    expect((await domain.repositoryFor(Customer).query.all()).map(({ vip }) => vip)).toEqual([true, true]);

    const result = await bank.settle();
    expect(result.failed).toBe(false);
    expect(await published(bank)).toEqual(waiting.map(({ message_id }) => String(message_id)).sort());
    expect(rowsIn(file, "SELECT DISTINCT status FROM outbox")).toEqual([{ status: "published" }]);
    const handlers = new Set(notes.map(({ handler }) => handler));
    for (const handler of ["AuditTrail", "Greeter", "AccountSummaries", "Onboarding", "LedgerWatcher"]) expect(handlers).toContain(handler);
    // The projection is filled from Python's events, and Python's own file is as it was.
    expect((await domain.repositoryFor(AccountSummary).query.all()).total).toBe(2);
    expect(rowsIn(pythons(), "SELECT DISTINCT status FROM outbox")).toEqual([{ status: "pending" }]);
  }, 60_000);

  test("what ours stored and hadn't published is read, published and handled by Python, on the same file", async () => {
    const bank = await open(pythons());
    await publishAll();
    const waiting = rowsIn(pythons(), "SELECT message_id FROM outbox WHERE target_broker = 'default'").map(({ message_id }) =>
      String(message_id),
    );
    const balances = rowsIn(pythons(), "SELECT account_id, balance FROM account ORDER BY account_id");
    await bank.close();
    opened.length = 0;

    const [state] = (await python.app("state")) as unknown as [{ accounts: Record<string, unknown>[]; outbox: Record<string, unknown>[] }];
    expect(
      state.accounts
        .map(({ account_id, balance }) => ({ account_id, balance }))
        .sort((a, b) => (String(a.account_id) < String(b.account_id) ? -1 : 1)),
    ).toEqual(balances as { account_id: unknown; balance: unknown }[]);
    expect(state.accounts.find(({ holder }) => holder === "Types")).toMatchObject({
      rate: "0.0125",
      notes: 'line one\nline "two" é € 😀',
      beneficiaries: [
        { name: "Ann", iban: "X1", added_on: "2026-02-01" },
        { name: "Bob", iban: null, added_on: null },
      ],
    });
    expect(state.outbox).toHaveLength(rowsIn(pythons(), "SELECT 1 FROM outbox").length);
    await python.app("publish", "accounts", "-n", "0", "--flush");
    expect(rowsIn(pythons(), "SELECT DISTINCT status, sequence_number FROM outbox")).toEqual([
      { status: "published", sequence_number: null },
    ]);
    const handled = await python.consume();
    expect(new Set(handled.map(({ handler }) => handler)).size).toBeGreaterThanOrEqual(5);

    const again = await open(pythons());
    expect(await published(again)).toEqual(waiting.sort());
    for (const stream of STREAMS) expect(await again.broker.length(`${stream}:dlq`)).toBe(0);
    // What Python's projector wrote is read by ours.
    expect((await domain.repositoryFor(AccountSummary).query.all()).total).toBe(1);
  }, 60_000);

  test("both at work on one file lose nothing, though each waits for the other's lock", async () => {
    await python.app("setup");
    const bank = await open(pythons());
    const server = await python.serve();
    // The projector is left to Python: it knows no lease, and two that read and write one row would overwrite each other.
    await bank.start({ only: ["outbox", "AuditTrail"] });
    const accounts: string[] = [];
    const theirs = python.app("publish", "accounts", "-n", "10");
    for (let n = 0; n < 10; n += 1) accounts.push(await publishAccount());
    await theirs;
    await until(
      "every row is published",
      () => rowsIn(pythons(), "SELECT count(*) AS n FROM outbox WHERE status = 'published' AND target_broker = 'default'")[0]?.["n"] === 40,
      30_000,
    );
    await until(
      "every entry is handled",
      async () => (await bank.broker.groups(ACCOUNT)).every(({ lag, pending }) => lag === 0 && pending === 0),
      30_000,
    );
    await server.stop();
    const ids = rowsIn(pythons(), "SELECT message_id FROM outbox WHERE target_broker = 'default'").map(({ message_id }) =>
      String(message_id),
    );
    expect(new Set(await published(bank))).toEqual(new Set(ids));
    const summaries = await domain.repositoryFor(AccountSummary).query.limit(100).all();
    expect(summaries.map(({ deposits, total }) => [deposits, total])).toEqual(Array.from({ length: 20 }, () => [1, 35.5]));
    for (const accountId of accounts) expect((await domain.repositoryFor(Account).get(accountId)).balance).toBe(35.5);
  }, 90_000);
});
