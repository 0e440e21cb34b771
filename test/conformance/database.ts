/** The contract of `Database` (src/ports/database.ts), run for every adapter. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { ExpectedVersionError, ValidationError } from "../../src/errors.ts";
import {
  AlreadyProcessedError,
  type CommitSet,
  type Condition,
  type Database,
  LeaseLostError,
  type Lookup,
  ReservationLostError,
  type Row,
  type RowWrite,
  type Selection,
  type Table,
} from "../../src/ports/database.ts";
import type { Append, EventStore } from "../../src/ports/event-store.ts";
import type { OutboxInsert } from "../../src/ports/outbox-store.ts";

export interface DatabaseUnderTest {
  readonly database: Database;
  /** The event store in the same database; null where there is none. */
  readonly eventStore: EventStore | null;
  /** Another handle on the same data, as another process has it, with the same tables declared; closed by `dispose`. */
  second(): Promise<Database>;
  /** Lets this much time pass on the database's clock. */
  elapse(ms: number): Promise<void>;
  /** Columns of integers keep 32 bits and refuse more, as Python's do in PostgreSQL; default any size. */
  readonly integers?: "32 bits";
  dispose(): Promise<void>;
}

export const ACCOUNT: Table = {
  name: "account",
  element: "Account",
  key: "account_id",
  versioned: true,
  columns: [
    { name: "account_id", type: "string", required: true, unique: true },
    { name: "holder", type: "string", required: true, unique: false, maxLength: 100 },
    { name: "email", type: "string", required: false, unique: true },
    { name: "balance", type: "float", required: false, unique: false },
    { name: "overdraft", type: "integer", required: false, unique: false },
    { name: "rate", type: "decimal", required: false, unique: false, precision: 10, scale: 4 },
    { name: "active", type: "boolean", required: false, unique: false },
    { name: "opened_on", type: "date", required: false, unique: false },
    { name: "opened_at", type: "datetime", required: false, unique: false },
    { name: "notes", type: "text", required: false, unique: false },
    { name: "tags", type: "list", items: "string", required: false, unique: false },
    { name: "limits", type: "json", required: false, unique: false },
  ],
  indexes: [{ columns: ["holder", "active"], unique: false }],
};

export const SUMMARY: Table = {
  name: "account_summary",
  element: "AccountSummary",
  key: "account_id",
  versioned: false,
  columns: [
    { name: "account_id", type: "string", required: true, unique: true },
    { name: "deposits", type: "integer", required: false, unique: false },
    { name: "total", type: "float", required: false, unique: false },
    { name: "tags", type: "list", items: "float", required: false, unique: false },
    { name: "seen_at", type: "datetime", required: false, unique: false },
  ],
};

export const TABLES: readonly Table[] = [ACCOUNT, SUMMARY];

const EMPTY: CommitSet = { rows: [], appends: [], outbox: [], markers: [], fences: [] };
const all = (table: string, more: Partial<Selection> = {}): Selection => ({
  table,
  where: null,
  order: [],
  limit: null,
  offset: 0,
  ...more,
});
const is = (column: string, lookup: Lookup, value: Row[string]): Condition => ({ kind: "test", column, lookup, value });
const insert = (row: Row, table = "account"): RowWrite => ({ kind: "insert", table, row });
const account = (id: string, more: Row = {}): RowWrite => insert({ account_id: id, holder: "Ann", _version: 0, ...more });
const append = (stream: string, expectedVersion: number | null = null): Append => ({
  id: randomUUID(),
  stream,
  type: "Fidelis.DepositMade.v1",
  data: "{}",
  metadata: null,
  expectedVersion,
});
const outboxRow = (messageId: string): OutboxInsert => ({
  id: randomUUID(),
  messageId,
  streamName: "s-1",
  type: "T",
  data: "{}",
  metadata: "{}",
  correlationId: null,
  causationId: null,
  partitionKey: null,
  priority: 0,
  targetBroker: "default",
  maxRetries: 3,
});

