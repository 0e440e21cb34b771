/**
 * The contract of `Broker` (src/ports/broker.ts), run for every adapter: `brokerConformance("redis", factory)`. The first part are the 16
 * portable scenarios of the original's own brokers; then come ours. A new scenario is a new `test`.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { type Broker, CONTROL_STREAM, type EntryFields, REPLAY_CONSUMER, type StreamEntry } from "../../src/ports/broker.ts";

export interface BrokerUnderTest {
  readonly broker: Broker;
  /** Another handle on the same data, as another process has it; closed by `dispose`. */
  second(): Promise<Broker>;
  /** Makes a publish impossible for this stream, if the store knows such a thing: the batch must leave nothing behind. */
  readonly spoil?: ((stream: string) => Promise<void>) | undefined;
  dispose(): Promise<void>;
}

const text = (fields: EntryFields, name = "data"): string | undefined => {
  const value = fields.find(([key]) => key === name)?.[1];
  return value === undefined ? undefined : new TextDecoder().decode(value);
};
const texts = (entries: readonly StreamEntry[]): (string | undefined)[] => entries.map((entry) => text(entry.fields));
const numbered = (stream: string, from: number, count: number) =>
  Array.from({ length: count }, (_, at) => ({ stream, fields: { data: `m${from + at}` } }));

