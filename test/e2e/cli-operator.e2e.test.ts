/** What an operator meets: hints at start, single keys of the configuration, texts that may hold a password. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { Redis } from "ioredis";
import { onlyDocument, runCli, startCli } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { sharedRedis, uniqueName } from "../support/redis.ts";
import { SHOP } from "./fixtures/shop.ts";

const folders: TemporaryFolder[] = [];
const shop = (more: Readonly<Record<string, string>> = {}) => {
  const made = temporaryFolder({ "handlers/order.ts": SHOP, ...more });
  folders.push(made);
  return made.path;
};
afterAll(() => {
  for (const made of folders) made.remove();
});

describe("a section under [server.subscriptions]", () => {
  const toml = '[server.subscriptions.OrderSummryProjector]\nmessages_per_tick = 3\n[server]\ndefault_subscription_type = "stream"\n';

  test("that is nobody's is told with the nearest handler, by check and at start", () => {
    const directory = shop({ "domain.toml": toml });
    for (const words of [["check"], ["server", "--test-mode"]]) {
      const { exitCode, stdout, stderr } = runCli(words, { directory });
      expect(stdout + stderr).toContain("[server.subscriptions.OrderSummryProjector] matches no handler");
      expect(stdout + stderr).toContain('Did you mean "OrderSummaryProjector"?');
      expect(exitCode).toBe(0);
    }
  });

  test("of the merged commands, or of one of their handlers, is somebody's", () => {
    for (const name of ['"Commands:shop::order:command"', "OrderCommandHandler", "Webhooks"]) {
      const directory = shop({ "domain.toml": `[server.subscriptions.${name}]\nmax_retries = 3\n` });
      expect(runCli(["check"], { directory }).stdout).not.toContain("matches no handler");
    }
  });

  test("that stops a server's start is an error of check, too", () => {
    const directory = shop({
      "domain.toml": '[server.subscriptions.OrderSummaryProjector]\nsubscription_type = "event_store"\nretention_maxlen = 5\n',
    });
    const checked = runCli(["check"], { directory });
    expect(checked.stdout).toContain("retention_maxlen trims broker streams only");
    expect(checked.exitCode).toBe(1);
    expect(runCli(["server", "--http", "off"], { directory }).exitCode).toBe(2);
  });
});

test("a subscriber's broker that isn't configured is an error of check and of the start", () => {
  const hooks =
    'import { domain } from "./order.ts";\nexport const Hooks = domain.subscriber("Hooks", { stream: "hooks", broker: "outside" }).handle(() => {});\n';
  const directory = shop({ "handlers/hooks.ts": hooks });
  const checked = runCli(["check"], { directory });
  expect(checked.stdout).toContain("Broker `outside` has not been configured. Hooks reads from it");
  expect(checked.exitCode).toBe(1);
  const started = runCli(["server", "--http", "off"], { directory });
  expect(started.stderr).toContain("Broker `outside` has not been configured");
  expect(started.exitCode).toBe(2);
});

test("a handler on the event store in production is told at start", () => {
  const directory = shop({ "domain.toml": '[server]\ndefault_subscription_type = "event_store"\n' });
  const { stderr } = runCli(["server", "--test-mode", "--log-format", "console"], {
    directory,
    environment: { PROTEAN_ENV: "production" },
  });
  expect(stderr).toContain(
    "warning: [server.subscriptions.OrderSummaryProjector]: OrderSummaryProjector reads the event store, in production",
  );
});

test("what a handler file throws is told without the password of an address in it", () => {
  const directory = shop({ "handlers/bad.ts": 'throw new Error("can\'t reach redis://app:canary@db/0");\n' });
  for (const words of [["check"], ["check", "--json"]]) {
    const { stdout, stderr } = runCli(words, { directory });
    expect(stdout + stderr).toContain("redis://app:***@db/0");
    expect(stdout + stderr).not.toContain("canary");
  }
});

test("a name that nobody exports is told where it is asked for, not in every file that imports that one", () => {
  const directory = shop({
    "handlers/a.ts": 'import { help } from "./z.ts";\nhelp();\n',
    "handlers/z.ts": 'import { nothing } from "protean";\nexport const help = () => nothing();\n',
  });
  const { stderr } = runCli(["check"], { directory });
  expect(stderr).toContain("handlers/z.ts:1:10");
  expect(stderr).not.toContain("handlers/a.ts");
  expect(stderr).toStartWith("error: a handler file can't be loaded");
});

test("config get reads inside the tables that are the user's own", () => {
  const directory = shop({ "domain.toml": '[custom.branch]\ncity = "Ulm"\n' });
  expect(runCli(["config", "get", "custom.branch.city"], { directory }).stdout).toBe("Ulm\n");
  expect(runCli(["config", "get", "custom.branch.town"], { directory }).exitCode).toBe(4);
});

test("several problems stand one a line, what is wrong and what to write apart", () => {
  const directory = shop({ "domain.toml": "[server]\nmessages_per_tick = 0\ntick_interval = -1\n" });
  const { stderr } = runCli(["config", "validate"], { directory });
  expect(stderr).toContain("messages_per_tick = 0 is not allowed: it must be a whole number > 0. Write a whole number > 0.");
});

test("a file that ends inside a list says what to look for", () => {
  const { stderr } = runCli(["config", "validate"], { directory: shop({ "domain.toml": "a = [\n" }) });
  expect(stderr).toContain("domain.toml:2:1 is not valid TOML");
  expect(stderr).toContain("Look above it for a bracket or a quote that isn't closed.");
});

test("config validate tells findings as the server does", () => {
  const directory = shop({ "domain.toml": '[brokers.default]\nprovider = "redis"\nurl = "redis://127.0.0.1:1"\n' });
  const { stderr, stdout } = runCli(["config", "validate"], { directory });
  expect(stderr).toContain("url is read as URI. Write URI = ");
  expect(stdout).toContain("valid");
  expect(onlyDocument(runCli(["config", "validate", "--json"], { directory }).stdout).data["valid"]).toBe(true);
});

test("a handler of $all that has seen everything lags by nothing: our own records wait for nobody", () => {
  const everything =
    'import { domain, Order } from "./order.ts";\nexport const Everything = domain\n  .eventHandler("Everything", { partOf: Order, streamCategory: "$all" })\n  .handleAny(() => {});\n';
  const directory = shop({ "handlers/everything.ts": everything });
  const payload = '{"order_id": "o1", "customer": "Ada", "amount": 1}';
  expect(runCli(["send", "command", "PlaceOrder", payload], { directory }).exitCode).toBe(0);
  expect(runCli(["server", "--test-mode"], { directory }).exitCode).toBe(0);
  const { data } = onlyDocument(runCli(["subscriptions", "status", "--handler", "Everything", "--json"], { directory }).stdout);
  expect(data["subscriptions"]).toMatchObject([{ handler_name: "Everything", lag: 0, status: "ok" }]);
});

test("commands say once that Redis is away: no log lines beside the answer", () => {
  const directory = shop({
    "domain.toml":
      '[brokers.default]\nprovider = "redis"\nURI = "redis://app:canary@127.0.0.1:1/0"\n[server]\ndefault_subscription_type = "stream"\n',
  });
  const status = runCli(["subscriptions", "status"], { directory });
  expect(status.stderr.match(/ECONNREFUSED/g)).toHaveLength(1);
  expect(status.stderr).toContain("unknown: Redis at redis://127.0.0.1:1/0");
  const list = runCli(["dlq", "list"], { directory });
  expect(list.exitCode).toBe(2);
  expect(list.stderr.match(/ECONNREFUSED/g)).toHaveLength(1);
  expect(list.stderr).toStartWith("error: ");
  expect(existsSync(join(directory, ".protean"))).toBe(false);
});

test("what lies in Redis is seen where there is no SQLite file, and none is made", async () => {
  const url = await sharedRedis();
  const stream = uniqueName("shop::order");
  const dead = JSON.stringify({
    data: {},
    metadata: { headers: { type: "Shop.X.v1" } },
    _dlq_metadata: { original_stream: stream, consumer_group: "g" },
  });
  const redis = new Redis(url);
  await redis.xadd(`${stream}:dlq`, "*", "data", dead);
  redis.disconnect();
  const directory = shop({ "domain.toml": `[brokers.default]\nprovider = "redis"\nURI = "${url}"\n` });
  const { stdout } = runCli(["dlq", "list", "--json"], { directory });
  expect(JSON.stringify(onlyDocument(stdout).data)).toContain(stream);
  expect(existsSync(join(directory, ".protean"))).toBe(false);
});

test("test mode names the handlers that gave up and their errors", () => {
  const directory = shop({
    "domain.toml":
      '[server]\ndefault_subscription_type = "stream"\n[server.stream_subscription]\nmax_retries = 2\nretry_delay_seconds = 0.01\n',
  });
  const payload = '{"order_id": "o1", "customer": "Trouble", "amount": 1}';
  expect(runCli(["send", "command", "PlaceOrder", payload], { directory }).exitCode).toBe(0);
  const { exitCode, stdout } = runCli(["server", "--test-mode", "--json"], { directory });
  expect(onlyDocument(stdout).data).toMatchObject({
    dead_lettered: 1,
    failures: ["Announcer: 1 given up, last TypeError: can't announce"],
  });
  expect(exitCode).toBe(1);
});

test("a message given up by an event-store subscription ran once and its retries, and the list counts the runs", () => {
  const directory = shop({
    "domain.toml":
      '[server]\ndefault_subscription_type = "event_store"\n[server.event_store_subscription]\nmax_retries = 2\nretry_delay_seconds = 0.01\nrecovery_interval_seconds = 0.01\n',
  });
  const payload = '{"order_id": "o1", "customer": "Trouble", "amount": 1}';
  expect(runCli(["send", "command", "PlaceOrder", payload], { directory }).exitCode).toBe(0);
  const ran = onlyDocument(runCli(["server", "--test-mode", "--json"], { directory }).stdout).data;
  expect(ran).toMatchObject({ dead_lettered: 1, failed: 3 });
  const { data } = onlyDocument(runCli(["dlq", "list", "--json"], { directory }).stdout);
  expect(data["dead_letters"]).toMatchObject([{ group: "shop.Announcer", attempts: 3 }]);
});

test("a taken port of domain.toml costs the probes, not the server; a taken --http is refused", async () => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  const { port } = taken.address() as AddressInfo;
  const directory = shop({ "domain.toml": `[server.health]\nport = ${port}\nport_auto_increment = false\n` });
  const server = startCli(["server"], { directory });
  try {
    await server.says("Engine running");
    expect(server.stderr()).toContain(`warning: can't listen on 127.0.0.1:${port}: the port is taken; there are no probes.`);
    await server.says(/http\s+off/);
    const refused = runCli(["server", "--http", String(port)], { directory });
    expect(refused.exitCode).toBe(2);
  } finally {
    expect(await server.stop("SIGTERM")).toBe(0);
    taken.close();
  }
});

test("with --log-format json every line of stderr is one JSON object, hints and farewell too", async () => {
  const directory = shop({ "domain.toml": "[server.subscriptions.Nobody]\nmax_retries = 3\n[server.health]\nport = 0\n" });
  const server = startCli(["server", "--log-format", "json"], { directory });
  await server.says("server.running");
  expect(await server.stop("SIGTERM")).toBe(0);
  const lines = server.stderr().trimEnd().split("\n");
  const records = lines.map((line) => JSON.parse(line) as { readonly event: string; readonly level: string; readonly text?: string });
  expect(records.find(({ event }) => event === "server.warning")?.text).toContain("[server.subscriptions.Nobody] matches no handler");
  expect(records.at(-1)?.text).toStartWith("Stopped: ");
});
