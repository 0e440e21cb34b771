// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${NAME} is what domain.toml writes
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { configFromObject } from "../../../src/config/load.ts";
import { SCHEMA, TOP_LEVEL_KEYS } from "../../../src/config/schema.ts";
import { showConfig } from "../../../src/config/show.ts";
import { ConfigurationError } from "../../../src/errors.ts";
import { CHAPTER_8, load, refusal, told } from "./setup.ts";

describe("the tutorial's chapter 8, word for word", () => {
  test("the broker is Redis at the address given by url, with its default", async () => {
    const config = await load(CHAPTER_8);
    expect(config.brokers["default"]).toMatchObject({ provider: "redis", uri: "redis://localhost:6379/0" });
    const elsewhere = await load(CHAPTER_8, { environment: { REDIS_URL: "redis://r:1/2" } });
    expect(elsewhere.brokers["default"]).toMatchObject({ uri: "redis://r:1/2" });
    expect(elsewhere.origins.get("brokers.default.URI")).toBe("domain.toml:3 (from REDIS_URL)");
  });

  test("the three keys behind [brokers.default] are honoured, and each is told in one line with its right place", async () => {
    const config = await load(CHAPTER_8.replace('event_processing = "async"', 'event_processing = "sync"'));
    expect(config.eventProcessing).toBe("sync");
    expect(config.commandProcessing).toBe("async");
    expect(config.enableOutbox).toBe(true);
    expect(config.origins.get("enable_outbox")).toBe("domain.toml:6");
    const lines = told(config, "CONFIG_MISPLACED_KEY");
    expect(lines).toHaveLength(3);
    expect(lines[0]).toContain("domain.toml:4");
    expect(lines[0]).toContain("above the first [table]");
    expect(lines.every((line) => !line.includes("\n"))).toBe(true);
    expect(told(config, "CONFIG_UNKNOWN_KEY")).toEqual([]);
  });

  test("url is told to be written URI", async () => {
    const config = await load(CHAPTER_8);
    expect(told(config, "CONFIG_KEY_SPELLING")).toEqual([expect.stringContaining("domain.toml:3 [brokers.default] url is read as URI")]);
  });

  test("the database falls to SQLite beside domain.toml, with the outbox in it, and the memory store is warned of", async () => {
    const config = await load(CHAPTER_8);
    expect(config.databases["default"]).toEqual({
      name: "default",
      provider: "sqlite",
      managed: true,
      file: "/app/.protean/protean.db",
      embedded: true,
    });
    expect(config.eventStore).toEqual({ provider: "memory" });
    expect(config.hasOutbox).toBe(true);
    expect(told(config, "CONFIG_MEMORY_STORE_VOLATILE")).toHaveLength(1);
    expect(told(config, "CONFIG_MEMORY_NOT_SHARED")).toEqual([]);
  });

  test("strict mode has nothing against it: misplaced is not unknown", async () => {
    await load(CHAPTER_8, { strict: true });
  });
});