async function until(what: string, condition: () => Promise<boolean> | boolean, limit_ms = 10_000): Promise<void> {
  const end = performance.now() + limit_ms;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited ${limit_ms} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export function brokerConformance(name: string, factory: () => Promise<BrokerUnderTest>): void {
  describe(`broker contract: ${name}`, () => {
    let under: BrokerUnderTest;
    let broker: Broker;
    let stream: string;
    const group = "fidelis.Ledger";

    beforeEach(async () => {
      under = await factory();
      broker = under.broker;
      stream = `conformance::${randomBytes(6).toString("hex")}`;
    });
    afterEach(async () => {
      await under.dispose();
    });

    const read = async (consumer: string, count = 10, of = group, from: Broker = broker): Promise<readonly StreamEntry[]> => {
      const [result] = await from.read([{ stream, group: of, consumer, count }]);
      if (result?.kind !== "entries") throw new Error(`read answered ${JSON.stringify(result)}`);
      return result.entries;
    };
    const pendingOf = async (of = group) => await broker.pending(stream, of, { count: 1_000 });
    const deliveries = async (id: string) => (await pendingOf()).find((entry) => entry.id === id)?.deliveries;
    /** A group with `count` entries delivered to `consumer`. */
    const delivered = async (count: number, consumer = "first"): Promise<readonly StreamEntry[]> => {
      await broker.createGroup(stream, group, "start");
      await broker.publish(numbered(stream, 1, count));
      return await read(consumer, count);
    };

    describe("publishing and reading", () => {
      test("entries are read in the order in which they were published", async () => {
        await broker.createGroup(stream, group, "start");
        const ids = [...(await broker.publish(numbered(stream, 1, 3))), ...(await broker.publish(numbered(stream, 4, 2)))];
        const entries = await read("c");
        expect(texts(entries)).toEqual(["m1", "m2", "m3", "m4", "m5"]);
        expect(entries.map((entry) => entry.id)).toEqual(ids);
      });

      test("an empty batch publishes nothing", async () => {
        expect(await broker.publish([])).toEqual([]);
      });

      test("one batch may go to several streams and answers the ids in its own order", async () => {
        const other = `${stream}:other`;
        const ids = await broker.publish([...numbered(stream, 1, 1), ...numbered(other, 2, 1), ...numbered(stream, 3, 1)]);
        const here = await broker.range(stream, { count: 10 });
        const there = await broker.range(other, { count: 10 });
        expect(texts(here)).toEqual(["m1", "m3"]);
        expect(texts(there)).toEqual(["m2"]);
        expect([here[0]?.id, there[0]?.id, here[1]?.id]).toEqual([...ids]);
      });

      test("a batch that can't be written as a whole leaves nothing behind", async () => {
        if (under.spoil === undefined) return;
        const spoilt = `${stream}:spoilt`;
        await under.spoil(spoilt);
        const batch = [...numbered(stream, 1, 2), ...numbered(spoilt, 3, 1), ...numbered(stream, 4, 1)];
        await expect(broker.publish(batch)).rejects.toThrow();
        expect(await broker.length(stream)).toBe(0);
      });

      test("reading gives at most what was asked for, and nothing when there is nothing", async () => {
        await broker.createGroup(stream, group, "start");
        expect(await read("c")).toEqual([]);
        await broker.publish(numbered(stream, 1, 5));
        expect(texts(await read("c", 2))).toEqual(["m1", "m2"]);
        expect(texts(await read("c", 10))).toEqual(["m3", "m4", "m5"]);
        expect(await read("c")).toEqual([]);
      });

      test("field values come back byte for byte, readable or not", async () => {
        await broker.createGroup(stream, group, "start");
        const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
        const part = new Uint8Array(bytes.buffer, 100, 20);
        await broker.publish([{ stream, fields: { data: '{"name": "Ülkü 🚲"}', raw: bytes, part, empty: "" } }]);
        const fields = (await read("c"))[0]?.fields ?? [];
        expect(fields.map(([key]) => key)).toEqual(["data", "raw", "part", "empty"]);
        expect(text(fields)).toBe('{"name": "Ülkü 🚲"}');
        expect(Buffer.from(fields[1]?.[1] ?? []).equals(Buffer.from(bytes))).toBe(true);
        expect(Buffer.from(fields[2]?.[1] ?? []).equals(Buffer.from(part))).toBe(true);
        expect(fields[3]?.[1].length).toBe(0);
      });

      test("a batch of 2,000 entries of 1 KB is one batch", async () => {
        await broker.createGroup(stream, group, "start");
        const data = "x".repeat(1_024);
        const ids = await broker.publish(Array.from({ length: 2_000 }, () => ({ stream, fields: { data } })));
        expect(new Set(ids).size).toBe(2_000);
        const entries = await read("c", 2_000);
        expect(entries.map((entry) => entry.id)).toEqual([...ids]);
        expect(await broker.acknowledge(stream, group, ids)).toBe(2_000);
        expect(await pendingOf()).toEqual([]);
      });
    });

    describe("groups", () => {
      test("a group from the start sees what was there before it, one from the end doesn't", async () => {
        await broker.publish(numbered(stream, 1, 2));
        expect(await broker.createGroup(stream, "early", "start")).toBe("created");
        expect(await broker.createGroup(stream, "late", "end")).toBe("created");
        await broker.publish(numbered(stream, 3, 1));
        expect(texts(await read("c", 10, "early"))).toEqual(["m1", "m2", "m3"]);
        expect(texts(await read("c", 10, "late"))).toEqual(["m3"]);
      });

      test("making a group again changes nothing", async () => {
        await delivered(2);
        expect(await broker.createGroup(stream, group, "start")).toBe("existed");
        expect(await read("c")).toEqual([]);
        expect(await pendingOf()).toHaveLength(2);
      });

      test("each entry goes to one consumer of a group", async () => {
        await broker.createGroup(stream, group, "start");
        await broker.publish(numbered(stream, 1, 4));
        const first = texts(await read("first", 2));
        const second = texts(await read("second", 2));
        expect([...first, ...second]).toEqual(["m1", "m2", "m3", "m4"]);
      });

      test("every group gets every entry", async () => {
        for (const one of ["a", "b", "c"]) await broker.createGroup(stream, one, "start");
        await broker.publish(numbered(stream, 1, 3));
        for (const one of ["a", "b", "c"]) expect(texts(await read("x", 10, one))).toEqual(["m1", "m2", "m3"]);
      });

      test("several requests are answered in their order in one call", async () => {
        const other = `${stream}:other`;
        await broker.createGroup(stream, "a", "start");
        await broker.createGroup(other, "b", "start");
        await broker.publish([...numbered(stream, 1, 1), ...numbered(other, 2, 1)]);
        const results = await broker.read([
          { stream: other, group: "b", consumer: "c", count: 5 },
          { stream, group: "missing", consumer: "c", count: 5 },
          { stream, group: "a", consumer: "c", count: 5 },
        ]);
        expect(results.map((result) => (result.kind === "entries" ? texts(result.entries) : result.kind))).toEqual([
          ["m2"],
          "groupLost",
          ["m1"],
        ]);
        expect(await broker.read([])).toEqual([]);
      });

      test("a group or stream that isn't there is told by read, and is empty for everything else", async () => {
        expect(await broker.read([{ stream, group, consumer: "c", count: 1 }])).toEqual([{ kind: "groupLost" }]);
        expect(await broker.pending(stream, group, { count: 10 })).toEqual([]);
        expect(await broker.consumers(stream, group)).toEqual([]);
        expect(await broker.groups(stream)).toEqual([]);
        expect(await broker.length(stream)).toBe(0);
        expect(await broker.range(stream, { count: 10 })).toEqual([]);
        expect(await broker.acknowledge(stream, group, ["1-1"])).toBe(0);
        expect(await broker.refresh(stream, group, "c", ["1-1"])).toEqual([]);
        expect(await broker.claim(stream, group, "c", ["1-1"], { minIdle_ms: 0 })).toEqual({ entries: [], deleted: [] });
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 0 })).toBe(0);
        expect(await broker.remove(stream, ["1-1"])).toBe(0);
      });

      test("what a group has left to do can be asked", async () => {
        await delivered(2, "busy");
        await broker.publish(numbered(stream, 3, 3));
        const [info] = await broker.groups(stream);
        expect(info?.name).toBe(group);
        expect(info?.consumers).toBe(1);
        expect(info?.pending).toBe(2);
        expect([3, null]).toContain(info?.lag ?? null);
        const [consumer] = await broker.consumers(stream, group);
        expect(consumer?.name).toBe("busy");
        expect(consumer?.pending).toBe(2);
        expect(consumer?.idle_ms).toBeGreaterThanOrEqual(0);
      });
    });

    describe("acknowledging", () => {
      test("an acknowledged entry is pending no more and stays in the stream", async () => {
        const [entry] = await delivered(1);
        expect(await broker.acknowledge(stream, group, [entry?.id ?? ""])).toBe(1);
        expect(await pendingOf()).toEqual([]);
        expect(await broker.length(stream)).toBe(1);
      });

      test("an entry that wasn't acknowledged stays pending with its consumer and isn't given out again", async () => {
        const [entry] = await delivered(1, "keeper");
        expect(await read("keeper")).toEqual([]);
        expect(await read("other")).toEqual([]);
        expect((await pendingOf()).map((one) => [one.id, one.consumer])).toEqual([[entry?.id ?? "", "keeper"]]);
      });

      test("acknowledging for one group leaves the others alone", async () => {
        const [entry] = await delivered(1);
        await broker.createGroup(stream, "other", "start");
        await read("c", 1, "other");
        await broker.acknowledge(stream, group, [entry?.id ?? ""]);
        expect(await pendingOf("other")).toHaveLength(1);
      });

      test("each caller learns how many of its own were pending, also when many acknowledge in one turn", async () => {
        const entries = await delivered(5);
        const ids = entries.map((entry) => entry.id);
        await broker.acknowledge(stream, group, [ids[1] ?? ""]);
        const counts = await Promise.all([
          ...ids.map((id) => broker.acknowledge(stream, group, [id])),
          broker.acknowledge(stream, "nobody", [ids[0] ?? ""]),
          broker.acknowledge(stream, group, []),
        ]);
        expect(counts).toEqual([1, 0, 1, 1, 1, 0, 0]);
        expect(await pendingOf()).toEqual([]);
      });
    });

    describe("attempts", () => {
      test("the first delivery counts 1, and looking, refreshing and failing to claim change nothing", async () => {
        const [entry] = await delivered(1, "owner");
        const id = entry?.id ?? "";
        expect(await deliveries(id)).toBe(1);
        await broker.refresh(stream, group, "owner", [id]);
        await broker.claim(stream, group, "thief", [id], { minIdle_ms: 60_000 });
        await broker.read([{ stream, group, consumer: "owner", count: 5 }]);
        expect(await deliveries(id)).toBe(1);
      });

      test("setAttempts sets the counter of what the consumer holds, and only that", async () => {
        const [mine] = await delivered(1, "owner");
        await broker.publish(numbered(stream, 2, 1));
        const [theirs] = await read("other");
        await broker.setAttempts(stream, group, "owner", [
          { id: mine?.id ?? "", attempt: 4 },
          { id: theirs?.id ?? "", attempt: 9 },
        ]);
        expect(await deliveries(mine?.id ?? "")).toBe(4);
        expect(await deliveries(theirs?.id ?? "")).toBe(1);
        expect((await pendingOf()).map((one) => one.consumer)).toEqual(["owner", "other"]);
      });

      test("claim keeps the counter, or sets it when told to", async () => {
        const entries = await delivered(3, "dead");
        const [a = "", b = "", c = ""] = entries.map((entry) => entry.id);
        await broker.setAttempts(stream, group, "dead", [{ id: a, attempt: 3 }]);
        await broker.claim(stream, group, "heir", [a, b], { minIdle_ms: 0 });
        await broker.claim(stream, group, "heir", [c], { minIdle_ms: 0, attempts: 0 });
        expect([await deliveries(a), await deliveries(b), await deliveries(c)]).toEqual([3, 1, 0]);
      });
    });

    describe("taking over", () => {
      test("claim gives the entries with their fields to the new consumer", async () => {
        const entries = await delivered(2, "dead");
        const claimed = await broker.claim(
          stream,
          group,
          "heir",
          entries.map((entry) => entry.id),
          { minIdle_ms: 0 },
        );
        expect(texts(claimed.entries)).toEqual(["m1", "m2"]);
        expect(claimed.deleted).toEqual([]);
        expect((await pendingOf()).map((one) => one.consumer)).toEqual(["heir", "heir"]);
      });

      test("only idle entries are claimed, and claiming resets the idle time", async () => {
        const [entry] = await delivered(1, "owner");
        const id = entry?.id ?? "";
        expect((await broker.claim(stream, group, "thief", [id], { minIdle_ms: 60_000 })).entries).toEqual([]);
        await until("the entry is idle", async () => ((await pendingOf())[0]?.idle_ms ?? 0) >= 30);
        expect((await broker.claim(stream, group, "heir", [id], { minIdle_ms: 30 })).entries).toHaveLength(1);
        expect((await pendingOf())[0]?.idle_ms).toBeLessThan(30);
        expect((await broker.claim(stream, group, "third", [id], { minIdle_ms: 30_000 })).entries).toEqual([]);
      });

      test("of several who saw the same dead owner, one takes an entry and the others get nothing", async () => {
        const [entry] = await delivered(1, "dead");
        const [other] = await (async () => {
          await broker.publish(numbered(stream, 2, 1));
          return await read("also dead");
        })();
        const ids = [entry?.id ?? "", other?.id ?? ""];
        const from = new Set(["dead", "also dead"]);
        expect((await broker.claim(stream, group, "heir", ids, { minIdle_ms: 0, from })).entries.map(({ id }) => id)).toEqual(ids);
        expect(await broker.claim(stream, group, "thief", ids, { minIdle_ms: 0, from })).toEqual({ entries: [], deleted: [] });
        expect(await broker.claim(stream, group, "thief", ids, { minIdle_ms: 0, from: new Set() })).toEqual({ entries: [], deleted: [] });
        expect((await pendingOf()).map(({ consumer }) => consumer)).toEqual(["heir", "heir"]);
      });

      test("an acknowledged entry can't be claimed", async () => {
        const [entry] = await delivered(1);
        await broker.acknowledge(stream, group, [entry?.id ?? ""]);
        expect(await broker.claim(stream, group, "thief", [entry?.id ?? ""], { minIdle_ms: 0 })).toEqual({ entries: [], deleted: [] });
      });

      test("entries that were deleted are reported once, and those behind them are claimed (B2)", async () => {
        const entries = await delivered(4, "dead");
        const ids = entries.map((entry) => entry.id);
        await broker.remove(stream, ids.slice(0, 2));
        const claimed = await broker.claim(stream, group, "heir", ids, { minIdle_ms: 0 });
        expect(claimed.deleted).toEqual(ids.slice(0, 2));
        expect(texts(claimed.entries)).toEqual(["m3", "m4"]);
        expect((await pendingOf()).map((one) => one.id)).toEqual(ids.slice(2));
      });

      test("refresh answers what the consumer still holds and resets its idle time", async () => {
        const entries = await delivered(3, "owner");
        const [a = "", b = "", c = ""] = entries.map((entry) => entry.id);
        await broker.acknowledge(stream, group, [a]);
        await broker.claim(stream, group, "thief", [b], { minIdle_ms: 0 });
        await until("the entry is idle", async () => ((await pendingOf()).find((one) => one.id === c)?.idle_ms ?? 0) >= 30);
        expect(await broker.refresh(stream, group, "owner", [a, b, c])).toEqual([c]);
        const after = await pendingOf();
        expect(after.find((one) => one.id === c)?.idle_ms).toBeLessThan(30);
        expect(after.find((one) => one.id === b)?.consumer).toBe("thief");
      });

      test("of 150 pending entries the idle tail behind 100 fresh ones is found, page by page (B14)", async () => {
        const entries = await delivered(150, "owner");
        await until("all are idle", async () => ((await pendingOf())[0]?.idle_ms ?? 0) >= 50);
        const ids = entries.map((entry) => entry.id);
        await broker.refresh(stream, group, "owner", ids.slice(0, 100));
        const tail: string[] = [];
        let after: string | null = null;
        for (;;) {
          const page: readonly { readonly id: string }[] = await broker.pending(stream, group, { minIdle_ms: 45, after, count: 20 });
          tail.push(...page.map((entry) => entry.id));
          after = page.at(-1)?.id ?? null;
          if (page.length < 20) break;
        }
        // The head may grow idle again while we page on a slow machine: then it comes after a page of the tail, never instead of it.
        for (const id of ids.slice(100)) expect(tail).toContain(id);
      });

      test("pending pages without gaps or repeats, and can be asked of one consumer", async () => {
        await delivered(5, "first");
        await broker.publish(numbered(stream, 6, 2));
        await read("second");
        const all = await pendingOf();
        expect(all).toHaveLength(7);
        const firstPage = await broker.pending(stream, group, { count: 3 });
        const secondPage = await broker.pending(stream, group, { count: 10, after: firstPage[2]?.id ?? null });
        expect([...firstPage, ...secondPage].map((one) => one.id)).toEqual(all.map((one) => one.id));
        expect(await broker.pending(stream, group, { count: 10, consumer: "second" })).toHaveLength(2);
        expect(await broker.pending(stream, group, { count: 10, consumer: "nobody" })).toEqual([]);
      });

      test("what was handed back can be claimed at once with its attempts, and the engines are told", async () => {
        const [entry, other] = await delivered(2, "leaver");
        const told = await broker.length(CONTROL_STREAM);
        await broker.handBack(stream, group, "leaver", [{ id: entry?.id ?? "", attempt: 2 }]);
        await broker.handBack(stream, group, "stranger", [{ id: other?.id ?? "", attempt: 7 }]);
        expect(await broker.length(CONTROL_STREAM)).toBeGreaterThan(told);
        const claimed = await broker.claim(stream, group, "heir", [entry?.id ?? "", other?.id ?? ""], { minIdle_ms: 30_000 });
        expect(claimed.entries.map((one) => one.id)).toEqual([entry?.id ?? ""]);
        expect(await deliveries(entry?.id ?? "")).toBe(2);
        expect(await deliveries(other?.id ?? "")).toBe(1);
      });

      test("a consumer that holds something isn't removed, one that holds nothing is", async () => {
        const [entry] = await delivered(1, "old");
        expect(await broker.removeConsumer(stream, group, "old")).toBe(false);
        expect(await pendingOf()).toHaveLength(1);
        await broker.acknowledge(stream, group, [entry?.id ?? ""]);
        expect(await broker.removeConsumer(stream, group, "old")).toBe(true);
        expect(await broker.consumers(stream, group)).toEqual([]);
      });
    });

    describe("dead letters", () => {
      const letters = () => `${stream}:dlq`;

      test("a dead letter is added and its original acknowledged", async () => {
        const [entry] = await delivered(2);
        const raw = Uint8Array.of(0, 200, 255);
        const id = await broker.deadLetter({
          stream,
          group,
          id: entry?.id ?? "",
          deadLetterStream: letters(),
          fields: { data: "why", raw },
        });
        const [letter] = await broker.range(letters(), { count: 10 });
        expect(letter?.id).toBe(id);
        expect(text(letter?.fields ?? [])).toBe("why");
        expect([...(letter?.fields[1]?.[1] ?? [])]).toEqual([...raw]);
        expect((await pendingOf()).map((one) => one.id)).not.toContain(entry?.id);
        expect(await pendingOf()).toHaveLength(1);
      });

      test("a dead letter that can't be written leaves its original pending (A1)", async () => {
        if (under.spoil === undefined) return;
        const [entry] = await delivered(1);
        await under.spoil(letters());
        const letter = { stream, group, id: entry?.id ?? "", deadLetterStream: letters(), fields: { data: "why" } };
        await expect(broker.deadLetter(letter)).rejects.toThrow();
        expect(await pendingOf()).toHaveLength(1);
      });

      const deadLettered = async () => {
        const [entry] = await delivered(1);
        await broker.createGroup(stream, "other", "start");
        const [seen] = await read("c", 1, "other");
        await broker.acknowledge(stream, "other", [seen?.id ?? ""]);
        const id = entry?.id ?? "";
        const deadLetterId = await broker.deadLetter({ stream, group, id, deadLetterStream: letters(), fields: { data: "why" } });
        return { deadLetterStream: letters(), deadLetterId, stream, group, originalId: id, fields: { data: "m1" } };
      };

      test("replay makes the original pending for its group only, with no attempts used (B8)", async () => {
        const replay = await deadLettered();
        const told = await broker.length(CONTROL_STREAM);
        expect(await broker.replay(replay)).toBe("redelivered");
        expect(await broker.length(letters())).toBe(0);
        expect(await broker.length(CONTROL_STREAM)).toBeGreaterThan(told);
        expect(await pendingOf("other")).toEqual([]);
        expect(await read("c", 10, "other")).toEqual([]);
        expect(await deliveries(replay.originalId)).toBe(0);
        const claimed = await broker.claim(stream, group, "heir", [replay.originalId], { minIdle_ms: 30_000 });
        expect(texts(claimed.entries)).toEqual(["m1"]);
      });

      test("replay of an entry that is gone makes a copy on the group's own replay stream", async () => {
        const replay = await deadLettered();
        await broker.remove(stream, [replay.originalId]);
        expect(await broker.replay(replay)).toBe("copied");
        expect(await broker.length(letters())).toBe(0);
        expect(texts(await broker.range(`${stream}:replay:${group}`, { count: 10 }))).toEqual(["m1"]);
        expect(await broker.length(stream)).toBe(0);
      });

      test("replay of a dead letter that is gone does nothing", async () => {
        const replay = await deadLettered();
        await broker.replay(replay);
        await broker.claim(stream, group, "heir", [replay.originalId], { minIdle_ms: 0 });
        expect(await broker.replay(replay)).toBe("missing");
        expect((await pendingOf()).map((one) => one.consumer)).toEqual(["heir"]);
      });

      test("streams are found by the end of their name, literally", async () => {
        const special = `${stream}*[x]`;
        await broker.publish([...numbered(letters(), 1, 1), ...numbered(`${special}:dlq`, 2, 1), ...numbered(stream, 3, 1)]);
        const found = await broker.streams(":dlq");
        expect(found).toContain(letters());
        expect(found).toContain(`${special}:dlq`);
        expect(found).not.toContain(stream);
        expect(await broker.streams("*[x]:dlq")).toEqual([`${special}:dlq`]);
      });
    });

    describe("taking a group back", () => {
      test("what stands behind the id is delivered again, and what was acknowledged since can be claimed at once", async () => {
        const entries = await delivered(5);
        const ids = entries.map(({ id }) => id);
        await broker.acknowledge(
          stream,
          group,
          [0, 1, 2, 4].map((at) => ids[at] ?? ""),
        );
        // As it was: three delivered, of them the first acknowledged. The fourth is pending until today.
        const pending = [ids[1] ?? "", ids[2] ?? ""];
        expect(await broker.rewind(stream, group, { lastDelivered: ids[2] ?? "", pending })).toBe(2);
        const taken = await broker.claim(stream, group, "second", pending, { minIdle_ms: 60_000 });
        expect(texts(taken.entries)).toEqual(["m2", "m3"]);
        for (const id of pending) expect(await deliveries(id)).toBe(0);
        expect(texts(await read("second"))).toEqual(["m4", "m5"]);
        expect((await broker.consumers(stream, group)).find(({ name }) => name === "first")?.pending ?? 0).toBe(0);
        expect(await deliveries(ids[3] ?? "")).toBe(1);
        await broker.acknowledge(stream, group, ids);
        expect(await pendingOf()).toEqual([]);
        expect(await read("second")).toEqual([]);
      });

      test("what somebody holds stays his, and what is gone from the stream stays gone", async () => {
        const ids = (await delivered(3)).map(({ id }) => id);
        await broker.acknowledge(stream, group, [ids[0] ?? "", ids[1] ?? ""]);
        await broker.remove(stream, [ids[0] ?? ""]);
        expect(await broker.rewind(stream, group, { lastDelivered: ids[2] ?? "", pending: ids })).toBe(1);
        expect((await pendingOf()).map(({ id, consumer }) => [id, consumer])).toEqual([
          [ids[1] ?? "", REPLAY_CONSUMER],
          [ids[2] ?? "", "first"],
        ]);
        expect(await read("second")).toEqual([]);
      });

      test("to its beginning it gets everything again; one that doesn't exist isn't made", async () => {
        await broker.acknowledge(
          stream,
          group,
          (await delivered(2)).map(({ id }) => id),
        );
        expect(await broker.rewind(stream, group, { lastDelivered: "0-0", pending: [] })).toBe(0);
        expect(texts(await read("second"))).toEqual(["m1", "m2"]);
        expect(await broker.rewind(stream, "nobody", { lastDelivered: "0-0", pending: [] })).toBe(-1);
        expect((await broker.groups(stream)).map(({ name: one }) => one)).toEqual([group]);
      });

      test("the newest id of a stream outlives its entries; none is 0-0", async () => {
        const ids = await broker.publish(numbered(stream, 1, 2));
        await broker.remove(stream, ids);
        const newest = await broker.newestIds([stream, `${stream}:none`]);
        expect([...newest]).toEqual([
          [stream, ids[1] ?? ""],
          [`${stream}:none`, "0-0"],
        ]);
        expect(await broker.newestIds([])).toEqual(new Map());
      });
    });

    describe("looking and trimming", () => {
      test("a range is paged forwards and newest first, ends included", async () => {
        const ids = await broker.publish(numbered(stream, 1, 5));
        expect(texts(await broker.range(stream, { count: 2 }))).toEqual(["m1", "m2"]);
        expect(texts(await broker.range(stream, { count: 2, reverse: true }))).toEqual(["m5", "m4"]);
        expect(texts(await broker.range(stream, { from: ids[1] ?? "", to: ids[3] ?? "", count: 10 }))).toEqual(["m2", "m3", "m4"]);
        expect(texts(await broker.range(stream, { from: "-", to: ids[2] ?? "", count: 2, reverse: true }))).toEqual(["m3", "m2"]);
      });

      test("removing answers how many were there", async () => {
        const ids = await broker.publish(numbered(stream, 1, 3));
        expect(await broker.remove(stream, [ids[0] ?? "", "1-1"])).toBe(1);
        expect(await broker.length(stream)).toBe(2);
      });

      test("trimming never removes what some group has pending or has not read (W3)", async () => {
        const entries = await delivered(10);
        const ids = entries.map((entry) => entry.id);
        await broker.createGroup(stream, "slow", "start");
        await until("some time has passed", async () => ((await pendingOf())[0]?.idle_ms ?? 0) >= 5);
        await broker.acknowledge(stream, group, [...ids.slice(0, 4), ...ids.slice(5)]);
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 0 })).toBe(0);

        const slow = await read("s", 7, "slow");
        await broker.acknowledge(
          stream,
          "slow",
          slow.map((entry) => entry.id),
        );
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 60_000 })).toBe(0);
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 0 })).toBe(4);
        expect(texts(await broker.range(stream, { count: 20 }))).toEqual(["m5", "m6", "m7", "m8", "m9", "m10"]);

        await broker.acknowledge(stream, group, [ids[4] ?? ""]);
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 0 })).toBe(3);
        expect(texts(await broker.range(stream, { count: 20 }))).toEqual(["m8", "m9", "m10"]);
      });

      test("with a greatest length acknowledged entries go whatever their age, others stay", async () => {
        const entries = await delivered(6);
        await broker.acknowledge(
          stream,
          group,
          entries.slice(0, 4).map((entry) => entry.id),
        );
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 60_000, maxLength: 5 })).toBe(1);
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 60_000, maxLength: 1 })).toBe(3);
        expect(texts(await broker.range(stream, { count: 20 }))).toEqual(["m5", "m6"]);
      });

      test("without a group nothing is trimmed as acknowledged", async () => {
        await broker.publish(numbered(stream, 1, 3));
        expect(await broker.trimAcknowledged(stream, { olderThan_ms: 0 })).toBe(0);
        expect(await broker.length(stream)).toBe(3);
      });

      test("trimOld removes what is old whatever its state", async () => {
        await delivered(3);
        expect(await broker.trimOld(stream, 60_000)).toBe(0);
        await until("some time has passed", async () => ((await pendingOf())[0]?.idle_ms ?? 0) >= 5);
        expect(await broker.trimOld(stream, 0)).toBe(3);
        expect(await broker.length(stream)).toBe(0);
      });
    });

    describe("wakeups", () => {
      /** A reader as the engine has it: reads until empty, then waits to be woken; counts its empty reads. */
      const reader = async (from: Broker) => {
        const seen: string[] = [];
        let wakes = 0;
        let empty = 0;
        let running: Promise<void> = Promise.resolve();
        const wakeups = from.wakeups((woken) => {
          if (woken !== stream) return;
          wakes += 1;
          running = running.then(drain);
        });
        const drain = async () => {
          for (;;) {
            const entries = await read("c", 100, group, from);
            if (entries.length === 0) break;
            seen.push(...entries.map((entry) => text(entry.fields) ?? ""));
          }
          empty += 1;
          wakeups.add(stream);
        };
        return {
          seen,
          wakeups,
          drain,
          get wakes() {
            return wakes;
          },
          get empty() {
            return empty;
          },
          close: async () => {
            await wakeups.close();
            await running;
          },
        };
      };

      test("a new entry wakes the reader, again and again, also when another process adds it", async () => {
        await broker.createGroup(stream, group, "start");
        const other = await under.second();
        const one = await reader(broker);
        await one.drain();
        for (let round = 1; round <= 5; round++) {
          const empty = one.empty;
          await (round % 2 === 0 ? broker : other).publish(numbered(stream, round, 1));
          await until(`entry ${round} was read`, () => one.seen.length === round && one.empty > empty);
        }
        expect(one.seen).toEqual(["m1", "m2", "m3", "m4", "m5"]);
        await one.close();
      });

      test("an entry that came just before add is found", async () => {
        await broker.createGroup(stream, group, "start");
        const one = await reader(broker);
        expect(await read("c")).toEqual([]);
        await broker.publish(numbered(stream, 1, 1));
        one.wakeups.add(stream);
        await until("the entry was read", () => one.seen.length === 1);
        await one.close();
      });

      test("an entry that comes between the empty read and adding again is found", async () => {
        await broker.createGroup(stream, group, "start");
        const seen: string[] = [];
        const other = await under.second();
        let round = 0;
        const rounds = 20;
        let running: Promise<void> = Promise.resolve();
        const wakeups = broker.wakeups((woken) => {
          if (woken === stream) running = running.then(drain);
        });
        const drain = async () => {
          for (;;) {
            const entries = await read("c", 100);
            if (entries.length === 0) break;
            seen.push(...entries.map((entry) => text(entry.fields) ?? ""));
          }
          // Here is the gap: this entry is in the stream, nobody read it, and nobody watches.
          if (round < rounds && seen.length === round) {
            round += 1;
            await other.publish(numbered(stream, round, 1));
          }
          wakeups.add(stream);
        };
        await drain();
        await until("all entries were read", () => seen.length === rounds);
        expect(seen).toEqual(Array.from({ length: rounds }, (_, at) => `m${at + 1}`));
        await wakeups.close();
        await running;
      });

      test("a reader that adds its stream once and then only reads until it finds nothing is woken every time", async () => {
        await broker.createGroup(stream, group, "start");
        await broker.createGroup(stream, "second", "start");
        const other = await under.second();
        const seen: (string | undefined)[] = [];
        const seenBySecond: (string | undefined)[] = [];
        let running: Promise<void> = Promise.resolve();
        const drain = async () => {
          for (const [of, into] of [
            [group, seen],
            ["second", seenBySecond],
          ] as const) {
            for (;;) {
              const entries = await read("c", 100, of);
              if (entries.length === 0) break;
              into.push(...texts(entries));
            }
          }
        };
        const wakeups = broker.wakeups((woken) => {
          if (woken === stream) running = running.then(drain);
        });
        wakeups.add(stream);
        for (let round = 1; round <= 20; round++) {
          await (round % 2 === 0 ? broker : other).publish(numbered(stream, round, 1));
          await until(`entry ${round} was read by both groups`, () => seen.length === round && seenBySecond.length === round, 2_000);
        }
        await wakeups.close();
        await running;
      });

      test("streams can be added and removed while it waits; one removed wakes no more", async () => {
        const quiet = `${stream}:quiet`;
        const woken: string[] = [];
        const wakeups = broker.wakeups((name_) => {
          woken.push(name_);
          if (name_ === stream) wakeups.add(stream);
        });
        wakeups.add(quiet);
        await until("the first wake for nothing is over or does not come", async () => {
          await broker.publish(numbered(stream, 1, 1));
          wakeups.add(stream);
          return woken.includes(stream);
        });
        wakeups.remove(quiet);
        woken.length = 0;
        await broker.publish([...numbered(quiet, 1, 1), ...numbered(stream, 2, 1)]);
        await until("the other stream wakes", () => woken.includes(stream));
        expect(woken).not.toContain(quiet);
        await wakeups.close();
      });

      test("what is handed back wakes everybody through the control stream", async () => {
        const [entry] = await delivered(1, "leaver");
        let told = 0;
        const wakeups = broker.wakeups((woken) => {
          if (woken === CONTROL_STREAM) told += 1;
        });
        const before = told;
        await broker.handBack(stream, group, "leaver", [{ id: entry?.id ?? "", attempt: 1 }]);
        await until("the notice came", () => told > before);
        await wakeups.close();
      });

      test("closing ends it, also at once and twice", async () => {
        const wakeups = broker.wakeups(() => {});
        wakeups.add(stream);
        await wakeups.close();
        await wakeups.close();
        wakeups.add(stream);
        const again = await reader(broker);
        await broker.createGroup(stream, group, "start");
        await again.drain();
        await broker.publish(numbered(stream, 1, 1));
        await until("a new one works", () => again.seen.length === 1);
        await again.close();
      });
    });

    test("two readers of one group never share an entry and together miss none, of 2,000", async () => {
      const total = 2_000;
      await broker.createGroup(stream, group, "start");
      const other = await under.second();
      const got: string[][] = [[], []];
      let published = 0;
      const publishing = (async () => {
        for (; published < total; published += 50) await broker.publish(numbered(stream, published, 50));
      })();
      const reading = [broker, other].map(async (from, at) => {
        while ((got[0]?.length ?? 0) + (got[1]?.length ?? 0) < total) {
          const entries = await read(`reader-${at}`, 20, group, from);
          got[at]?.push(...texts(entries).map((one) => one ?? ""));
          if (entries.length > 0)
            await from.acknowledge(
              stream,
              group,
              entries.map((entry) => entry.id),
            );
        }
      });
      await Promise.all([publishing, ...reading]);
      const all = got.flat();
      expect(all).toHaveLength(total);
      expect(new Set(all).size).toBe(total);
      expect(await pendingOf()).toEqual([]);
    }, 30_000);

    test("traces never throw, whatever they hold", async () => {
      const event = { event: "handler.completed", stream, message_id: "m", message_type: "T", status: "ok", timestamp: "t" };
      await broker.writeTraces("Fidelis", [event, { ...event, metadata: { odd: Symbol("x") } }], 7);
      await broker.writeTraces("Fidelis", [event], 0);
      await broker.writeTraces("Fidelis", [], 7);
    });

    test("it tells what it is, without a password, and that it is there", async () => {
      expect(broker.address).not.toContain("@");
      expect((await broker.ping()).length).toBeGreaterThan(0);
      expect(Array.isArray(await broker.setup())).toBe(true);
    });
  });
}
