/** The bank on the embedded store, as its README runs it: refusals, a kill and a restart, two servers on one file. */
import { afterEach, expect, test } from "bun:test";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { endAll, mustRun, type Place, type RunningProgram, rowsOf, run, startProgram, untilRunning } from "../support/running.ts";
import { until } from "../support/until.ts";

const root = join(import.meta.dir, "..", "..");
const LIMIT_ms = 90_000;
const SETTLED_ms = 40_000;
const folders: TemporaryFolder[] = [];
const services: RedisService[] = [];

afterEach(async () => {
  await endAll();
  for (const folder of folders.splice(0)) folder.remove();
  for (const service of services.splice(0)) await service.stop();
});

type Bank = Place & { readonly folder: TemporaryFolder };

function bank(): Bank {
  const folder = temporaryFolder();
  folders.push(folder);
  cpSync(join(root, "examples", "fidelis", "handlers"), folder.at("handlers"), { recursive: true });
  return { directory: folder.path, folder };
}

/** The same with a Redis of its own as the broker; everything else stays in the file. */
async function bankOnRedis(): Promise<Bank> {
  const redis = await startRedis();
  services.push(redis);
  const place = bank();
  place.folder.write({
    "domain.toml": `[server]\ndefault_subscription_type = "stream"\n\n[brokers.default]\nprovider = "redis"\nURI = "${redis.url}"\n`,
  });
  return place;
}

const startServer = (place: Place) => untilRunning(startProgram(["server", "--http", "off"], place));

const send = (place: Place, name: string, payload: Readonly<Record<string, unknown>>) =>
  run(["send", "command", name, JSON.stringify(payload), "--wait", "20s"], place);

async function sent(place: Place, name: string, payload: Readonly<Record<string, unknown>>): Promise<void> {
  const ran = await send(place, name, payload);
  if (ran.exitCode !== 0) throw new Error(`${name}: exit code ${ran.exitCode}\n${ran.stdout}${ran.stderr}`);
}

interface Summary {
  readonly balance: number;
  readonly count: number;
}

async function summaries(place: Place): Promise<Readonly<Record<string, Summary>>> {
  const rows = await rowsOf(["query", "AccountSummary"], place);
  return Object.fromEntries(
    rows.map((row) => [String(row["account_id"]), { balance: Number(row["balance"]), count: Number(row["transaction_count"]) }]),
  );
}

/** Runs until nothing is left to do: what would come twice comes now. */
async function settle(place: Place): Promise<void> {
  await mustRun(["server", "--test-mode", "--http", "off"], place);
}

/** Deposits of 1 each, in turn for each of the accounts, sent by a process of its own. */
function startDeposits(place: Bank, accounts: readonly string[], count: number): RunningProgram {
  const lines = Array.from({ length: count }, (_, index) => JSON.stringify({ account_id: accounts[index % accounts.length], amount: 1 }));
  place.folder.write({ "deposits.jsonl": `${lines.join("\n")}\n` });
  return startProgram(["send", "command", "MakeDeposit", "--file", "deposits.jsonl"], place);
}

const total = (all: Readonly<Record<string, Summary>>): number => Object.values(all).reduce((sum, { count }) => sum + count, 0);

