import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Config } from "../../../src/config/config.ts";
import {
  commandSubscriptionName,
  commandSubscriptionType,
  requireOutbox,
  resolveBrokerSubscription,
  resolveCommandSubscription,
  resolveSubscription,
  resolveTransientRetry,
  type SubscriptionOptions,
  unmatchedSections,
} from "../../../src/config/resolve-subscription.ts";
import { load, refusal, told } from "./setup.ts";

/** A file of the original: it has one of the four sections, so the original's defaults hold (rulings 35). */
const ORIGINAL = "[databases.default]\nprovider = 'sqlite'\n[server]\n";
const STREAM = `${ORIGINAL}default_subscription_type = 'stream'\n`;
const MINE =
  "[server.profiles.Mine]\ninherits = 'fast'\nmessages_per_tick = 25\n[server.subscriptions.H]\nprofile = 'mine'\nmessages_per_tick = 30\n";

/** The columns of configuration.md §7. */
function row(config: Config, options: SubscriptionOptions = {}): unknown[] {
  const s = resolveSubscription(config, { handlerName: "H", options });
  return [
    s.subscriptionType,
    s.messagesPerTick,
    s.blockingTimeout_ms,
    s.maxRetries,
    s.retryDelay_ms / 1000,
    s.enableDlq,
    s.positionUpdateInterval,
    s.retentionMaxlen,
  ];
}

describe("the precedence ladder, row by row as measured with the original", () => {
  const rows: [string, string, SubscriptionOptions, unknown[]][] = [
    ["a: nothing", ORIGINAL, {}, ["event_store", 100, 100, 3, 1, false, 10, null]],
    [
      "b: default profile production",
      `${ORIGINAL}default_subscription_profile='production'\n`,
      {},
      ["event_store", 100, 100, 3, 1, false, 10, null],
    ],
    ["c: default type stream", STREAM, {}, ["stream", 100, 100, 3, 1, true, 10, null]],
    ["d: c and default profile fast", `${STREAM}default_subscription_profile='fast'\n`, {}, ["stream", 100, 100, 3, 1, true, 10, 100_000]],
    [
      "e: the handler's section names fast",
      `${ORIGINAL}[server.subscriptions.H]\nprofile='fast'\n`,
      {},
      ["stream", 10, 100, 2, 0, true, 5, 100_000],
    ],
    [
      "f: section with 7 and handler profile production",
      `${ORIGINAL}[server.subscriptions.H]\nmessages_per_tick=7\n`,
      { subscriptionProfile: "production" },
      ["stream", 100, 5000, 3, 1, true, 10, 100_000],
    ],
    ["g: own profile inherits fast, section says 30", ORIGINAL + MINE, {}, ["stream", 30, 100, 2, 0, true, 5, 100_000]],
    [
      "h: g, handler profile production and config with 5",
      ORIGINAL + MINE,
      { subscriptionProfile: "production", subscriptionConfig: { messages_per_tick: 5 } },
      ["stream", 5, 5000, 3, 1, true, 10, 100_000],
    ],
    [
      "i: default profile production, section 500 and 10 retries, config without DLQ",
      `${ORIGINAL}default_subscription_profile='production'\n[server.subscriptions.H]\nmessages_per_tick=500\nmax_retries=10\n`,
      { subscriptionConfig: { enable_dlq: false } },
      ["event_store", 500, 100, 10, 1, false, 10, null],
    ],
    ["j: handler profile projection", ORIGINAL, { subscriptionProfile: "projection" }, ["event_store", 100, 5000, 3, 1, false, 10, null]],
    [
      "k: handler profile batch and type event_store",
      ORIGINAL,
      { subscriptionProfile: "batch", subscriptionType: "event_store" },
      ["event_store", 500, 10_000, 5, 2, false, 50, null],
    ],
  ];
  test.each(rows)("%s", async (_name, toml, options, expected) => {
    expect(row(await load(toml), options)).toEqual(expected);
  });

  test("l: default type kafka is a ConfigurationError here (the original warns and takes event_store)", async () => {
    const error = await refusal(load(`${ORIGINAL}default_subscription_type='kafka'\n`));
    expect(error.message).toContain('server.default_subscription_type = "kafka" is not allowed: it must be one of stream, event_store');
  });

  test("m: retention_maxlen for an event-store subscription is a ConfigurationError", async () => {
    const config = await load(`${ORIGINAL}[server.subscriptions.H]\nsubscription_type='event_store'\nretention_maxlen=5\n`);
    expect(() => row(config)).toThrow("Invalid subscription configuration: H reads the event store");
  });
});

