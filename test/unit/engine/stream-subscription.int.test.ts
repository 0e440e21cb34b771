/** What only a real server can show: the same subscription over Redis, its wake-ups and its counters. */
import { afterEach, describe, expect, test } from "bun:test";
import { openRedis } from "../../../src/adapters/redis/mod.ts";
import { consumerName, InstanceWatch } from "../../../src/engine/instance-watch.ts";
import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import { ReconnectPause } from "../../../src/engine/reconnect-pause.ts";
import { noActivity } from "../../../src/engine/service.ts";
import type { StreamSettings } from "../../../src/engine/settings.ts";
import { StreamReader } from "../../../src/engine/stream-reader.ts";
import { StreamSubscription } from "../../../src/engine/stream-subscription.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { SystemClock } from "../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../src/runtime/random.ts";
import { sharedRedis, uniqueName } from "../../support/redis.ts";
import { defaultSettings, gate, instanceRecord, messageText, Recorder, reactionOf, type Script } from "../../support/stream-bench.ts";

const clock = new SystemClock();
const random = new SystemRandom();
const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function setup() {
  const broker = openRedis({ name: "default", url: await sharedRedis(), clock, random, log: silentLog });
  closers.push(() => broker.close());
  const stream = uniqueName("bank::account");
  const group = uniqueName("bank.Recorder");
  const engine = async (script: Script, changes: Partial<StreamSettings> = {}) => {
    const record = { ...instanceRecord(random.hex(12)) };
    await broker.instances.beat(record, 10_000);
    const pause = new ReconnectPause({ random, log: silentLog, what: {} });
    const reader = new StreamReader({ broker, clock, pause });
    const keeper = new LeaseKeeper({ owner: record.id, clock, log: silentLog });
    const telemetry = new Recorder();
    const subscription = new StreamSubscription({
      name: "recorder",
      handler: "Recorder",
      kind: "stream",
      reactions: [reactionOf(script)],
      broker,
      reader,
      instances: new InstanceWatch({ instances: broker.instances, clock, own: record, processExists: () => true }),
      keeper,
      pause,
      stream,
      group,
      consumer: consumerName("Recorder", record),
      settings: { ...defaultSettings, retryDelay_ms: 50, ...changes },
      fenced: false,
      clock,
      log: silentLog,
      telemetry,
      activity: noActivity,
    });
    closers.push(async () => {
      await subscription.stop(AbortSignal.abort());
      await Promise.all([reader.stop(), keeper.stop(), broker.instances.remove(record.id)]);
    });
    await subscription.start();
    const kill = async () => {
      await reader.stop();
      await broker.instances.remove(record.id);
    };
    return { subscription, kill };
  };
  const publish = async (...texts: readonly string[]) => await broker.publish(texts.map((data) => ({ stream, fields: { data } })));
  const pending = async () => await broker.pending(stream, group, { count: 100 });
  return { broker, stream, group, engine, publish, pending };
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end_ms = clock.monotonic_ms() + 10_000;
  while (!(await condition())) {
    if (clock.monotonic_ms() > end_ms) throw new Error("waited 10 s for a condition that never held");
    await clock.sleep(5);
  }
}

describe("over Redis", () => {
  test("a new entry wakes the subscription at once; failures are retried and counted there", async () => {
    const { engine, publish, pending } = await setup();
    const ran: string[] = [];
    let at_ms = 0;
    await engine((name, { attempt }) => {
      ran.push(`${name}#${attempt}`);
      at_ms = clock.monotonic_ms();
      if (name === "A2" && attempt === 1) throw new Error("once");
    });
    const published_ms = clock.monotonic_ms();
    await publish(messageText("A", 1));
    await until(() => ran.length === 1);
    // The net alone would take up to five seconds.
    expect(at_ms - published_ms).toBeLessThan(2_000);
    await publish(messageText("A", 2), messageText("A", 3));
    await until(async () => ran.length === 4 && (await pending()).length === 0);
    expect(ran).toEqual(["A1#1", "A2#1", "A2#2", "A3#1"]);
  });

  test("a killed engine's entries are taken over with their attempts; a drained one's at once with theirs", async () => {
    const { engine, publish, pending } = await setup();
    const ran: string[] = [];
    const began = gate();
    await publish(messageText("A", 1), messageText("B", 1));
    const first = await engine(async (name) => {
      ran.push(`one:${name}`);
      began.open();
      await new Promise(() => {});
    });
    await began.opened;
    await first.kill();
    const slow = gate();
    const second = await engine(async (name, { attempt }) => {
      ran.push(`two:${name}#${attempt}`);
      if (name === "A1") await slow.opened;
    });
    await until(() => ran.includes("two:A1#2"));
    second.subscription.quiesce();
    // The notice on the control stream wakes a third one that is running already.
    await engine((name, { attempt }) => ran.push(`three:${name}#${attempt}`));
    await until(() => ran.some((line) => line.startsWith("three:B1")));
    slow.open();
    await until(async () => (await pending()).length === 0);
    expect(ran).toEqual(["one:A1", "two:A1#2", "three:B1#2"]);
  });
});
