/** The tutorial's chapter 8, followed word for word with our handlers in place of the Python ones, on a Redis of its own. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { cpSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "ioredis";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { endAll, mustRun, type Place, rowsOf, run, startLine, startProgram, untilRunning } from "../support/running.ts";
import { until } from "../support/until.ts";

const root = join(import.meta.dir, "..", "..");
const LIMIT_ms = 60_000;

/** As the chapter prints it. */
const PRINTED = `[brokers.default]
provider = "redis"
url = "\${REDIS_URL|redis://localhost:6379/0}"
event_processing = "async"
command_processing = "async"
enable_outbox = true
[event_store]
provider = "memory"
[server]
default_subscription_type = "stream"
messages_per_tick = 100
[server.stream_subscription]
blocking_timeout_ms = 100
max_retries = 3
retry_delay_seconds = 1
enable_dlq = true
`;

let redis: RedisService;
let client: Redis;
const folders: TemporaryFolder[] = [];

beforeAll(async () => {
  redis = await startRedis();
  client = new Redis(redis.url);
});
afterEach(async () => {
  await endAll();
  await client.flushall();
  for (const folder of folders.splice(0)) folder.remove();
});
afterAll(async () => {
  client.disconnect();
  await redis.stop();
});

/** `domain.toml` as printed, and the handlers in a folder named like the domain. */
function chapter8(): Place {
  const folder = temporaryFolder({ "domain.toml": PRINTED });
  folders.push(folder);
  cpSync(join(root, "examples", "fidelis", "handlers"), folder.at("fidelis"), { recursive: true });
  return { directory: folder.path, environment: { REDIS_URL: redis.url } };
}

const SERVER = ["server", "--domain=fidelis", "--http", "off"];
const deposit = (place: Place, amount: number) =>
  mustRun(
    ["send", "command", "MakeDeposit", JSON.stringify({ account_id: "ada", amount, reference: "paycheck" }), "--domain=fidelis"],
    place,
  );
const open = (place: Place) =>
  mustRun(["send", "command", "OpenAccount", '{"account_id": "ada", "holder_name": "Ada Lovelace"}', "--domain=fidelis"], place);

async function balance(place: Place): Promise<unknown> {
  const rows = await rowsOf(["query", "AccountSummary", "--domain=fidelis"], place);
  return rows.find((row) => row["account_id"] === "ada")?.["balance"];
}

test("the example's domain.toml is the printed one", () => {
  expect(readFileSync(join(root, "examples", "fidelis", "redis", "domain.toml"), "utf8")).toBe(PRINTED);
});

test(
  "the banner has the chapter's lines, and one line for each key that stands in the wrong place",
  async () => {
    const server = await untilRunning(startProgram(SERVER, chapter8()));
    const lines = server
      .output()
      .split("\n")
      .map((line) => line.trim());
    const printed = [
      "Starting Protean Engine...",
      "Registered subscriptions:",
      "AccountCommandHandler -> fidelis::account:command (StreamSubscription)",
      "AccountSummaryProjector -> fidelis::account (StreamSubscription)",
      "ComplianceAlertHandler -> fidelis::account (StreamSubscription)",
      "NotificationHandler -> fidelis::account (StreamSubscription)",
      "Engine running. Press Ctrl+C to stop.",
    ];
    expect(lines.filter((line) => printed.includes(line))).toEqual(printed);
    for (const key of ["event_processing", "command_processing", "enable_outbox"]) {
      const notes = lines.filter((line) => line.includes(`${key} stands behind [brokers.default]`));
      expect(notes).toHaveLength(1);
      expect(notes[0]).toContain(`Move ${key} =`);
    }
    expect(lines.filter((line) => line.includes("url is read as URI"))).toHaveLength(1);
    expect(lines.filter((line) => line.includes("[event_store] is in memory"))).toHaveLength(1);
    const ended = await server.end("SIGTERM");
    expect(ended.exitCode).toBe(0);
  },
  LIMIT_ms,
);

test(
  "a deposit sent from another process goes through the outbox and Redis into the projection",
  async () => {
    const place = chapter8();
    const server = await untilRunning(startProgram(SERVER, place));
    await open(place);
    await deposit(place, 500);
    await until("the deposit is in the projection", async () => (await balance(place)) === 500, 20_000);
    expect(await client.xlen("fidelis::account:command")).toBe(2);
    expect(await client.xlen("fidelis::account")).toBe(2);
    const groups = (await client.xinfo("GROUPS", "fidelis::account")) as readonly (readonly unknown[])[];
    const names = groups.map((group) => String(group[group.indexOf("name") + 1]));
    expect(names).toEqual(
      expect.arrayContaining(["fidelis.AccountSummaryProjector", "fidelis.ComplianceAlertHandler", "fidelis.NotificationHandler"]),
    );
    const [, fields] = (await client.xrange("fidelis::account", "-", "+"))[1] ?? ["", []];
    const message = JSON.parse(fields[fields.indexOf("data") + 1] ?? "null");
    expect(message.data).toMatchObject({ account_id: "ada", amount: 500, reference: "paycheck" });
    expect(message.metadata.headers.type).toBe("Fidelis.DepositMade.v1");
    // Nobody has anything left to acknowledge.
    await until("all groups are done", async () => {
      const pending = await Promise.all(names.map((name) => client.xpending("fidelis::account", name)));
      return pending.every(([count]) => count === 0);
    });
    expect((await server.end("SIGTERM")).exitCode).toBe(0);
  },
  LIMIT_ms,
);

test(
  "domain.process of the library returns at once, and the server handles the command",
  async () => {
    const place = chapter8();
    const folder = folders.at(-1);
    folder?.write({
      "node_modules/.keep": "",
      "program.ts": `
        import { domain } from "./fidelis/domain.ts";
        import { MakeDeposit } from "./fidelis/account.ts";
        await domain.init();
        const receipt = await domain.process(new MakeDeposit({ accountId: "ada", amount: 500, reference: "paycheck" }));
        console.log(JSON.stringify(receipt));
        await domain.close();
      `,
    });
    symlinkSync(root, join(place.directory, "node_modules", "protean"));
    await untilRunning(startProgram(SERVER, place));
    await open(place);
    await until("the account is in the projection", async () => (await balance(place)) === 0, 20_000);
    const program = await startLine(`"${process.execPath}" program.ts`, place).ended;
    expect(program.exitCode).toBe(0);
    expect(JSON.parse(program.stdout)).toMatchObject({ stream: expect.stringContaining("fidelis::account:command") });
    await until("the deposit is in the projection", async () => (await balance(place)) === 500, 20_000);
  },
  LIMIT_ms,
);

test(
  "deposits sent while no server runs wait for the next one, and balances outlive the memory store",
  async () => {
    const place = chapter8();
    const first = await untilRunning(startProgram(SERVER, place));
    await open(place);
    await deposit(place, 100);
    await until("the first deposit is in the projection", async () => (await balance(place)) === 100, 20_000);
    await first.end("SIGKILL");
    await deposit(place, 50);
    await untilRunning(startProgram(SERVER, place));
    await until("the second deposit is in the projection", async () => (await balance(place)) === 150, 30_000);
  },
  LIMIT_ms,
);

test(
  "another domain name than that of the folder ends the start in words",
  async () => {
    const ran = await run(["server", "--domain=fidelity"], chapter8());
    expect(ran.exitCode).toBe(2);
    expect(ran.stderr).toContain("fidelity");
    expect(ran.stderr).not.toContain("    at ");
  },
  LIMIT_ms,
);
