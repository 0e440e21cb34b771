import { afterEach, describe, expect, test } from "bun:test";
import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import { OutboxProcessor, outboxRetryWait_ms } from "../../../src/engine/outbox-processor.ts";
import { reconcileOutbox } from "../../../src/engine/reconciliation.ts";
import type { OutboxSettings } from "../../../src/engine/settings.ts";
import { ConnectionError, SendError } from "../../../src/errors.ts";
import { encodePayload } from "../../../src/messages/checksum.ts";
import { decodeMessage, encodeMetadata } from "../../../src/messages/envelope.ts";
import type { Broker, OutgoingEntry } from "../../../src/ports/broker.ts";
import { silentLog } from "../../../src/ports/log.ts";
import type { OutboxInsert } from "../../../src/ports/outbox-store.ts";
import { silentTelemetry } from "../../../src/ports/telemetry.ts";
import { clock, event, memoryStores, metadataOf, QuietSignal, random } from "../../support/engine-bench.ts";

const SETTINGS: OutboxSettings = {
  enabled: true,
  broker: "default",
  externalBrokers: [],
  messagesPerTick: 50,
  tickInterval_ms: 10,
  lock_ms: 60_000,
  retry: { maxAttempts: 3, baseDelay_ms: 1, maxBackoff_ms: 60_000, multiplier: 2, jitterFactor: 0 },
  cleanup: { published_ms: 3_600_000, abandoned_ms: 3_600_000, interval_ms: 3_600_000, batch: 100 },
};

