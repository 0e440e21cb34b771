import { describe, expect, test } from "bun:test";
import { ActivityBoard } from "../../../src/engine/activity-board.ts";
import { Counters } from "../../../src/engine/counters.ts";
import { instanceOfConsumer } from "../../../src/engine/instance-watch.ts";
import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import { RetrySchedule } from "../../../src/engine/retry-schedule.ts";
import { compareIds, SourceQueue } from "../../../src/engine/source-queue.ts";
import { Suspects } from "../../../src/engine/suspects.ts";
import { TraceWriter } from "../../../src/engine/trace-writer.ts";
import type { Broker } from "../../../src/ports/broker.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { memoryStores } from "../../support/engine-bench.ts";
import { ManualClock } from "../../support/manual-clock.ts";

const item = (id: string, source: string | null) => ({ id, sourceStream: () => source });
const none = () => false;

describe("the queue of a subscription", () => {
  test("parks behind a taken source stream, in stream order, and lets others past", () => {
    const queue = new SourceQueue<ReturnType<typeof item>>();
    const [a1, a2, b1, a3] = [item("1-0", "A"), item("2-0", "A"), item("3-0", "B"), item("4-0", "A")];
    queue.add([a1, a2, b1, a3]);
    expect([queue.take(none), queue.take(none), queue.take(none)]).toEqual([a1, b1, null]);
    expect([queue.parked, queue.size]).toEqual([2, 2]);
    queue.release(a1);
    expect(queue.take(none)).toBe(a2);
    queue.release(b1);
    queue.release(a2);
    expect(queue.take(none)).toBe(a3);
    queue.release(a3);
    expect([queue.take(none), queue.size, queue.parked]).toEqual([null, 0, 0]);
  });

  test("puts what was taken over before younger entries", () => {
    const queue = new SourceQueue<ReturnType<typeof item>>();
    queue.add([item("10-0", "A"), item("10-2", "B")]);
    queue.add([item("9-0", "C"), item("10-1", "D")]);
    const ids: (string | undefined)[] = [];
    for (let next = queue.take(none); next !== null; next = queue.take(none)) ids.push(next.id);
    expect(ids).toEqual(["9-0", "10-0", "10-1", "10-2"]);
    expect(compareIds("9-5", "10-0")).toBeLessThan(0);
  });

  test("drains everything that was not begun and keeps running source streams taken", () => {
    const queue = new SourceQueue<ReturnType<typeof item>>();
    const [a1, a2, b1] = [item("1-0", "A"), item("2-0", "A"), item("3-0", "B")];
    queue.add([a1, a2, b1]);
    queue.take(none);
    queue.take(none);
    queue.again(b1);
    queue.take(none);
    queue.add([item("5-0", null)]);
    expect(queue.drain().map((one) => one.id)).toEqual(["5-0", "2-0"]);
    expect(queue.size).toBe(0);
    queue.add([item("6-0", "A")]);
    expect(queue.take(none)).toBeNull();
  });

  test("a source stream whose retry was drained is free again: after a lost and regained lease it goes on", () => {
    const queue = new SourceQueue<ReturnType<typeof item>>();
    const [a1, a2] = [item("1-0", "A"), item("2-0", "A")];
    queue.add([a1, a2]);
    queue.take(none);
    queue.again(a1);
    expect(queue.take(none)).toBe(a1);
    queue.putBack(a1);
    expect(queue.drain()).toEqual([a1, a2]);
    queue.add([a2]);
    expect(queue.take(none)).toBe(a2);
  });
});

describe("the keeper of leases", () => {
  test("takes at once what an owner holds whose process has ended, and leaves the living alone", async () => {
    const { leases } = (await memoryStores()).database;
    await leases.acquire("outbox", "dead", 60_000);
    await leases.acquire("projector", "alive", 60_000);
    const keeper = new LeaseKeeper({ owner: "own", clock: new ManualClock(), log: silentLog, gone: async () => new Set(["dead"]) });
    const taken = Promise.withResolvers<boolean>();
    const [outbox, projector] = [keeper.want(leases, "outbox"), keeper.want(leases, "projector")];
    outbox.onChange(taken.resolve);
    expect(await taken.promise).toBe(true);
    await projector.tried;
    expect([outbox.lease?.owner, projector.lease]).toEqual(["own", null]);
    expect((await leases.holders("")).map(({ name, owner }) => `${name} ${owner}`)).toEqual(["outbox own", "projector alive"]);
    await keeper.stop();
  });
});

test("of messages that may have killed their process one runs at a time, unless it takes long", async () => {
  const clock = new ManualClock();
  const suspects = new Suspects(clock);
  const entered: string[] = [];
  const enter = async (name: string) => {
    const leave = await suspects.enter(5_000);
    entered.push(name);
    return leave;
  };
  const [first, second, third] = [enter("first"), enter("second"), enter("third")];
  await clock.settle();
  expect(entered).toEqual(["first"]);
  (await first)();
  await clock.settle();
  expect(entered).toEqual(["first", "second"]);
  await clock.advance(5_000);
  expect(entered).toEqual(["first", "second", "third"]);
  await Promise.all([second, third]);
});

test("retries come due in order, with one timer for all of them", async () => {
  const clock = new ManualClock();
  const due: string[] = [];
  const schedule = new RetrySchedule<string>(clock, (items) => due.push(...items));
  for (const delay_ms of [50, 10, 40, 20, 30, 10]) schedule.add(`${delay_ms}`, delay_ms);
  expect([clock.waiting, schedule.size, schedule.nextIn_ms()]).toEqual([1, 6, 10]);
  await clock.advance(30);
  expect(due).toEqual(["10", "10", "20", "30"]);
  expect(schedule.removeWhere((one) => one === "40")).toEqual(["40"]);
  expect(schedule.clear()).toEqual(["50"]);
  expect([clock.waiting, schedule.nextIn_ms()]).toEqual([0, null]);
});

