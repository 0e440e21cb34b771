import { afterEach, describe, expect, test } from "bun:test";
import { openSqlite } from "../../../src/adapters/sqlite/mod.ts";
import type { Reaction } from "../../../src/domain/reaction.ts";
import type { DomainStores } from "../../../src/domain/stores.ts";
import { Counters } from "../../../src/engine/counters.ts";
import { Engine, type EngineContext, type EngineOptions } from "../../../src/engine/engine.ts";
import type { EngineSettings } from "../../../src/engine/settings.ts";
import { TraceWriter } from "../../../src/engine/trace-writer.ts";
import { ConnectionError } from "../../../src/errors.ts";
import type { Broker } from "../../../src/ports/broker.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { SystemClock } from "../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../src/runtime/random.ts";
import { CATEGORY, defaultSettings, gate, messageText, reactionOf } from "../../support/stream-bench.ts";

const clock = new SystemClock();
const random = new SystemRandom();
const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const settingsOf = (changes: Partial<EngineSettings> = {}): EngineSettings => ({
  subscription: () => ({ type: "stream", stream: { ...defaultSettings, retryDelay_ms: 20 } }),
  subscriber: () => defaultSettings,
  outbox: {
    enabled: false,
    broker: "default",
    externalBrokers: [],
    messagesPerTick: 10,
    tickInterval_ms: 1_000,
    lock_ms: 60_000,
    retry: { maxAttempts: 3, baseDelay_ms: 1_000, maxBackoff_ms: 60_000, multiplier: 2, jitterFactor: 0 },
    cleanup: { published_ms: 1, abandoned_ms: 1, interval_ms: 60_000, batch: 10 },
  },
  deadLetters: { enabled: true, retention_ms: 60_000, alertThreshold: 10, checkInterval_ms: 60_000 },
  retention_ms: null,
  drainTimeout_ms: 300,
  traceRetention_days: 7,
  only: [],
  except: [],
  ...changes,
});

async function setup(wrap: (broker: Broker) => Broker = (broker) => broker) {
  const sqlite = await openSqlite({ file: ":memory:", clock, random, log: silentLog });
  closers.push(() => sqlite.close());
  const counters = new Counters();
  const telemetry = new TraceWriter({ broker: sqlite.broker, domain: "Bank", retention_days: 7, counters, clock, log: silentLog });
  const stores = {
    settings: {} as DomainStores["settings"],
    databases: new Map([["default", sqlite.database]]),
    eventStore: sqlite.eventStore,
    brokers: new Map([["default", wrap(sqlite.broker)]]),
    idempotency: null,
    clock,
    random,
    log: silentLog,
    telemetry,
    close: async () => {},
  } satisfies DomainStores;
  const engine = (reactions: readonly Reaction[], options: Partial<EngineOptions> & { readonly settings?: EngineSettings } = {}) => {
    const made = new Engine({
      domain: { name: "Bank", reactions, stores },
      settings: options.settings ?? settingsOf(),
      instance: {
        id: random.hex(12),
        host: "host",
        pid: 7,
        bootId: "boot",
        pidNamespace: "pid",
        startedAt_ms: 0,
        version: "0.1.0",
        http: null,
      },
      processExists: () => true,
      ...options,
    });
    closers.push(() => made.stop("test"));
    return made;
  };
  const publish = async (...texts: readonly string[]) =>
    await sqlite.broker.publish(texts.map((data) => ({ stream: CATEGORY, fields: { data } })));
  return { engine, publish, broker: sqlite.broker, counters, telemetry };
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end_ms = clock.monotonic_ms() + 10_000;
  while (!(await condition())) {
    if (clock.monotonic_ms() > end_ms) throw new Error("waited 10 s for a condition that never held");
    await clock.sleep(5);
  }
}

