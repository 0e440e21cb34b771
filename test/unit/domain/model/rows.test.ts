/** Elements to and from rows, what a save writes, and conditions of queries. */
import { beforeAll, describe, expect, test } from "bun:test";
import { markSaved, metaOf, stateOf } from "../../../../src/domain/instance.ts";
import { columnsOf, conditionOf, fromRows, rowWrites, tablesOf } from "../../../../src/domain/rows.ts";
import { and, Domain, f, not, or } from "../../../../src/mod.ts";
import type { Row } from "../../../../src/ports/database.ts";
import { bench } from "../execution/bank.ts";

const d = new Domain("Corner Bank");
class Ceiling extends d.valueObject("Ceiling", { fields: { amount: f.float(), currency: f.string({ maxLength: 3, optional: true }) } }) {}
class Beneficiary extends d.entity("Beneficiary", { fields: { name: f.string(), iban: f.string({ optional: true }) } }) {}
class Touched extends d.event("Touched", { fields: {} }) {}
class Account extends d.aggregate("Account", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    holder: f.string({ maxLength: 100 }),
    balance: f.float({ default: 0 }),
    rate: f.decimal({ precision: 10, scale: 4, optional: true }),
    openedAt: f.dateTime({ optional: true }),
    changedAt: f.dateTime({ autoNow: true }),
    madeAt: f.dateTime({ autoNowAdd: true }),
    tags: f.list(f.string()),
    limits: f.dict<number | null>(),
    ceiling: f.valueObject(Ceiling, { optional: true }),
    beneficiaries: f.hasMany(Beneficiary),
    renamed: f.string({ optional: true, referencedAs: "legacy" }),
    email: f.string({ optional: true, unique: true }),
  },
  events: [Touched],
}) {}
class Summary extends d.projection("AccountSummary", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    balance: f.float({ default: 0 }),
    seen: f.dateTime({ optional: true }),
    note: f.text({ optional: true }),
  },
}) {}
const account = metaOf(Account);
const stored: Row = {
  account_id: "a1",
  holder: "Ann",
  balance: 13,
  rate: "0.0125",
  opened_at: "2026-01-31T09:30:00.000123+00:00",
  changed_at: null,
  made_at: "2026-01-01T00:00:00+00:00",
  tags: ["new"],
  limits: { daily: 500, weekly: null },
  ceiling_amount: 0,
  ceiling_currency: null,
  legacy: "x",
  email: null,
  _version: 4,
};
const children = new Map([
  [
    "beneficiary",
    [
      { id: "b1", name: "Bob", iban: null, account_account_id: "a1" },
      { id: "b9", name: "Zed", iban: null, account_account_id: "other" },
    ],
  ],
]);
const load = (): Account => fromRows(account, stored, children) as Account;

beforeAll(async () => {
  d.useStores((await bench()).stores);
});

describe("tables", () => {
  test("have one column per field, value objects flattened, children apart with their parent's column", () => {
    const [root, child] = tablesOf(account);
    expect([root?.name, root?.key, root?.versioned]).toEqual(["account", "account_id", true]);
    expect(root?.columns.map(({ name }) => name)).toEqual([
      "account_id",
      "holder",
      "balance",
      "rate",
      "opened_at",
      "changed_at",
      "made_at",
      "tags",
      "limits",
      "ceiling_amount",
      "ceiling_currency",
      "legacy",
      "email",
    ]);
    const column = (name: string) => root?.columns.find((candidate) => candidate.name === name);
    expect(column("holder")).toEqual({ name: "holder", type: "string", required: true, unique: false, maxLength: 100 });
    expect(column("rate")).toEqual({ name: "rate", type: "decimal", required: false, unique: false, precision: 10, scale: 4 });
    expect(column("tags")).toEqual({ name: "tags", type: "list", required: false, unique: false, items: "string" });
    expect(column("email")?.unique).toBe(true);
    // Inside an optional value object nothing is required.
    expect(column("ceiling_amount")?.required).toBe(false);
    expect([child?.name, child?.parentColumn, child?.versioned, child?.columns.map(({ name }) => name)]).toEqual([
      "beneficiary",
      "account_account_id",
      false,
      ["id", "name", "iban", "account_account_id"],
    ]);
  });
});

describe("loading", () => {
  test("gives the instance with its children, passing over those of others", () => {
    const loaded = load();
    expect([loaded.accountId, loaded.rate, loaded.renamed, loaded.$version]).toEqual(["a1", "0.0125", "x", 4]);
    expect(loaded.beneficiaries.map(({ name }) => name)).toEqual(["Bob"]);
    expect(loaded.limits).toEqual({ daily: 500, weekly: null });
    expect(rowWrites(loaded)).toEqual([]);
  });

  test("finds a value object whose values are all 0, and none where every column is null", () => {
    expect(load().ceiling?.amount).toBe(0);
    expect((fromRows(account, { ...stored, ceiling_amount: null }, new Map()) as Account).ceiling).toBeNull();
  });

  test("names table, row and field when the stored values don't fit", () => {
    expect(() => fromRows(account, { ...stored, balance: "much" }, new Map())).toThrow(
      "table account, row a1: `balance` must be a finite number",
    );
  });
});

