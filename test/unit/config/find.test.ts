import { describe, expect, test } from "bun:test";
import { loadConfig } from "../../../src/config/load.ts";
import { files, load, refusal, told } from "./setup.ts";

const at = (contents: Record<string, string>, start: string, more: { file?: string; environment?: Record<string, string> } = {}) =>
  loadConfig({ start, environment: {}, read: files(contents), ...more });

describe("finding the file", () => {
  test(".domain.toml wins over domain.toml, which wins over pyproject.toml", async () => {
    const contents = { "/a/.domain.toml": "", "/a/domain.toml": "", "/a/pyproject.toml": "[tool.protean]" };
    expect((await at(contents, "/a")).file).toBe("/a/.domain.toml");
    expect((await at({ "/a/domain.toml": "", "/a/pyproject.toml": "[tool.protean]" }, "/a")).file).toBe("/a/domain.toml");
  });

  test("it is looked for in the start directory, its parent and its grandparent, and no further", async () => {
    expect((await at({ "/a/b/c/domain.toml": "", "/a/b/domain.toml": "" }, "/a/b/c")).file).toBe("/a/b/c/domain.toml");
    const above = await at({ "/a/domain.toml": "source_uri = 'x'" }, "/a/b/c");
    expect(above.file).toBe("/a/domain.toml");
    expect(above.directory).toBe("/a");
    expect(above.dataFile).toBe("/a/.protean/protean.db");
    const none = await at({ "/a/domain.toml": "" }, "/a/b/c/d");
    expect(none.file).toBeNull();
    expect(none.dataFile).toBe("/a/b/c/d/.protean/protean.db");
    expect(told(none, "CONFIG_NOT_FOUND")[0]).toContain("No configuration file found in /a/b/c/d");
  });

  test("pyproject.toml counts by its table [tool.protean], with the lines of the file", async () => {
    const config = await at({ "/a/b/pyproject.toml": "[project]\nname = 'x'\n[tool.protean]\nsource_uri = 'here'\n" }, "/a/b");
    expect(config.sourceUri).toBe("here");
    expect(config.origins.get("source_uri")).toBe("pyproject.toml:4");
  });

  test("a pyproject.toml without the table hides nothing further up", async () => {
    const config = await at({ "/a/b/pyproject.toml": "[project]\nname = 'x'\n", "/a/domain.toml": "source_uri = 'up'" }, "/a/b");
    expect(config.sourceUri).toBe("up");
    expect(config.origins.get("source_uri")).toBe("../domain.toml:1");
  });

  test("DOMAIN_ROOT_PATH is where the search starts", async () => {
    const config = await at({ "/x/domain.toml": "", "/a/domain.toml": "" }, "/a", { environment: { DOMAIN_ROOT_PATH: "/x/y" } });
    expect(config.file).toBe("/x/domain.toml");
  });

  test("an explicit file, or PROTEAN_CONFIG, ends the search; the flag wins; a missing one is refused", async () => {
    const contents = { "/a/domain.toml": "", "/etc/p.toml": "", "/etc/q.toml": "" };
    expect((await at(contents, "/a", { environment: { PROTEAN_CONFIG: "/etc/p.toml" } })).file).toBe("/etc/p.toml");
    expect((await at(contents, "/a", { file: "/etc/q.toml", environment: { PROTEAN_CONFIG: "/etc/p.toml" } })).file).toBe("/etc/q.toml");
    const error = await refusal(at(contents, "/a", { file: "missing.toml" }));
    expect(error.message).toBe("there is no configuration file /a/missing.toml");
    expect((await refusal(at({ "/a/pyproject.toml": "" }, "/a", { file: "pyproject.toml" }))).message).toContain("no table [tool.protean]");
  });
});

describe("reading the file", () => {
  test("broken TOML is told with file, line and column", async () => {
    const error = await refusal(load('event_processing = "async"\n[server\nmessages_per_tick = 1\n'));
    expect(error.about.at).toMatch(/^domain\.toml:2:\d+$/);
    expect(error.message).toContain("domain.toml:2:");
    expect(error.message).not.toContain("\n");
    expect(error.about.fix).toContain("[server");
  });

  test.each(["__proto__", "constructor", "prototype"])("the key %p is refused wherever it stands, with its line", async (key) => {
    const error = await refusal(load(`[custom]\na = 1\n"${key}" = 2\n`));
    expect(error.message).toBe(`the key "${key}" is not allowed in a configuration (custom.${key})`);
    expect(error.about.at).toBe("domain.toml:3");
    expect((await refusal(load(`[custom]\nlist = [{ "${key}" = 1 }]\n`))).about.at).toMatch(/^domain\.toml:2$/);
  });

  test("integers beyond 2^53 are read, and kept exactly where any value goes", async () => {
    const config = await load("[custom]\nbig = 9007199254740993\n");
    expect(config.custom["big"]).toBe(9007199254740993n);
  });

  test("lines are found behind comments, multi-line strings, lists, quoted and dotted keys", async () => {
    const config = await load(
      [
        "# [server]",
        'custom.text = """',
        "[server]",
        "messages_per_tick = 1",
        '"""',
        "[outbox] # here",
        "external_brokers = [",
        '  "default", # ]',
        "]",
        "messages_per_tick = 2",
        '[server.subscriptions."Commands:a::b:command"]',
        "messages_per_tick = 3",
        "[server]",
        "health.port = 4",
        "health.host = 'x'",
        "version_retry = { max_retries = 1 }",
      ].join("\n"),
    );
    expect(config.origins.get("outbox.messages_per_tick")).toBe("domain.toml:10");
    expect(config.origins.get("outbox.external_brokers")).toBe("domain.toml:7");
    expect(config.origins.get('server.subscriptions."Commands:a::b:command".messages_per_tick')).toBe("domain.toml:12");
    expect(config.origins.get("server.health.port")).toBe("domain.toml:14");
    expect(config.origins.get("server.version_retry.max_retries")).toBe("domain.toml:16");
    expect(config.server.messagesPerTick).toBe(100);
  });

  test("a byte order mark and Windows line ends do no harm", async () => {
    const config = await load("\uFEFFsource_uri = 'x'\r\n[server]\r\nmessages_per_tick = 3\r\n");
    expect(config.origins.get("server.messages_per_tick")).toBe("domain.toml:3");
  });
});
