/** Values to and from JSON: every kind of field, good and bad, for messages, forms, external events and upcasters. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { metaOf } from "../../../../src/domain/instance.ts";
import { methodName } from "../../../../src/domain/reactions.ts";
import { fromInput, messageFromWire, toWire } from "../../../../src/domain/wire.ts";
import { checksumOfText } from "../../../../src/messages/checksum.ts";
import { type JsonObject, parseJson, toJsonText } from "../../../../src/messages/json.ts";
import { Domain, f, ValidationError } from "../../../../src/mod.ts";

const d = new Domain("Corner Bank");
class Money extends d.valueObject("Money", {
  fields: { amount: f.float(), currency: f.string({ maxLength: 3 }) },
  invariants: {
    post: {
      known(money) {
        if (money.currency === "XXX") throw new ValidationError({ currency: ["is unknown"] });
      },
    },
  },
}) {}
const fields = {
  accountId: f.identifier(),
  text: f.string(),
  longText: f.text(),
  whole: f.integer(),
  real: f.float(),
  exact: f.decimal(),
  flag: f.boolean(),
  day: f.date(),
  moment: f.dateTime({ as: "string" }),
  momentUtc: f.dateTime(),
  tier: f.string({ choices: { Gold: "GOLD", Basic: "BASIC" } as const }),
  state: f.status(["BASIC", "GOLD"]),
  words: f.list(f.string()),
  numbers: f.list(f.integer()),
  moments: f.list(f.dateTime({ as: "string" })),
  table: f.dict(),
  monies: f.list(f.valueObject(Money)),
  money: f.valueObject(Money),
  nothing: f.string({ optional: true }),
};
class TypesProbed extends d.event("TypesProbed", { fields }) {}
d.aggregate("Account", { fields: {}, events: [TypesProbed] });

const wire = (over: JsonObject = {}): JsonObject => ({
  money: { amount: 1.1, currency: "EUR" },
  account_id: "a1",
  text: "café",
  long_text: "two\nlines",
  whole: 42,
  real: 12,
  exact: "12345.670000",
  flag: true,
  day: "2026-01-31",
  moment: "2026-01-31T09:30:00.120000",
  moment_utc: "2026-01-31T09:30:00+00:00",
  tier: "GOLD",
  state: "BASIC",
  words: ["b", "a"],
  numbers: [3, 1, 2],
  moments: ["2026-01-31T09:30:00"],
  table: { z: 1, a: { y: [1, null, true], x: 1.5 } },
  monies: [{ amount: 2, currency: "EUR" }],
  nothing: null,
  ...over,
});
const meta = metaOf(TypesProbed);
const read = (data: JsonObject, lenient = false) => messageFromWire(meta, data, { lenient }) as TypesProbed;
const without = (key: string): JsonObject => Object.fromEntries(Object.entries(wire()).filter(([name]) => name !== key));

describe("a recorded message of the original", () => {
  test("is read and written back with the same checksum", () => {
    const path = new URL("../../../golden/fixtures/redis-stream-entries.jsonl", import.meta.url);
    const entry = readFileSync(path, "utf8")
      .split("\n")
      .find((line) => line.includes("TypesProbed"));
    const { data, metadata } = JSON.parse((JSON.parse(entry ?? "{}") as { fields: { data: string } }).fields.data) as {
      data: JsonObject;
      metadata: { envelope: { checksum: string } };
    };
    expect(checksumOfText(toJsonText(toWire(read(data))))).toBe(metadata.envelope.checksum);
  });
});

describe("reading a stored message", () => {
  test("gives declared names and kinds", () => {
    const event = read(wire());
    expect(event.accountId).toBe("a1");
    expect(event.momentUtc).toEqual(new Date("2026-01-31T09:30:00Z"));
    expect(event.money).toBeInstanceOf(Money);
    expect([event.exact, event.day, event.nothing]).toEqual(["12345.670000", "2026-01-31", null]);
    expect(Object.isFrozen(event) && Object.isFrozen(event.words) && Object.isFrozen(event.table)).toBe(true);
  });

  test("converts what the original converts", () => {
    const event = read(wire({ account_id: 12, whole: "12", real: "1.5", exact: 3, moment_utc: "2026-01-31T09:30:00.000001-03:30" }));
    expect([event.accountId, event.whole, event.real, event.exact]).toEqual(["12", 12, 1.5, "3"]);
    expect(event.momentUtc.toISOString()).toBe("2026-01-31T13:00:00.000Z");
  });

  test("takes times without offset as UTC", () => {
    expect(read(wire({ moment_utc: "2026-01-31 09:30:00" })).momentUtc.toISOString()).toBe("2026-01-31T09:30:00.000Z");
  });

  for (const [field, value, reason] of [
    ["text", 12, "text"],
    ["whole", 1.5, "whole"],
    ["whole", parseJson("9007199254740993"), "beyond 2^53"],
    ["real", "x", "real"],
    ["exact", "1,5", "exact"],
    ["flag", "yes", "flag"],
    ["day", "2026-02-30", "day"],
    ["moment_utc", "soon", "moment_utc"],
    ["tier", "SILVER", "tier"],
    ["state", "SENT", "state"],
    ["words", "b", "words"],
    ["numbers", [1, "x"], "numbers[1]"],
    ["money", { amount: 1 }, "money.currency"],
    ["money", { amount: 1, currency: "EUR", zz: 1 }, "money.zz"],
    ["account_id", null, "account_id"],
  ] as const) {
    test(`refuses ${field} = ${String(JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? String(item) : item)))} and says so`, () => {
      expect(() => read(wire({ [field]: value }))).toThrow(reason);
      expect(() => read(wire({ [field]: value }))).toThrow("CornerBank.TypesProbed.v1: field");
    });
  }

  test("refuses unknown fields unless it is lenient", () => {
    expect(() => read(wire({ extra: 1 }))).toThrow("CornerBank.TypesProbed.v1: field `extra` is not a declared field");
    expect(read(wire({ extra: 1 }), true).text).toBe("café");
  });

  test("names a required field that is absent, and takes an absent optional one as null", () => {
    expect(() => read(without("account_id"))).toThrow("field `account_id` (identifier) is required");
    expect(read(without("nothing")).nothing).toBeNull();
  });

  test("keeps a __proto__ key of a dict as a key", () => {
    const event = read(wire({ table: parseJson('{"__proto__": {"polluted": true}}') as JsonObject }));
    expect((event.table as { polluted?: boolean }).polluted).toBeUndefined();
    expect(Object.keys(event.table)).toEqual(["__proto__"]);
  });
});

describe("writing", () => {
  test("marks floats, keeps integers, gives null for unset", () => {
    const text = toJsonText(toWire(read(wire())));
    expect(text).toContain('"real": 12.0');
    expect(text).toContain('"whole": 42,');
    expect(text).toContain('"nothing": null');
    expect(text).toContain('"monies": [{"amount": 2.0, "currency": "EUR"}]');
    expect(text).toContain('"moment_utc": "2026-01-31T09:30:00+00:00"');
  });

  test("for people has plain numbers", () => {
    expect(JSON.parse(JSON.stringify(read(wire())))).toEqual(JSON.parse(JSON.stringify(wire())));
  });
});

describe("names on the wire", () => {
  test("are snake case by default, as declared where asked, and as given where given", () => {
    const plain = new Domain("x", { wireNames: "as_declared" });
    class A extends plain.valueObject("A", { fields: { accountId: f.string(), other: f.string({ wireName: "acct" }) } }) {}
    expect(JSON.stringify(new A({ accountId: "1", other: "2" }))).toBe('{"accountId":"1","acct":"2"}');
    class B extends d.valueObject("B", { fields: { accountID: f.string(), account_no: f.string() } }) {}
    expect(JSON.stringify(new B({ accountID: "1", account_no: "2" }))).toBe('{"account_id":"1","account_no":"2"}');
  });

  test("may have older ones when reading", () => {
    class C extends d.valueObject("C", { fields: { holder: f.string({ renamedFrom: ["owner", "name"] }) } }) {}
    expect((messageFromWire(metaOf(C), { name: "Ann" }, { lenient: false }) as C).holder).toBe("Ann");
  });
});

describe("big integers", () => {
  class Big extends d.valueObject("Big", { fields: { n: f.integer({ bigint: true }) } }) {}
  test("keep all digits", () => {
    const big = messageFromWire(metaOf(Big), parseJson('{"n": 9007199254740993}') as JsonObject, { lenient: false }) as Big;
    expect(big.n).toBe(9007199254740993n);
    expect(toJsonText(toWire(big))).toBe('{"n": 9007199254740993}');
    expect(() => new Big({ n: 1 as never })).toThrow("must be a bigint");
  });
});

describe("decimals", () => {
  class Price extends d.valueObject("Price", { fields: { p: f.decimal({ precision: 5, scale: 2, min: "0.10", max: 100 }) } }) {}
  test("are exact", () => {
    expect(new Price({ p: "99.90" }).p).toBe("99.90");
    for (const [value, reason] of [
      ["0.09", "is less than 0.10"],
      ["100.01", "is greater than 100"],
      ["1.234", "more than 2 digits after the point"],
      ["1e5", "has more than 5 digits"],
      ["x", "must be a decimal number"],
    ] as const) {
      expect(() => new Price({ p: value })).toThrow(reason);
    }
  });
});

describe("input of people and web forms", () => {
  class Pay extends d.command("Pay", {
    partOf: d.aggregate("Payer", { fields: {} }),
    fields: {
      paymentId: f.identifier({ identifier: true }),
      accountId: f.identifier(),
      money: f.valueObject(Money),
      due: f.dateTime({ optional: true }),
    },
  }) {}

  test("may use declared and wire names", () => {
    for (const input of [
      { account_id: "a", money: { amount: 1, currency: "EUR" } },
      { accountId: "a", money: { amount: 1, currency: "EUR" }, due: "2026-01-01" },
    ]) {
      const command = Pay.fromWire(input);
      expect(command.accountId).toBe("a");
      expect(command.paymentId).toMatch(/^[0-9a-f-]{36}$/);
    }
  });

  test("is refused with every mistake by declared name, invariants of value objects included", () => {
    const refused = (input: unknown): unknown => {
      try {
        fromInput(metaOf(Pay), input);
      } catch (error) {
        return (error as ValidationError).messages;
      }
      return "accepted";
    };
    expect(refused({ money: { amount: "x", currency: "EURO" }, zz: 1 })).toEqual({
      accountId: ["is required"],
      "money.amount": ['must be a finite number, not text "x"'],
      "money.currency": ["is longer than 3 characters"],
      zz: ["is not a declared field"],
    });
    expect(refused({ accountId: "a", money: { amount: 1, currency: "XXX" } })).toEqual({ "money.currency": ["is unknown"] });
    expect(refused([])).toEqual({ Pay: ["must be a JSON object"] });
  });

  test("goes through Standard Schema with paths", async () => {
    const result = await Pay["~standard"].validate({ accountId: "a", money: { amount: 1 } });
    expect(result.issues).toEqual([{ message: "is required", path: ["money", "currency"] }]);
    const good = await Pay["~standard"].validate({ accountId: "a", money: { amount: 1, currency: "EUR" } });
    expect("value" in good && good.value).toBeInstanceOf(Pay);
  });
});

describe("an external event", () => {
  class StockReserved extends d.externalEvent("Inventory.StockReserved.v1", {
    fields: { orderId: f.identifier(), note: f.string({ optional: true }), count: f.integer({ default: 1 }) },
  }) {}
  class Other extends d.externalEvent("Shop.StockReserved.v1", { fields: { orderId: f.identifier() } }) {}

  test("is read tolerantly: unknown fields dropped, numbers and text converted", () => {
    const event = messageFromWire(
      metaOf(StockReserved),
      { order_id: 7, note: 12, count: "3", more: {} },
      { lenient: false },
    ) as StockReserved;
    expect([event.orderId, event.note, event.count]).toEqual(["7", "12", 3]);
  });

  test("names contract, field and kind when a required field is missing", () => {
    expect(() => messageFromWire(metaOf(StockReserved), {}, { lenient: false })).toThrow(
      "Inventory.StockReserved.v1: field `order_id` (identifier) is required",
    );
  });

  test("carries its context in $name and in method names, so that two of one name live together", () => {
    expect(new StockReserved({ orderId: "o" }).$name).toBe("Inventory.StockReserved.v1");
    expect(d.messageByType("Shop.StockReserved.v1")).toBe(metaOf(Other));
    expect(methodName("eventHandler", metaOf(StockReserved))).toBe("on_inventory_stock_reserved");
  });
});

describe("upcasters", () => {
  const u = new Domain("up");
  class Paid extends u.event("Paid", { version: 3, fields: { amount: f.float(), currency: f.string(), source: f.string() } }) {}
  u.aggregate("A", { fields: {}, events: [Paid] });
  u.upcaster({ eventType: Paid, fromVersion: 1, toVersion: 2 }, (data) => ({ ...data, currency: "USD" }));
  u.upcaster({ eventType: Paid, fromVersion: 2, toVersion: 3 }, (data) => {
    if (data["amount"] === null) throw new RangeError("no amount");
    return { ...data, source: "unknown" };
  });

  test("lead from every older version to the current one", () => {
    u.freeze();
    expect(u.upcast("Up.Paid.v1", { amount: 1 })?.data).toEqual({ amount: 1, currency: "USD", source: "unknown" });
    expect(u.upcast("Up.Paid.v2", { amount: 1, currency: "EUR" })?.data).toEqual({ amount: 1, currency: "EUR", source: "unknown" });
    expect([u.upcastTarget("Up.Paid.v1")?.type, u.upcastTarget("Up.Paid.v4"), u.upcast("Up.Paid.v3", {})]).toEqual([
      "Up.Paid.v3",
      null,
      null,
    ]);
  });

  test("that fail name the event and the versions", () => {
    expect(() => u.upcast("Up.Paid.v2", { amount: null })).toThrow("upcaster of `Paid` from version 2 to 3 failed: no amount");
  });
});

describe("a custom field", () => {
  const upper = {
    "~standard": {
      version: 1 as const,
      vendor: "mine",
      validate: (value: unknown) =>
        typeof value === "string" ? { value: value.toUpperCase() } : { issues: [{ message: "is no text", path: ["x"] }] },
    },
  };
  class Code extends d.valueObject("Code", { fields: { code: f.custom<string>(upper) } }) {}
  test("takes what its schema takes", () => {
    expect(new Code({ code: "ab" }).code).toBe("AB");
    expect(() => new Code({ code: 1 as never })).toThrow("code.x: is no text");
  });
});
