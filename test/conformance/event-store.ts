/** The contract of `EventStore` (src/ports/event-store.ts), run for every adapter: `eventStoreConformance("sqlite", factory)`. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { ExpectedVersionError } from "../../src/errors.ts";
import { ALL_STREAMS, type Append, type EventStore, type StoredMessage } from "../../src/ports/event-store.ts";
import { until } from "../support/until.ts";

export interface EventStoreUnderTest {
  /** Empty, or holding only categories that no test names. */
  readonly store: EventStore;
  /** Another handle on the same data, as another process has it; closed by `dispose`. */
  second(): Promise<EventStore>;
  dispose(): Promise<void>;
}

const message = (stream: string, more: Partial<Append> = {}): Append => ({
  id: randomUUID(),
  stream,
  type: "Fidelis.DepositMade.v1",
  data: "{}",
  metadata: null,
  expectedVersion: null,
  ...more,
});
const positions = (messages: readonly StoredMessage[]) => messages.map(({ position }) => position);

export function eventStoreConformance(name: string, factory: () => Promise<EventStoreUnderTest>): void {
  describe(`event store contract: ${name}`, () => {
    let under: EventStoreUnderTest;
    let store: EventStore;
    let category: string;

    beforeEach(async () => {
      under = await factory();
      store = under.store;
      category = `c${randomUUID().replaceAll("-", "")}`;
    });
    afterEach(() => under.dispose());

    describe("appending", () => {
      test("positions of a stream begin at 0 and have no gaps; global positions grow", async () => {
        const first = await store.append([message(`${category}-1`), message(`${category}-2`)]);
        const second = await store.append([message(`${category}-1`)]);
        expect([...first, ...second].map(({ position }) => position)).toEqual([0, 0, 1]);
        const globals = [...first, ...second].map(({ globalPosition }) => globalPosition);
        expect(globals).toEqual([...globals].sort((a, b) => a - b));
        expect(new Set(globals).size).toBe(3);
        expect(globals[0]).toBeGreaterThanOrEqual(1);
      });

      test("what was written is read back as it was, with its time", async () => {
        const written = message(`${category}-1`, {
          data: '{"amount": 10.0, "name": "Ülkü 🚲", "big": 12345678901234567890}',
          metadata: '{"headers": {"id": "x"}}',
        });
        const [appended] = await store.append([written]);
        const [read] = await store.readStream(`${category}-1`, 0, 10);
        expect(JSON.parse(read?.data ?? "")).toEqual(JSON.parse(written.data));
        expect(JSON.parse(read?.metadata ?? "")).toEqual(JSON.parse(written.metadata ?? ""));
        expect(read?.data).toContain("10.0");
        expect(read?.data).toContain("12345678901234567890");
        expect(read).toMatchObject({
          id: written.id,
          stream: written.stream,
          type: written.type,
          position: 0,
          globalPosition: appended?.globalPosition ?? -1,
        });
        expect(read?.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00$/);
        expect(Math.abs(Date.parse(read?.time ?? "") - Date.now())).toBeLessThan(60_000);
      });

      test("metadata may be absent", async () => {
        await store.append([message(`${category}:snapshot-1`)]);
        expect((await store.lastOfStream(`${category}:snapshot-1`))?.metadata).toBeNull();
      });

      test("an expected version that holds is accepted, -1 for a stream that must not exist", async () => {
        const stream = `${category}-1`;
        await store.append([message(stream, { expectedVersion: -1 })]);
        await store.append([message(stream, { expectedVersion: 0 })]);
        expect(positions(await store.readStream(stream, 0, 10))).toEqual([0, 1]);
      });

      test("a wrong expected version is refused with both versions, and nothing of the call is written", async () => {
        const stream = `${category}-1`;
        await store.append([message(stream), message(stream)]);
        const attempt = store.append([message(`${category}-2`), message(stream, { expectedVersion: 0 })]);
        await expect(attempt).rejects.toThrow(`Wrong expected version: 0 (Stream: ${stream}, Stream Version: 1)`);
        await expect(attempt).rejects.toBeInstanceOf(ExpectedVersionError);
        await expect(store.append([message(`${category}-9`, { expectedVersion: 3 })])).rejects.toThrow(
          `Wrong expected version: 3 (Stream: ${category}-9, Stream Version: -1)`,
        );
        expect(await store.readStream(`${category}-2`, 0, 10)).toEqual([]);
        expect(positions(await store.readStream(stream, 0, 10))).toEqual([0, 1]);
      });

      test("inside one call later messages expect the version that earlier ones made", async () => {
        const stream = `${category}-1`;
        const appended = await store.append([-1, 0, 1].map((expectedVersion) => message(stream, { expectedVersion })));
        expect(appended.map(({ position }) => position)).toEqual([0, 1, 2]);
        await expect(
          store.append([message(stream, { expectedVersion: 2 }), message(stream, { expectedVersion: 2 })]),
        ).rejects.toBeInstanceOf(ExpectedVersionError);
        expect(positions(await store.readStream(stream, 0, 10))).toEqual([0, 1, 2]);
      });

      test("of two writers with one expected version exactly one wins", async () => {
        const stream = `${category}-1`;
        const other = await under.second();
        for (let round = -1; round < 9; round += 1) {
          const results = await Promise.allSettled([
            store.append([message(stream, { expectedVersion: round })]),
            other.append([message(stream, { expectedVersion: round })]),
          ]);
          expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
        }
        expect(await store.readStream(stream, 0, 100)).toHaveLength(10);
      });

      test("appending nothing does nothing", async () => {
        expect(await store.append([])).toEqual([]);
      });
    });

    describe("reading", () => {
      test("a stream is read from a position, inclusive, in order and never beyond the limit", async () => {
        const stream = `${category}-1`;
        await store.append(Array.from({ length: 5 }, () => message(stream)));
        expect(positions(await store.readStream(stream, 2, 10))).toEqual([2, 3, 4]);
        expect(positions(await store.readStream(stream, 1, 2))).toEqual([1, 2]);
        expect(await store.readStream(stream, 5, 10)).toEqual([]);
        expect(await store.readStream(`${category}-2`, 0, 10)).toEqual([]);
      });

      test("a category is the text before the first hyphen", async () => {
        const streams = [`${category}-1`, `${category}-fact-1`, `${category}:command-1`, `${category}x-1`, category];
        await store.append(streams.map((stream) => message(stream)));
        const read = await store.readCategory(category, 0, 10);
        expect(read.map(({ stream }) => stream)).toEqual([`${category}-1`, `${category}-fact-1`, category]);
        expect((await store.readCategory(`${category}:command`, 0, 10)).map(({ stream }) => stream)).toEqual([`${category}:command-1`]);
      });

      test("a category is read by global position, inclusive, in order and never beyond the limit", async () => {
        const appended = await store.append([1, 2, 3, 4].map((n) => message(`${category}-${n % 2}`)));
        const second = appended[1]?.globalPosition ?? 0;
        const read = await store.readCategory(category, second, 2);
        expect(read.map(({ globalPosition }) => globalPosition)).toEqual(appended.slice(1, 3).map(({ globalPosition }) => globalPosition));
      });

      test("positions are ordered as numbers, whatever their digits", async () => {
        const stream = `${category}-1`;
        const appended = await store.append(Array.from({ length: 25 }, () => message(stream)));
        const globals = appended.map(({ globalPosition }) => globalPosition);
        const first = globals[0] ?? 0;
        const numbers = Array.from({ length: 25 }, (_, n) => n);
        expect(positions(await store.readStream(stream, 0, 100))).toEqual(numbers);
        expect((await store.readCategory(category, first, 100)).map(({ globalPosition }) => globalPosition)).toEqual(globals);
        expect((await store.readCategory(ALL_STREAMS, first, 25)).map(({ globalPosition }) => globalPosition)).toEqual(globals);
        expect((await store.lastOfStream(stream))?.position).toBe(24);
        expect((await store.lastOfCategory(category))?.globalPosition).toBe(globals[24] ?? -1);
        expect((await store.lastOfCategory(ALL_STREAMS))?.globalPosition).toBe(globals[24] ?? -1);
      });

      test("$all is every category, by global position", async () => {
        const appended = await store.append([message(`${category}-1`), message(`x${category}-1`), message(`${category}-1`)]);
        const read = await store.readCategory(ALL_STREAMS, appended[0]?.globalPosition ?? 0, 3);
        expect(read.map(({ stream }) => stream)).toEqual([`${category}-1`, `x${category}-1`, `${category}-1`]);
      });

      test("the last message of a stream, of a category and of all is found", async () => {
        expect(await store.lastOfStream(`${category}-1`)).toBeNull();
        expect(await store.lastOfCategory(category)).toBeNull();
        const appended = await store.append([message(`${category}-1`), message(`${category}-2`), message(`x${category}-1`)]);
        expect((await store.lastOfStream(`${category}-1`))?.globalPosition).toBe(appended[0]?.globalPosition ?? -1);
        expect((await store.lastOfCategory(category))?.globalPosition).toBe(appended[1]?.globalPosition ?? -1);
        expect((await store.lastOfCategory(ALL_STREAMS))?.globalPosition).toBe(appended[2]?.globalPosition ?? -1);
      });

      test("heads of streams that exist come in one call", async () => {
        await store.append([message(`${category}-1`), message(`${category}-1`), message(`${category}-2`)]);
        const heads = await store.heads([`${category}-1`, `${category}-2`, `${category}-3`]);
        expect([...heads].sort()).toEqual([
          [`${category}-1`, 1],
          [`${category}-2`, 0],
        ]);
      });

      test("a category's streams are listed once each, sorted, page by page", async () => {
        const names = ["a", "b", "c", "fact-a"].map((id) => `${category}-${id}`);
        await store.append([...names, ...names].reverse().map((stream) => message(stream)));
        await store.append([message(`${category}:command-a`), message(`${category}x-a`)]);
        expect(await store.streams(category, null, 10)).toEqual(names);
        expect(await store.streams(category, null, 2)).toEqual(names.slice(0, 2));
        expect(await store.streams(category, names[1] ?? "", 10)).toEqual(names.slice(2));
        expect(await store.streams(`${category}none`, null, 10)).toEqual([]);
      });

      test("messages after a position are counted up to a cap", async () => {
        const appended = await store.append([1, 2, 3, 4].map((n) => message(`${category}-${n}`)));
        const first = appended[0]?.globalPosition ?? 0;
        expect(await store.countAfter(category, first, 10)).toBe(3);
        expect(await store.countAfter(category, 0, 2)).toBe(2);
        expect(await store.countAfter(ALL_STREAMS, first, 10)).toBe(3);
      });
    });

    test("who has read up to a global position never finds something new below it", async () => {
      const other = await under.second();
      const total = 200;
      const writing = [store, other].map(async (writer, at) => {
        for (let n = 0; n < total / 2; n += 1) await writer.append([message(`${category}-${at}-${n % 5}`)]);
      });
      const seen: number[] = [];
      let done = false;
      const reading = (async () => {
        for (;;) {
          const last = done;
          const page = await store.readCategory(category, (seen.at(-1) ?? 0) + 1, 7);
          seen.push(...page.map(({ globalPosition }) => globalPosition));
          if (last && page.length === 0) return;
          await new Promise((resolve) => setImmediate(resolve));
        }
      })();
      await Promise.all(writing);
      done = true;
      await reading;
      expect(seen).toHaveLength(total);
    }, 30_000);

    test("appends of this process and of another wake, until it is stopped", async () => {
      const other = await under.second();
      let wakes = 0;
      const stop = store.onAppend(() => {
        wakes += 1;
      });
      await store.append([message(`${category}-1`)]);
      await until("the own append wakes", () => wakes > 0);
      const before = wakes;
      await other.append([message(`${category}-1`)]);
      await until("another's append wakes", () => wakes > before);
      stop();
      const stopped = wakes;
      await store.append([message(`${category}-1`)]);
      await new Promise((resolve) => setImmediate(resolve));
      expect(wakes).toBe(stopped);
    });

    test("it says what it is, without a password, and answers a ping", async () => {
      expect(store.address).not.toContain("@");
      expect(store.identity.length).toBeGreaterThan(0);
      expect(await store.setup()).toEqual([]);
      await store.ping();
    });
  });
}
