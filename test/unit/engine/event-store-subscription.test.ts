import { afterEach, describe, expect, test } from "bun:test";
import { Delivery } from "../../../src/engine/delivery.ts";
import { EventStoreSubscription } from "../../../src/engine/event-store-subscription.ts";
import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import type { EventStoreSettings } from "../../../src/engine/settings.ts";
import { ConnectionError } from "../../../src/errors.ts";
import type { DecodedMessage } from "../../../src/messages/envelope.ts";
import { ALL_STREAMS, type Append, type EventStore } from "../../../src/ports/event-store.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { silentTelemetry } from "../../../src/ports/telemetry.ts";
import { clock, event, memoryStores, QuietSignal, random, scriptedReaction } from "../../support/engine-bench.ts";

const SETTINGS: EventStoreSettings = {
  messagesPerTick: 10,
  tickInterval_ms: 0,
  positionUpdateInterval: 10,
  maxRetries: 3,
  retryDelay_ms: 1,
  enableRecovery: true,
  recoveryInterval_ms: 1,
  gapTimeout_ms: 5_000,
  timeout_ms: 0,
  deadLetterAtOnce: [],
  originCategory: null,
};

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function setup() {
  const stores = await memoryStores();
  cleanups.push(() => stores.close());
  const subscribe = (
    run: (message: DecodedMessage) => unknown,
    options: {
      readonly settings?: Partial<EventStoreSettings>;
      readonly category?: string;
      readonly store?: EventStore;
      readonly owner?: string;
    } = {},
  ) => {
    const { reaction, runs } = scriptedReaction(run);
    const activity = new QuietSignal();
    const keeper = new LeaseKeeper({ owner: options.owner ?? random.hex(12), clock, log: silentLog });
    const settings = { ...SETTINGS, ...options.settings };
    const subscription = new EventStoreSubscription({
      group: "test.Recorder",
      handler: "Recorder",
      category: options.category ?? "test::thing",
      delivery: new Delivery({
        reactions: [reaction],
        name: "Recorder",
        clock,
        log: silentLog,
        telemetry: silentTelemetry,
        timeout_ms: 0,
        deadLetterAtOnce: [],
      }),
      store: options.store ?? stores.eventStore,
      settings,
      workerId: "Recorder-host-1-000000000000",
      keeper,
      clock,
      random,
      log: silentLog,
      telemetry: silentTelemetry,
      activity,
    });
    const stop = async () => {
      await subscription.stop(AbortSignal.timeout(1_000));
      await keeper.stop();
    };
    cleanups.push(stop);
    return { subscription, runs, activity, stop };
  };
  const recordsOf = async (kind: "failed" | "position") => {
    const rows = await stores.eventStore.readStream(`${kind}-test.Recorder-test::thing`, 0, 100);
    return rows.map((row) => [row.type, JSON.parse(row.data)] as const);
  };
  return { ...stores, subscribe, recordsOf };
}