test(
  "deposits, alert, transfers, payment and refusal end as the bank's rules say",
  async () => {
    const place = bank();
    const server = await startServer(place);
    await sent(place, "OpenAccount", { account_id: "ada", holder_name: "Ada", opening_deposit: 500 });
    await sent(place, "OpenAccount", { account_id: "grace", holder_name: "Grace" });
    await sent(place, "MakeDeposit", { account_id: "grace", amount: 10_000 });
    await sent(place, "MakeDeposit", { account_id: "grace", amount: 9_999.5 });
    await sent(place, "InitiateTransfer", {
      transfer_id: "t1",
      source_account_id: "grace",
      destination_account_id: "ada",
      amount: 1_000,
    });
    await sent(place, "InitiateTransfer", { transfer_id: "t2", source_account_id: "ada", destination_account_id: "grace", amount: 9_000 });

    const payment = JSON.stringify({ payment_ref: "pay-1", account_id: "ada", amount: 25, of_no_interest: true });
    for (const _ of [1, 2]) await mustRun(["send", "message", "payflow_webhooks", payment, "--wait", "20s"], place);
    // A report without its reference is refused at the border.
    const bad = await run(["send", "message", "payflow_webhooks", '{"account_id": "ada", "amount": 25}', "--wait", "20s"], place);
    expect(bad.exitCode).toBe(1);

    const refused = await send(place, "MakeWithdrawal", { account_id: "ada", amount: 1_000_000 });
    expect(refused.exitCode).toBe(1);
    const nowhere = await send(place, "InitiateTransfer", { source_account_id: "ada", destination_account_id: "nobody", amount: 1 });
    expect(nowhere.exitCode).toBe(1);

    await until("the payment has arrived", async () => (await summaries(place))["ada"]?.count === 3, SETTLED_ms);
    expect(await summaries(place)).toEqual({
      ada: { balance: 1_525, count: 3 },
      grace: { balance: 18_999.5, count: 3 },
    });
    const transfers = await rowsOf(["query", "TransferSummary", "--order-by", "transfer_id"], place);
    expect(transfers.map((row) => [row["transfer_id"], row["status"], row["reason"]])).toEqual([
      ["t1", "completed", null],
      ["t2", "failed", "insufficient funds"],
    ]);
    const alerts = await rowsOf(["query", "ComplianceAlert"], place);
    expect(alerts.map((row) => [row["account_id"], row["amount"]])).toEqual([["grace", 10_000]]);
    const letters = (await rowsOf(["dlq", "list"], place)).map((row) => JSON.stringify(row));
    expect(letters).toHaveLength(3);
    for (const reason of ["insufficient funds", "nobody", "payment"]) {
      expect(letters.filter((letter) => letter.includes(reason))).toHaveLength(1);
    }
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
  },
  LIMIT_ms,
);

test(
  "a server killed in the middle of deposits loses none and doubles none",
  async () => {
    const place = bank();
    let server = await startServer(place);
    const accounts = ["a", "b", "c"];
    for (const id of accounts) await sent(place, "OpenAccount", { account_id: id, holder_name: id });
    const deposits = 300;
    const sending = startDeposits(place, accounts, deposits);
    // Killed at growing shares of the work; the last server may end it.
    for (const share of [0.05, 0.3, 0.6]) {
      await until(`${share} of the deposits are handled`, async () => total(await summaries(place)) >= share * deposits, SETTLED_ms);
      await server.end("SIGKILL");
      server = await startServer(place);
    }
    expect((await sending.ended).exitCode).toBe(0);
    await until("all deposits are in the projection", async () => total(await summaries(place)) >= deposits, SETTLED_ms);
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
    await settle(place);
    const expected = { balance: deposits / accounts.length, count: deposits / accounts.length };
    expect(await summaries(place)).toEqual({ a: expected, b: expected, c: expected });
    expect(await rowsOf(["dlq", "list"], place)).toEqual([]);
    // The accounts themselves agree: each pays out all it has and no cent more.
    await startServer(place);
    for (const id of accounts) {
      await sent(place, "MakeWithdrawal", { account_id: id, amount: expected.balance });
      expect((await send(place, "MakeWithdrawal", { account_id: id, amount: 0.01 })).exitCode).toBe(1);
    }
  },
  LIMIT_ms,
);

