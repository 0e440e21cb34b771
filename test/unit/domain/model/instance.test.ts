/** What instances do: construct, check, change, raise, replay. */
import { beforeAll, describe, expect, test } from "bun:test";
import { blank, fold, markSaved, metadataOf, metaOf, raiseFactEvent, rememberExports, stateOf } from "../../../../src/domain/instance.ts";
import { rowWrites } from "../../../../src/domain/rows.ts";
import { stateFromWire, toWire } from "../../../../src/domain/wire.ts";
import { atomicChange, Domain, f, ValidationError } from "../../../../src/mod.ts";
import { bench } from "../execution/bank.ts";

const domain = new Domain("shop");
const other = new Domain("other");

class Money extends domain.valueObject("Money", {
  fields: { amount: f.float(), currency: f.string({ choices: ["EUR", "USD"] }) },
  invariants: {
    post: {
      notNegative(money) {
        if (money.amount < 0) throw new ValidationError({ amount: ["is negative"] });
      },
    },
  },
}) {
  plus(other: Money): Money {
    return new Money({ amount: this.amount + other.amount, currency: this.currency });
  }
}
class Line extends domain.entity("Line", {
  fields: { sku: f.string(), quantity: f.integer({ min: 1, default: 1 }) },
  invariants: {
    post: {
      noBricks(line) {
        if (line.sku === "brick") throw new ValidationError({ sku: ["we sell no bricks"] });
      },
    },
  },
}) {
  count(quantity: number): void {
    this.quantity = quantity;
    this.raise(new LineCounted({ sku: this.sku }));
  }
}
class Gift extends domain.entity("Gift", { fields: { sku: f.string() } }) {}
class OrderPlaced extends domain.event("OrderPlaced", { fields: { orderId: f.identifier(), at: f.dateTime({ optional: true }) } }) {}
class LineCounted extends domain.event("LineCounted", { fields: { sku: f.text() } }) {}
class Order extends domain.aggregate("Order", {
  fields: {
    lines: f.hasMany(Line),
    gift: f.hasOne(Gift),
    total: f.valueObject(Money, { optional: true }),
    status: f.status(["DRAFT", "PLACED", "SENT"], { transitions: { DRAFT: ["PLACED"], PLACED: ["SENT"] }, default: "DRAFT" }),
    limit: f.integer({ default: 10 }),
    used: f.integer({ default: 0 }),
    labels: f.dict<string>(),
    due: f.dateTime({ optional: true }),
  },
  events: [OrderPlaced, LineCounted],
  factEvents: true,
  invariants: {
    pre: {
      notSent(order) {
        if (order.status === "SENT") throw new ValidationError({ _entity: ["is sent"] });
      },
    },
    post: {
      withinLimit(order) {
        if (order.used > order.limit) throw new ValidationError({ used: ["is above the limit"] });
      },
      fewLines(order) {
        if (order.lines.length > 3) throw new ValidationError({ lines: ["are too many"], used: ["is lost"] });
      },
    },
  },
}) {
  scratch: string[] = [];
  place(): void {
    atomicChange(this, (order) => {
      order.status = "PLACED";
      order.raise(new OrderPlaced({ orderId: order.id }));
    });
  }
}

class Opened extends domain.event("Opened", { fields: { owner: f.string(), first: f.float() } }) {}
class Paid extends domain.event("Paid", { fields: { amount: f.float() } }) {}
class Entered extends domain.event("Entered", { fields: { entryId: f.identifier(), text: f.string() } }) {}
class Entry extends domain.entity("Entry", { fields: { entryId: f.identifier({ identifier: true }), text: f.string() } }) {}
class Account extends domain.aggregate("Account", {
  eventSourced: true,
  fields: {
    owner: f.string(),
    balance: f.float({ default: 0 }),
    peak: f.valueObject(Money, { optional: true }),
    entries: f.hasMany(Entry),
  },
  events: [Opened, Paid, Entered],
  apply: {
    Opened(account, e) {
      account.owner = e.owner;
      account.balance = e.first;
    },
    Paid(account, e) {
      account.balance -= e.amount;
      account.peak = new Money({ amount: e.amount, currency: "EUR" });
    },
    Entered(account, e) {
      account.entries.add(new Entry({ entryId: e.entryId, text: e.text }));
    },
  },
  invariants: {
    post: {
      covered(account) {
        if (account.balance < 0) throw new ValidationError({ balance: ["is not covered"] });
      },
    },
  },
}) {}

const refusal = (run: () => unknown): unknown => {
  try {
    run();
  } catch (error) {
    return error instanceof ValidationError ? error.messages : error;
  }
  return "accepted";
};
const loose = (value: unknown): never => value as never;