describe("an event-store subscription", () => {
  test("runs the category in order and keeps its cursor over a restart", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    await eventStore.append([event("a", 0), event("b", 0), event("x", 0, { stream: "test::other-x" }), event("a", 1)]);
    const first = subscribe(() => {});
    const quiet = first.activity.quiet();
    await first.subscription.start();
    await quiet;
    expect(first.runs.map((run) => run.id)).toEqual(["test::thing-a-0", "test::thing-b-0", "test::thing-a-1"]);
    await first.stop();
    expect(await recordsOf("position")).toEqual([["Read", { position: 4 }]]);

    await eventStore.append([event("b", 1)]);
    const second = subscribe(() => {});
    const again = second.activity.quiet();
    await second.subscription.start();
    await again;
    expect(second.runs.map((run) => run.id)).toEqual(["test::thing-b-1"]);
  });

  test("a failure whose record was answered by nobody is closed on record when the message is handled after all (C16)", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    await eventStore.append([event("a", 0)]);
    let isLost = false;
    const append = async (messages: readonly Append[]) => {
      const appended = await eventStore.append(messages);
      if (messages[0]?.type !== "Failed" || isLost) return appended;
      isLost = true;
      throw new ConnectionError("the answer got lost");
    };
    const store = new Proxy(eventStore, {
      get(target, key) {
        const value: unknown = key === "append" ? append : Reflect.get(target, key, target);
        return typeof value === "function" ? (value as (...given: unknown[]) => unknown).bind(target) : value;
      },
    });
    const { subscription, runs, activity } = subscribe(
      () => {
        if (runs.length === 1) throw new Error("once");
      },
      { store },
    );
    const quiet = activity.quiet();
    await subscription.start();
    await quiet;
    expect(runs).toHaveLength(2);
    expect((await recordsOf("failed")).map(([type]) => type)).toEqual(["Failed", "Resolved"]);
  });

  test("is woken by an append and writes its cursor once it is quiet (G21)", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    const { subscription, runs, activity } = subscribe(() => {});
    const idle = activity.quiet();
    await subscription.start();
    await idle;
    await eventStore.append([event("a", 0)]);
    while ((await recordsOf("position")).length === 0) await activity.quiet();
    expect(runs).toHaveLength(1);
    expect(await recordsOf("position")).toEqual([["Read", { position: 1 }]]);
  });

  test("records a failure before the cursor passes it, retries it, and gives up after max_retries (G7)", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    await eventStore.append([event("bad", 0), event("good", 0)]);
    const { subscription, runs, activity } = subscribe((message) => {
      if (message.data["name"] === "bad") throw new Error("no");
    });
    const settled = activity.quiet({ settled: true });
    await subscription.start();
    await settled;
    expect(runs.filter((run) => run.id === "test::thing-bad-0").map((run) => run.attempt)).toEqual([1, 2, 3, 4]);
    expect(runs.filter((run) => run.id === "test::thing-good-0")).toHaveLength(1);
    const records = await recordsOf("failed");
    expect(records.map(([type, data]) => [type, data.position, data.retry_count])).toEqual([
      ["Failed", 1, 0],
      ["Failed", 1, 1],
      ["Failed", 1, 2],
      ["Exhausted", 1, 3],
    ]);
    expect(records[0]?.[1]).toMatchObject({
      message_type: "Test.Happened.v1",
      message_id: "test::thing-bad-0",
      stream_name: "test::thing-bad",
      stream_position: 0,
      error: { class: "Error", message: "no" },
    });
    expect(subscription.status()).toMatchObject({ deadLettered: 1, parked: 0, lastError: "no" });
  });

  test("a retried success is resolved, and later events of its stream wait for it while others go on (D11)", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    await eventStore.append([event("a", 0), event("a", 1), event("b", 0)]);
    let failures = 2;
    const { subscription, runs, activity } = subscribe((message) => {
      if (message.id === "test::thing-a-0" && failures-- > 0) throw new Error("not yet");
    });
    const settled = activity.quiet({ settled: true });
    await subscription.start();
    await settled;
    const order = runs.map((run) => run.id);
    expect(order.indexOf("test::thing-b-0")).toBeLessThan(order.lastIndexOf("test::thing-a-0"));
    expect(order.indexOf("test::thing-a-1")).toBeGreaterThan(order.lastIndexOf("test::thing-a-0"));
    expect(runs.filter((run) => run.id === "test::thing-a-1")).toHaveLength(1);
    expect((await recordsOf("failed")).at(-1)?.[0]).toBe("Resolved");
  });

  test("what was unresolved when the process died is run by the next one", async () => {
    const { eventStore, subscribe } = await setup();
    await eventStore.append([event("a", 0)]);
    const first = subscribe(
      () => {
        throw new Error("no");
      },
      { settings: { retryDelay_ms: 3_600_000, recoveryInterval_ms: 3_600_000 } },
    );
    const quiet = first.activity.quiet();
    await first.subscription.start();
    await quiet;
    await first.stop();
    const second = subscribe(() => {});
    const settled = second.activity.quiet({ settled: true });
    await second.subscription.start();
    await settled;
    expect(second.runs).toEqual([{ id: "test::thing-a-0", attempt: 2, key: "test::thing-a-0" }]);
    const [checkpoint] = await eventStore.readStream("recovery-checkpoint-test.Recorder-test::thing", 0, 1);
    expect(JSON.parse(checkpoint?.data ?? "")).toEqual({
      watermark: 1,
      unresolved: { "1": { retry_count: 0, stream_name: "test::thing-a", stream_position: 0 } },
    });
  });

  test("passes what is not for it: handled inline, of another origin, without a kind (W6)", async () => {
    const { eventStore, subscribe } = await setup();
    const others = Array.from({ length: 25 }, (_, index) => event("o", index, { origin: "shop::other-1" }));
    await eventStore.append([
      ...others,
      event("sync", 0, { asynchronous: false, origin: "shop::cart-1" }),
      { ...event("bare", 0), metadata: "{}" },
      event("mine", 0, { origin: "shop::cart-1" }),
    ]);
    const { subscription, runs, activity } = subscribe(() => {}, { settings: { messagesPerTick: 5, originCategory: "shop::cart" } });
    const quiet = activity.quiet();
    await subscription.start();
    await quiet;
    expect(runs.map((run) => run.id)).toEqual(["test::thing-mine-0"]);
    expect(subscription.cursor).toBe(28);
  });

  test("an undecodable row is given up at once and the next one runs (G15)", async () => {
    const { eventStore, subscribe, recordsOf } = await setup();
    await eventStore.append([event("bad", 0, { data: '{"name": "changed"}' }), event("good", 0)]);
    const { subscription, runs, activity } = subscribe(() => {});
    const quiet = activity.quiet();
    await subscription.start();
    await quiet;
    expect(runs.map((run) => run.id)).toEqual(["test::thing-good-0"]);
    expect((await recordsOf("failed")).map(([type]) => type)).toEqual(["Exhausted"]);
  });

  test("$all is never handed the engine's own records, and an idle store does not grow (G14)", async () => {
    const { eventStore, subscribe } = await setup();
    await eventStore.append([
      event("a", 0),
      { ...event("a", 0), stream: "test::thing:snapshot-a", type: "SNAPSHOT", metadata: null },
      event("a", 1),
    ]);
    const { subscription, runs, activity } = subscribe(() => {}, { category: ALL_STREAMS, settings: { positionUpdateInterval: 1 } });
    const quiet = activity.quiet();
    await subscription.start();
    await quiet;
    await activity.quiet();
    expect(runs.map((run) => run.id)).toEqual(["test::thing-a-0", "test::thing-a-1"]);
    const size = (await eventStore.lastOfCategory(ALL_STREAMS))?.globalPosition;
    await activity.quiet();
    await activity.quiet();
    expect((await eventStore.lastOfCategory(ALL_STREAMS))?.globalPosition).toBe(size as number);
  });

  test("of two engines one handles; the other takes over when it stops (ruling 25)", async () => {
    const { eventStore, subscribe } = await setup();
    const first = subscribe(() => {}, { owner: "first" });
    const second = subscribe(() => {}, { owner: "second" });
    const idle = [first.activity.quiet(), second.activity.quiet()];
    await first.subscription.start();
    await second.subscription.start();
    await Promise.all(idle);
    const handled = first.activity.quiet();
    await eventStore.append([event("a", 0)]);
    await handled;
    await first.activity.quiet();
    expect([first.runs.length, second.runs.length]).toEqual([1, 0]);
    expect(second.subscription.status()).toMatchObject({ state: "standby", reason: "another engine owns this subscription" });
    await first.stop();
    await eventStore.append([event("a", 1)]);
    while (second.runs.length === 0) await second.activity.quiet();
    expect(second.runs.map((run) => run.id)).toEqual(["test::thing-a-1"]);
  });

  test("a store that is away at the start and later is waited for; nothing is skipped (W9)", async () => {
    const { eventStore, subscribe } = await setup();
    let away = 3;
    const flaky = new Proxy(eventStore, {
      get(target, key) {
        if (key === "lastOfStream" && away > 0) {
          return () => {
            away -= 1;
            return Promise.reject(new Error("away"));
          };
        }
        const value = Reflect.get(target, key, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    await eventStore.append([event("a", 0)]);
    const { subscription, runs, activity } = subscribe(() => {}, { store: flaky });
    const quiet = activity.quiet();
    await subscription.start();
    await quiet;
    expect(runs).toHaveLength(1);
    expect(activity.unknowns).toBe(3);
    expect(subscription.status().state).toBe("running");
  });
});