describe("profiles", () => {
  test("one without inherits lies on the bare column", async () => {
    const config = await load(`${ORIGINAL}[server.profiles.bare]\nmax_retries = 9\n`);
    expect(row(config, { subscriptionProfile: "BARE" })).toEqual(["stream", 10, 5000, 9, 1, true, 10, null]);
  });

  test("an unknown one is refused with the valid names, in the file at load", async () => {
    const config = await load(STREAM);
    expect(() => row(config, { subscriptionProfile: "quick" })).toThrow(
      "Unknown subscription profile 'quick'. Valid profiles: production, fast, batch, debug, projection",
    );
    const error = await refusal(load(`${STREAM}[server.subscriptions.H]\nprofile = 'quick'\n`));
    expect(error.about.at).toBe("domain.toml:6");
  });

  test.each([
    ["[server.profiles.Fast]\nmax_retries = 1", "has the name of a built-in profile"],
    ["[server.profiles.mine]\nspeed = 1", '[server.profiles.mine] has no field "speed"'],
    ["[server.profiles.mine]\ninherits = 'other'", "server.profiles.mine.inherits"],
    ["[server.profiles]\nmine = 1", "server.profiles.mine = 1 is not a table"],
  ])("%p is refused even if nobody uses it", async (toml, message) => {
    expect((await refusal(load(toml))).message).toContain(message);
  });

  test("a shadowed default profile is told in one line that names the fields", async () => {
    const config = await load(`${ORIGINAL}default_subscription_profile='production'\n`);
    const [line, ...more] = told(config, "CONFIG_PROFILE_SHADOWED");
    expect(more).toEqual([]);
    expect(line).toContain("domain.toml:4");
    expect(line).toContain("overwrite subscription_type, blocking_timeout_ms");
    expect(line).not.toContain("max_retries,");
  });
});