beforeAll(async () => {
  domain.useStores((await bench()).stores);
});

describe("construction", () => {
  test("collects all errors, by declared names", () => {
    expect(refusal(() => new Money(loose({ amount: "x", currency: "GBP", zz: 1 })))).toEqual({
      amount: ['must be a finite number, not text "x"'],
      currency: ["must be one of EUR, USD"],
      zz: ["is not a declared field"],
    });
    expect(refusal(() => new Line(loose({})))).toEqual({ sku: ["is required"] });
    expect(refusal(() => new Line({ sku: "" }))).toEqual({ sku: ["is required"] });
  });

  test("runs the post invariants and not the pre ones", () => {
    expect(refusal(() => new Money({ amount: -1, currency: "EUR" }))).toEqual({ amount: ["is negative"] });
    expect(refusal(() => new Order({ used: 11 }))).toEqual({ used: ["is above the limit"] });
    expect(new Order({ status: "SENT" }).status).toBe("SENT");
  });

  test("puts messages of several invariants for one key together", () => {
    const lines = ["a", "b", "c", "d"].map((sku) => new Line({ sku }));
    expect(refusal(() => new Order({ used: 11, lines }))).toEqual({ used: ["is above the limit", "is lost"], lines: ["are too many"] });
  });

  test("gives value objects equality by value and freezes them", () => {
    const euro = new Money({ amount: 1, currency: "EUR" });
    expect(euro.equals(new Money({ amount: 1, currency: "EUR" }))).toBe(true);
    expect(euro.equals(euro.plus(euro))).toBe(false);
    expect(() => {
      (euro as { amount: number }).amount = 2;
    }).toThrow();
  });

  test("keeps its own frozen copy of what was handed in", () => {
    const labels = { a: "1" };
    const due = new Date("2026-01-01");
    const order = new Order({ labels, due });
    labels.a = "2";
    due.setFullYear(1999);
    expect(order.labels["a"]).toBe("1");
    expect(order.due?.toISOString()).toBe("2026-01-01T00:00:00.000Z");
    expect(() => order.due?.setFullYear(1999)).toThrow("a date inside an element can't be changed");
    expect(() => {
      (order.labels as Record<string, string>)["a"] = "3";
    }).toThrow();
  });

  test("initialises other class fields on loading too", () => {
    const order = new Order({});
    order.scratch.push("x");
    const loaded = stateFromWire(metaOf(Order), JSON.parse(JSON.stringify(order)));
    expect((loaded as Order).scratch).toEqual([]);
  });
});

describe("assignment", () => {
  test("is taken back when a post invariant fails", () => {
    const order = new Order({});
    expect(
      refusal(() => {
        order.used = 11;
      }),
    ).toEqual({ used: ["is above the limit"] });
    expect(order.used).toBe(0);
  });

  test("runs the pre invariants of the root first, also for a change in a child", () => {
    const order = new Order({ status: "SENT", lines: [new Line({ sku: "a" })] });
    const [line] = order.lines;
    expect(
      refusal(() => {
        if (line !== undefined) line.quantity = 2;
      }),
    ).toEqual({ _entity: ["is sent"] });
    expect(line?.quantity).toBe(1);
  });

  test("checks the transition", () => {
    const order = new Order({});
    expect(
      refusal(() => {
        order.status = "SENT";
      }),
    ).toEqual({ status: ["Invalid status transition from 'DRAFT' to 'SENT'. Allowed transitions: PLACED"] });
    expect(order.canTransitionTo("status", "PLACED")).toBe(true);
    expect(order.canTransitionTo("status", "SENT")).toBe(false);
    order.status = "PLACED";
    expect(order.status).toBe("PLACED");
  });

  test("never changes an identity", () => {
    const order = new Order({});
    expect(() => {
      (order as { id: string }).id = "other";
    }).toThrow("Order: identifiers cannot be changed once set");
  });

  test("is refused on what is for reading only", () => {
    const order = new Order({});
    stateOf(order).readOnly = true;
    expect(() => {
      order.used = 1;
    }).toThrow("this Order is for reading only");
    expect(() => order.lines.add(new Line({ sku: "a" }))).toThrow("this Order is for reading only");
    expect(() => order.raise(new OrderPlaced({ orderId: order.id }))).toThrow("it can't raise events");
  });

  test("with a class field of the same name is found when the aggregate is used", () => {
    class Hiding extends other.aggregate("Hiding", { fields: { note: f.string({ optional: true }) } }) {}
    const hiding = new Hiding({});
    Object.defineProperty(hiding, "note", { value: "hidden" });
    expect(() => rowWrites(hiding)).toThrow("class Hiding: the class field `note` hides the declared field of that name");
  });
});

