import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { binary, runBinary } from "../support/binary.ts";
import { onlyDocument, type RunningCli, runCli, startCli } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { sharedRedis } from "../support/redis.ts";
import { SHOP } from "./fixtures/shop.ts";

const folders: TemporaryFolder[] = [];
const running: RunningCli[] = [];
const folder = (files: Readonly<Record<string, string>> = {}) => {
  const made = temporaryFolder(files);
  folders.push(made);
  return made;
};
const start = (parameters: readonly string[], directory: string, environment: Readonly<Record<string, string>> = {}) => {
  const started = startCli(parameters, { directory, environment });
  running.push(started);
  return started;
};
afterEach(async () => {
  for (const one of running.splice(0)) await one.stop("SIGKILL");
});
afterAll(() => {
  for (const made of folders) made.remove();
});

/** Quick retries, so that giving up takes no seconds. */
const TOML = `command_processing = "async"
event_processing = "async"
message_processing = "async"
[server]
default_subscription_type = "stream"
[server.stream_subscription]
max_retries = 2
retry_delay_seconds = 0
[server.broker_subscription]
tick_interval = 0.05
`;
const shop = (more: Readonly<Record<string, string>> = {}) => folder({ "handlers/order.ts": SHOP, "domain.toml": TOML, ...more });
const RUNNING = "Engine running. Press Ctrl+C to stop.";
const order = (id: string, customer = "Ada", amount = 10) => JSON.stringify({ order_id: id, customer, amount });