describe("the embedded default", () => {
  test("without any section everything is SQLite in one file and subscriptions are streams", async () => {
    const config = await load("");
    expect(config.eventStore).toEqual({ provider: "sqlite", file: "/app/.protean/protean.db", embedded: true });
    expect(config.brokers["default"]).toEqual({
      name: "default",
      provider: "sqlite",
      retention_ms: 604_800_000,
      file: "/app/.protean/protean.db",
      embedded: true,
    });
    expect(config.server.defaultSubscriptionType).toBe("stream");
    expect(config.hasOutbox).toBe(true);
    expect(config.diagnostics).toEqual([]);
    expect(config.origins.get("server.default_subscription_type")).toBe("default");
  });

  test.each([
    "[server]\n",
    "[databases.default]\nprovider='sqlite'\n",
    "[event_store]\nprovider='sqlite'\n",
    "[brokers.default]\nprovider='sqlite'\n",
  ])("with %p in the file the original's event_store stays the default type", async (toml) => {
    const config = await load(toml);
    expect(config.server.defaultSubscriptionType).toBe("event_store");
    expect(config.hasOutbox).toBe(false);
  });

  test("a flag under server does not count as [server] in the file", async () => {
    const config = await load("", { flags: { "server.drain_timeout": 3 } });
    expect(config.server.defaultSubscriptionType).toBe("stream");
    expect(config.server.drainTimeout_ms).toBe(3000);
    expect(config.origins.get("server.drain_timeout")).toBe("flag");
  });

  test("[protean] data_dir moves the file, PROTEAN_DATA wins over it", async () => {
    expect((await load('[protean]\ndata_dir = "var"')).dataFile).toBe("/app/var/protean.db");
    const config = await load('[protean]\ndata_dir = "var"', { environment: { PROTEAN_DATA: "/data" } });
    expect(config.dataFile).toBe("/data/protean.db");
    expect(config.origins.get("protean.data_dir")).toBe("environment PROTEAN_DATA");
  });

  test("retention of a broker's entries can be set and switched off", async () => {
    expect((await load("[brokers.default]\nprovider='sqlite'\nretention='12h'\n")).brokers["default"]?.retention_ms).toBe(43_200_000);
    expect((await load("[brokers.default]\nprovider='sqlite'\nretention='off'\n")).brokers["default"]?.retention_ms).toBeNull();
  });

  test("memory and inline, when written, mean memory and are warned of", async () => {
    const config = await load("[databases.default]\nprovider = 'memory'\n[brokers.default]\nprovider = 'inline'\n");
    expect(config.databases["default"]?.provider).toBe("memory");
    expect(config.brokers["default"]).toMatchObject({ provider: "inline", maxRetries: 3, retryDelay_ms: 1000, messageTimeout_ms: 300_000 });
    expect(told(config, "CONFIG_MEMORY_NOT_SHARED")).toHaveLength(2);
  });

  test.each([
    ["sqlite:///bank.db", "/app/bank.db"],
    ["sqlite:////var/lib/bank.db", "/var/lib/bank.db"],
    ["sqlite://", ":memory:"],
    ["sqlite:///:memory:", ":memory:"],
    ["data/bank.db", "/app/data/bank.db"],
    ["/srv/bank.db", "/srv/bank.db"],
  ])("database_uri %p means %p", async (uri, file) => {
    const config = await load(`[databases.default]\nprovider='sqlite'\ndatabase_uri='${uri}'`);
    expect(config.databases["default"]).toMatchObject({ file, embedded: false });
  });

  test("an address of something else is refused without its password", async () => {
    const error = await refusal(load("[databases.default]\nprovider='sqlite'\ndatabase_uri='mysql://u:hunter2@h/d'"));
    expect(error.message).toContain("mysql://u:***@h/d");
    expect(error.message).not.toContain("hunter2");
    expect(error.about.at).toBe("domain.toml:3");
  });
});