describe("atomicChange", () => {
  test("checks only at the end, and compares states from start to end", () => {
    const order = new Order({ limit: 5, used: 5 });
    atomicChange(order, (o) => {
      o.used = 8;
      o.limit = 9;
      o.status = "SENT";
      o.status = "PLACED";
    });
    expect([order.used, order.limit, order.status]).toEqual([8, 9, "PLACED"]);
  });

  test("restores fields, children and events when a check refuses the result", () => {
    const line = new Line({ sku: "a" });
    const order = new Order({ lines: [line] });
    const change = () =>
      atomicChange(order, (o) => {
        o.raise(new OrderPlaced({ orderId: o.id }));
        o.lines.remove(line);
        o.lines.add(new Line({ sku: "b" }));
        line.quantity = 7;
        o.gift = new Gift({ sku: "c" });
        o.used = 11;
      });
    expect(refusal(change)).toEqual({ used: ["is above the limit"] });
    expect(order.lines.map(({ sku }) => sku)).toEqual(["a"]);
    expect([order.used, order.gift, order.$events.length, line.quantity]).toEqual([0, null, 0, 1]);
  });

  test("restores after an error of the function itself and lets it through", () => {
    const order = new Order({});
    const change = () =>
      atomicChange(order, (o) => {
        o.used = 3;
        throw new RangeError("mine");
      });
    expect(change).toThrow(RangeError);
    expect(order.used).toBe(0);
  });

  test("takes no asynchronous function", () => {
    expect(() =>
      atomicChange(
        new Order({}),
        loose(async () => {}),
      ),
    ).toThrow("atomicChange takes a synchronous function");
  });
});

describe("child entities", () => {
  test("are added, found, replaced and removed through the collection", () => {
    const order = new Order({});
    const first = new Line({ sku: "a" });
    order.lines.add(first);
    order.lines.add(new Line({ sku: "b" }));
    expect(order.lines.get({ sku: "b" }).sku).toBe("b");
    expect(order.lines.filter({ sku: "a" })).toEqual([first]);
    expect(order.lines.filter(({ sku }) => sku > "a").length).toBe(1);
    order.lines.add(new Line({ id: first.id, sku: "c" }));
    expect(order.lines.map(({ sku }) => sku)).toEqual(["c", "b"]);
    order.lines.remove(order.lines.get({ sku: "c" }));
    expect(order.lines.length).toBe(1);
    expect(() => order.lines.remove(first)).toThrow(ValidationError);
    expect(() => order.lines.get({ sku: "zz" })).toThrow("lines: no Line with");
  });

  test("can't be slipped past the checks", () => {
    const order = new Order({});
    expect(() => (order.lines as unknown as Line[]).push(new Line({ sku: "a" }))).toThrow("changed with add and remove, not with push");
    expect(refusal(() => new Order({ lines: [new Line({ sku: "brick" })] }))).toEqual({ sku: ["we sell no bricks"] });
    const three = new Order({ lines: ["a", "b", "c"].map((sku) => new Line({ sku })) });
    expect(refusal(() => three.lines.add(new Line({ sku: "d" })))).toEqual({ lines: ["are too many"], used: ["is lost"] });
    expect(three.lines.length).toBe(3);
  });

  test("belong to one owner", () => {
    const line = new Line({ sku: "a" });
    new Order({ lines: [line] });
    expect(() => new Order({ lines: [line] })).toThrow("lines: this Line belongs to another Order already");
  });

  test("raise events on the root", () => {
    const order = new Order({ lines: [new Line({ sku: "a" })] });
    order.lines[0]?.count(3);
    expect(order.$events.map(({ $name }) => $name)).toEqual(["LineCounted"]);
  });
});