describe("protean server", () => {
  test("says what the tutorial shows, where everything is, and drains at the first signal", async () => {
    const { path: directory } = shop();
    const server = start(["server", "--http", "0"], directory);
    await server.says(/livez/);
    const lines = server.stderr().split("\n");
    const first = lines.indexOf("Registered subscriptions:");
    expect(lines).toContain("Starting Protean Engine...");
    expect(lines.slice(first, first + 6)).toEqual([
      "Registered subscriptions:",
      "OrderCommandHandler -> shop::order:command (StreamSubscription)",
      "Announcer -> shop::order (StreamSubscription)",
      "OrderSummaryProjector -> shop::order (StreamSubscription)",
      "Webhooks -> payments (BrokerSubscription)",
      RUNNING,
    ]);
    expect(server.stderr()).toMatch(/ {2}broker +sqlite {2}\.\/\.protean\/protean\.db {2}ok/);
    expect(server.stdout()).toBe("");
    expect(await server.stop("SIGINT")).toBe(0);
    expect(server.stderr()).toMatch(/Stopped: handled 0, failed 0, .*drained in/);
    expect(server.stdout()).toBe("");
  });

  test("answers health: 0 when ready, 2 when nobody is there", async () => {
    const { path: directory } = shop();
    const server = start(["server", "--http", "127.0.0.1:0"], directory);
    await server.says(/livez/);
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(server.stderr())?.[0] ?? "";
    expect(runCli(["health", url], { directory })).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("brokers.default") });
    expect(await server.stop()).toBe(0);
    expect(runCli(["health", url], { directory }).exitCode).toBe(2);
  });

  test.each([
    ["0.0.0.0", "http://127.0.0.1:1/readyz"],
    ["::", "http://[::1]:1/readyz"],
  ])("asks the loopback address when the server listens on %s", (host, url) => {
    const { path: directory } = shop({ "domain.toml": `[server.health]\nhost = "${host}"\nport = 1\n` });
    const { exitCode, stderr } = runCli(["health"], { directory });
    expect(stderr).toContain(`no answer from ${url}`);
    expect(exitCode).toBe(2);
  });

  test("ends at once at the second signal", async () => {
    const { path: directory } = shop();
    const server = start(["server", "--http", "off"], directory);
    await server.says(RUNNING);
    expect(runCli(["send", "command", "PlaceOrder", order("o1", "Sloth")], { directory }).exitCode).toBe(0);
    await server.says("announcer.sleeps");
    server.child.kill("SIGTERM");
    await server.says("finishing what is running");
    server.child.kill("SIGTERM");
    expect(await server.ended).toMatchObject({ exitCode: 143 });
  });

  test("finds handlers by --domain=NAME: ./handlers, ./NAME and NAME.ts", () => {
    for (const file of ["handlers/order.ts", "shop/order.ts", "shop.ts"]) {
      const { path: directory } = folder({ [file]: SHOP });
      const { exitCode, stdout } = runCli(["server", "--domain=shop", "--test-mode", "--json"], { directory });
      expect([file, exitCode, onlyDocument(stdout).status]).toEqual([file, 0, "pass"]);
    }
  });

  test("in test mode handles what is there; exit 1 when something was given up", () => {
    const { path: directory } = shop();
    runCli(["send", "command", "PlaceOrder", order("o1")], { directory });
    const good = runCli(["server", "--test-mode", "--json"], { directory });
    expect(good.exitCode).toBe(0);
    expect(onlyDocument(good.stdout).data).toMatchObject({ handled: 3, dead_lettered: 0, timed_out: false });
    expect(runCli(["query", "OrderSummary", "o1", "--json"], { directory })).toMatchObject({ exitCode: 0 });
    runCli(["send", "command", "PlaceOrder", order("o2", "Trouble")], { directory });
    const bad = runCli(["server", "--test-mode", "--json"], { directory });
    expect(bad.exitCode).toBe(1);
    expect(onlyDocument(bad.stdout).data).toMatchObject({ dead_lettered: 1 });
  });

  test("goes on without its Redis: not ready, few lines, no password", async () => {
    const toml = `${TOML}[brokers.default]\nprovider = "redis"\nURI = "redis://app:canary@127.0.0.1:1/0"\n`;
    const { path: directory } = shop({ "domain.toml": toml });
    const server = start(["server", "--http", "0"], directory);
    await server.says(/livez/);
    const url = /http:\/\/127\.0\.0\.1:\d+/.exec(server.stderr())?.[0] ?? "";
    expect(runCli(["health", url], { directory }).exitCode).toBe(1);
    expect(await server.stop()).toBe(0);
    expect(server.stderr()).not.toContain("canary");
    expect(server.stderr().split("\n").length).toBeLessThan(45);
  });

  test("runs the tutorial's domain.toml word for word against Redis, and says what was meant", async () => {
    const url = await sharedRedis();
    const toml = `[brokers.default]
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
    const name = `shop${Math.floor(performance.now())}${process.pid}`;
    const { path: directory } = folder({ "handlers/order.ts": SHOP.replace('"shop"', JSON.stringify(name)), "domain.toml": toml });
    const environment = { REDIS_URL: `${url}/0` };
    const server = start(["server", `--domain=${name}`, "--http", "off"], directory, environment);
    await server.says(RUNNING);
    for (const key of ["event_processing", "command_processing", "enable_outbox", "url"]) expect(server.stderr()).toContain(key);
    expect(server.stderr()).toMatch(/memory.*restart|restart.*memory/);
    const sent = runCli(["send", "command", "PlaceOrder", order("o1"), "--wait", "8s", "--json"], { directory, environment });
    expect(onlyDocument(sent.stdout).data).toMatchObject({ settled: true, failed: false });
    expect(sent.exitCode).toBe(0);
    expect(await server.stop()).toBe(0);
  });
});

describe("protean send --wait", () => {
  test("shows the tree of a command, an event of ours and a payload for subscribers when all is settled", async () => {
    const { path: directory } = shop();
    const server = start(["server", "--http", "off"], directory);
    await server.says(RUNNING);
    const command = runCli(["send", "command", "PlaceOrder", order("o1"), "--wait"], { directory });
    expect(command.stdout).toMatch(/Shop\.PlaceOrder\.v1 .*\n│ ✓ OrderCommandHandler .*\n└── Shop\.OrderPlaced\.v1/);
    expect(command.stdout).toContain("✓ OrderSummaryProjector");
    expect(command.exitCode).toBe(0);
    const payload = runCli(["send", "message", "payments", '{"id": "o2"}', "--wait"], { directory });
    expect(payload.stdout).toContain("✓ Webhooks");
    expect(payload.stdout).toContain("✓ OrderCommandHandler");
    expect(payload.exitCode).toBe(0);
    const event = runCli(["send", "event", "OrderPlaced", order("o3", "Cy"), "--wait"], { directory });
    expect(event.stdout).toContain("✓ OrderSummaryProjector");
    const rows = runCli(["query", "OrderSummary", "-o", "jsonl", "--order-by", "order_id"], { directory }).stdout;
    expect(
      rows
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as { order_id: string }).order_id),
    ).toEqual(["o1", "o2", "o3"]);
    const large = runCli(["query", "OrderSummary", "--where", '{"amount": {"gte": 6}}', "--json"], { directory });
    expect(onlyDocument(large.stdout).data).toHaveLength(2);
    expect(onlyDocument(runCli(["query", "LargeOrders", '{"at_least": 6}', "--json"], { directory }).stdout).data).toHaveLength(2);
    expect(await server.stop()).toBe(0);
  });

  test("needs no server where everything runs at once", () => {
    const { path: directory } = shop({ "domain.toml": 'command_processing = "sync"\nevent_processing = "sync"\n' });
    const { exitCode, stdout } = runCli(["send", "command", "PlaceOrder", order("o1"), "--wait", "5s"], { directory });
    expect(stdout).toMatch(/handled at once\nShop\.PlaceOrder\.v1/);
    expect(exitCode).toBe(0);
    expect(runCli(["query", "OrderSummary", "o1"], { directory }).stdout).toContain("Ada");
  });

  test("follows subscriptions that read from the event store; their dead letters are replayed by es: ids", async () => {
    const toml = `command_processing = "async"
event_processing = "async"
[server]
default_subscription_type = "event_store"
[server.event_store_subscription]
max_retries = 1
retry_delay_seconds = 0
recovery_interval_seconds = 0.1
`;
    const { path: directory, write } = shop({ "domain.toml": toml });
    const server = start(["server", "--http", "off"], directory);
    await server.says(RUNNING);
    expect(server.stderr()).toContain("Announcer -> shop::order (EventStoreSubscription)");
    expect(runCli(["send", "command", "PlaceOrder", order("o1"), "--wait"], { directory }).exitCode).toBe(0);
    const failed = runCli(["send", "command", "PlaceOrder", order("o2", "Trouble"), "--wait"], { directory });
    expect([failed.exitCode, failed.stdout]).toEqual([1, expect.stringMatching(/✗ Announcer .* dead-lettered {2}TypeError/)]);
    const letters = onlyDocument(runCli(["dlq", "list", "--json"], { directory }).stdout).data["dead_letters"] as { id: string }[];
    const id = letters[0]?.id ?? "";
    expect(id).toMatch(/^es:\d+$/);
    expect(letters).toMatchObject([{ group: "shop.Announcer", error: "can't announce" }]);
    expect(runCli(["dlq", "inspect", id], { directory }).stdout).toContain('"customer": "Trouble"');
    expect(runCli(["dlq", "replay", id], { directory })).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("failed again") });
    write({ "handlers/order.ts": SHOP.replace("throw new TypeError", "if (customer === '') throw new TypeError") });
    expect(runCli(["dlq", "replay", id], { directory })).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("handled") });
    expect(runCli(["dlq", "list"], { directory }).stdout).toBe("");
    expect(await server.stop()).toBe(0);
  });

  test("without a server ends with 1 and says who has not taken it", () => {
    const { path: directory } = shop();
    const { exitCode, stderr } = runCli(["send", "command", "PlaceOrder", order("o1"), "--wait", "300ms"], { directory });
    expect(stderr).toContain("not settled after 300 ms");
    expect(stderr).toContain("in the outbox");
    expect(exitCode).toBe(1);
  });
});

describe("protean dlq", () => {
  test("lists, inspects and replays a message to the failed handler only", async () => {
    const { path: directory, write } = shop();
    const first = start(["server", "--http", "off"], directory);
    await first.says(RUNNING);
    const sent = runCli(["send", "command", "PlaceOrder", order("o1", "Trouble"), "--wait"], { directory });
    expect(sent.exitCode).toBe(1);
    expect(sent.stdout).toMatch(/✗ Announcer .*2 attempts {2}dead-lettered {2}TypeError: can't announce/);
    const letters = onlyDocument(runCli(["dlq", "list", "--json"], { directory }).stdout).data["dead_letters"] as { id: string }[];
    expect(letters).toMatchObject([{ subscription: "shop::order", group: "shop.Announcer", error_class: "TypeError", attempts: 2 }]);
    const status = onlyDocument(runCli(["subscriptions", "--json"], { directory }).stdout).data["subscriptions"] as Record<
      string,
      unknown
    >[];
    const depths = status.map(({ handler_name, dlq_depth, lag }) => [handler_name, dlq_depth, lag]);
    expect(depths).toContainEqual(["Announcer", 1, 0]);
    expect(depths).toContainEqual(["OrderSummaryProjector", 0, 0]);
    const id = letters[0]?.id ?? "";
    const inspected = runCli(["dlq", "inspect", id], { directory }).stdout;
    for (const part of ["TypeError", "can't announce", "order.ts", "Trouble"]) expect(inspected).toContain(part);
    expect(runCli(["dlq", "replay", id, "--dry-run"], { directory }).stdout).toContain("shop.Announcer");
    const again = runCli(["dlq", "replay", id, "--wait", "--json"], { directory });
    expect([again.exitCode, onlyDocument(again.stdout).data["replayed"]]).toEqual([
      1,
      [expect.objectContaining({ outcome: "failed again" })],
    ]);
    await first.stop();

    write({ "handlers/order.ts": SHOP.replace("throw new TypeError", "if (customer === '') throw new TypeError") });
    const second = start(["server", "--http", "off"], directory);
    await second.says(RUNNING);
    const newest =
      (onlyDocument(runCli(["dlq", "list", "--json"], { directory }).stdout).data["dead_letters"] as { id: string }[])[0]?.id ?? "";
    const fixed = runCli(["dlq", "replay", newest, "--wait", "--json"], { directory });
    expect(onlyDocument(fixed.stdout).data["replayed"]).toEqual([{ id: newest, how: "redelivered", outcome: "handled" }]);
    expect(fixed.exitCode).toBe(0);
    expect(runCli(["dlq", "list"], { directory })).toMatchObject({
      exitCode: 0,
      stdout: "",
      stderr: expect.stringContaining("No dead letters."),
    });
    await second.stop();
    // One for the first run, none for the replays: the other handlers were left alone.
    expect(second.stderr()).toContain("Stopped: handled 1,");
  });
});

describe("protean dev", () => {
  test("runs the new code when it loads, and keeps the old one when it doesn't", async () => {
    const { path: directory, write } = shop();
    const dev = start(["dev", "--http", "0"], directory);
    await dev.says("Watching for changes");
    expect(runCli(["send", "command", "PlaceOrder", order("o1"), "--wait"], { directory }).exitCode).toBe(0);
    await dev.says(/✓ OrderSummaryProjector {2}OrderPlaced/);
    write({ "handlers/order.ts": `${SHOP}\nconst broken = ;\n` });
    await dev.says("the old one goes on");
    expect(dev.stderr()).toContain("SyntaxError");
    write({ "handlers/order.ts": `${SHOP}\nconsole.log("second version");\n` });
    await dev.says("the new code runs");
    expect(dev.stderr()).toContain("second version");
    expect(runCli(["send", "command", "PlaceOrder", order("o3"), "--wait"], { directory }).exitCode).toBe(0);
    expect(await dev.stop("SIGINT")).toBe(0);
  });

  test("is what server --reload does", async () => {
    const { path: directory } = shop();
    const reload = start(["server", "--reload", "--http", "off"], directory);
    await reload.says("Watching for changes");
    expect(await reload.stop("SIGTERM")).toBe(0);
  });

  test("refuses production and other machines, and deletes nothing unasked", () => {
    const { path: directory, at } = shop({ ".protean/mine.txt": "kept" });
    expect(runCli(["dev"], { directory, environment: { PROTEAN_ENV: "production" } })).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("not for production"),
    });
    expect(runCli(["dev", "--http", "0.0.0.0:0"], { directory })).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("0.0.0.0"),
    });
    expect(runCli(["dev", "--fresh"], { directory })).toMatchObject({ exitCode: 3, stderr: expect.stringContaining("--yes") });
    expect(existsSync(at(".protean/mine.txt"))).toBe(true);
  });
});

describe("protean new", () => {
  test("writes a project that type-checks with nothing installed, and whose README lines run", async () => {
    const { path: directory } = folder();
    const made = runBinary(["new", "market", "--json"], { directory });
    expect(made.exitCode).toBe(0);
    expect(onlyDocument(made.stdout).data["files"]).toContain("protean.d.ts");
    const project = join(directory, "market");
    const tsc = spawnSync(join(import.meta.dir, "../../node_modules/.bin/tsc"), ["-p", project], { encoding: "utf8" });
    expect(tsc.stdout).toBe("");
    const checked = runBinary(["check"], { directory: project });
    expect([checked.exitCode, checked.stdout]).toEqual([0, expect.stringContaining("no errors")]);

    const readme = await Bun.file(join(project, "README.md")).text();
    const lines = readme.split("\n").flatMap((line) => (line.startsWith("    protean ") ? [line.trim()] : []));
    expect(lines[0]).toBe("protean dev");
    const dev = Bun.spawn([binary(), "dev", "--http", "0"], { cwd: project, env: {}, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    try {
      const reader = dev.stderr.getReader();
      for (let said = ""; !said.includes("Watching for changes"); ) {
        const { value, done } = await reader.read();
        if (done) throw new Error(`dev ended:\n${said}`);
        said += new TextDecoder().decode(value);
      }
      // Whatever else it says must not fill the pipe.
      reader.releaseLock();
      for (const line of lines.slice(1)) {
        const ran = spawnSync("sh", ["-c", line.replace(/^protean/, '"$PROTEAN"')], {
          cwd: project,
          env: { PROTEAN: binary() },
          encoding: "utf8",
        });
        expect([line, ran.status, ran.stderr]).toEqual([line, 0, expect.any(String)]);
      }
    } finally {
      dev.kill("SIGTERM");
      expect(await dev.exited).toBe(0);
    }
  }, 60_000);

  test("refuses a bad name with 2 and a folder that holds something with 5", () => {
    const { path: directory } = folder({ "market/mine.txt": "" });
    expect(runCli(["new", "../up"], { directory })).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("no name") });
    expect(runCli(["new", "market"], { directory })).toMatchObject({ exitCode: 5, stderr: expect.stringContaining("--force") });
    expect(runCli(["new", "market", "--dry-run", "--force"], { directory }).stdout).toContain("would write ./market/handlers/order.ts");
  });
});

test("--version and --help of the binary take less than 150 ms", () => {
  const { path: directory } = folder();
  runBinary(["--version"], { directory });
  for (const words of [["--version"], ["--help"], ["server", "--help"]]) {
    const times = [1, 2, 3].map(() => {
      const began_ms = performance.now();
      runBinary(words, { directory });
      return performance.now() - began_ms;
    });
    expect(Math.min(...times)).toBeLessThan(150);
  }
});