describe("building", () => {
  test("one subscription per handler and category; commands of a category together under the original's group", async () => {
    const { engine } = await setup();
    const command = (name: string) => reactionOf(() => {}, { kind: "commandHandler", name, categories: ["bank::account:command"] });
    const made = engine([
      command("Open"),
      command("Close"),
      reactionOf(() => {}, { kind: "projector", name: "Balances", categories: ["bank::account", "bank::transfer"] }),
      reactionOf(() => {}, { kind: "queryHandler", name: "Query" }),
      reactionOf(() => {}, { kind: "subscriber", name: "Foreign", categories: ["orders"] }),
    ]);
    expect(made.registered.map((one) => [one.handler, one.stream, one.type])).toEqual([
      ["Balances", "bank::account", "stream"],
      ["Balances", "bank::transfer", "stream"],
      ["Foreign", "orders", "broker"],
      ["Open", "bank::account:command", "stream"],
      ["Close", "bank::account:command", "stream"],
    ]);
    const commands = made.status().services.find((service) => service.name === "commands:bank::account");
    expect(commands?.group).toBe("protean.server.engine.Commands:bank::account:command");
  });

  test("only and except choose; one command handler takes its category along; unknown names are refused", async () => {
    const { engine } = await setup();
    const command = (name: string) => reactionOf(() => {}, { kind: "commandHandler", name, categories: ["bank::account:command"] });
    const reactions = [
      command("Open"),
      command("Close"),
      reactionOf(() => {}, { name: "Mailer" }),
      reactionOf(() => {}, { name: "Audit" }),
    ];
    const names = (changes: Partial<EngineSettings>) =>
      engine(reactions, { settings: settingsOf(changes) }).registered.map((one) => one.handler);
    expect(names({ only: ["Open"] })).toEqual(["Open", "Close"]);
    expect(names({ only: ["Mailer", "outbox"] })).toEqual(["Mailer"]);
    expect(names({ except: ["Mailer", "bank::account:command"] })).toEqual(["Audit"]);
    expect(() => names({ only: ["Maler"] })).toThrow('there is no handler or category "Maler"');
  });

  test("event-store subscriptions and the outbox are made by whoever was asked", async () => {
    const { engine } = await setup();
    const asked: EngineContext[] = [];
    const eventStore = { type: "event_store" } as unknown as ReturnType<EngineSettings["subscription"]>;
    engine([reactionOf(() => {}, { name: "Everything", categories: ["$all"] })], {
      settings: settingsOf({
        subscription: () => ({ ...eventStore, eventStore: { timeout_ms: 1_000, deadLetterAtOnce: [] } }) as never,
        outbox: { ...settingsOf().outbox, enabled: true },
      }),
      moreServices: (context) => {
        asked.push(context);
        return [];
      },
    });
    const [context] = asked;
    expect(context?.eventStoreSubscriptions.map((work) => [work.group, work.stream, work.delivery.name])).toEqual([
      ["bank.Everything", "$all", "Everything"],
    ]);
    expect(context?.wantsOutbox).toBe(true);
    expect(() => engine([reactionOf(() => {}, { categories: ["$all"] })])).toThrow("$all");
  });
});