describe("overlays", () => {
  const WORKED = `
[server]
messages_per_tick = "\${MPT|25}"
[outbox]
external_brokers = ["\${EXT|p1}", "p2"]
[prod.server]
messages_per_tick = 200
[prod.outbox]
external_brokers = ["only"]
[brokers.default]
provider = "sqlite"
[brokers.p1]
provider = "sqlite"
[brokers.p2]
provider = "sqlite"
[brokers.only]
provider = "sqlite"
[brokers.x]
provider = "sqlite"
`;

  test("the worked example of the specification, types restored", async () => {
    const base = await load(WORKED);
    expect(base.server.messagesPerTick).toBe(25);
    expect(base.outbox.externalBrokers).toEqual(["p1", "p2"]);
    expect(base.overlay).toBeNull();
    const prod = await load(WORKED, { environment: { PROTEAN_ENV: "prod" } });
    expect(prod.server.messagesPerTick).toBe(200);
    expect(prod.outbox.externalBrokers).toEqual(["only"]);
    expect(prod.overlay).toBe("prod");
    expect(prod.production).toBe(true);
    expect(prod.origins.get("server.messages_per_tick")).toBe("domain.toml:7 (overlay prod)");
    const nope = await load(WORKED, { environment: { PROTEAN_ENV: "nope", EXT: "x" } });
    expect(nope.server.messagesPerTick).toBe(25);
    expect(nope.outbox.externalBrokers).toEqual(["x", "p2"]);
    const error = await refusal(load(WORKED, { environment: { MPT: "" } }));
    expect(error.message).toContain('server.messages_per_tick = "" is not allowed');
  });

  test("--env wins over PROTEAN_ENV, and the name is case-sensitive", async () => {
    expect((await load(WORKED, { environment: { PROTEAN_ENV: "nope" }, overlayName: "prod" })).overlay).toBe("prod");
    expect((await load(WORKED, { environment: { PROTEAN_ENV: "PROD" } })).overlay).toBeNull();
  });

  test("an unset variable matters in the selected overlay only", async () => {
    const toml = `[test]\nsource_uri = "\${NOT_SET}"\n`;
    await load(toml);
    const error = await refusal(load(toml, { overlayName: "test" }));
    expect(error.message).toBe("Environment variable NOT_SET is not set");
    expect(error.about.at).toBe("domain.toml:2 (overlay test)");
  });

  test("an overlay is no unknown key, a misspelt section is", async () => {
    const config = await load("[test.server]\nmessages_per_tick = 1\n[event_stores]\nprovider = 'memory'\n");
    expect(told(config, "CONFIG_UNKNOWN_KEY")).toEqual([
      expect.stringContaining('"event_stores" at the top level Did you mean "event_store"?'),
    ]);
    expect(config.server.messagesPerTick).toBe(100);
  });

  test("URI in an overlay replaces url in the base", async () => {
    const config = await load("[brokers.default]\nprovider='redis'\nurl='redis://a'\n[prod.brokers.default]\nURI='redis://b'\n", {
      overlayName: "prod",
    });
    expect(config.brokers["default"]).toMatchObject({ uri: "redis://b" });
  });

  test("a misspelt key in an overlay is told before anybody selects it", async () => {
    const config = await load("[prod.server]\nmesages_per_tick = 1\n");
    expect(told(config, "CONFIG_UNKNOWN_KEY")).toEqual([
      expect.stringContaining('domain.toml:2 nobody reads the key "mesages_per_tick" in [prod.server]'),
    ]);
  });
});

describe("keys nobody reads (known-traps A30)", () => {
  test("are warnings with the nearest known key, and errors in strict mode", async () => {
    const toml = "[server]\nmesages_per_tick = 5\n";
    const config = await load(toml);
    expect(told(config, "CONFIG_UNKNOWN_KEY")).toEqual([
      'domain.toml:2 nobody reads the key "mesages_per_tick" in [server] Did you mean "messages_per_tick"?',
    ]);
    const error = await refusal(load(toml, { strict: true }));
    expect(error).toBeInstanceOf(ConfigurationError);
    expect(error.about).toMatchObject({ at: "domain.toml:2", fix: 'Did you mean "messages_per_tick"?' });
  });

  test("redis_url for URI is understood", async () => {
    const config = await load("[brokers.default]\nprovider='redis'\nredis_url='redis://a'\n");
    expect(config.brokers["default"]).toMatchObject({ uri: "redis://a" });
    expect(told(config, "CONFIG_KEY_SPELLING")).toHaveLength(1);
  });

  test("priority_lanes = true is answered with the right form", async () => {
    const error = await refusal(load("[server]\npriority_lanes = true\n"));
    expect(error.message).toBe("server.priority_lanes = true is not a table");
    expect(error.about).toMatchObject({ at: "domain.toml:2", fix: "Write a table: [server.priority_lanes] with enabled = true below it." });
  });

  test("retention_maxlen in a section that ignores it is told where it belongs", async () => {
    const config = await load("[server.event_store_subscription]\nretention_maxlen = 5\n");
    expect(told(config, "CONFIG_UNKNOWN_KEY")[0]).toContain("It belongs under [server.stream_subscription]");
  });

  test("stream_category under a handler's section is refused: it never had an effect", async () => {
    const error = await refusal(load("[server.subscriptions.H]\nstream_category = 'x'\n"));
    expect(error.message).toContain("stream_category has no effect under [server.subscriptions.H]");
  });
});

