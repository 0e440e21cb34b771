import { afterAll, describe, expect, test } from "bun:test";
import { onlyDocument, runCli } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { SHOP } from "./fixtures/shop.ts";

const folders: TemporaryFolder[] = [];
const folder = (files: Readonly<Record<string, string>> = {}) => {
  const made = temporaryFolder(files);
  folders.push(made);
  return made.path;
};
afterAll(() => {
  for (const made of folders) made.remove();
});

const shop = (more: Readonly<Record<string, string>> = {}) => folder({ "handlers/order.ts": SHOP, ...more });
/** A few lines, no stack, nothing on stdout. */
const expectTold = ({ exitCode, stdout, stderr }: ReturnType<typeof runCli>, code: number, ...texts: string[]) => {
  for (const text of texts) expect(stderr).toContain(text);
  expect(stderr).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
  expect(stdout).toBe("");
  expect(exitCode).toBe(code);
};

const BAD_PROJECTS: readonly [name: string, files: Readonly<Record<string, string>>, ...texts: string[]][] = [
  ["no handlers", {}, "there are no handlers", "protean new"],
  ["broken TOML", { "handlers/order.ts": SHOP, "domain.toml": 'x = 1\n[server\ny = "z"\n' }, "domain.toml:2:8", "[server"],
  [
    "an unknown provider",
    { "handlers/order.ts": SHOP, "domain.toml": '[brokers.default]\nprovider = "rabbit"\n' },
    "rabbit",
    "domain.toml:2",
    "redis",
  ],
  ["a handler file that throws", { "handlers/a.ts": 'const x = 1;\nthrow new TypeError("boom");\n' }, "handlers/a.ts:2", "TypeError: boom"],
  ["a handler file with a syntax error", { "handlers/a.ts": "export const a = 1;\nconst b = ;\n" }, "handlers/a.ts:2", "SyntaxError"],
  [
    "a missing import",
    { "handlers/a.ts": '// one\nimport { x } from "./nowhere.ts";\nconsole.error(x);\n' },
    "handlers/a.ts:2",
    "./nowhere.ts",
  ],
  ["no domain", { "handlers/a.ts": "export {};\n" }, "no Domain was made in ./handlers", "new Domain"],
  [
    "two domains",
    { "handlers/a.ts": 'import { Domain } from "protean";\nexport const [a, b] = [new Domain("one"), new Domain("two")];\n' },
    '"one"',
    '"two"',
    "--domain NAME",
  ],
];

describe("a project that can't be loaded", () => {
  for (const [name, files, ...texts] of BAD_PROJECTS) {
    test(`${name}: said in a few lines, exit 2, nothing started`, () => {
      const directory = folder(files);
      const ran = runCli(["server", "--http", "off"], { directory });
      expectTold(ran, 2, ...texts);
      expect(ran.stderr.trimEnd().split("\n").length).toBeLessThanOrEqual(5);
      expect(ran.stderr).not.toContain("Starting");
    });

    test(`${name}: with --json one document that says it`, () => {
      const { exitCode, stdout } = runCli(["subscriptions", "status", "--json"], { directory: folder(files) });
      const document = onlyDocument(stdout);
      expect(document.status).toBe("error");
      expect(Object.keys(document)).toEqual(["data", "diagnostics", "status", "version"]);
      expect(typeof document.data["error"]).toBe("string");
      expect(exitCode).toBe(2);
    });
  }

  test("all broken files are told together", () => {
    const directory = folder({ "handlers/a.ts": "const a = ;\n", "handlers/b.ts": 'throw new Error("b");\n' });
    expectTold(runCli(["check"], { directory }), 2, "2 handler files", "handlers/a.ts:1", "handlers/b.ts:1");
  });

  test("all mis-declared elements are told together, each with its place", () => {
    const directory = folder({
      "handlers/order.ts": `${SHOP}
export class Lost extends domain.event("Lost", { fields: { a: f.string() } }) {}
domain.subscriber("S", { stream: "" }).handle(() => {});
`,
    });
    const { exitCode, stderr } = runCli(["server", "--http", "off"], { directory });
    expect(stderr).toContain("`Lost` is in no aggregate's `events`");
    expect(stderr).toContain("subscriber `S` needs `stream`");
    expect(stderr.match(/order\.ts:\d+:\d+/g)?.length).toBeGreaterThanOrEqual(2);
    expect(exitCode).toBe(2);
    const check = runCli(["check", "--json"], { directory });
    expect(check.exitCode).toBe(1);
    const errors = onlyDocument(check.stdout).diagnostics.filter(({ level }) => level === "error");
    expect(errors.length).toBe(2);
  });
});