describe("running", () => {
  test("handles, reports readiness from memory, and sums up at the end", async () => {
    const { engine, publish, counters, broker, telemetry } = await setup();
    const ran: string[] = [];
    const made = engine([
      reactionOf((name, { attempt }) => {
        ran.push(name);
        if (name === "B1" && attempt === 1) throw new Error("once");
      }),
    ]);
    await made.start();
    await publish(messageText("A", 1), messageText("B", 1));
    await until(() => made.status().summary.handled === 2);
    await until(() => made.status().ready);
    expect(made.status()).toMatchObject({ phase: "running", providers: { default: true }, brokers: { default: true }, eventStore: true });
    expect((await broker.instances.alive()).map((one) => [one.state, one.domain])).toEqual([["running", "Bank"]]);
    const summary = await made.stop("SIGTERM");
    expect(summary).toEqual({ handled: 2, failed: 1, retried: 1, deadLettered: 0, published: 0, interrupted: 0 });
    expect(await broker.instances.alive()).toEqual([]);
    expect(counters.total("protean_handler_invocations_total", { status: "ok" })).toBe(2);
    await telemetry.close();
    const traces = await broker.range("protean:traces", { count: 100 });
    expect(traces.length).toBeGreaterThan(5);
  });

  test("an idle engine stops within half a second, twice is once (G46)", async () => {
    const { engine } = await setup();
    const made = engine([reactionOf(() => {}), reactionOf(() => {}, { name: "Other" })]);
    await made.start();
    const began_ms = clock.monotonic_ms();
    const [one, other] = await Promise.all([made.stop("SIGTERM"), made.stop("SIGINT")]);
    expect(one).toBe(other);
    expect(clock.monotonic_ms() - began_ms).toBeLessThan(500);
    expect(made.status()).toMatchObject({ phase: "stopping", ready: false });
  });

  test("a handler that ignores its signal holds up the stop for the drain timeout only, and its entry goes back", async () => {
    const { engine, publish, broker } = await setup();
    const started = gate();
    const made = engine([
      reactionOf(async () => {
        started.open();
        await new Promise(() => {});
      }),
    ]);
    await made.start();
    await publish(messageText("A", 1), messageText("B", 1));
    await started.opened;
    const began_ms = clock.monotonic_ms();
    const summary = await made.stop("SIGTERM");
    const took_ms = clock.monotonic_ms() - began_ms;
    expect(took_ms).toBeGreaterThan(250);
    expect(took_ms).toBeLessThan(2_300);
    expect(summary.interrupted).toBe(1);
    const pending = await broker.pending(CATEGORY, "bank.Recorder", { count: 10 });
    expect(pending.map((entry) => [entry.deliveries, entry.idle_ms > 1_000_000])).toEqual([
      [1, true],
      [0, true],
    ]);
  });

  test("draining ends intake for good while the process stays", async () => {
    const { engine, publish } = await setup();
    const ran: string[] = [];
    const made = engine([reactionOf((name) => ran.push(name))]);
    await made.start();
    await publish(messageText("A", 1));
    await until(() => ran.length === 1);
    made.drain();
    await publish(messageText("A", 2));
    expect(made.status()).toMatchObject({ phase: "draining", ready: false, reasons: ["draining"] });
    const second = engine([reactionOf((name) => ran.push(`two:${name}`))]);
    await second.start();
    await until(() => ran.length === 2);
    expect(ran).toEqual(["A1", "two:A2"]);
  });

  test("a broker that is away at start is waited for; the engine says so and resumes", async () => {
    let away = true;
    /** Calls are refused while it is away; what isn't a call is passed on. */
    const breaking = <T extends object>(target: T): T =>
      new Proxy(target, {
        get(_target, key) {
          const value: unknown = Reflect.get(target, key, target);
          if (key === "instances") return breaking(value as object);
          if (typeof value !== "function") return value;
          const call = value as (...given: unknown[]) => unknown;
          return (...given: unknown[]) =>
            away && key !== "wakeups" ? Promise.reject(new ConnectionError("refused")) : call.apply(target, given);
        },
      });
    const { engine, publish } = await setup(breaking);
    const ran: string[] = [];
    const made = engine([reactionOf((name) => ran.push(name))]);
    await made.start();
    await publish(messageText("A", 1));
    const [service] = made.status().services;
    expect(service).toMatchObject({ state: "unreachable", reason: "refused" });
    expect(made.status().ready).toBe(false);
    away = false;
    await until(() => ran.length === 1);
    await until(() => made.status().ready);
  }, 15_000);
});

describe("test mode", () => {
  test("ends as soon as chains of messages have settled, retries included", async () => {
    const { engine, publish } = await setup();
    const ran: string[] = [];
    const made = engine(
      [
        reactionOf(async (name, { attempt }) => {
          ran.push(`${name}#${attempt}`);
          if (name === "A2" && attempt === 1) throw new Error("once");
          if (name === "A1") await publish(messageText("A", 2));
          if (name === "A2") await publish(messageText("A", 3));
        }),
        reactionOf(() => {}, { name: "Idle", categories: ["bank::other"] }),
      ],
      { testMode: true },
    );
    await publish(messageText("A", 1));
    const report = await made.runUntilQuiet({ maxWait_ms: 5_000 });
    expect(ran).toEqual(["A1#1", "A2#1", "A2#2", "A3#1"]);
    expect(report).toMatchObject({ quiet: true, failed: false, unsettled: [], unreachable: [] });
    expect(report.took_ms).toBeLessThan(2_000);
  });

  test("fails when something was dead-lettered or didn't settle in time", async () => {
    const { engine, publish } = await setup();
    await publish(messageText("A", 1));
    const broken = engine(
      [
        reactionOf(() => {
          throw new Error("always");
        }),
      ],
      { testMode: true },
    );
    expect(await broken.runUntilQuiet({ maxWait_ms: 5_000 })).toMatchObject({ quiet: true, failed: true, summary: { deadLettered: 1 } });
    await publish(messageText("B", 1));
    const slow = engine([reactionOf(() => new Promise(() => {}), { name: "Slow" })], { testMode: true });
    expect(await slow.runUntilQuiet({ maxWait_ms: 200 })).toMatchObject({ quiet: false, failed: true });
  });
});