describe("misplaced keys", () => {
  test("two places that disagree are an error naming both", async () => {
    const error = await refusal(load("event_processing = 'sync'\n[event_store]\nprovider = 'memory'\nevent_processing = 'async'\n"));
    expect(error.message).toContain('stands at domain.toml:1 as "sync"');
    expect(error.about.at).toBe("domain.toml:4");
  });

  test("a word that is too general to be lifted stays an unknown key", async () => {
    const config = await load("[server]\ndebug = true\n");
    expect(told(config, "CONFIG_MISPLACED_KEY")).toEqual([]);
    expect(told(config, "CONFIG_UNKNOWN_KEY")).toHaveLength(1);
  });

  test("one that stands right under [brokers] is lifted as well, and is no broker's name", async () => {
    const config = await load("[brokers]\nmessage_processing = 'sync'\n[brokers.default]\nprovider = 'sqlite'\n");
    expect(config.messageProcessing).toBe("sync");
    expect(Object.keys(config.brokers)).toEqual(["default"]);
    expect(told(config, "CONFIG_MISPLACED_KEY")).toHaveLength(1);
  });

  test("what the user keeps under [custom] is his own", async () => {
    const config = await load("[custom]\nevent_processing = 'sync'\n");
    expect(config.eventProcessing).toBe("async");
    expect(config.custom).toEqual({ event_processing: "sync" });
    expect(config.diagnostics).toEqual([]);
  });
});

describe("spellings of one key", () => {
  test("with one value are fine, with two an error", async () => {
    await load("[brokers.default]\nprovider='redis'\nurl='redis://a'\nURI='redis://a'\n");
    await load("[brokers.default]\nprovider='redis'\nurl='redis://a'\nURI='${R|redis://a}'\n");
    const error = await refusal(load("[brokers.default]\nprovider='redis'\nurl='redis://:geheim@a'\nURI='redis://b'\n"));
    expect(error.message).toContain("says url and URI, which mean the same, with different values");
    expect(error.message).not.toContain("geheim");
    expect(error.about.at).toBe("domain.toml:4");
  });
});