describe.each(["bun", "deno"] as const)("under %s, in a folder with blanks, brackets and a percent sign", (runtime) => {
  const TWICE = `import { Domain, f } from "protean";
const domain = new Domain("shop");
class Placed extends domain.event("Placed", { fields: {} }) {}
const fields = { id: f.identifier({ identifier: true }) };
domain.aggregate("One", { fields, events: [Placed] });
domain.aggregate("Two", { fields, events: [Placed] });
`;
  test.each([
    ["what throws", 'const x = 1;\nthrow new TypeError("boom");\n', "handlers/a.ts:2:", 2],
    ["what is no TypeScript", "const a = 1;\nconst b = ;\n", "handlers/a.ts:2:11", 2],
    ["what imports something that isn't there", '// one\nimport { x } from "./nowhere.ts";\nconsole.error(x);\n', "handlers/a.ts:2:19", 2],
    ["what is declared twice", TWICE, "`One` already (a.ts:5), listed again by `Two` (a.ts:6)", 1],
  ])("the place of %s is told", (_what, text, place, code) => {
    const name = "my shop (1) 100% é";
    const directory = `${folder({ [`${name}/handlers/a.ts`]: text })}/${name}`;
    const { exitCode, stdout, stderr } = runCli(["check"], { directory, runtime });
    expect(stdout + stderr).toContain(place);
    expect(exitCode).toBe(code);
  });
});

describe("a wrong call", () => {
  test.each([
    [["server", "--wrokers", "4"], "unknown flag --wrokers", "--workers"],
    [["server", "--domain", ""], "--domain has an empty value", "fix"],
    [["server", "--domain"], "--domain needs a value", "fix"],
    [["servr"], 'unknown command "servr"', "protean server"],
    [["dlq", "lst"], 'unknown command "dlq lst"', "protean dlq list"],
    [["shell"], "Protean for Python", "fix"],
    [["eventstore", "verify"], "Protean for Python", "not in this version"],
    [["server", "--workers", "3"], "--workers 3", "several times"],
    [["server", "--dashboard"], "--dashboard", "not in this version"],
    [["server", "--log-config", "x.json"], "--log-config", "[logging]"],
    [["server", "--log-level", "LOUD"], "LOUD", "DEBUG"],
    [["server", "--http", "everywhere"], "--http", "[HOST:]PORT"],
    [["server", "--only", "Nobody"], "Nobody", "OrderSummaryProjector"],
    [["server", "--domain", "other"], 'no domain "other"', "shop"],
  ] as [string[], string, string][])("%j is refused with what to do, exit 2", (words, what, fix) => {
    expectTold(runCli(words, { directory: shop() }), 2, what, fix);
  });

  test("PROTEAN_DOMAIN and another --domain: both are named", () => {
    const ran = runCli(["check", "--domain", "shop"], { directory: shop(), environment: { PROTEAN_DOMAIN: "bank" } });
    expectTold(ran, 2, '"shop"', '"bank"');
  });

  test("no command at all: help, exit 2; --help: the same, exit 0", () => {
    const directory = folder();
    expect(runCli([], { directory })).toMatchObject({ exitCode: 2, stdout: expect.stringContaining("subscriptions status") });
    expect(runCli(["--help"], { directory })).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("subscriptions status") });
    expect(runCli(["dlq", "--help"], { directory })).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("inspect") });
    expect(runCli(["server", "--help"], { directory })).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("--drain-timeout") });
  });
});