describe("raise on a state-based aggregate", () => {
  test("numbers events inside the save, and goes on after it", () => {
    const order = new Order({ id: "o1" });
    order.place();
    order.raise(new LineCounted({ sku: "a" }));
    const ids = () => stateOf(order).events.map(({ metadata }) => metadata.headers.id);
    const expected = () => stateOf(order).events.map(({ metadata }) => metadata.domain.expected_version);
    expect(ids()).toEqual(["shop::order-o1-0.1", "shop::order-o1-0.2"]);
    expect(expected()).toEqual([-1, 0]);
    expect(order.$events[0]?.$metadata?.headers.type).toBe("Shop.OrderPlaced.v1");
    markSaved(order);
    expect([order.$version, order.$events.length]).toEqual([0, 0]);
    order.raise(new LineCounted({ sku: "b" }));
    expect(ids()).toEqual(["shop::order-o1-1.1"]);
    expect(expected()).toEqual([1]);
  });

  test("gives an event that is raised twice two identities", () => {
    const order = new Order({ id: "o2" });
    const event = new LineCounted({ sku: "a" });
    order.raise(event);
    order.raise(event);
    expect(stateOf(order).events.map((raised) => metadataOf(raised.event)?.domain.sequence_id)).toEqual(["0.1", "0.2"]);
  });

  test("refuses a payload above the limit, naming the field", () => {
    const order = new Order({});
    const sku = "x".repeat(4 * 1024 * 1024);
    expect(refusal(() => order.raise(new LineCounted({ sku })))).toEqual({
      sku: [expect.stringContaining("more than the 4194304 that a message may have")],
    });
    expect(order.$events).toEqual([]);
  });

  test("makes one typed fact event per save, numbered after the others", () => {
    const order = new Order({ id: "o3", lines: [new Line({ id: "l1", sku: "a" })], total: new Money({ amount: 1, currency: "EUR" }) });
    order.place();
    raiseFactEvent(order);
    raiseFactEvent(order);
    const [, fact] = stateOf(order).events;
    expect(stateOf(order).events.length).toBe(2);
    expect(fact?.metadata.headers).toMatchObject({
      id: "shop::order-fact-o3-0.2",
      type: "Shop.OrderFactEvent.v1",
      stream: "shop::order-fact-o3",
    });
    expect(fact?.metadata.domain.expected_version).toBeNull();
    expect(fact?.event).toBeInstanceOf(Order.FactEvent);
    expect(JSON.parse(JSON.stringify(fact?.event))).toMatchObject({
      id: "o3",
      lines: [{ id: "l1", sku: "a", quantity: 1 }],
      gift: null,
      total: { amount: 1, currency: "EUR" },
      status: "PLACED",
    });
  });
});

describe("an event-sourced aggregate", () => {
  test("folds at once and numbers its events", () => {
    const account = Account.createNew({ id: "a1" });
    account.raise(new Opened({ owner: "Ann", first: 10 }));
    account.raise(new Paid({ amount: 4 }));
    expect([account.id, account.owner, account.balance, account.$version]).toEqual(["a1", "Ann", 6, 1]);
    expect(stateOf(account).events.map(({ metadata }) => [metadata.headers.id, metadata.domain.expected_version])).toEqual([
      ["shop::account-a1-0", -1],
      ["shop::account-a1-1", 0],
    ]);
  });

  test("takes the event and its effects back when an invariant refuses them", () => {
    const account = Account.createNew({ id: "a2" });
    account.raise(new Opened({ owner: "Ann", first: 10 }));
    expect(refusal(() => account.raise(new Paid({ amount: 11 })))).toEqual({ balance: ["is not covered"] });
    expect([account.balance, account.peak, account.$version, account.$events.length]).toEqual([10, null, 0, 1]);
  });

  test("replays without checks, children and value objects included", () => {
    const account = blank(metaOf(Account), "a3") as Account;
    for (const event of [new Opened({ owner: "Ann", first: 1 }), new Paid({ amount: 5 }), new Entered({ entryId: "e1", text: "rent" })]) {
      fold(account, event);
    }
    expect([account.balance, account.$version, account.entries[0]?.text]).toEqual([-4, 2, "rent"]);
    expect(account.peak).toBeInstanceOf(Money);
    expect(account.$events).toEqual([]);
  });

  test("goes through a snapshot and back; one that no longer fits is null", () => {
    const account = blank(metaOf(Account), "a4") as Account;
    fold(account, new Opened({ owner: "Ann", first: 1 }));
    fold(account, new Entered({ entryId: "e1", text: "rent" }));
    const data = { ...JSON.parse(JSON.stringify(account)), _version: 1 };
    const again = stateFromWire(metaOf(Account), data) as Account;
    expect(toWire(again)).toEqual(toWire(account));
    expect([again.$version, again.entries.get({ entryId: "e1" }).text]).toEqual([1, "rent"]);
    expect(stateFromWire(metaOf(Account), { ...data, colour: "red" })).toBeNull();
    expect(stateFromWire(metaOf(Account), { ...data, balance: "much" })).toBeNull();
  });
});

describe("class identity", () => {
  test("instanceof goes by element, and the most derived class is made", () => {
    const d = new Domain("late");
    const Base = d.valueObject("Point", { fields: { x: f.integer() } });
    const early = new Base({ x: 1 });
    class Point extends Base {
      get double(): number {
        return this.x * 2;
      }
    }
    expect(early).toBeInstanceOf(Point);
    expect(early).not.toBeInstanceOf(Money);
    rememberExports({ Point });
    expect((Base.fromWire({ x: 2 }) as Point).double).toBe(4);
    expect(() => metaOf(class Foreign {})).toThrow("class Foreign is not a domain element");
  });
});