describe("values", () => {
  test.each([
    ["[server]\nmessages_per_tick = 0", "server.messages_per_tick = 0 is not allowed: it must be a whole number > 0"],
    ["[server]\nmessages_per_tick = true", "server.messages_per_tick = true is not allowed"],
    ["[server]\nmessages_per_tick = 9007199254740993", "server.messages_per_tick = 9007199254740993 is not allowed"],
    ["[server]\nmessages_per_tick = 1.5", "server.messages_per_tick = 1.5 is not allowed"],
    ["[server]\ntick_interval = nan", "server.tick_interval = NaN is not allowed"],
    ["[server.stream_subscription]\nenable_dlq = 'maybe'", 'enable_dlq = "maybe" is not allowed: it must be true or false'],
    ["[server.stream_subscription]\ncircuit_breaker_reset_seconds = inf", "circuit_breaker_reset_seconds = Infinity is not allowed"],
    ["event_processing = 'asynch'", 'event_processing = "asynch" is not allowed: it must be one of sync, async'],
    ["[caches.default]\nTTL = 0", "caches.default.TTL = 0 is not allowed"],
    ["[field_defaults]\nsanitize = 'perhaps'", "field_defaults.sanitize"],
    ["[field_defaults]\nother = 1", '[field_defaults] has no key "other"'],
    ["[server.priority_lanes]\nbackfill_suffix = ''", "backfill_suffix must not be empty"],
    ["[outbox]\nexternal_brokers = [1]", "outbox.external_brokers = [1] is not allowed: it must be a list of texts"],
    ["[brokers.default]\nprovider='sqlite'\nretention='7 days'", "a duration such as"],
    ["[brokers.default]\nprovider='redis'", "brokers.default.URI is missing"],
    ["[brokers.default]\nprovider='redis'\nURI='localhost:6379'", "is not an address of a Redis server"],
    ["brokers = 5", "Configure at least one broker"],
    ["[brokers]", "Configure at least one broker"],
    ["[brokers]\nprovider = 'redis'", 'brokers.provider = "redis" is not a table: the tables under [brokers] have names'],
    ["databases = { default = 5 }", "databases.default = 5 is not a table"],
    ["[brokers.other]\nprovider='sqlite'", "You must define a 'default' broker"],
    ["[databases.other]\nprovider='sqlite'", "You must define a 'default' provider"],
    ["[databases.default]\nschema='x'", "databases.default.provider is missing"],
    ["[outbox]\nbroker = 'x'", "Broker `x` has not been configured."],
    ["enable_outbox = true\n[server]\ndefault_subscription_type='event_store'", "enable_outbox = true needs"],
  ])("%p is refused", async (toml, message) => {
    const error = await refusal(load(toml));
    expect(error.message).toContain(message);
    expect(error.about.fix).toBeTruthy();
  });

  test("all problems are told at once, each with its line", async () => {
    const error = await refusal(load("event_processing = 'x'\n[server]\nmessages_per_tick = -1\n"));
    expect(error.message).toContain("2 problems");
    expect(error.message).toContain("domain.toml:1: event_processing");
    expect(error.message).toContain("domain.toml:3: server.messages_per_tick = -1");
  });

  test("text from the environment gets the type of its key back", async () => {
    const config = await load(
      "lenient_deserialization = '${L}'\n[server.health]\nport = '${P}'\nenabled='${E}'\n[server]\ntick_interval='${T}'\n[outbox]\nexternal_brokers='${B}'\n",
      { environment: { L: "yes", P: "0", E: "off", T: "0.5", B: "default, default" } },
    );
    expect(config.lenientDeserialization).toBe(true);
    expect(config.server.health).toMatchObject({ port: 0, enabled: false });
    expect(config.server.tickInterval_ms).toBe(500);
    expect(config.outbox.externalBrokers).toEqual(["default", "default"]);
  });

  test.each(["true", "'soon'", "nan", "inf", "0", "-3"])("drain_timeout = %s is replaced by 10 with a warning", async (value) => {
    const config = await load(`[server]\ndrain_timeout = ${value}\n`);
    expect(config.server.drainTimeout_ms).toBe(10_000);
    expect(told(config, "CONFIG_VALUE_REPLACED")).toHaveLength(1);
  });

  test("a bad number under version_retry or transient_retry gives the section its defaults", async () => {
    const config = await load(
      "[server.version_retry]\nmax_retries = -1\nbase_delay_seconds = 9\n[server.transient_retry]\nenabled = true\nmax_retries = 'x'\n",
    );
    expect(config.server.versionRetry).toEqual({ enabled: true, maxRetries: 3, baseDelay_ms: 50, maxDelay_ms: 1000 });
    expect(config.server.transientRetry).toEqual({
      enabled: false,
      maxRetries: 3,
      backoff: "exponential",
      baseDelay_ms: 100,
      maxDelay_ms: 5000,
      exceptions: ["ConnectionError", "TimeoutError", "SendError"],
    });
    expect(told(config, "CONFIG_VALUE_REPLACED")).toHaveLength(2);
    expect(config.origins.get("server.version_retry.base_delay_seconds")).toBe("default");
  });

  test("trace_retention_days: unparsable is 7, zero is off; TTL: empty is 300", async () => {
    const config = await load("[observatory]\ntrace_retention_days = 'long'\n[caches.default]\nTTL = ''\n");
    expect(config.observatory.traceRetention_days).toBe(7);
    expect(config.caches["default"]).toEqual({ name: "default", provider: "memory", ttl_ms: 300_000 });
    expect((await load("[observatory]\ntrace_retention_days = 0")).observatory.traceRetention_days).toBeNull();
  });

  test("a key named like something on a prototype is a key like any other", async () => {
    const config = await load(
      "[server.subscriptions.toString]\nmessages_per_tick = 3\n[databases.default]\nprovider='sqlite'\n[databases.valueOf]\nprovider='sqlite'\n",
    );
    expect(config.server.subscriptions["toString"]).toEqual({ messagesPerTick: 3 });
    expect(config.databases["hasOwnProperty"]).toBeUndefined();
  });
});