test("only consumers of ours are known by their twelve hex digits", () => {
  expect(instanceOfConsumer("Commands:bank::account:command-host-a-7-0123456789ab")).toBe("0123456789ab");
  expect(instanceOfConsumer("Mailer-host-7-2522cc")).toBeNull();
  expect(instanceOfConsumer("replayer")).toBeNull();
});

describe("test mode's idea of quiet", () => {
  test("is two empty turns of every loop after the last productive one of any, and nothing due", async () => {
    const clock = new ManualClock();
    const board = new ActivityBoard(clock);
    board.expect("one");
    board.expect("two");
    const until_ms = clock.monotonic_ms() + 1_000;
    board.empty("one", null);
    board.empty("one", null);
    board.empty("two", null);
    expect(board.isQuiet(until_ms)).toBe(false);
    board.productive("two");
    for (const loop of ["one", "two", "two"]) board.empty(loop, null);
    expect(board.isQuiet(until_ms)).toBe(false);
    board.empty("one", 500);
    expect(board.isQuiet(until_ms)).toBe(false);
    board.empty("one", 5_000);
    expect(board.isQuiet(until_ms)).toBe(true);
    board.unknown("one");
    expect(board.isQuiet(until_ms)).toBe(false);
  });
});

describe("traces and counters", () => {
  test("events of one turn go out in one call; those that find no room are dropped oldest first and counted", async () => {
    const clock = new ManualClock();
    const counters = new Counters();
    const calls: number[] = [];
    let answer: () => void = () => {};
    const broker = {
      writeTraces: async (_domain: string, events: readonly unknown[]) => {
        calls.push(events.length);
        if (calls.length === 2) await new Promise<void>((resolve) => (answer = resolve));
      },
    } as unknown as Broker;
    const writer = new TraceWriter({ broker, domain: "Bank", retention_days: 7, counters, clock, log: silentLog });
    const trace = () => writer.trace({ event: "e", stream: "s", message_id: "m", message_type: "t", status: "ok" });
    for (let count = 0; count < 3; count += 1) trace();
    await clock.settle();
    expect(calls).toEqual([3]);
    trace();
    await clock.settle();
    for (let count = 0; count < 10_001; count += 1) trace();
    expect(counters.total("protean_traces_dropped_total")).toBe(1_001);
    answer();
    await clock.settle();
    expect(calls.slice(2).reduce((sum, events) => sum + events, 0)).toBe(9_000);
  });

  test("a broker that refuses traces costs traces and nothing else", async () => {
    const clock = new ManualClock();
    const counters = new Counters();
    const broker = { writeTraces: () => Promise.reject(new Error("full")) } as unknown as Broker;
    const writer = new TraceWriter({ broker, domain: "Bank", retention_days: 7, counters, clock, log: silentLog });
    writer.trace({ event: "e", stream: "s", message_id: "m", message_type: "t", status: "ok" });
    await clock.settle();
    expect(counters.total("protean_traces_dropped_total")).toBe(1);
  });

  test("with no trace stream and nobody listening no events are built; who begins to listen gets them after 2 s", async () => {
    const clock = new ManualClock();
    let isListened = false;
    const calls: number[] = [];
    const broker = {
      writeTraces: async (_domain: string, events: readonly unknown[]) => {
        calls.push(events.length);
        return isListened;
      },
    } as unknown as Broker;
    const writer = new TraceWriter({ broker, domain: "Bank", retention_days: 0, counters: new Counters(), clock, log: silentLog });
    const trace = () => writer.trace({ event: "e", stream: "s", message_id: "m", message_type: "t", status: "ok" });
    expect(writer.isTracing).toBe(true); // not asked yet
    trace();
    await clock.settle();
    expect(writer.isTracing).toBe(false);
    trace();
    await clock.settle();
    expect(calls).toEqual([1]);

    isListened = true;
    await clock.advance(2_000);
    expect(writer.isTracing).toBe(false);
    await clock.settle();
    expect(writer.isTracing).toBe(true);
    trace();
    await clock.settle();
    expect(calls).toEqual([1, 0, 1]);

    isListened = false;
    trace();
    await clock.settle();
    expect(writer.isTracing).toBe(false);
    const stop = writer.listen(() => {});
    expect(writer.isTracing).toBe(true);
    stop();
    expect(writer.isTracing).toBe(false);
  });

  test("counters add up by labels, histograms by bucket, and series are bounded", () => {
    const counters = new Counters();
    counters.count("c", { type: "A", status: "ok" });
    counters.count("c", { status: "ok", type: "A" }, 2);
    counters.count("c", { type: "A", status: "error" });
    expect([counters.total("c", { status: "ok" }), counters.total("c"), counters.counters()]).toMatchObject([
      3,
      4,
      [{ value: 3 }, { value: 1 }],
    ]);
    counters.observe("h_seconds", 0.003);
    counters.observe("h_seconds", 100);
    const [histogram] = counters.histograms();
    expect([histogram?.count, histogram?.buckets.at(-1), histogram?.buckets[2]]).toEqual([2, [Number.POSITIVE_INFINITY, 2], [0.005, 1]]);
    for (let number = 0; number < 3_000; number += 1) counters.count("many", { type: String(number) });
    expect(counters.counters().filter((series) => series.name === "many").length).toBeLessThanOrEqual(2_001);
    expect(counters.total("many")).toBe(3_000);
  });
});