export function databaseConformance(name: string, factory: () => Promise<DatabaseUnderTest>): void {
  describe(`database contract: ${name}`, () => {
    let under: DatabaseUnderTest;
    let database: Database;
    beforeEach(async () => {
      under = await factory();
      database = under.database;
      database.declare(TABLES);
      await database.setup();
    });
    afterEach(() => under.dispose());

    const write = (...rows: RowWrite[]) => database.commit({ ...EMPTY, rows });
    const keys = async (where: Condition | null, more: Partial<Selection> = {}) =>
      (await database.select(all("account", { where, order: [{ column: "account_id", descending: false }], ...more }), [])).map(
        (row) => row["account_id"],
      );

    describe("setup", () => {
      test("it makes what is missing once, and says what", async () => {
        const extra: Table = { ...SUMMARY, name: "extra" };
        database.declare([extra]);
        expect(await database.missing()).toEqual(["table extra"]);
        expect(await database.setup({ dryRun: true })).toEqual(["table extra"]);
        expect(await database.setup()).toEqual(["table extra"]);
        expect(await database.setup()).toEqual([]);
        expect(await database.missing()).toEqual([]);
      });

      test("a declared column and index that a table lacks are added, rows stay", async () => {
        await write(account("a"));
        database.declare([
          {
            ...ACCOUNT,
            columns: [...ACCOUNT.columns, { name: "nickname", type: "string", required: true, unique: false }],
            indexes: [...(ACCOUNT.indexes ?? []), { columns: ["nickname"], unique: false }],
          },
        ]);
        expect(await database.setup()).toEqual(["column account.nickname", "index ix_account_nickname"]);
        expect((await database.get("account", "a"))?.["nickname"]).toBeNull();
        await write(account("b", { nickname: "Bee" }));
        expect(await keys(is("nickname", "exact", "Bee"))).toEqual(["b"]);
      });

      test("two that set up at once don't disturb each other", async () => {
        const other = await under.second();
        const extra: Table = { ...SUMMARY, name: "raced" };
        for (const one of [database, other]) one.declare([extra]);
        await Promise.all([database.setup(), other.setup()]);
        expect(await other.missing()).toEqual([]);
      });

      test("a table that wasn't declared is named", async () => {
        await expect(database.select(all("nonsense"), [])).rejects.toThrow('"nonsense"');
      });
    });

    describe("values", () => {
      const FULL: Row = {
        account_id: "a",
        holder: "Ännchen 'Quote\" 🚲",
        email: "ann@example.org",
        balance: 10,
        overdraft: 9_007_199_254_740_993n,
        rate: "0.0125",
        active: true,
        opened_on: "2026-01-31",
        opened_at: "2026-01-31T09:30:00.123456+00:00",
        notes: "line one\nline two",
        tags: ["new", "é"],
        limits: { daily: 500, weekly: null, deep: { list: [1.5, "x", true] }, big: 9_007_199_254_740_993n },
        _version: 0,
      };

      test("every type comes back as it was written, big integers digit for digit", async () => {
        const full = under.integers === undefined ? FULL : { ...FULL, overdraft: 2_147_483_647 };
        await write(insert(full));
        expect(await database.get("account", "a")).toEqual(full);
      });

      test("an integer beyond the column is refused with the column's name", async () => {
        if (under.integers === undefined) return;
        await expect(write(insert(FULL))).rejects.toThrow("overdraft: 9007199254740993 is beyond");
        await expect(write(account("a", { overdraft: -2_147_483_649 }))).rejects.toBeInstanceOf(ValidationError);
      });

      test("an absent value is null", async () => {
        await write(account("a"));
        const row = await database.get("account", "a");
        for (const { name: column } of ACCOUNT.columns.slice(2)) expect(row?.[column]).toBeNull();
      });

      test("a time with another offset is the same point in time", async () => {
        await write(account("a", { opened_at: "2026-01-31T10:30:00+02:00" }));
        expect((await database.get("account", "a"))?.["opened_at"]).toBe("2026-01-31T08:30:00+00:00");
        expect(await keys(is("opened_at", "exact", "2026-01-31T08:30:00Z"))).toEqual(["a"]);
      });

      test("false, 0, empty text and empty lists are values", async () => {
        await write(account("a", { active: false, overdraft: 0, notes: "", tags: [], limits: {} }));
        expect(await database.get("account", "a")).toMatchObject({ active: false, overdraft: 0, notes: "", tags: [], limits: {} });
      });

      test("a row that isn't there is null", async () => {
        expect(await database.get("account", "nobody")).toBeNull();
      });
    });

    describe("versions and conflicts", () => {
      const update = (version: number, set: Row = { holder: "Bob" }): RowWrite => ({
        kind: "update",
        table: "account",
        key: "a",
        set,
        version,
      });

      test("an update with the stored version makes it one more and leaves other columns", async () => {
        await write(account("a", { balance: 5 }));
        await write(update(0));
        expect(await database.get("account", "a")).toMatchObject({ holder: "Bob", balance: 5, _version: 1 });
        await write(update(1, { balance: 6, _version: 77 }));
        expect(await database.get("account", "a")).toMatchObject({ balance: 6, _version: 2 });
      });

      test("an update with another version is refused with both, and nothing of the set is written", async () => {
        await write(account("a"));
        await write(update(0));
        const stale = database.commit({ ...EMPTY, rows: [account("b"), update(0, { holder: "Carl" })], outbox: [outboxRow("m1")] });
        await expect(stale).rejects.toThrow("Wrong expected version: 0 (Aggregate: Account(a), Version: 1)");
        await expect(stale).rejects.toBeInstanceOf(ExpectedVersionError);
        expect(await keys(null)).toEqual(["a"]);
        expect((await database.outbox.counts()).pending).toBe(0);
      });

      test("an update of a row that is gone is a conflict", async () => {
        await expect(write(update(3))).rejects.toThrow("Wrong expected version: 3 (Aggregate: Account(a), Version: -1)");
      });

      test("inserting a key that exists is a conflict", async () => {
        await write(account("a"));
        await write(update(0));
        const again = write(account("a"));
        await expect(again).rejects.toThrow("Wrong expected version: -1 (Aggregate: Account(a), Version: 1)");
        await expect(again).rejects.toBeInstanceOf(ExpectedVersionError);
      });

      test("of two who update one row at once exactly one wins", async () => {
        const other = await under.second();
        await write(account("a", { overdraft: 0 }));
        for (let version = 0; version < 10; version += 1) {
          const results = await Promise.allSettled(
            [database, other].map((one) => one.commit({ ...EMPTY, rows: [update(version, { overdraft: version })] })),
          );
          expect(results.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
        }
        expect((await database.get("account", "a"))?.["_version"]).toBe(10);
      });

      test("a row without version is guarded by the values that were loaded", async () => {
        const loaded: Row = { deposits: 1, total: 10, tags: [1, 2.5], seen_at: "2026-01-31T09:30:00+00:00" };
        await write(insert({ account_id: "a", ...loaded }, "account_summary"));
        const change = (total: number, was: Row): RowWrite => ({
          kind: "update",
          table: "account_summary",
          key: "a",
          set: { total },
          loaded: was,
        });
        await write(change(11, loaded));
        expect(await database.get("account_summary", "a")).toMatchObject({ deposits: 1, total: 11 });
        await expect(write(change(12, loaded))).rejects.toBeInstanceOf(ExpectedVersionError);
        await write(insert({ account_id: "b" }, "account_summary"));
        await write({ kind: "update", table: "account_summary", key: "b", set: { deposits: 1 }, loaded: { deposits: null, tags: null } });
        await expect(
          write({ kind: "update", table: "account_summary", key: "gone", set: { deposits: 1 }, loaded: {} }),
        ).rejects.toBeInstanceOf(ExpectedVersionError);
      });

      test("a unique value that exists is refused with the column's name", async () => {
        await write(account("a", { email: "x@y.z" }));
        const twice = write(account("b", { email: "x@y.z" }));
        await expect(twice).rejects.toBeInstanceOf(ValidationError);
        await expect(twice).rejects.toMatchObject({ messages: { email: ["Other with email 'x@y.z' is already present."] } });
        await write(account("c", { email: null }), account("d", { email: null }));
      });

      test("a required value that is missing is refused with the column's name", async () => {
        await expect(write(insert({ account_id: "a", _version: 0 }))).rejects.toMatchObject({ messages: { holder: ["is required"] } });
      });

      test("a row that is deleted is gone; deleting it again does nothing", async () => {
        await write(account("a"), account("b"));
        await write({ kind: "delete", table: "account", key: "a" });
        await write({ kind: "delete", table: "account", key: "a" });
        expect(await keys(null)).toEqual(["b"]);
      });

      test("sets of rows are changed and deleted by condition (D34)", async () => {
        await write(account("a", { overdraft: 1 }), account("b", { overdraft: 2 }), account("c", { overdraft: 3 }));
        await write({ kind: "updateWhere", table: "account", where: is("overdraft", "gte", 2), set: { notes: "rich", active: true } });
        expect(await keys(is("notes", "exact", "rich"))).toEqual(["b", "c"]);
        await write({ kind: "deleteWhere", table: "account", where: is("overdraft", "lt", 3) });
        expect(await keys(null)).toEqual(["c"]);
        await write({ kind: "deleteWhere", table: "account", where: null });
        expect(await keys(null)).toEqual([]);
      });
    });

    describe("one commit", () => {
      test("applies everything together", async () => {
        const lease = await database.leases.acquire("l", "me", 5_000);
        const set: CommitSet = {
          rows: [account("a")],
          appends: under.eventStore === null ? [] : [append("acc-a", -1), append("acc-a", 0)],
          outbox: [outboxRow("m1"), outboxRow("m2")],
          markers: [{ messageId: "cause", handler: "H.on" }],
          fences: lease === null ? [] : [lease],
        };
        const { appended } = await database.commit(set);
        if (under.eventStore !== null) {
          expect(appended.map(({ position }) => position)).toEqual([0, 1]);
          expect(await under.eventStore.readStream("acc-a", 0, 10)).toHaveLength(2);
        }
        expect(await keys(null)).toEqual(["a"]);
        expect((await database.outbox.counts()).pending).toBe(2);
        expect(await database.isProcessed([{ messageId: "cause", handler: "H.on" }])).toEqual([true]);
      });

      test("an idempotency key is noted with the commit, and not without it (rulings 14)", async () => {
        const noted = async (key: string) => {
          const reservation = { key, by: "us" };
          expect(await database.idempotency.reserve(reservation, 60_000)).toEqual({ state: "reserved" });
          return { key, reservation, result: { accepted: true }, ttl_ms: 60_000 };
        };
        await database.commit({ ...EMPTY, rows: [account("a")], keys: [await noted("first")] });
        expect(await database.idempotency.get("first")).toEqual({ state: "success", result: { accepted: true } });
        const second = await noted("second");
        await expect(database.commit({ ...EMPTY, rows: [account("a")], keys: [second] })).rejects.toBeInstanceOf(ExpectedVersionError);
        expect(await database.idempotency.get("second")).toEqual({ state: "pending" });
      });

      test("a commit changes nothing when its key isn't reserved for it any more: it came late, or its time ran out", async () => {
        const reservation = { key: "late", by: "us" };
        const late = { ...EMPTY, rows: [account("a")], keys: [{ key: "late", reservation, result: "accepted", ttl_ms: 60_000 }] };
        const isRefused = async () => {
          await expect(database.commit(late)).rejects.toBeInstanceOf(ReservationLostError);
          expect(await keys(null)).toEqual([]);
        };
        await isRefused();
        await database.idempotency.reserve(reservation, 60_000);
        await database.idempotency.release(reservation);
        await isRefused();
        await database.idempotency.reserve({ key: "late", by: "them" }, 60_000);
        await isRefused();
        await database.idempotency.succeed("late", "handled", 60_000);
        await isRefused();
        expect(await database.idempotency.get("late")).toEqual({ state: "success", result: "handled" });
      });

      test("the reservation of a second key lets a commit replace the mark of a failure", async () => {
        const reservation = { key: "failed:retry", by: "us" };
        await database.idempotency.fail("failed", 60_000);
        await database.idempotency.reserve(reservation, 60_000);
        await database.commit({ ...EMPTY, rows: [account("a")], keys: [{ key: "failed", reservation, result: 1, ttl_ms: 60_000 }] });
        expect(await database.idempotency.get("failed")).toEqual({ state: "success", result: 1 });
      });

      test("rows of the outbox that reconciliation added first don't stop the commit of messages that lie in another database", async () => {
        await database.outbox.insertMissing([outboxRow("m1")]);
        await database.commit({ ...EMPTY, rows: [account("a")], outbox: [outboxRow("m1"), outboxRow("m2")] });
        expect(await keys(null)).toEqual(["a"]);
        expect((await database.outbox.counts()).pending).toBe(2);
      });

      test("an append that conflicts undoes all", async () => {
        if (under.eventStore === null) return;
        await under.eventStore.append([append("acc-a")]);
        const late = database.commit({ ...EMPTY, rows: [account("a")], appends: [append("acc-b"), append("acc-a", -1)] });
        await expect(late).rejects.toThrow("Wrong expected version: -1 (Stream: acc-a, Stream Version: 0)");
        expect(await keys(null)).toEqual([]);
        expect(await under.eventStore.readStream("acc-b", 0, 10)).toEqual([]);
      });

      test("a marker that exists undoes all, of many at once exactly one gets through", async () => {
        const other = await under.second();
        const marker = { messageId: "m", handler: "H.on" };
        const results = await Promise.allSettled(
          Array.from({ length: 6 }, (_, at) =>
            (at % 2 === 0 ? database : other).commit({ ...EMPTY, rows: [account(`a${at}`)], markers: [marker] }),
          ),
        );
        const refused = results.filter((result) => result.status === "rejected");
        expect(refused).toHaveLength(5);
        for (const { reason } of refused) expect(reason).toBeInstanceOf(AlreadyProcessedError);
        expect(await keys(null)).toHaveLength(1);
        expect(await database.isProcessed([marker, { ...marker, handler: "H.other" }])).toEqual([true, false]);
      });

      test("a fence of a lease that was lost or ran out undoes all", async () => {
        const lease = await database.leases.acquire("l", "old", 100);
        if (lease === null) throw new Error("it was free");
        await under.elapse(150);
        const late = () => database.commit({ ...EMPTY, rows: [account("late")], fences: [lease] });
        await expect(late()).rejects.toBeInstanceOf(LeaseLostError);
        const current = await database.leases.acquire("l", "new", 5_000);
        await expect(late()).rejects.toBeInstanceOf(LeaseLostError);
        await database.commit({ ...EMPTY, rows: [account("good")], fences: current === null ? [] : [current] });
        expect(await keys(null)).toEqual(["good"]);
      });

      test("an empty one is fine", async () => {
        expect(await database.commit(EMPTY)).toEqual({ appended: [] });
      });

      test("old markers are pruned, at most so many", async () => {
        await database.commit({ ...EMPTY, markers: ["1", "2", "3"].map((messageId) => ({ messageId, handler: "h" })) });
        expect(await database.pruneMarkers(1_000, 10)).toBe(0);
        await under.elapse(1_100);
        expect(await database.pruneMarkers(1_000, 2)).toBe(2);
        expect(await database.pruneMarkers(1_000, 2)).toBe(1);
      });
    });

    describe("selecting", () => {
      beforeEach(() =>
        write(
          account("a", {
            holder: "Ann",
            balance: 10.5,
            overdraft: 1,
            active: true,
            notes: "50% off_ERS",
            tags: ["x", "y"],
            rate: "1.5000",
          }),
          account("b", { holder: "ÄNNE", balance: 20, overdraft: 2, active: false, notes: "plain", tags: ["y", "z"] }),
          account("c", { holder: "Carl", balance: null, overdraft: 3, active: null, opened_on: "2026-03-01", tags: [] }),
        ).then(() => undefined),
      );

      const CASES: readonly [Lookup, string, Row[string], readonly string[]][] = [
        ["exact", "holder", "Ann", ["a"]],
        ["exact", "holder", "ann", []],
        ["exact", "active", false, ["b"]],
        ["exact", "balance", 20, ["b"]],
        ["exact", "rate", "1.5", ["a"]],
        ["exact", "tags", ["x", "y"], ["a"]],
        ["exact", "balance", null, ["c"]],
        ["iexact", "holder", "änne", ["b"]],
        ["iexact", "holder", "ANN", ["a"]],
        ["contains", "holder", "ar", ["c"]],
        ["contains", "holder", "AR", []],
        ["contains", "notes", "0% o", ["a"]],
        ["contains", "notes", "f_E", ["a"]],
        ["contains", "notes", "5_%", []],
        ["contains", "tags", "y", ["a", "b"]],
        ["icontains", "holder", "nn", ["a", "b"]],
        ["icontains", "holder", "änN", ["b"]],
        ["startswith", "holder", "Ca", ["c"]],
        ["startswith", "holder", "ca", []],
        ["startswith", "notes", "50%", ["a"]],
        ["startswith", "notes", "5%", []],
        ["endswith", "holder", "rl", ["c"]],
        ["endswith", "holder", "", ["a", "b", "c"]],
        ["endswith", "notes", "_ERS", ["a"]],
        ["gt", "balance", 10.5, ["b"]],
        ["gte", "balance", 10.5, ["a", "b"]],
        ["lt", "overdraft", 2, ["a"]],
        ["lte", "overdraft", 2, ["a", "b"]],
        ["gt", "opened_on", "2026-02-28", ["c"]],
        ["in", "overdraft", [1, 3, 99], ["a", "c"]],
        ["in", "overdraft", [], []],
        ["in", "balance", [20, null], ["b", "c"]],
        ["any", "tags", "z", ["b"]],
        ["any", "overdraft", [2], ["b"]],
        ["overlap", "tags", ["x", "z"], ["a", "b"]],
        ["overlap", "tags", [], []],
        ["isnull", "balance", true, ["c"]],
        ["isnull", "balance", false, ["a", "b"]],
      ];
      for (const [lookup, column, value, expected] of CASES) {
        test(`${column}__${lookup} = ${JSON.stringify(value)} finds ${expected.join(", ") || "nothing"}`, async () => {
          expect(await keys(is(column, lookup, value))).toEqual([...expected]);
          const rest = ["a", "b", "c"].filter((key) => !expected.includes(key));
          expect(await keys({ kind: "not", of: is(column, lookup, value) })).toEqual(rest);
        });
      }

      test("conditions are combined by and, or, not, also empty ones", async () => {
        const young = is("overdraft", "lt", 3);
        const active = is("active", "exact", true);
        expect(await keys({ kind: "and", of: [young, active] })).toEqual(["a"]);
        expect(await keys({ kind: "or", of: [is("overdraft", "exact", 3), active] })).toEqual(["a", "c"]);
        expect(await keys({ kind: "and", of: [young, { kind: "not", of: active }] })).toEqual(["b"]);
        expect(await keys({ kind: "and", of: [] })).toEqual(["a", "b", "c"]);
        expect(await keys({ kind: "or", of: [] })).toEqual([]);
      });

      test("rows come in the order asked for, ties by key, in pages without overlap", async () => {
        await write(account("d", { overdraft: 2 }), account("e", { overdraft: 2 }));
        const order = [{ column: "overdraft", descending: true }];
        expect(await keys(null, { order })).toEqual(["c", "b", "d", "e", "a"]);
        expect(await keys(null, { order, limit: 2, offset: 1 })).toEqual(["b", "d"]);
        expect(await keys(null, { order, limit: 2, offset: 3 })).toEqual(["e", "a"]);
        expect(await keys(null, { order: [], offset: 3 })).toEqual(["d", "e"]);
        expect(await keys(null, { limit: 0 })).toEqual([]);
      });

      test("count counts what matches, whatever the page", async () => {
        expect(await database.count(all("account", { where: is("overdraft", "gte", 2), limit: 1, offset: 1 }), [])).toBe(2);
      });

      test("a column that doesn't exist is named; values are never read as SQL", async () => {
        await expect(keys(is("nonsense", "exact", 1))).rejects.toThrow("nonsense");
        await expect(database.select(all("account", { order: [{ column: "nope", descending: false }] }), [])).rejects.toThrow("nope");
        expect(await keys(is("holder", "exact", "' OR 1=1 --"))).toEqual([]);
        await write(account("'; DROP TABLE account; --"));
        expect(await keys(null)).toHaveLength(4);
      });

      test("with pending writes it sees them as if they were applied, and changes nothing", async () => {
        const pending: RowWrite[] = [
          account("p", { overdraft: 9 }),
          { kind: "update", table: "account", key: "a", set: { overdraft: 8 }, version: 0 },
          { kind: "delete", table: "account", key: "b" },
        ];
        const order = [{ column: "account_id", descending: false }];
        const seen = await database.select(all("account", { order }), pending);
        expect(seen.map((row) => [row["account_id"], row["overdraft"], row["_version"]])).toEqual([
          ["a", 8, 1],
          ["c", 3, 0],
          ["p", 9, 0],
        ]);
        expect(await database.count(all("account", { where: is("overdraft", "gte", 8) }), pending)).toBe(2);
        expect(await keys(null)).toEqual(["a", "b", "c"]);
        expect((await database.get("account", "a"))?.["overdraft"]).toBe(1);
      });
    });

    test("it says what it is, without a password, and answers a ping", async () => {
      expect(database.address).not.toContain("@");
      expect(database.identity).toBe((await under.second()).identity);
      if (under.eventStore !== null) expect(under.eventStore.identity).toBe(database.identity);
      await database.ping();
    });
  });
}