function row(name: string, sequence: number, changes: Partial<OutboxInsert> & { readonly category?: string | null } = {}): OutboxInsert {
  const stream = `test::thing-${name}`;
  const { dataText, checksum } = encodePayload({ name, number: sequence });
  const { category, ...columns } = changes;
  const metadata = metadataOf({ stream, sequence: String(sequence), checksum, ...(category === undefined ? {} : { category }) });
  return {
    id: random.uuid(),
    messageId: `${stream}-${sequence}`,
    streamName: stream,
    type: "Test.Happened.v1",
    data: dataText,
    metadata: encodeMetadata(metadata),
    correlationId: null,
    causationId: null,
    partitionKey: null,
    priority: 0,
    targetBroker: "default",
    maxRetries: 3,
    ...columns,
  };
}

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function setup() {
  const stores = await memoryStores();
  cleanups.push(() => stores.close());
  const commit = (...outbox: OutboxInsert[]) => stores.database.commit({ rows: [], appends: [], outbox, markers: [], fences: [] });
  const process = (
    options: {
      readonly publish?: (entries: readonly OutgoingEntry[]) => void;
      readonly settings?: Partial<OutboxSettings>;
      readonly external?: boolean;
      readonly instanceId?: string;
    } = {},
  ) => {
    const broker: Broker = new Proxy(stores.broker, {
      get(target, key) {
        if (key === "publish") {
          return async (entries: readonly OutgoingEntry[]) => {
            options.publish?.(entries);
            return await target.publish(entries);
          };
        }
        const value = Reflect.get(target, key, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const activity = new QuietSignal();
    const instanceId = options.instanceId ?? random.hex(12);
    const keeper = new LeaseKeeper({ owner: instanceId, clock, log: silentLog });
    const processor = new OutboxProcessor({
      database: stores.database,
      broker,
      external: options.external ?? false,
      settings: { ...SETTINGS, ...options.settings },
      instanceId,
      keeper,
      clock,
      random,
      log: silentLog,
      telemetry: silentTelemetry,
      activity,
    });
    const stop = async () => {
      await processor.stop(AbortSignal.timeout(1_000));
      await keeper.stop();
    };
    cleanups.push(stop);
    return { processor, activity, stop };
  };
  const published = async (stream = "test::thing") => {
    const entries = await stores.broker.range(stream, { count: 1_000 });
    return entries.map((entry) => decodeMessage(Buffer.from(entry.fields[0]?.[1] ?? new Uint8Array()).toString()).id);
  };
  return { ...stores, commit, process, published };
}

describe("the outbox processor", () => {
  test("publishes what was committed, in order, to the category's stream, and marks it", async () => {
    const { commit, process, published, database, broker } = await setup();
    await commit(row("a", 0), row("b", 0), row("a", 1));
    const { processor, activity } = process();
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    expect(await published()).toEqual(["test::thing-a-0", "test::thing-b-0", "test::thing-a-1"]);
    expect(await database.outbox.counts()).toMatchObject({ pending: 0, processing: 0, published: 3 });
    const [entry] = await broker.range("test::thing", { count: 1 });
    expect(entry?.fields.map(([name]) => name)).toEqual(["data"]);
  });

  test("is woken by a commit", async () => {
    const { commit, process, published } = await setup();
    const { processor, activity } = process();
    const idle = activity.quiet();
    await processor.start();
    await idle;
    await commit(row("a", 0));
    while ((await published()).length === 0) await activity.quiet();
    expect(await published()).toEqual(["test::thing-a-0"]);
  });

  test("a broker outage of any length uses up no attempt and changes no order (G9, W20)", async () => {
    const { commit, process, published, database } = await setup();
    await commit(...Array.from({ length: 5 }, (_, index) => row("a", index)));
    let refusals = 6;
    const { processor, activity } = process({
      publish: () => {
        if (refusals-- > 0) throw new ConnectionError("away");
      },
    });
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    expect(activity.unknowns).toBe(6);
    expect(await published()).toEqual([0, 1, 2, 3, 4].map((number) => `test::thing-a-${number}`));
    expect((await database.outbox.list({ limit: 10 })).map((one) => one.retryCount)).toEqual([0, 0, 0, 0, 0]);
  });

  test("a row the broker refuses is retried, abandoned after max_attempts, and holds back only its own stream (G31, B12)", async () => {
    const { commit, process, published, database } = await setup();
    await commit(row("bad", 0), row("good", 0), row("bad", 1), row("good", 1));
    const { processor, activity } = process({
      publish: (entries) => {
        if (entries.some((entry) => String(entry.fields["data"]).includes("test::thing-bad-0"))) throw new SendError("refused");
      },
    });
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    expect(await published()).toEqual(["test::thing-good-0", "test::thing-good-1", "test::thing-bad-1"]);
    const [abandoned] = await database.outbox.list({ status: "abandoned", limit: 10 });
    expect(abandoned).toMatchObject({ messageId: "test::thing-bad-0", retryCount: 3 });
    expect(abandoned?.lastError).toContain("refused");
  });

  test("a row that can never be published is set aside at once and delays nothing (G11)", async () => {
    const { commit, process, published, database } = await setup();
    await commit(row("nowhere", 0, { category: null }), row("broken", 0, { metadata: '{"headers": 3}' }), row("a", 0));
    const { processor, activity } = process();
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    expect(await published()).toEqual(["test::thing-a-0"]);
    expect(await database.outbox.counts()).toMatchObject({ abandoned: 2, published: 1 });
  });

  test("claims of a predecessor that died are freed with the lease, not after their lock time (C7)", async () => {
    const { commit, process, published, database } = await setup();
    await commit(row("a", 0));
    const dead = "outbox-processor-default-to-default:0123456789ab";
    expect(await database.outbox.claim({ broker: "default", limit: 10, owner: dead, lock_ms: 3_600_000 })).toHaveLength(1);
    const { processor, activity } = process();
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    expect(await published()).toEqual(["test::thing-a-0"]);
  });

  test("claims of a program that isn't ours are left to run out", async () => {
    const { commit, process, published, database } = await setup();
    await commit(row("a", 0));
    await database.outbox.claim({ broker: "default", limit: 10, owner: "outbox-processor-default-to-default", lock_ms: 3_600_000 });
    const { processor, activity } = process();
    const quiet = activity.quiet();
    await processor.start();
    await quiet;
    expect(await published()).toEqual([]);
  });

  test("copies for other brokers have the external form", async () => {
    const { commit, process, broker } = await setup();
    await commit(row("a", 0));
    const { processor, activity } = process({ external: true });
    const settled = activity.quiet({ settled: true });
    await processor.start();
    await settled;
    const [entry] = await broker.range("test::thing", { count: 1 });
    const message = JSON.parse(Buffer.from(entry?.fields[0]?.[1] ?? []).toString());
    expect(Object.keys(message.metadata)).toEqual(["headers", "domain", "envelope"]);
    expect(message.metadata.envelope).toEqual({ specversion: "1.0" });
    expect(message.metadata.domain).not.toHaveProperty("priority");
  });

  test("waits grow by the multiplier, stop at the cap and spread by the jitter (W20)", () => {
    const at = (attempt: number, chance: number, retry = SETTINGS.retry) =>
      outboxRetryWait_ms(attempt, retry, { ...random, uuid: () => "", hex: () => "", float: () => chance });
    const documented = { maxAttempts: 20, baseDelay_ms: 1_000, maxBackoff_ms: 60_000, multiplier: 2, jitterFactor: 0.25 };
    expect([1, 2, 3, 4, 5, 6, 7, 8].map((attempt) => at(attempt, 0.5, documented))).toEqual([
      1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000,
    ]);
    expect([at(1, 0, documented), at(1, 1, documented)]).toEqual([750, 1_250]);
  });
});

describe("reconciliation of two databases", () => {
  const LONG_AGO_ms = 10_000;

  async function twoDatabases() {
    const store = await memoryStores();
    const { database, ...rest } = await setup();
    cleanups.push(() => store.close());
    // The store's rows are stamped by its clock; looking from ten seconds later puts them past the grace period.
    const later = Object.assign(Object.create(clock) as typeof clock, { now_ms: () => clock.now_ms() + LONG_AGO_ms });
    const reconcile = (at = later) =>
      reconcileOutbox({
        store: store.eventStore,
        database,
        typeOf: (type) => (type === "Test.Happened.v1" ? { database: "default", published: true } : null),
        targetBroker: "default",
        externalBrokers: ["partners"],
        maxAttempts: 3,
        retention_ms: 604_800_000,
        clock: at,
        random,
        log: silentLog,
      });
    return { store: store.eventStore, database, reconcile, ...rest };
  }

  test("adds the row of every event that has none, at any depth, once (G63, C4)", async () => {
    const { store, commit, database, reconcile } = await twoDatabases();
    await store.append(Array.from({ length: 1_205 }, (_, index) => event("deep", index)));
    await commit(row("deep", 1_204), row("deep", 1_204, { targetBroker: "partners" }));
    expect(await reconcile()).toBe(2 * 1_204);
    expect(await reconcile()).toBe(0);
    expect(await database.outbox.counts("default")).toMatchObject({ pending: 1_205 });
  });

  test("leaves alone what a unit of work may still be committing, other domains' events, and commands handled from the store", async () => {
    const { store, reconcile } = await twoDatabases();
    await store.append([
      event("command", 0, { stream: "test::thing:command-1", kind: "COMMAND", category: null }),
      { ...event("foreign", 0), type: "Other.Happened.v1" },
      { ...event("snapshot", 0), type: "SNAPSHOT", metadata: null },
    ]);
    expect(await reconcile()).toBe(0);
    await store.append([event("young", 0)]);
    expect(await reconcile(clock)).toBe(0);
    expect(await reconcile()).toBe(2);
  });

  test("repairs commands that were to be published (ruling 10)", async () => {
    const { store, reconcile, database } = await twoDatabases();
    await store.append([event("c", 0, { stream: "test::thing:command-1", kind: "COMMAND", category: "test::thing:command" })]);
    await reconcile();
    expect((await database.outbox.list({ limit: 5 })).map((one) => one.messageId)).toContain("test::thing:command-1-0");
  });
});