describe("handler options", () => {
  test("subscriptionConfig takes wire names and camelCase, and a profile that wins over subscriptionProfile", async () => {
    const config = await load(STREAM);
    expect(row(config, { subscriptionProfile: "batch", subscriptionConfig: { profile: "debug", messagesPerTick: 3 } })).toEqual([
      "stream",
      3,
      1000,
      1,
      0,
      false,
      1,
      1000,
    ]);
  });

  test("values out of range are refused together", async () => {
    const config = await load(STREAM);
    expect(() => row(config, { subscriptionConfig: { messages_per_tick: 0, max_retries: -1, speed: 3 } })).toThrow(
      "Invalid subscription configuration: messages_per_tick = 0 must be a whole number > 0; max_retries = -1 must be a whole number ≥ 0; there is no speed",
    );
    expect(() => row(config, { concurrency: 0 })).toThrow("concurrency = 0 must be a whole number ≥ 1");
  });

  test("the default profile leaves nothing behind where the handler or its section names one", async () => {
    const toml = `${STREAM}default_subscription_profile='fast'\n`;
    const named = { subscriptionProfile: "projection", subscriptionType: "stream" } as const;
    expect(row(await load(toml), named).at(-1)).toBeNull();
    const bySection = await load(`${toml}[server.subscriptions.H]\nprofile='projection'\nsubscription_type='stream'\n`);
    expect(row(bySection).at(-1)).toBeNull();
  });

  test("null never overwrites", async () => {
    expect(row(await load(STREAM), { subscriptionConfig: { messages_per_tick: null } })[1]).toBe(100);
  });

  test("sequentialBy is refused until partitions exist", async () => {
    const config = await load(STREAM);
    expect(() => row(config, { sequentialBy: "account_id" })).toThrow("sequentialBy is not in this version");
  });

  test("ours: concurrency, shared, claims, time limit, dead letters at once; option over section over server", async () => {
    const config = await load(
      `${STREAM}concurrency = 2\n[server.stream_subscription]\nclaim_foreign_idle_seconds = 0\nhandler_timeout_seconds = 0\n[server.subscriptions.H]\nconcurrency = 4\nshared = true\nclaim_idle_seconds = 5\ndlq_retention_hours = 12\ndlq_alert_threshold = 3\non_group_lost = 'stop'\nstart_from = 'now'\n`,
    );
    const own = resolveSubscription(config, { handlerName: "H", options: { timeout_ms: 50, deadLetterAtOnce: ["ValidationError"] } });
    expect(own).toMatchObject({
      concurrency: 4,
      shared: true,
      claimIdle_ms: 5000,
      claimForeignIdle_ms: null,
      onGroupLost: "stop",
      startFrom: "now",
      handlerTimeout_ms: 50,
      deadLetterAtOnce: ["ValidationError"],
      dlqRetention_hours: 12,
      dlqAlertThreshold: 3,
    });
    expect(resolveSubscription(config, { handlerName: "Other" })).toMatchObject({
      concurrency: 2,
      shared: null,
      claimIdle_ms: 30_000,
      onGroupLost: "start",
      startFrom: "start",
      handlerTimeout_ms: null,
      deadLetterAtOnce: ["DeserializationError"],
    });
    expect(resolveSubscription(await load(STREAM), { handlerName: "H" })).toMatchObject({
      claimForeignIdle_ms: 600_000,
      handlerTimeout_ms: 300_000,
    });
  });

  test("event-store kind: retries and recovery come from their own section only", async () => {
    const config = await load(
      `${ORIGINAL}[server.event_store_subscription]\nmax_retries = 7\nretry_delay_seconds = 0\nenable_recovery = false\ngap_timeout_seconds = 2\n`,
    );
    expect(resolveSubscription(config, { handlerName: "H" }).eventStore).toEqual({
      maxRetries: 7,
      retryDelay_ms: 0,
      enableRecovery: false,
      recoveryInterval_ms: 30_000,
      gapTimeout_ms: 2000,
    });
  });

  test("retries turns the transient retry on where the section is off", async () => {
    const config = await load(STREAM);
    expect(resolveTransientRetry(config).enabled).toBe(false);
    expect(resolveTransientRetry(config, { retries: 5, backoff: "fixed", retryExceptions: ["MailDown"] })).toMatchObject({
      enabled: true,
      maxRetries: 5,
      backoff: "fixed",
      exceptions: ["MailDown"],
      baseDelay_ms: 100,
    });
    expect(resolveTransientRetry(config, { retries: 0 }).enabled).toBe(false);
  });

  test("the event store in production is noted per handler", async () => {
    const config = await load(ORIGINAL, { environment: { PYTHON_ENV: "prd" } });
    expect(resolveSubscription(config, { handlerName: "H" }).notes.map((note) => note.code)).toEqual(["EVENT_STORE_IN_PRODUCTION"]);
  });
});

describe("command subscriptions (rulings 36, 70)", () => {
  const category = "fidelis::account";
  const section = `[server.subscriptions."${commandSubscriptionName(category)}"]\n`;

  test("take their type from domain.toml: server default, their section, or a handler's section", async () => {
    expect(commandSubscriptionType(await load(STREAM), category)).toBe("stream");
    expect(commandSubscriptionType(await load(`${STREAM}${section}subscription_type='event_store'\n`), category)).toBe("event_store");
    const byHandler = await load(`${STREAM}[server.subscriptions.AccountCommandHandler]\nsubscription_type='event_store'\n`);
    expect(commandSubscriptionType(byHandler, category, ["AccountCommandHandler"])).toBe("event_store");
  });

  test("two sections that disagree are an error naming both; two that don't are one", async () => {
    const both = (value: string) => `${STREAM}${section}max_retries=1\n[server.subscriptions.A]\n${value}\n`;
    const config = await load(both("max_retries=2"));
    expect(() => commandSubscriptionType(config, category, ["A"])).toThrow(
      '[server.subscriptions."Commands:fidelis::account:command"] and [server.subscriptions.A] speak for the same commands and disagree on maxRetries',
    );
    const merged = resolveCommandSubscription(await load(both("messages_per_tick=2")), { category, handlers: [{ handlerName: "A" }] });
    expect([merged.maxRetries, merged.messagesPerTick]).toEqual([1, 2]);
  });

  test.each([
    { subscriptionType: "event_store" },
    { subscriptionConfig: { subscription_type: "stream" } },
    { subscriptionProfile: "projection" },
  ] as const)("%p on a command handler is refused with the key to write", async (options) => {
    const config = await load(STREAM);
    const act = () => resolveCommandSubscription(config, { category, handlers: [{ handlerName: "A", options }] });
    expect(act).toThrow("A: a command handler can't choose the subscription type");
    try {
      act();
    } catch (error) {
      expect(Reflect.get(Object(error), "about").fix).toContain('under [server.subscriptions."Commands:fidelis::account:command"]');
    }
  });

  test("other options of a handler count, unless two handlers ask for different ones", async () => {
    const config = await load(STREAM);
    const one = { handlerName: "A", options: { concurrency: 3 } };
    expect(resolveCommandSubscription(config, { category, handlers: [one, { handlerName: "B" }] })).toMatchObject({
      handlerName: "Commands:fidelis::account:command",
      concurrency: 3,
    });
    expect(() =>
      resolveCommandSubscription(config, { category, handlers: [one, { handlerName: "B", options: { concurrency: 4 } }] }),
    ).toThrow("A and B handle commands of fidelis::account in one subscription and ask for different settings");
  });
});