describe("saving", () => {
  test("inserts root and children, stamped", () => {
    const fresh = new Account({ accountId: "a2", holder: "Ann", beneficiaries: [new Beneficiary({ id: "b1", name: "Bob" })] });
    const [root, child] = rowWrites(fresh);
    expect(root).toMatchObject({
      kind: "insert",
      table: "account",
      row: { account_id: "a2", _version: 0, tags: [], limits: {}, ceiling_amount: null },
    });
    expect(child).toEqual({ kind: "insert", table: "beneficiary", row: { id: "b1", name: "Bob", iban: null, account_account_id: "a2" } });
    expect(fresh.changedAt).toBeInstanceOf(Date);
    expect(rowWrites(fresh)).toEqual([root, child] as never);
  });

  test("updates only what changed, guarded by the version", () => {
    const loaded = load();
    loaded.balance = 14;
    loaded.ceiling = new Ceiling({ amount: 1 });
    const [write] = rowWrites(loaded);
    expect(write).toMatchObject({ kind: "update", table: "account", key: "a1", version: 4, set: { balance: 14, ceiling_amount: 1 } });
    expect(Object.keys((write as { set: Row }).set).sort()).toEqual(["balance", "ceiling_amount", "changed_at"]);
    markSaved(loaded);
    expect([loaded.$version, rowWrites(loaded)]).toEqual([5, []]);
  });

  test("moves the version when only a child changed, or only an event was raised", () => {
    const loaded = load();
    const [bob] = loaded.beneficiaries;
    if (bob !== undefined) loaded.beneficiaries.remove(bob);
    loaded.beneficiaries.add(new Beneficiary({ id: "b2", name: "Eve" }));
    const kinds = rowWrites(loaded).map((write) => [write.kind, write.table]);
    expect(kinds).toEqual([
      ["update", "account"],
      ["delete", "beneficiary"],
      ["insert", "beneficiary"],
    ]);
    const other = load();
    other.raise(new Touched({}));
    expect(rowWrites(other)).toMatchObject([{ kind: "update", version: 4 }]);
    expect(stateOf(other).events[0]?.metadata.domain.sequence_id).toBe("5.1");
  });

  test("guards projections by the stored values of what changed", () => {
    const row: Row = { account_id: "a1", balance: 1, seen: "2026-01-31T09:30:00.000123+00:00", note: null };
    const loaded = fromRows(metaOf(Summary), row, new Map()) as Summary;
    loaded.balance = 2;
    expect(rowWrites(loaded)).toEqual([
      { kind: "update", table: "account_summary", key: "a1", set: { balance: 2 }, loaded: { balance: 1 } },
    ]);
    loaded.seen = new Date("2026-02-01");
    expect(rowWrites(loaded)).toMatchObject([{ loaded: { balance: 1, seen: "2026-01-31T09:30:00.000123+00:00" } }]);
  });

  test("turns declared values into columns for changing many rows", () => {
    expect(columnsOf(account, { balance: 3, ceiling: null, renamed: "y" })).toEqual({
      balance: 3,
      ceiling_amount: null,
      ceiling_currency: null,
      legacy: "y",
    });
    expect(() => columnsOf(account, { balanse: 3 })).toThrow("balanse: is not a declared field");
    expect(() => columnsOf(account, { accountId: "b" })).toThrow("is the identity");
  });
});

describe("conditions", () => {
  const sql = (where: object) => conditionOf(account, where);
  const one = (column: string, lookup: string, value: unknown) => ({ kind: "test", column, lookup, value });

  test("speak columns, lookups and stored values", () => {
    expect(sql({ balance: { gte: 100 } })).toEqual(one("balance", "gte", 100) as never);
    expect(sql({ renamed: "x" })).toEqual(one("legacy", "exact", "x") as never);
    expect(sql({ openedAt: { lt: new Date("2026-01-01T00:00:00Z") } })).toEqual(
      one("opened_at", "lt", "2026-01-01T00:00:00+00:00") as never,
    );
    expect(sql({ renamed: null })).toEqual(one("legacy", "isnull", true) as never);
    expect(sql({ holder: { in: ["a", "b"] } })).toEqual(one("holder", "in", ["a", "b"]) as never);
    expect(sql({ tags: { overlap: ["new"] } })).toEqual(one("tags", "overlap", ["new"]) as never);
  });

  test("look into value objects", () => {
    expect(sql({ ceiling: { currency: "EUR", amount: { gt: 1 } } })).toEqual({
      kind: "and",
      of: [one("ceiling_currency", "exact", "EUR"), one("ceiling_amount", "gt", 1)],
    } as never);
    expect(sql({ ceiling: null })).toEqual({
      kind: "and",
      of: [one("ceiling_amount", "isnull", true), one("ceiling_currency", "isnull", true)],
    } as never);
  });

  test("combine", () => {
    expect(sql(or<Account>({ balance: 1 }, not<Account>(and<Account>({ holder: "x" }, { balance: 2 }))))).toEqual({
      kind: "or",
      of: [one("balance", "exact", 1), { kind: "not", of: { kind: "and", of: [one("holder", "exact", "x"), one("balance", "exact", 2)] } }],
    } as never);
  });

  test("name what they don't know", () => {
    expect(() => sql({ balanse: 1 })).toThrow("`Account` has no field `balanse`; did you mean `balance`?");
    expect(() => sql({ balance: { gtee: 1 } })).toThrow("`balance` has no lookup `gtee`; did you mean `gte`?");
    expect(() => sql({ beneficiaries: 1 })).toThrow("holds child entities");
  });
});