test(
  "transfers under way when the server is killed are carried through once",
  async () => {
    const place = bank();
    let server = await startServer(place);
    await sent(place, "OpenAccount", { account_id: "a", holder_name: "A", opening_deposit: 60 });
    await sent(place, "OpenAccount", { account_id: "b", holder_name: "B", opening_deposit: 0 });
    // The last twenty find nothing left.
    const transfers = 80;
    const lines = Array.from({ length: transfers }, (_, index) =>
      JSON.stringify({ transfer_id: `t${index}`, source_account_id: "a", destination_account_id: "b", amount: 1 }),
    );
    place.folder.write({ "transfers.jsonl": `${lines.join("\n")}\n` });
    const sending = startProgram(["send", "command", "InitiateTransfer", "--file", "transfers.jsonl"], place);
    const over = async () => {
      const rows = await rowsOf(["query", "TransferSummary"], place);
      return {
        completed: rows.filter((row) => row["status"] === "completed").length,
        failed: rows.filter((row) => row["status"] === "failed").length,
      };
    };
    const ended = async () => Object.values(await over()).reduce((sum, count) => sum + count);
    for (const share of [0.05, 0.4]) {
      await until(`${share} of the transfers are over`, async () => (await ended()) >= share * transfers, SETTLED_ms);
      await server.end("SIGKILL");
      server = await startServer(place);
    }
    expect((await sending.ended).exitCode).toBe(0);
    await until("all transfers are over", async () => (await ended()) === transfers, SETTLED_ms);
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
    await settle(place);
    expect(await over()).toEqual({ completed: 60, failed: 20 });
    expect(await summaries(place)).toEqual({ a: { balance: 0, count: 61 }, b: { balance: 60, count: 60 } });
    expect(await rowsOf(["dlq", "list"], place)).toEqual([]);
  },
  LIMIT_ms,
);

for (const [what, make] of [
  ["file", bank],
  ["Redis", bankOnRedis],
] as const) {
  test(
    `two servers on one ${what} share the work, handle no message twice and lose no update`,
    async () => {
      const place = await make();
      const servers = [await startServer(place), await startServer(place)];
      const accounts = ["a", "b", "c", "d", "e"];
      for (const id of accounts) await sent(place, "OpenAccount", { account_id: id, holder_name: id });
      const notified = () => servers.map((server) => server.output().split("notification.deposit").length - 1);
      let deposits = 0;
      // Until both had something to do.
      do {
        const sending = await startDeposits(place, accounts, 200).ended;
        expect(sending.exitCode).toBe(0);
        deposits += 200;
        await until("all deposits are in the projection", async () => total(await summaries(place)) >= deposits, SETTLED_ms);
      } while (notified().includes(0) && deposits < 1_000);
      for (const server of servers) expect((await server.end("SIGTERM")).exitCode).toBe(0);
      await settle(place);
      const expected = { balance: deposits / accounts.length, count: deposits / accounts.length };
      expect(await summaries(place)).toEqual(Object.fromEntries(accounts.map((id) => [id, expected])));
      expect(notified()).not.toContain(0);
      // The handler that has nothing to tell runs apart by: without a crash it ran once for each.
      expect(notified().reduce((sum, count) => sum + count)).toBe(deposits);
      expect(await rowsOf(["dlq", "list"], place)).toEqual([]);
    },
    LIMIT_ms,
  );

  test(
    `when one of two servers on one ${what} is killed the other one ends its work`,
    async () => {
      const place = await make();
      const [victim, survivor] = [await startServer(place), await startServer(place)];
      const accounts = ["a", "b", "c", "d", "e"];
      for (const id of accounts) await sent(place, "OpenAccount", { account_id: id, holder_name: id });
      const deposits = 300;
      const sending = startDeposits(place, accounts, deposits);
      await until("some deposits are handled", async () => total(await summaries(place)) > 0, SETTLED_ms);
      await victim.end("SIGKILL");
      expect((await sending.ended).exitCode).toBe(0);
      await until("all deposits are in the projection", async () => total(await summaries(place)) >= deposits, SETTLED_ms);
      expect((await survivor.end("SIGTERM")).exitCode).toBe(0);
      await settle(place);
      const expected = { balance: deposits / accounts.length, count: deposits / accounts.length };
      expect(await summaries(place)).toEqual(Object.fromEntries(accounts.map((id) => [id, expected])));
    },
    LIMIT_ms,
  );
}

test(
  "a command with a wrong field names it and stores nothing",
  async () => {
    const place = bank();
    const ran = await run(["send", "command", "MakeDeposit", '{"account_id": "ada", "amout": 5}'], place);
    expect(ran.exitCode).toBe(2);
    expect(ran.stderr).toContain("amout");
    expect(ran.stdout).toBe("");
    await settle(place);
    expect(await rowsOf(["dlq", "list"], place)).toEqual([]);
  },
  LIMIT_ms,
);
