import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ActivityBoard } from "../../../src/engine/activity-board.ts";
import { Counters } from "../../../src/engine/counters.ts";
import { instanceOfConsumer } from "../../../src/engine/instance-watch.ts";
import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import { isForOthers, type Standing, surplus } from "../../../src/engine/lease-shares.ts";
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

describe("sharing leases among engines", () => {
  const standing = (own: string, owners: Readonly<Record<string, string>>, engines: readonly string[]): Standing => ({
    own,
    wanted: new Map(engines.map((engine) => [engine, new Set(Object.keys(owners))])),
    holders: new Map(Object.entries(owners).filter(([, owner]) => owner !== "")),
  });

  test("whoever has more than its share gives to whoever has less, and an even spread changes nothing", () => {
    const all = { p1: "a", p2: "a", p3: "a", p4: "a", p5: "a" };
    expect(surplus(standing("a", all, ["a", "b"]))).toEqual(["p5", "p4"]);
    expect(surplus(standing("b", all, ["a", "b"]))).toEqual([]);
    expect(surplus(standing("a", { ...all, p4: "b", p5: "b" }, ["a", "b"]))).toEqual([]);
    expect(surplus(standing("a", all, ["a"]))).toEqual([]);
  });

  test("nobody is given what it wouldn't take", () => {
    const wanted = new Map([
      ["a", new Set(["p1", "p2", "p3", "p4"])],
      ["b", new Set(["p2"])],
    ]);
    const holders = new Map([..."1234"].map((number) => [`p${number}`, "a"]));
    expect(surplus({ own: "a", wanted, holders })).toEqual(["p2"]);
    expect(surplus({ own: "a", wanted, holders: holders.set("p2", "b") })).toEqual([]);
  });

  test("a free lease is left to an engine that has less than its share, and taken when there is none", () => {
    const free = { p1: "a", p2: "a", p3: "" };
    expect(isForOthers(standing("a", free, ["a", "b"]), "p3")).toBe(true);
    expect(isForOthers(standing("b", free, ["a", "b"]), "p3")).toBe(false);
    expect(isForOthers(standing("a", free, ["a"]), "p3")).toBe(false);
  });

  test("from any state all engines together come to an even spread, and stay there", () => {
    const state = fc.record({
      engines: fc.integer({ min: 1, max: 6 }),
      owners: fc.array(fc.integer({ min: -1, max: 5 }), { maxLength: 30 }),
    });
    fc.assert(
      fc.property(state, ({ engines, owners }) => {
        const names = Array.from({ length: engines }, (_, at) => `e${at}`);
        const holders: Record<string, string> = {};
        for (const [at, owner] of owners.entries()) holders[`p${at}`] = names[owner] ?? "";
        for (let round = 0; round < 4; round += 1) {
          const seen = names.map((own) => standing(own, { ...holders }, names));
          // What is given is taken by those who would take it, in any order.
          for (const one of seen) for (const name of surplus(one)) holders[name] = "";
          for (const own of [...names].reverse()) {
            for (const name of Object.keys(holders)) {
              if (holders[name] === "" && !isForOthers(standing(own, { ...holders }, names), name)) holders[name] = own;
            }
          }
        }
        const loads = names.map((own) => Object.values(holders).filter((owner) => owner === own).length);
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1);
        expect(names.flatMap((own) => surplus(standing(own, holders, names)))).toEqual([]);
      }),
    );
  });

  test("an engine that joins gets its share in order, and one that leaves gives it back", async () => {
    const clock = new ManualClock();
    const { leases } = (await memoryStores()).database;
    const engines: { readonly id: string; readonly leases: readonly string[] }[] = [];
    const log: string[] = [];
    const engine = (id: string, names: readonly string[]) => {
      const others = async () => engines.filter((other) => other.id !== id);
      const keeper = new LeaseKeeper({ owner: id, clock, log: silentLog, others });
      for (const name of names) {
        const claim = keeper.want(leases, name);
        claim.onHandOver(async () => {
          log.push(`${id} ends ${name}`);
          return true;
        });
        claim.onChange((held) => log.push(`${id} ${held ? "begins" : "loses"} ${name}`));
      }
      engines.push({ id, leases: keeper.wanted });
      return keeper;
    };
    const names = ["p1", "p2", "p3"];
    const owners = async () => (await leases.holders("")).map(({ name, owner }) => `${name} ${owner}`).sort();
    const first = engine("a", names);
    await clock.settle();
    expect(await owners()).toEqual(["p1 a", "p2 a", "p3 a"]);
    log.length = 0;
    const second = engine("b", names);
    await clock.advance(6_000);
    expect(await owners()).toEqual(["p1 a", "p2 a", "p3 b"]);
    expect(log).toEqual(["a ends p3", "b begins p3"]);
    engines.shift();
    await first.stop();
    await clock.advance(6_000);
    expect(await owners()).toEqual(["p1 b", "p2 b", "p3 b"]);
    await second.stop();
  });

  test("work that can't be ended now stays where it is", async () => {
    const clock = new ManualClock();
    const { leases } = (await memoryStores()).database;
    const others = async () => [{ id: "b", leases: ["p1", "p2"] }];
    const keeper = new LeaseKeeper({ owner: "a", clock, log: silentLog, others });
    const asked: string[] = [];
    for (const name of ["p1", "p2"]) {
      keeper.want(leases, name).onHandOver(async () => {
        asked.push(name);
        return false;
      });
    }
    await clock.advance(5_000);
    expect(asked).toEqual(["p2", "p2"]);
    expect((await leases.holders("")).map(({ owner }) => owner)).toEqual(["a", "a"]);
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