test("subscribers read [server.broker_subscription]", async () => {
  const config = await load(
    `${STREAM}[server.broker_subscription]\nmax_retries=8\nenable_dlq=false\nmessages_per_tick=20\ntick_interval=0.5\n`,
  );
  expect(resolveBrokerSubscription(config, { handlerName: "S" })).toMatchObject({
    maxRetries: 8,
    enableDlq: false,
    messagesPerTick: 20,
    tickInterval_ms: 500,
    shared: true,
    concurrency: 1,
    handlerTimeout_ms: 300_000,
  });
});

test("a stream subscription without outbox is refused instead of waiting for ever (W34)", async () => {
  expect(() => requireOutbox({ hasOutbox: false, origins: new Map() } as unknown as Config, "H", "fidelis::account")).toThrow(
    "H reads broker stream fidelis::account but the outbox is off",
  );
  requireOutbox(await load(STREAM), "H", "fidelis::account");
});

test("a section that matches no handler is told with the nearest name", async () => {
  const config = await load(`${STREAM}[server.subscriptions.AcountProjector]\nmax_retries = 1\n`);
  expect(unmatchedSections(config, ["AccountProjector"])).toEqual([
    {
      code: "CONFIG_UNMATCHED_HANDLER",
      level: "warning",
      message: "[server.subscriptions.AcountProjector] matches no handler",
      at: "domain.toml:6",
      fix: 'Did you mean "AccountProjector"?',
    },
  ]);
  expect(unmatchedSections(config, ["AcountProjector"])).toEqual([]);
});

test("resolving is deterministic and never gives an event-store subscription dead letters or a length", async () => {
  const config = await load(`${STREAM}[server.subscriptions.H]\nmessages_per_tick = 7\n${"[server.profiles.mine]\ninherits='batch'\n"}`);
  const options = fc.record(
    {
      subscriptionType: fc.constantFrom("stream" as const, "event_store" as const),
      subscriptionProfile: fc.constantFrom("production", "fast", "batch", "debug", "projection", "mine"),
      subscriptionConfig: fc.record(
        { messages_per_tick: fc.integer({ min: 1, max: 999 }), enable_dlq: fc.boolean() },
        { requiredKeys: [] },
      ),
      concurrency: fc.integer({ min: 1, max: 64 }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(options, (chosen) => {
      const one = resolveSubscription(config, { handlerName: "H", options: chosen });
      expect(resolveSubscription(config, { handlerName: "H", options: chosen })).toEqual(one);
      if (one.subscriptionType === "event_store") expect([one.enableDlq, one.retentionMaxlen]).toEqual([false, null]);
      if (chosen.subscriptionConfig?.messages_per_tick !== undefined)
        expect(one.messagesPerTick).toBe(chosen.subscriptionConfig.messages_per_tick);
      if (chosen.subscriptionType !== undefined) expect(one.subscriptionType).toBe(chosen.subscriptionType);
    }),
    { numRuns: 200 },
  );
});