describe("what this version lacks is refused clearly", () => {
  test.each([
    ["[brokers.default]\nprovider='redis_pubsub'\nURI='redis://a'", "provider redis_pubsub is not in this version", "domain.toml:2"],
    ["[databases.default]\nprovider='mysql'", 'unknown database provider "mysql"; use one of: memory, sqlite', "domain.toml:2"],
    ["[event_store]\nprovider='mongo'", "unknown event store provider", "domain.toml:2"],
    ["[brokers.default]\nprovider='kafka'", "Broker 'kafka' is not registered. Available brokers: inline, sqlite, redis", "domain.toml:2"],
    ["[server.priority_lanes]\nenabled = true", "priority lanes are not in this version", "domain.toml:2"],
    ["[server.partitioning]\nlease_ttl_ms = 1000", "partitioned streams are not in this version", "domain.toml:2"],
  ])("%p", async (toml, message, at) => {
    const error = await refusal(load(toml));
    expect(error.message).toContain(message);
    expect(error.about.at).toBe(at);
  });

  test("a cache or a further broker that may go unused is warned of (rulings 63)", async () => {
    const config = await load(
      "[caches.default]\nprovider='redis'\nURI='redis://a'\n[brokers.default]\nprovider='sqlite'\n[brokers.ext]\nprovider='redis_pubsub'\nURI='redis://a'\n",
    );
    expect(config.caches["default"]?.provider).toBe("redis");
    expect(told(config, "CONFIG_NOT_YET")).toHaveLength(2);
  });

  test("priority lanes that are switched off are no matter", async () => {
    await load("[server.priority_lanes]\nenabled = false\nthreshold = -10\n");
  });
});

describe("configuration given as an object", () => {
  test("is merged, overlaid and checked, and nothing is substituted", () => {
    const config = configFromObject(
      { source_uri: "${X}", server: { messages_per_tick: 7 }, test: { server: { messages_per_tick: 8 } }, debug: null },
      { directory: "/app", environment: { PROTEAN_ENV: "test" } },
    );
    expect(config.sourceUri).toBe("${X}");
    expect(config.server.messagesPerTick).toBe(8);
    expect(config.file).toBeNull();
    expect(config.dataFile).toBe("/app/.protean/protean.db");
  });

  test("a bad value and a key that reaches a prototype are refused with their path", () => {
    const options = { directory: "/app", environment: {} };
    expect(() => configFromObject({ server: { messages_per_tick: 0 } }, options)).toThrow("server.messages_per_tick = 0 is not allowed");
    expect(() => configFromObject({ custom: JSON.parse('{"__proto__": {"x": 1}}') }, options)).toThrow("custom.__proto__");
  });
});

