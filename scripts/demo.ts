/**
 * The bank of examples/fidelis on the embedded store, told in short sections: a server in its own process, commands from other processes, a
 * withdrawal that has to be refused, a kill in the middle of much work, a restart.
 *
 * Every figure is worked out here and compared with what the program says; the first one that differs ends the demo with exit code 1. Needs
 * dist/protean (scripts/demo.sh builds it) and nothing else. Everything happens in a temporary folder; all processes end with the demo.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

const root = join(import.meta.dir, "..");
const program = join(root, "dist", "protean");
/** For each thing that is waited for. */
const LIMIT_ms = 30_000;
/** Commands of the second round, half for each account. */
const SECOND_ROUND = 400;

type Row = Readonly<Record<string, unknown>>;

interface Ran {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Server {
  readonly process: ChildProcess;
  readonly output: () => string;
}

class DemoError extends Error {}

const folder = mkdtempSync(join(tmpdir(), "protean-demo-"));
const running = new Set<ChildProcess>();

// ------------------------------------------------------------------------------------------------------------- processes

/** Nothing of this shell's PROTEAN_* reaches the demo. */
function environment(): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith("PROTEAN_") && name !== "REDIS_URL");
  return { ...Object.fromEntries(own), NO_COLOR: "1" };
}

function begin(parameters: readonly string[]): {
  readonly child: ChildProcess;
  readonly ended: Promise<Ran>;
  readonly output: () => string;
} {
  const child = spawn(program, [...parameters], { cwd: folder, env: environment(), stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  let stdout = "";
  let stderr = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = once(child, "close").then(([exitCode]): Ran => {
    running.delete(child);
    return { exitCode: exitCode as number | null, stdout, stderr };
  });
  return { child, ended, output: () => stdout + stderr };
}

/** Runs the program to its end in a process of its own. */
async function protean(...parameters: string[]): Promise<Ran> {
  return await begin(parameters).ended;
}

/** As `protean`, when anything but exit code 0 is a fault. */
async function must(...parameters: string[]): Promise<Ran> {
  const ran = await protean(...parameters);
  if (ran.exitCode !== 0) {
    throw new DemoError(`"protean ${parameters.join(" ")}" ended with ${ran.exitCode}:\n${ran.stdout}${ran.stderr}`);
  }
  return ran;
}

async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const end_ms = performance.now() + LIMIT_ms;
  while (!(await holds())) {
    if (performance.now() > end_ms) throw new DemoError(`waited ${LIMIT_ms / 1000} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function startServer(): Promise<Server> {
  const { child, ended, output } = begin(["server", "--http", "off", "--log-format", "console", "--log-level", "WARNING"]);
  let gone = false;
  ended.then(() => {
    gone = true;
  });
  await until("the server runs", () => {
    if (gone) throw new DemoError(`the server ended while it started:\n${output()}`);
    return output().includes("Engine running.");
  });
  return { process: child, output };
}

async function stopServer({ process: child, output }: Server): Promise<void> {
  const closed = once(child, "close");
  child.kill("SIGTERM");
  const [exitCode] = await closed;
  if (exitCode !== 0) throw new DemoError(`the server ended with ${String(exitCode)} after SIGTERM:\n${output()}`);
}

// --------------------------------------------------------------------------------------------------------------- looking

/** Rows of a projection or the result of a query, in wire names. */
async function rows(...parameters: string[]): Promise<readonly Row[]> {
  const { stdout } = await must(...parameters, "-o", "jsonl");
  return stdout
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line) as Row);
}

async function accounts(): Promise<ReadonlyMap<string, { readonly balance: number; readonly count: number }>> {
  const found = await rows("query", "AccountSummary", "--limit", "10");
  return new Map(
    found.map((row) => [String(row["account_id"]), { balance: Number(row["balance"]), count: Number(row["transaction_count"]) }]),
  );
}

async function transferStatus(id: string): Promise<string> {
  const found = await rows("query", "TransferSummary", "--limit", "10");
  return String(found.find((row) => row["transfer_id"] === id)?.["status"] ?? "unknown");
}

// --------------------------------------------------------------------------------------------------------------- telling

function section(title: string): void {
  process.stdout.write(`\n== ${title}\n`);
}

function say(line: string): void {
  process.stdout.write(`   ${line}\n`);
}

function show(text: string): void {
  for (const line of text.trimEnd().split("\n")) say(line);
}

function check(what: string, actual: unknown, expected: unknown): void {
  const [is, shouldBe] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (is !== shouldBe) throw new DemoError(`${what}: is ${is}, should be ${shouldBe}`);
  say(`ok  ${what}: ${is}`);
}

// ----------------------------------------------------------------------------------------------------------- the two rounds

async function firstRound(): Promise<void> {
  section("Two accounts, three deposits, two transfers, a payment from outside: each sent by a process of its own");
  const send = (name: string, payload: Row) => must("send", "command", name, JSON.stringify(payload), "--wait", "20s");
  await send("OpenAccount", { account_id: "ada", holder_name: "Ada Lovelace", opening_deposit: 500 });
  await send("OpenAccount", { account_id: "grace", holder_name: "Grace Hopper", opening_deposit: 100 });
  await send("MakeDeposit", { account_id: "ada", amount: 250, reference: "salary" });
  await send("MakeDeposit", { account_id: "grace", amount: 12_000, reference: "house sold" });
  const carried = await send("InitiateTransfer", {
    transfer_id: "t1",
    source_account_id: "grace",
    destination_account_id: "ada",
    amount: 2_000,
  });
  await send("InitiateTransfer", { transfer_id: "t2", source_account_id: "ada", destination_account_id: "grace", amount: 900_000 });
  say("What the first transfer brought about, as send --wait tells it:");
  show(carried.stdout);
  // The provider repeats itself; its reference is the idempotency key.
  const payment = JSON.stringify({ payment_ref: "pay-1", account_id: "ada", amount: 75 });
  await must("send", "message", "payflow_webhooks", payment);
  await must("send", "message", "payflow_webhooks", payment);

  section("A withdrawal that must be refused");
  const refused = await protean(
    "send",
    "command",
    "MakeWithdrawal",
    JSON.stringify({ account_id: "grace", amount: 1_000_000 }),
    "--wait",
    "20s",
  );
  check("exit code of send --wait", refused.exitCode, 1);

  section("What became of it");
  await until("both transfers are over", async () => {
    const states = [await transferStatus("t1"), await transferStatus("t2")];
    return states.every((state) => state === "completed" || state === "failed");
  });
  await until("the payment has arrived", async () => (await accounts()).get("ada")?.count === 4);
  await until("the alert is there", async () => (await rows("query", "ComplianceAlert")).length > 0);
  show((await must("query", "AccountSummary")).stdout);
  const now = await accounts();
  check("Ada's balance (500 + 250 + 2000 + 75)", now.get("ada")?.balance, 2_825);
  check("Grace's balance (100 + 12000 - 2000)", now.get("grace")?.balance, 10_100);
  show((await must("query", "TransferSummary")).stdout);
  check("transfer t1", await transferStatus("t1"), "completed");
  check("transfer t2, more than there is", await transferStatus("t2"), "failed");
  show((await must("query", "ComplianceAlert")).stdout);
  const alerts = await rows("query", "ComplianceAlert");
  check(
    "alerts",
    alerts.map((row) => [row["account_id"], row["amount"]]),
    [["grace", 12_000]],
  );
  show((await must("dlq", "list")).stdout);
  await checkDeadLetters();
}

async function checkDeadLetters(): Promise<void> {
  const letters = await rows("dlq", "list");
  check("dead letters", letters.length, 1);
  const [letter] = letters;
  check("it is the withdrawal, refused for want of funds", JSON.stringify(letter).includes("insufficient funds"), true);
}

/** How many postings the projection has seen. */
async function posted(): Promise<number> {
  return [...(await accounts()).values()].reduce((sum, { count }) => sum + count, 0);
}

/** Sends deposits of 1, half to each account, and kills the server when a quarter of them is handled. @returns how many were handled by then */
async function killInTheMiddle(server: Server, deposits: number): Promise<number> {
  const before = await posted();
  const lines = Array.from({ length: deposits }, (_, index) =>
    JSON.stringify({ account_id: index % 2 === 0 ? "ada" : "grace", amount: 1 }),
  );
  writeFileSync(join(folder, "deposits.jsonl"), `${lines.join("\n")}\n`);
  const sending = begin(["send", "command", "MakeDeposit", "--file", "deposits.jsonl"]);
  await until("a quarter of the deposits is handled", async () => (await posted()) >= before + deposits / 4);
  const closed = once(server.process, "close");
  server.process.kill("SIGKILL");
  await closed;
  const { exitCode, stderr } = await sending.ended;
  if (exitCode !== 0) throw new DemoError(`sending ended with ${exitCode}:\n${stderr}`);
  return (await posted()) - before;
}

async function secondRound(first: Server): Promise<void> {
  section("Second round: many deposits, and SIGKILL for the server in the middle");
  const before = await accounts();
  let server = first;
  let sent = 0;
  for (let deposits = SECOND_ROUND; ; deposits *= 2) {
    const handled = await killInTheMiddle(server, deposits);
    sent += deposits;
    say(`killed with ${handled} of ${deposits} deposits in the projection`);
    server = await startServer();
    if (handled < deposits) break;
    say("that was too late, so once more with twice as many");
  }
  const expected = (id: string) => ({
    balance: (before.get(id)?.balance ?? 0) + sent / 2,
    count: (before.get(id)?.count ?? 0) + sent / 2,
  });

  section("Started again: nothing is lost, nothing is doubled");
  await until("all deposits are in the projection", async () => {
    const now = await accounts();
    return ["ada", "grace"].every((id) => (now.get(id)?.count ?? 0) >= expected(id).count);
  });
  await stopServer(server);
  // Runs until nothing is left to do: what would still come twice comes now.
  await must("server", "--test-mode", "--http", "off");
  const now = await accounts();
  for (const id of ["ada", "grace"]) check(`balance and postings of ${id}`, now.get(id), expected(id));
  check("alerts", (await rows("query", "ComplianceAlert")).length, 1);
  await checkDeadLetters();

  section("The account agrees with the projection: it pays out all it has, and not a cent more");
  const last = await startServer();
  const withdraw = (amount: number) =>
    protean("send", "command", "MakeWithdrawal", JSON.stringify({ account_id: "ada", amount }), "--wait", "20s");
  check("exit code for the whole balance", (await withdraw(expected("ada").balance)).exitCode, 0);
  check("exit code for a cent more", (await withdraw(0.01)).exitCode, 1);
  await until("the withdrawal is in the projection", async () => (await accounts()).get("ada")?.balance === 0);
  say("ok  Ada's balance is 0");
  await stopServer(last);
}

async function demo(): Promise<void> {
  const began_ms = performance.now();
  if (!existsSync(program)) throw new DemoError("there is no dist/protean: run scripts/demo.sh, which builds it");
  cpSync(join(root, "examples", "fidelis", "handlers"), join(folder, "handlers"), { recursive: true });
  section("The server, with nothing but a folder of handlers");
  const server = await startServer();
  show(server.output());
  await firstRound();
  await secondRound(server);
  process.stdout.write(`\nThe demo ran as it should, in ${((performance.now() - began_ms) / 1000).toFixed(1)} s.\n`);
}

function cleanUp(): void {
  for (const child of running) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    cleanUp();
    process.exit(130);
  });
}
try {
  await demo();
} catch (error) {
  const text = error instanceof DemoError ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.stdout.write(`\ndemo: failed: ${text}\n`);
  process.exitCode = 1;
} finally {
  cleanUp();
}
