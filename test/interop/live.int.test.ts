/** Both programs on one Redis: Python publishes and ours consumes, the reverse, both at once in the same groups, and each other's dead letters. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { pythonPeer } from "../../scripts/python-peer.ts";
import type { Domain } from "../../src/domain/domain.ts";
import { decodeDeadLetter, restoreOriginal } from "../../src/messages/dead-letter.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { until } from "../support/until.ts";
import { domain, notes, partner, repaired } from "./bank.ts";
import { publishAccount, publishAll, publishDeposit, publishTransfer } from "./publish.ts";
import { openPython, type Python, type PythonNote } from "./python.ts";
import { MEMORY_CONFIG, openDomain, type RunningDomain } from "./running.ts";

const ACCOUNT = "corner_bank::account";
const LEDGER = "corner_bank::ledger";
const STREAMS = [ACCOUNT, LEDGER, "corner_bank::customer", "wire_transfers"] as const;
const TRACES = "protean:traces";

const peer = await pythonPeer();
const isThere = "python" in peer;
if (!isThere) {
  // A machine without Python is a machine like many; packages that can't be had are a failure where everything was asked for.
  if (peer.missing === "packages" && process.env["PROTEAN_TEST_ALL"]) throw new Error(peer.reason);
  process.stdout.write(`skipped: interop with Python, ${peer.reason}\n`);
}

describe.skipIf(!isThere)("with the Python peer on one Redis", () => {
  let redis: RedisService;
  let folder: TemporaryFolder;
  let python: Python;
  let number = 0;
  const opened: RunningDomain[] = [];

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
    repaired.value = false;
    number += 1;
    python = openPython(peer, { redis: redis.url, folder, name: `bank-${number}` });
  });
  afterEach(async () => {
    for (const running of opened.splice(0)) await running.close();
    await python?.close();
  });

  async function open(of: Domain = domain, broker = 0): Promise<RunningDomain> {
    const running = await openDomain(of, {
      ...MEMORY_CONFIG,
      brokers: {
        default: { provider: "redis", URI: `${redis.url}/${broker}` },
        partners: { provider: "redis", URI: `${redis.url}/1` },
      },
    });
    opened.push(running);
    return running;
  }

  /** Groups forget where they were: the next engine sees everything from the start. */
  async function forgetGroups(bank: RunningDomain): Promise<void> {
    for (const stream of STREAMS) {
      for (const { name } of await bank.broker.groups(stream)) await redis.cli("XGROUP", "DESTROY", stream, name);
    }
  }

  async function nothingIsLeft(bank: RunningDomain): Promise<void> {
    for (const stream of await bank.broker.streams(":dlq")) expect([stream, await bank.broker.length(stream)]).toEqual([stream, 0]);
    for (const stream of STREAMS) {
      for (const group of await bank.broker.groups(stream)) {
        expect([stream, group.name, group.pending, group.lag]).toEqual([stream, group.name, 0, 0]);
      }
    }
  }

  test("every message kind that Python publishes is handled by ours as by Python itself, and nothing twice", async () => {
    await python.app("publish", "all", "-n", "2", "--flush");
    const bank = await open();
    const report = await bank.settle();
    const ours = seen(notes);
    expect(new Set(ours.map(({ of }) => of)).size).toBe(11);
    expect(report.failed).toBe(false);
    await nothingIsLeft(bank);
    // The same groups: for Python nothing is left to do.
    expect(await python.consume()).toEqual([]);
    await forgetGroups(bank);
    const theirs = await python.consume();
    expect(ours).toEqual(seen(theirs));
    // Of published events also on the other broker.
    notes.length = 0;
    const desk = await open(partner, 1);
    await desk.settle();
    expect(notes.map(({ class: name, payload }) => [name, payload["holder"]])).toEqual([
      ["CornerBank.AccountOpened.v1", "Holder 0"],
      ["CornerBank.AccountOpened.v1", "Holder 1"],
    ]);
  });

  test("everything that ours publishes is handled by Python as by ours, with nothing dead-lettered and nothing wedged", async () => {
    const bank = await open();
    await publishAll();
    const report = await bank.settle({ only: ["outbox"] });
    expect([report.summary.published, report.failed]).toEqual([10, false]);
    const theirs = seen(await python.consume());
    await nothingIsLeft(bank);
    // A second engine of Python finds nothing that an unfinished entry of the first keeps back.
    expect(await python.consume()).toEqual([]);
    await forgetGroups(bank);
    await bank.settle({ only: ["AuditTrail", "Greeter", "AccountSummaries", "Onboarding", "LedgerWatcher", "WireTransfers"] });
    expect(new Set(theirs.map(({ of }) => of)).size).toBe(11);
    expect(theirs).toEqual(seen(notes));
  });

  test("ours handles a backlog in the order in which Python's entries stand", async () => {
    await python.app("publish", "ledgers", "-n", "5", "--flush");
    const bank = await open();
    await bank.settle();
    const entries = await bank.broker.range(LEDGER, { count: 100 });
    const standing = entries.map(({ fields }) => idIn(Buffer.from(fields[0]?.[1] ?? []).toString()));
    expect(notes.map(({ metadata }) => metadata?.headers.id)).toEqual(standing);
    expect(standing).toHaveLength(20);
  });

  test("both engines in the same groups handle every message exactly once in all", async () => {
    const bank = await open();
    const server = await python.serve();
    const groupOf = async (name: string) => (await bank.broker.groups(ACCOUNT)).find((group) => group.name === name);
    await until("Python reads", async () => (await groupOf("bank.AuditTrail")) !== undefined && (await isReading(bank)), 15_000);
    await bank.start();
    let published = 0;
    const both = () => notes.length > 20 && server.handled().length > 20;
    await until(
      "both engines had their share",
      async () => {
        await publishAccount();
        published += 1;
        return both() && published >= 40;
      },
      15_000,
    );
    await until("both engines are done", async () => {
      const groups = await bank.broker.groups(ACCOUNT);
      return (await bank.broker.length(ACCOUNT)) === 2 * published && groups.every(({ lag, pending }) => lag === 0 && pending === 0);
    });
    await server.stop();
    const all = [...notes, ...server.handled()].map(({ handler, metadata }) => `${handler} ${metadata?.headers.id}`);
    expect(new Set(all).size).toBe(all.length);
    // AccountOpened has four handlers, DepositMade three.
    expect(all).toHaveLength(7 * published);
    await nothingIsLeft(bank);
  }, 60_000);

  test("Python's dead letters are read by ours and replayed to the group that failed, and to no other", async () => {
    await python.app("publish", "accounts", "--amount", "666", "--flush");
    await python.app("publish", "transfers", "--amount", "666");
    await python.consume();
    const bank = await open();
    const letters: [string, string][] = [];
    repaired.value = true;
    for (const stream of [ACCOUNT, "wire_transfers"]) {
      const entries = await bank.broker.range(`${stream}:dlq`, { count: 10 });
      expect(entries).toHaveLength(1);
      for (const { id, fields: pairs } of entries) {
        const fields = Object.fromEntries(pairs);
        const { originalStream, originalId, consumerGroup, originalText } = decodeDeadLetter(fields);
        expect([originalStream, JSON.parse(originalText ?? "{}")]).toEqual([stream, expect.any(Object)]);
        const [original] = await bank.broker.range(stream, { from: originalId ?? "", to: originalId ?? "", count: 1 });
        expect(originalText).toBe(Buffer.from(original?.fields[0]?.[1] ?? []).toString());
        letters.push([stream, consumerGroup ?? ""]);
        const how = await bank.broker.replay({
          deadLetterStream: `${stream}:dlq`,
          deadLetterId: id,
          stream,
          group: consumerGroup ?? "",
          originalId: originalId ?? "",
          fields: restoreOriginal(fields),
        });
        expect(how).toBe("redelivered");
      }
    }
    expect(letters).toEqual([
      [ACCOUNT, "bank.AuditTrail"],
      ["wire_transfers", "bank.WireTransfers"],
    ]);
    const report = await bank.settle();
    expect(notes.map(({ handler, payload, attempt }) => [handler, payload["amount"], attempt]).sort()).toEqual([
      ["AuditTrail", 666, 1],
      ["WireTransfers", 666, 1],
    ]);
    expect(report.failed).toBe(false);
    await nothingIsLeft(bank);
  });

  test("our dead letters are listed, inspected and replayed by Python", async () => {
    const bank = await open();
    await publishAccount(666);
    await publishTransfer(666);
    await bank.put(ACCOUNT, "{ no JSON");
    await bank.settle({ only: ["outbox", "AuditTrail", "WireTransfers"] });
    const letters = await bank.broker.range(`${ACCOUNT}:dlq`, { count: 10 });
    const poison = letters.find(({ fields }) => fields.some(([, value]) => Buffer.from(value).includes("666")));
    expect(letters).toHaveLength(2);
    const list = await python.cli("dlq", "list");
    for (const { id } of letters) expect(list).toContain(id);
    expect(list).toContain("3 DLQ message(s) found");
    const inspected = await python.cli("dlq", "inspect", poison?.id ?? "");
    for (const part of ["bank.AuditTrail", ACCOUNT, "DepositMade", "666.0"]) expect(inspected).toContain(part);

    await python.cli("dlq", "replay", poison?.id ?? "");
    expect((await bank.broker.range(`${ACCOUNT}:dlq`, { count: 10 })).map(({ id }) => id)).not.toContain(poison?.id ?? "");
    const before = await bank.broker.range(ACCOUNT, { count: 10 });
    const texts = before.map(({ fields }) => Buffer.from(fields[0]?.[1] ?? []).toString());
    // Its copy says the same with the same number tokens, so the checksum holds.
    const replayed = texts.at(-1) ?? "";
    expect(texts.filter((text) => idIn(text) === idIn(replayed))).toEqual([replayed, replayed]);
    notes.length = 0;
    repaired.value = true;
    await bank.settle({ only: ["AuditTrail"] });
    expect(notes.map(({ handler, payload }) => [handler, payload["amount"]])).toEqual([["AuditTrail", 666]]);
  });

  test("our trace events have Python's keys in Python's order, and say the same of the same messages", async () => {
    await python.app("publish", "accounts", "--flush");
    await python.app("publish", "accounts", "--amount", "666", "--flush");
    const bank = await open();
    await redis.cli("DEL", TRACES);
    await python.consume();
    const theirs = await traces(bank);
    await forgetGroups(bank);
    await redis.cli("DEL", TRACES, `${ACCOUNT}:dlq`);
    await bank.settle({ only: ["AuditTrail", "Greeter", "AccountSummaries", "Onboarding"] });
    await bank.stores.close();
    const again = await open();
    const ours = await traces(again);
    expect(theirs.length).toBeGreaterThan(20);
    // A type without a method is acknowledged before it is decoded (D28), where Python starts and completes nothing; our negative
    // acknowledgements know the type.
    const isShared = (trace: Trace) => trace["handler"] !== "Greeter" || trace["message_type"] === "CornerBank.AccountOpened.v1";
    const keys = (all: readonly Trace[]) => [...new Set(all.map((trace) => Object.keys(trace).join()))];
    expect(keys(ours)).toEqual(keys(theirs));
    expect(keys(ours)[0]?.split(",")).toHaveLength(15);
    expect(comparable(ours)).toEqual(comparable(theirs.filter(isShared)));
  });

  test("ours deposits to an account whose events Python handles next to its own", async () => {
    const bank = await open();
    const accountId = await publishAccount();
    await publishDeposit(accountId, 1e-7);
    await publishDeposit(accountId, 1e16);
    await bank.settle({ only: ["outbox"] });
    await python.app("publish", "accounts", "--flush");
    const amounts = (await python.consume()).filter(({ handler, class: name }) => handler === "AuditTrail" && name === "DepositMade");
    expect(amounts.map(({ payload }) => payload["amount"])).toEqual([25.5, 1e-7, 1e16, 25.5]);
    await nothingIsLeft(bank);
  });

  async function isReading(bank: RunningDomain): Promise<boolean> {
    const consumers = await bank.broker.consumers(ACCOUNT, "bank.Onboarding");
    return consumers.some(({ idle_ms }) => idle_ms < 1_000);
  }

  type Trace = Readonly<Record<string, unknown>>;
  async function traces(bank: RunningDomain): Promise<readonly Trace[]> {
    const entries = await bank.broker.range(TRACES, { count: 10_000 });
    return entries.map(({ fields }) => JSON.parse(Buffer.from(fields[0]?.[1] ?? []).toString()) as Trace);
  }
});

/** What doesn't depend on the run: times, durations and workers do. */
function comparable(all: readonly Readonly<Record<string, unknown>>[]): readonly string[] {
  return all
    .map(({ event, domain: name, stream, message_type, status, handler, correlation_id, causation_id }) => {
      const type = event === "message.nacked" ? "unknown" : message_type;
      return JSON.stringify([event, name, stream, type, status, handler, correlation_id, causation_id]);
    })
    .sort();
}

function idIn(text: string): string {
  return /"headers": \{"id": "([^"]+)"/.exec(text)?.[1] ?? "";
}

/** What handlers saw, in an order that doesn't depend on who came first. */
function seen(all: readonly PythonNote[]) {
  return all
    .map(({ handler, class: name, payload, metadata }) => ({
      of: `${handler} ${name ?? ""}`,
      id: metadata?.headers.id ?? JSON.stringify(payload),
      payload,
      metadata: metadata === undefined ? null : (JSON.parse(JSON.stringify(metadata).replaceAll(/"fqn":"\w+\./g, '"fqn":"')) as unknown),
    }))
    .sort((one, other) => (`${one.of} ${one.id}` < `${other.of} ${other.id}` ? -1 : 1));
}