describe("a payload that is wrong", () => {
  const nothingStored = (directory: string) => {
    const { data } = onlyDocument(runCli(["outbox", "status", "--json"], { directory }).stdout);
    const rows = data["outboxes"] as Record<string, number>[];
    expect(rows.flatMap(({ pending, published, failed }) => [pending, published, failed]).filter((count) => count !== 0)).toEqual([]);
  };

  test.each([
    ["an unknown field", '{"order_id": "o1", "custmer": "Ada", "customer": "Ada", "amount": 1}', "custmer", 'Did you mean "customer"?'],
    ["a wrong type", '{"order_id": "o1", "customer": "Ada", "amount": "much"}', "amount", "must be"],
    ["a missing field", '{"order_id": "o1", "amount": 1}', "customer", "is required"],
    ["no JSON", "{order_id: o1}", "no JSON", "Quote it"],
    ["no object", "[1]", "no JSON object", ""],
  ])("%s: the field is named, exit 2, nothing stored", (_name, payload, field, fix) => {
    const directory = shop();
    expectTold(runCli(["send", "command", "PlaceOrder", payload], { directory }), 2, field, fix);
    nothingStored(directory);
  });

  test("an unknown command: the nearest is named", () => {
    expectTold(runCli(["send", "command", "PlaceOder", "{}"], { directory: shop() }), 2, '"PlaceOder"', '"PlaceOrder"');
  });

  test("one bad line of a file: its place is named, and no line is stored", () => {
    const good = '{"order_id": "o1", "customer": "Ada", "amount": 1}';
    const directory = shop({ "orders.jsonl": `${good}\n\n{"order_id": "o2"}\n` });
    expectTold(runCli(["send", "command", "PlaceOrder", "--file", "orders.jsonl"], { directory }), 2, "orders.jsonl:3", "customer");
    nothingStored(directory);
  });

  test("declared and wire names are both taken (D44), also from standard input", () => {
    const directory = shop();
    const input = '{"orderId": "o1", "customer": "Ada", "amount": 1}\n{"order_id": "o2", "customer": "Bo", "amount": 2}\n';
    const { exitCode, stdout } = runCli(["send", "command", "PlaceOrder", "--file", "-", "--json"], { directory, input });
    expect(exitCode).toBe(0);
    expect(onlyDocument(stdout).data["sent"]).toHaveLength(2);
  });
});

describe("whoever reads stdout", () => {
  test("gets exactly one document with --json, whatever handlers print", () => {
    const directory = shop({ "handlers/noise.ts": 'console.log("noise");\nconsole.error("more noise");\n' });
    for (const words of [
      ["version"],
      ["check"],
      ["config", "show"],
      ["config", "validate"],
      ["config", "get", "server.health.port"],
      ["config", "path"],
      ["subscriptions"],
      ["subscriptions", "list"],
      ["dlq", "list"],
      ["dlq", "inspect", "1-1"],
      ["outbox", "status"],
      ["query", "OrderSummary", "o1"],
      ["db", "setup"],
      ["send", "command", "PlaceOrder", '{"order_id": "o1", "customer": "Ada", "amount": 1}'],
      ["query", "OrderSummary"],
      ["server", "--test-mode"],
      ["new", "other", "--dry-run"],
      ["health", "http://127.0.0.1:1"],
      ["nothing"],
    ]) {
      const { stdout, stderr } = runCli([...words, "--json"], { directory });
      const document = onlyDocument(stdout);
      expect([words.join(" "), Object.keys(document)]).toEqual([words.join(" "), ["data", "diagnostics", "status", "version"]]);
      expect(stderr).not.toContain("\u001b[");
    }
  });

  test("never sees a password", () => {
    const toml = '[brokers.default]\nprovider = "redis"\nURI = "redis://app:canary@127.0.0.1:1/0?password=canary"\n';
    const directory = shop({ "domain.toml": toml });
    for (const words of [
      ["config", "show"],
      ["config", "show", "--json"],
      ["check", "--debug"],
      ["dlq", "list"],
      ["db", "setup"],
      ["subscriptions", "--json"],
      ["server", "--test-mode", "--max-wait", "500ms", "--debug"],
      ["server", "--fail-fast", "--http", "off"],
    ]) {
      const { stdout, stderr } = runCli(words, { directory });
      expect([words.join(" "), stdout + stderr]).toEqual([words.join(" "), expect.not.stringContaining("canary")]);
    }
  });

  test("looking makes no file", () => {
    const made = temporaryFolder({ "handlers/order.ts": SHOP });
    folders.push(made);
    for (const words of [
      ["check"],
      ["subscriptions"],
      ["dlq", "list"],
      ["outbox", "status"],
      ["query", "OrderSummary"],
      ["db", "setup", "--dry-run"],
    ]) {
      runCli(words, { directory: made.path });
    }
    expect([...new Bun.Glob("**").scanSync({ cwd: made.path, dot: true })]).toEqual(["handlers/order.ts"]);
  });
});