describe("config show", () => {
  test("tells every value with its origin and masks secrets", async () => {
    const config = await load(
      "secret_key = 'abc'\n[brokers.default]\nprovider='redis'\nURI='redis://u:pw@h/0'\n[custom]\napi_key = 'k'\nlimit = 3\n",
    );
    const rows = new Map(showConfig(config).map((row) => [row.path, row]));
    expect(rows.get("secret_key")?.value).toBe("***");
    expect(rows.get("brokers.default.URI")).toEqual({ path: "brokers.default.URI", value: "redis://u:***@h/0", origin: "domain.toml:4" });
    expect(JSON.stringify(rows.get("custom")?.value)).toBe('{"api_key":"***","limit":3}');
    expect(rows.get("outbox.messages_per_tick")).toMatchObject({ value: 50, origin: "default" });
    expect(JSON.stringify([...rows.values()])).not.toContain("pw@");
  });
});

describe("logging", () => {
  test("the level: environment variable, then file, then by environment name", async () => {
    expect((await load("", {})).logging.level).toBe("INFO");
    expect((await load("", { environment: { PROTEAN_ENV: "development" } })).logging.level).toBe("DEBUG");
    expect((await load("[logging]\nlevel='error'\n", { environment: { ENV: "test" } })).logging.level).toBe("ERROR");
    expect((await load("[logging]\nlevel=''\n", { environment: { ENV: "test" } })).logging.level).toBe("WARNING");
    expect((await load("[logging]\nlevel='ERROR'\n", { environment: { PROTEAN_LOG_LEVEL: "debug" } })).logging.level).toBe("DEBUG");
    expect((await refusal(load("", { environment: { PROTEAN_LOG_LEVEL: "loud" } }))).message).toContain('PROTEAN_LOG_LEVEL = "loud"');
  });

  test("auto is JSON in production, lines for people elsewhere", async () => {
    expect((await load("", { environment: { PROTEAN_ENV: "production" } })).logging.format).toBe("json");
    expect((await load("")).logging.format).toBe("console");
  });
});

test("loading the same text twice gives the same configuration", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 1000 }),
      fc.constantFrom("stream", "event_store"),
      fc.constantFrom("fast", "batch"),
      async (n, type, profile) => {
        const toml = `[server]\nmessages_per_tick = ${n}\ndefault_subscription_type='${type}'\ndefault_subscription_profile='${profile}'\n`;
        const [one, two] = await Promise.all([load(toml), load(toml)]);
        expect(JSON.stringify(one)).toBe(JSON.stringify(two));
        expect([...one.origins]).toEqual([...two.origins]);
      },
    ),
    { numRuns: 25 },
  );
});

test("whatever the tables hold, loading ends with a configuration or a ConfigurationError that shows no password", () => {
  const segments = [...new Set(SCHEMA.flatMap((spec) => spec.path.split(".")))].map((segment) => (segment === "*" ? "default" : segment));
  const leaf = fc.oneof(
    fc.constantFrom("", "redis", "sqlite", "stream", "x", "redis://u:hunter2@h/0", "sqlite:///a.db", "true", "5", "7d"),
    fc.integer(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.bigInt(),
    fc.array(fc.constantFrom("default", 1, true), { maxLength: 2 }),
  );
  const { tree } = fc.letrec<{ tree: unknown; table: Record<string, unknown> }>((tie) => ({
    tree: fc.oneof({ depthSize: "small", withCrossShrink: true }, leaf, tie("table")),
    table: fc.dictionary(fc.constantFrom(...segments, "url", "prod", "toString"), tie("tree"), { maxKeys: 4 }),
  }));
  const top = fc.dictionary(fc.constantFrom(...TOP_LEVEL_KEYS, "prod", "brokerz"), tree, { maxKeys: 5 });
  fc.assert(
    fc.property(top, (object) => {
      try {
        const config = configFromObject(object, { directory: "/app", environment: { PROTEAN_ENV: "prod" } });
        expect(
          JSON.stringify([showConfig(config), config.diagnostics], (_key, value) => (typeof value === "bigint" ? `${value}` : value)),
        ).not.toContain("hunter2");
      } catch (error) {
        if (!(error instanceof ConfigurationError)) throw error;
        expect(error.message + error.about.fix).not.toContain("hunter2");
      }
    }),
    { numRuns: 1000 },
  );
});
