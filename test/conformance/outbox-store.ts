/** The contract of `OutboxStore` (src/ports/outbox-store.ts), run for every adapter. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import type { OutboxInsert, OutboxRow, OutboxStore } from "../../src/ports/outbox-store.ts";
import { until } from "../support/until.ts";

export interface OutboxUnderTest {
  readonly outbox: OutboxStore;
  /** Another handle on the same data; closed by `dispose`. */
  second(): Promise<OutboxStore>;
  /** Commits a unit of work with these rows. */
  commit(rows: readonly OutboxInsert[]): Promise<void>;
  /** Lets this much time pass on the database's clock (a server's rows can be dated back instead of waiting). */
  elapse(ms: number): Promise<void>;
  dispose(): Promise<void>;
}

const NOTHING = { published: [], failed: [], abandoned: [], released: [] } as const;
const LOCK_ms = 5_000;

export function outboxConformance(name: string, factory: () => Promise<OutboxUnderTest>): void {
  describe(`outbox contract: ${name}`, () => {
    let under: OutboxUnderTest;
    let outbox: OutboxStore;
    beforeEach(async () => {
      under = await factory();
      outbox = under.outbox;
    });
    afterEach(() => under.dispose());

    const row = (messageId: string, streamName = "bank::account-1", more: Partial<OutboxInsert> = {}): OutboxInsert => ({
      id: randomUUID(),
      messageId,
      streamName,
      type: "Fidelis.DepositMade.v1",
      data: '{"amount": 10.0}',
      metadata: '{"headers": {"id": "Ülkü"}}',
      correlationId: null,
      causationId: null,
      partitionKey: null,
      priority: 0,
      targetBroker: "default",
      maxRetries: 3,
      ...more,
    });
    const claim = (owner = "a", limit = 10, from = outbox, broker = "default") => from.claim({ broker, limit, owner, lock_ms: LOCK_ms });
    const ids = (rows: readonly OutboxRow[]) => rows.map(({ messageId }) => messageId);
    const publish = (owner: string, rows: readonly OutboxRow[], from = outbox) =>
      from.settle(owner, { ...NOTHING, published: rows.map(({ id }) => ({ id, entryId: "1-1" })) });
    const fail = (owner: string, rows: readonly OutboxRow[], retryIn_ms: number) =>
      outbox.settle(owner, { ...NOTHING, failed: rows.map(({ id }) => ({ id, error: "no route", retryIn_ms })) });

    describe("claiming", () => {
      test("a claimed row has all that was committed and is locked", async () => {
        const written = row("m1", "bank::account-1", { correlationId: "c", causationId: "d", partitionKey: "p", priority: 7 });
        await under.commit([written]);
        const [claimed] = await claim("worker");
        const { metadata, ...columns } = written;
        expect(claimed).toMatchObject({ ...columns, status: "processing", retryCount: 0, lockedBy: "worker", lastError: null });
        // Kept as a value, not as a text: Python's tables have a pickle here.
        expect(JSON.parse(claimed?.metadata ?? "")).toEqual(JSON.parse(metadata));
        expect(claimed?.createdAt).toMatch(/^\d{4}-\d\d-\d\dT.*\+00:00$/);
        expect(await outbox.owners()).toEqual(["worker"]);
      });

      test("rows of one stream come in commit order, over several commits and batches", async () => {
        for (let n = 0; n < 6; n += 2) await under.commit([row(`m${n}`), row(`m${n + 1}`)]);
        const first = await claim("a", 4);
        expect(ids(first)).toEqual(["m0", "m1", "m2", "m3"]);
        await publish("a", first);
        expect(ids(await claim("a", 4))).toEqual(["m4", "m5"]);
      });

      test("a row is given to nobody else before its lock runs out, then to anybody (G26)", async () => {
        await under.commit([row("m1")]);
        expect(ids(await claim("a"))).toEqual(["m1"]);
        expect(await claim("b")).toEqual([]);
        expect(await claim("a")).toEqual([]);
        await under.elapse(LOCK_ms + 10);
        expect(ids(await claim("b"))).toEqual(["m1"]);
      });

      test("nothing is given of a stream whose earlier row another one holds; other streams go on", async () => {
        await under.commit([row("a1", "s-a"), row("b1", "s-b"), row("a2", "s-a"), row("b2", "s-b")]);
        expect(ids(await claim("first", 1))).toEqual(["a1"]);
        expect(ids(await claim("second"))).toEqual(["b1", "b2"]);
      });

      test("nothing is given of a stream whose earlier row waits for its retry (B12)", async () => {
        await under.commit([row("a1", "s-a"), row("a2", "s-a"), row("b1", "s-b")]);
        const [a1] = await claim("a", 1);
        await fail("a", a1 === undefined ? [] : [a1], 60_000);
        expect(ids(await claim("a"))).toEqual(["b1"]);
        await under.elapse(60_100);
        expect(ids(await claim("a"))).toEqual(["a1", "a2", "b1"]);
      });

      test("with two engines and a row that fails first, the order of its stream is kept (B12, G31)", async () => {
        const other = await under.second();
        await under.commit(Array.from({ length: 6 }, (_, n) => row(`m${n}`)));
        const published: string[] = [];
        let failures = 2;
        for (let round = 0; published.length < 6; round += 1) {
          if (round > 50) throw new Error(`stuck after ${published.join(", ")}`);
          const [owner, from] = round % 2 === 0 ? (["a", outbox] as const) : (["b", other] as const);
          const rows = await claim(owner, 3, from);
          if (rows[0]?.messageId === "m1" && failures > 0) {
            // As a publisher does: the row that fails, and those behind it given back.
            failures -= 1;
            await from.settle(owner, {
              ...NOTHING,
              failed: [{ id: rows[0].id, error: "no", retryIn_ms: 1_000 }],
              released: rows.slice(1).map(({ id }) => id),
            });
            await under.elapse(400);
            continue;
          }
          const good = rows.slice(0, 1);
          published.push(...ids(good));
          await from.settle(owner, {
            ...NOTHING,
            published: good.map(({ id }) => ({ id, entryId: "1-1" })),
            released: rows.slice(1).map(({ id }) => id),
          });
          if (rows.length === 0) await under.elapse(400);
        }
        expect(published).toEqual(["m0", "m1", "m2", "m3", "m4", "m5"]);
        expect(failures).toBe(0);
      });

      test("a higher priority moves its stream forward, never a row inside its stream (D27)", async () => {
        await under.commit([
          row("a1", "s-a"),
          row("b1", "s-b"),
          row("c1", "s-c", { priority: 5 }),
          row("b2", "s-b", { priority: 9 }),
          row("a2", "s-a"),
        ]);
        expect(ids(await claim("a"))).toEqual(["b1", "b2", "c1", "a1", "a2"]);
      });

      test("each broker has rows of its own, also of one message", async () => {
        await under.commit([row("m1"), row("m1", "bank::account-1", { targetBroker: "partner" })]);
        expect((await claim("a", 10, outbox, "partner")).map(({ targetBroker }) => targetBroker)).toEqual(["partner"]);
        expect((await claim("a")).map(({ targetBroker }) => targetBroker)).toEqual(["default"]);
      });

      test("behind a long backlog of one held stream the others are found", async () => {
        await under.commit(Array.from({ length: 200 }, (_, n) => row(`held${n}`, "s-held")));
        const [head] = await claim("a", 1);
        await fail("a", head === undefined ? [] : [head], 60_000);
        await under.commit([row("free", "s-free")]);
        expect(ids(await claim("a", 5))).toEqual(["free"]);
      });

      test("two claimers share 1,000 rows: each row once, each stream in order", async () => {
        const other = await under.second();
        const total = 1_000;
        const streams = 25;
        await under.commit(Array.from({ length: total }, (_, n) => row(`m${n}`, `s-${n % streams}`)));
        const order: OutboxRow[] = [];
        await Promise.all(
          [outbox, other].map(async (from, at) => {
            while (order.length < total) {
              const rows = await claim(`owner-${at}`, 20, from);
              order.push(...rows);
              await publish(`owner-${at}`, rows, from);
              if (rows.length === 0) await new Promise((resolve) => setImmediate(resolve));
            }
          }),
        );
        expect(new Set(ids(order)).size).toBe(total);
        expect(order).toHaveLength(total);
        for (let stream = 0; stream < streams; stream += 1) {
          const of = order.filter(({ streamName }) => streamName === `s-${stream}`).map(({ messageId }) => Number(messageId.slice(1)));
          expect(of).toEqual([...of].sort((a, b) => a - b));
        }
        expect((await outbox.counts()).published).toBe(total);
      }, 30_000);
    });

    describe("settling", () => {
      test("published rows are done, and remember the broker's id", async () => {
        await under.commit([row("m1")]);
        await publish("a", await claim("a"));
        expect(await claim("a")).toEqual([]);
        const [done] = await outbox.list({ status: "published", limit: 10 });
        expect(done).toMatchObject({ messageId: "m1", lockedBy: null, lastError: null });
        expect(done?.publishedAt).toMatch(/\+00:00$/);
        expect(await outbox.owners()).toEqual([]);
      });

      test("a failed row is due again after its pause, with one retry more and its error", async () => {
        await under.commit([row("m1")]);
        await fail("a", await claim("a"), 2_000);
        expect(await claim("a")).toEqual([]);
        const due_ms = await outbox.nextDue_ms("default");
        expect(due_ms).toBeGreaterThan(0);
        expect(due_ms).toBeLessThanOrEqual(2_000);
        await under.elapse(2_050);
        expect(await outbox.nextDue_ms("default")).toBe(0);
        const [again] = await claim("a");
        expect(again).toMatchObject({ messageId: "m1", retryCount: 1, lastError: "no route" });
      });

      test("a failed row comes back however often it failed: giving up is the publisher's decision (G10)", async () => {
        await under.commit([row("m1", "s", { maxRetries: 1 })]);
        for (let n = 0; n < 3; n += 1) await fail("a", await claim("a"), 0);
        expect((await claim("a"))[0]?.retryCount).toBe(3);
      });

      test("an abandoned row is out, and those behind it go on", async () => {
        await under.commit([row("m1"), row("m2")]);
        const [first] = await claim("a", 1);
        await outbox.settle("a", { ...NOTHING, abandoned: [{ id: first?.id ?? "", error: "no", reason: "Max retries exceeded" }] });
        expect(ids(await claim("a"))).toEqual(["m2"]);
        expect(await outbox.list({ status: "abandoned", limit: 10 })).toMatchObject([{ messageId: "m1", lastError: "no" }]);
      });

      test("a released row can be claimed at once and used up no attempt", async () => {
        await under.commit([row("m1")]);
        const rows = await claim("a");
        await outbox.settle("a", { ...NOTHING, released: rows.map(({ id }) => id) });
        expect((await outbox.counts()).pending).toBe(1);
        expect(await claim("b")).toMatchObject([{ messageId: "m1", retryCount: 0 }]);
      });

      test("who lost a row to another can't settle it any more", async () => {
        await under.commit([row("m1")]);
        const rows = await claim("slow");
        await under.elapse(LOCK_ms + 10);
        await claim("quick");
        await publish("slow", rows);
        expect((await outbox.counts()).processing).toBe(1);
        expect(await outbox.owners()).toEqual(["quick"]);
      });

      test("the locks of a dead owner are freed at once", async () => {
        await under.commit([row("m1"), row("m2", "s-2")]);
        await claim("dead", 1);
        await claim("alive", 1);
        expect(await outbox.releaseOwner("dead")).toBe(1);
        expect(ids(await claim("heir"))).toEqual(["m1"]);
        expect([...(await outbox.owners())].sort()).toEqual(["alive", "heir"]);
      });

      test("the next due time is that of the lock, and none without rows", async () => {
        expect(await outbox.nextDue_ms("default")).toBeNull();
        await under.commit([row("m1")]);
        expect(await outbox.nextDue_ms("default")).toBeNull();
        await claim("a");
        expect(await outbox.nextDue_ms("default")).toBeGreaterThan(LOCK_ms - 1_000);
        expect(await outbox.nextDue_ms("other")).toBeNull();
      });
    });

    describe("looking and repairing", () => {
      test("missing rows are added once, however many try (G26)", async () => {
        const other = await under.second();
        await under.commit([row("m1")]);
        expect(await outbox.present(["m1", "m2"], "default")).toEqual(new Set(["m1"]));
        expect(await outbox.present(["m1"], "partner")).toEqual(new Set());
        const counts = await Promise.all([outbox, other].map((one) => one.insertMissing([row("m1"), row("m2"), row("m3")])));
        expect(counts.reduce((sum, n) => sum + n, 0)).toBe(2);
        expect(ids(await claim("a"))).toEqual(["m1", "m2", "m3"]);
      });

      test("rows are counted by state, with the age of the oldest that is unfinished", async () => {
        expect(await outbox.counts()).toEqual({ pending: 0, processing: 0, published: 0, failed: 0, abandoned: 0, oldest_ms: null });
        await under.commit([row("m1", "s-1"), row("m2", "s-2"), row("m3", "s-3", { targetBroker: "partner" })]);
        await publish("a", await claim("a", 1));
        await under.elapse(100);
        const counts = await outbox.counts();
        expect(counts).toMatchObject({ pending: 2, processing: 0, published: 1 });
        expect(counts.oldest_ms).toBeGreaterThanOrEqual(100);
        expect((await outbox.counts("partner")).pending).toBe(1);
      });

      test("rows are listed by state in pages", async () => {
        await under.commit(["m1", "m2", "m3"].map((id) => row(id)));
        const page = await outbox.list({ status: "pending", limit: 2 });
        expect(ids(page)).toEqual(["m1", "m2"]);
        expect(ids(await outbox.list({ status: "pending", limit: 2, after: page[1]?.id ?? "" }))).toEqual(["m3"]);
        expect(ids(await outbox.list({ limit: 10 }))).toEqual(["m1", "m2", "m3"]);
      });

      test("failed and abandoned rows are put back to pending, some or all", async () => {
        await under.commit(["m1", "m2", "m3"].map((id) => row(id, `s-${id}`)));
        const rows = await claim("a");
        await outbox.settle("a", {
          ...NOTHING,
          failed: rows.slice(0, 2).map(({ id }) => ({ id, error: "no", retryIn_ms: 60_000 })),
          abandoned: rows.slice(2).map(({ id }) => ({ id, error: "no", reason: "Max retries exceeded" })),
        });
        expect(await outbox.retry([rows[0]?.id ?? ""])).toBe(1);
        expect(await claim("a")).toMatchObject([{ messageId: "m1", retryCount: 0 }]);
        expect(await outbox.retry(null)).toBe(2);
        expect(ids(await claim("a"))).toEqual(["m2", "m3"]);
      });

      test("rows that the broker turns out to have are done, whatever state they were in; those that are done stay as they are", async () => {
        await under.commit(["m1", "m2", "m3"].map((id) => row(id, `s-${id}`)));
        const [first, second, third] = await outbox.list({ limit: 10 });
        await publish("a", await claim("a", 1));
        await fail("a", await claim("a", 1), 60_000);
        const found = [first, second, third].map((one) => ({ id: one?.id ?? "", entryId: "7-1" }));
        expect(await outbox.notePublished(found)).toBe(2);
        expect(await outbox.notePublished(found)).toBe(0);
        expect(await outbox.counts()).toMatchObject({ published: 3, pending: 0, failed: 0 });
        expect(await claim("b")).toEqual([]);
        expect(await outbox.publishedAbove("default", new Map([["s", "7-0"]]))).toEqual([second?.id ?? "", third?.id ?? ""]);
      });

      test("rows above the newest id of their category are found, in commit order, and published again", async () => {
        await under.commit([
          row("a1", "a-1"),
          row("a2", "a-2"),
          row("b1", "b-1"),
          row("p1", "a-1", { targetBroker: "partner" }),
          row("c", "c"),
        ]);
        const rows = await claim("a");
        // 10 comes after 9, though its text doesn't.
        const entryIds = ["9-1", "10-0", "5-2", "5-10"];
        await outbox.settle("a", { ...NOTHING, published: rows.map(({ id }, at) => ({ id, entryId: entryIds[at] ?? "" })) });
        const above = async (...newest: [string, string][]) => {
          const found = await outbox.publishedAbove("default", new Map(newest));
          return (await outbox.list({ limit: 10 })).filter(({ id }) => found.includes(id)).map(({ messageId }) => messageId);
        };
        expect(await above(["a", "9-1"], ["b", "5-2"], ["c", "5-10"])).toEqual(["a2"]);
        expect(await above(["a", "9-0"], ["c", "5-9"])).toEqual(["a1", "a2", "c"]);
        expect(await above(["a", "0-0"])).toEqual(["a1", "a2"]);
        expect(await above()).toEqual([]);
        const lost = await outbox.publishedAbove("default", new Map([["a", "0-0"]]));
        expect(await outbox.publishAgain(lost)).toBe(2);
        expect(await outbox.publishAgain(lost)).toBe(0);
        expect(await claim("b")).toMatchObject([
          { messageId: "a1", status: "processing", publishedAt: null, retryCount: 0 },
          { messageId: "a2", publishedAt: null },
        ]);
      });

      test("old published and abandoned rows are cleaned up, at most so many; unfinished ones never", async () => {
        await under.commit(["m1", "m2", "m3", "m4"].map((id) => row(id, `s-${id}`)));
        const rows = await claim("a", 3);
        await outbox.settle("a", {
          ...NOTHING,
          published: rows.slice(0, 2).map(({ id }) => ({ id, entryId: "1-1" })),
          abandoned: rows.slice(2).map(({ id }) => ({ id, error: "no", reason: "r" })),
        });
        const ages = { published_ms: 1_000, abandoned_ms: 3_000 };
        expect(await outbox.cleanup({ ...ages, limit: 10 })).toBe(0);
        await under.elapse(1_100);
        expect(await outbox.cleanup({ ...ages, limit: 1 })).toBe(1);
        expect(await outbox.cleanup({ ...ages, limit: 10 })).toBe(1);
        await under.elapse(2_000);
        expect(await outbox.cleanup({ ...ages, limit: 10 })).toBe(1);
        expect(ids(await outbox.list({ limit: 10 }))).toEqual(["m4"]);
      });

      test("order is kept after a cleanup that removed the newest rows", async () => {
        await under.commit([row("m1"), row("m2", "s-2")]);
        const rows = await claim("a");
        await outbox.settle("a", {
          ...NOTHING,
          published: rows.slice(1).map(({ id }) => ({ id, entryId: "1-1" })),
          released: [rows[0]?.id ?? ""],
        });
        await under.elapse(10);
        await outbox.cleanup({ published_ms: 0, abandoned_ms: 0, limit: 10 });
        await under.commit([row("m3"), row("m4")]);
        expect(ids(await claim("a"))).toEqual(["m1", "m3", "m4"]);
      });

      test("new rows wake, those of this process and of another, and so do rows put back", async () => {
        const other = await under.second();
        let wakes = 0;
        const woken = async (what: string, act: () => Promise<unknown>) => {
          const before = wakes;
          await act();
          await until(`${what} wakes`, () => wakes > before);
        };
        const stop = outbox.onInsert(() => {
          wakes += 1;
        });
        await woken("a commit", () => under.commit([row("m1")]));
        await woken("another's row", () => other.insertMissing([row("m2")]));
        const rows = await claim("a");
        await fail("a", rows, 60_000);
        await woken("a retry", () => other.retry(null));
        stop();
      });
    });
  });
}
