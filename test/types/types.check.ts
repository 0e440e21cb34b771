/**
 * Compile-time assertions: `tsc` of the whole project checks them. Each line below a `@ts-expect-error` must be an error, each `yes`
 * must hold. Nothing here runs.
 */
import type { CommandReceipt, EventSourcedRepository, EventsOf, Filter, HasMany, Repository } from "../../src/mod.ts";
import { atomicChange, Domain, f, or, returns } from "../../src/mod.ts";
import { given, processAndWait } from "../../src/testing.ts";
import {
  Account,
  AccountOpened,
  AccountSummary,
  CompleteTransfer,
  DepositMade,
  domain,
  MakeDeposit,
  OpenAccount,
  type RichAccounts,
  Transfer,
  TransferInitiated,
  WithdrawalMade,
} from "./bank.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const yes = <T extends true>(..._: T[]): void => {};

// payload types come from the single definition
declare const deposit: DepositMade;
yes<Equal<typeof deposit.reference, string | null>>();
yes<Equal<typeof deposit.amount, number>>();
yes<Equal<typeof deposit.$name, "DepositMade">>();
yes<Equal<EventsOf<Account>["$name"], "AccountOpened" | "DepositMade" | "WithdrawalMade">>();
declare const account: Account;
yes<Equal<typeof account.status, "ACTIVE" | "CLOSED">>();
yes<Equal<typeof account.id, string>>();
// @ts-expect-error identity is read-only
account.id = "x";
// @ts-expect-error events are immutable
deposit.amount = 1;
// @ts-expect-error required field missing
new MakeDeposit({ accountId: "a" });
// @ts-expect-error unknown field
new MakeDeposit({ accountId: "a", amount: 1, amonut: 2 });
// @ts-expect-error raising another aggregate's event
account.raise(new TransferInitiated({ transferId: "t", sourceAccountId: "a", destinationAccountId: "b", amount: 1 }));
// @ts-expect-error same shape, other name: nominal, not structural
const wrong: DepositMade = {} as WithdrawalMade;

// results
yes<Equal<ReturnType<typeof domain.dispatch<RichAccounts>>, Promise<readonly AccountSummary[]>>>();
async function results(): Promise<void> {
  const id = await domain.process(new OpenAccount({ accountNumber: "1", holderName: "n", openingDeposit: 0 }), { asynchronous: false });
  yes<Equal<typeof id, string>>();
  const repo = domain.repositoryFor(Account);
  yes<Equal<typeof repo, EventSourcedRepository<Account>>>();
  // @ts-expect-error event-sourced aggregates have no table to query
  void repo.query;
  const either = await domain.process(new MakeDeposit({ accountId: "a", amount: 1 }), { asynchronous: true });
  yes<Equal<typeof either, CommandReceipt>>();
  // @ts-expect-error what is read as of then can't be changed
  (await repo.get("a", { atVersion: 1 })).balance = 1;
  domain.viewFor(AccountSummary).query.filter(or<AccountSummary>({ balance: 1 }, { holderName: { startswith: "A" } }));
  await domain.repositoryFor(AccountSummary).query.filter({ balance: 0 }).delete();
  domain
    .viewFor(AccountSummary)
    .query.filter({ balance: { gte: 1 }, holderName: { icontains: "a" } })
    .orderBy("-balance");
  // @ts-expect-error no such field
  domain.viewFor(AccountSummary).query.filter({ balanse: 1 });
  // @ts-expect-error string lookup on a number
  domain.viewFor(AccountSummary).query.filter({ balance: { icontains: "1" } });
  // @ts-expect-error no such key
  domain.viewFor(AccountSummary).query.orderBy("-foo");
}
void results;
void wrong;

// handlers
const h = domain.commandHandler("H", { partOf: Account });
// @ts-expect-error command of another aggregate
h.handle(CompleteTransfer, () => {});
// @ts-expect-error declared result is string
h.handle(OpenAccount, () => 42);
const p = domain.projector("P", { projectorFor: AccountSummary, aggregates: [Transfer] });
// @ts-expect-error Account's event, but the projector listens to Transfer only
p.on(DepositMade, () => {});
p.on(TransferInitiated, (e) => {
  yes<Equal<typeof e, TransferInitiated>>();
});
const pm = domain.processManager("PM", { aggregates: [Transfer], fields: { transferId: f.identifier({ identifier: true }) } });
// @ts-expect-error correlate must name a field that both sides have
pm.handle(TransferInitiated, { start: true, correlate: "sourceAccountId" }, () => {});
pm.handle(TransferInitiated, { start: true, correlate: { transferId: "sourceAccountId" } }, (s) => {
  yes<Equal<typeof s.transferId, string>>();
  s.markAsComplete();
});

// folds must be exhaustive
const d = new Domain("x");
// @ts-expect-error apply lacks DepositMade and WithdrawalMade
d.aggregate("A", { eventSourced: true, fields: {}, events: [AccountOpened, DepositMade, WithdrawalMade], apply: { AccountOpened() {} } });
// @ts-expect-error projection without identifier
d.projection("P", { fields: { a: f.string() } });
class Money extends d.valueObject("Money", { fields: { amount: f.float(), currency: f.string({ choices: ["EUR", "USD"] }) } }) {
  plus(o: Money): Money {
    return new Money({ amount: this.amount + o.amount, currency: this.currency });
  }
}
class Line extends d.entity("Line", { fields: { sku: f.string(), price: f.valueObject(Money) } }) {}
class Order extends d.aggregate("Order", {
  fields: {
    lines: f.hasMany(Line),
    total: f.valueObject(Money, { optional: true }),
    tags: f.list(f.string()),
    placedAt: f.dateTime({ autoNowAdd: true, optional: true }),
  },
  events: [],
}) {}
const order = new Order({ lines: [new Line({ sku: "a", price: new Money({ amount: 1, currency: "EUR" }) })] });
order.lines.add(new Line({ sku: "b", price: new Money({ amount: 1, currency: "USD" }).plus(new Money({ amount: 1, currency: "USD" })) }));
yes<Equal<typeof order.total, Money | null>>();
// @ts-expect-error not one of the choices
new Money({ amount: 1, currency: "GBP" });
class Ping extends d.command("Ping", { partOf: Order, fields: {}, returns: returns<number>() }) {}
void Ping;

// every kind of field
class Everything extends d.projection("Everything", {
  fields: {
    key: f.identifier({ identifier: true }),
    big: f.integer({ bigint: true }),
    whole: f.integer({ min: 0 }),
    exact: f.decimal({ precision: 10, scale: 2 }),
    day: f.date(),
    moment: f.dateTime(),
    momentText: f.dateTime({ as: "string" }),
    stamped: f.dateTime({ autoNow: true }),
    tier: f.string({ choices: { Gold: "GOLD", Basic: "BASIC" } as const }),
    tags: f.list(f.string()),
    maybeTags: f.list(f.string(), { optional: true }),
    limits: f.dict<number>(),
    flag: f.boolean({ default: false }),
  },
}) {}
declare const all: Everything;
yes<Equal<typeof all.big, bigint>>();
yes<Equal<typeof all.whole, number>>();
yes<Equal<typeof all.exact, string>>();
yes<Equal<typeof all.moment, Date>>();
yes<Equal<typeof all.momentText, string>>();
yes<Equal<typeof all.stamped, Date | null>>();
yes<Equal<typeof all.tier, "GOLD" | "BASIC">>();
yes<Equal<typeof all.tags, readonly string[]>>();
yes<Equal<typeof all.maybeTags, readonly string[] | null>>();
yes<Equal<typeof all.limits, Readonly<Record<string, number>>>>();
yes<Equal<typeof all.flag, boolean>>();
// @ts-expect-error lists are replaced, not changed
all.tags.push("x");
// @ts-expect-error an unknown option of a field
f.string({ maxLenght: 3 });
// @ts-expect-error not a state
f.status(["A", "B"], { default: "C" });
// @ts-expect-error a transition to an unknown state
f.status(["A", "B"], { transitions: { A: ["C"] } });

// state-based aggregates, children, fact events
class Placed extends d.event("Placed", { fields: { orderId: f.identifier() } }) {}
class Other extends d.event("Other", { fields: { orderId: f.identifier() } }) {}
class Item extends d.entity("Item", { fields: { sku: f.string() } }) {}
class Cart extends d.aggregate("Cart", {
  fields: {
    items: f.hasMany(Item),
    main: f.hasOne(Item),
    total: f.valueObject(Money, { optional: true }),
    note: f.text({ optional: true }),
  },
  events: [Placed],
  factEvents: true,
  invariants: {
    post: {
      fits(cart) {
        yes<Equal<typeof cart.note, string | null>>();
      },
    },
  },
}) {}
declare const cart: Cart;
yes<Equal<typeof cart.items, HasMany<Item>>>();
yes<Equal<typeof cart.main, Item | null>>();
atomicChange(cart, (c) => {
  c.note = "x";
  c.items.add(new Item({ sku: "a" }));
});
yes<Equal<ReturnType<typeof cart.items.get>, Item>>();
// @ts-expect-error collections change by add and remove
cart.items.push(new Item({ sku: "a" }));
// @ts-expect-error not one of this aggregate's events
cart.raise(new Other({ orderId: "x" }));
declare const fact: InstanceType<typeof Cart.FactEvent>;
yes<Equal<typeof fact.$name, "CartFactEvent">>();
yes<Equal<typeof fact.note, string | null>>();
yes<Equal<(typeof fact.items)[number]["sku"], string>>();
yes<Equal<typeof fact.id, string>>();
// @ts-expect-error no fact events were asked for
void Order.FactEvent;
const carts = d.repositoryFor(Cart);
yes<Equal<typeof carts, Repository<Cart>>>();
const byTotal: Filter<Cart> = { total: { currency: "EUR" } };
// @ts-expect-error not one of the currencies
const byPound: Filter<Cart> = { total: { currency: "GBP" } };
void byTotal;
void byPound;
class Carts extends d.repository(Cart) {
  noted(note: string): Promise<Cart> {
    return this.findBy({ note });
  }
}
yes<Equal<ReturnType<Carts["noted"]>, Promise<Cart>>>();
const custom = d.repositoryFor(Carts);
yes<Equal<typeof custom, Carts>>();
// @ts-expect-error no such option
d.aggregate("Wrong", { fields: {}, evnets: [] });

// external events are named by their full type string
class Reserved extends d.externalEvent("Inventory.StockReserved.v1", { fields: { orderId: f.identifier() } }) {}
declare const reserved: Reserved;
yes<Equal<typeof reserved.$name, "Inventory.StockReserved.v1">>();
d.eventHandler("E", { streamCategory: "inventory::stock" }).handle(Reserved, (e) => {
  yes<Equal<typeof e, Reserved>>();
});
d.eventHandler("E3", { partOf: Cart }).handle(Cart.FactEvent, (e) => {
  yes<Equal<typeof e.$name, "CartFactEvent">>();
});
// @ts-expect-error with partOf only that aggregate's events are accepted
d.eventHandler("E2", { partOf: Cart }).handle(Reserved, () => {});
d.upcaster({ eventType: Placed, fromVersion: 1, toVersion: 2 }, (data) => ({ ...data, currency: "EUR" }));
// @ts-expect-error a subscriber reads a stream
d.subscriber("S", {});
d.subscriber("S2", { stream: "s", payload: Money }).handle((payload) => {
  yes<Equal<typeof payload, Money>>();
});

// options of fields: validators get the field's type, and a misspelt option is an error wherever it stands
f.string({ validators: [(value) => yes<Equal<typeof value, string>>()] });
f.integer({ validators: [(value) => yes<Equal<typeof value, number>>()] });
f.integer({ bigint: true, validators: [(value) => yes<Equal<typeof value, bigint>>()] });
f.dateTime({ validators: [(value) => yes<Equal<typeof value, Date>>()] });
f.dateTime({ as: "string", validators: [(value) => yes<Equal<typeof value, string>>()] });
f.list(f.string(), { validators: [(value) => yes<Equal<typeof value, readonly string[]>>()] });
// @ts-expect-error no such option
f.string({ maxLenght: 3 });
// @ts-expect-error no such option, beside one that is
f.string({ optional: true, maxLenght: 3 });
// @ts-expect-error the default of a bigint is a bigint
f.integer({ bigint: true, default: 1 });

// the testing API takes commands and the aggregate's own events, and gives a command's result
async function tested(): Promise<void> {
  const opened = await processAndWait(new OpenAccount({ accountNumber: "1", holderName: "n", openingDeposit: 0 }));
  yes<Equal<typeof opened, string | CommandReceipt>>();
  // @ts-expect-error an event of another aggregate is no history of this one
  given(Account, "A1", new TransferInitiated({ transferId: "t", sourceAccountId: "a", destinationAccountId: "b", amount: 1 }));
  // @ts-expect-error events can't be processed
  given(Account, "A1").process(new DepositMade({ accountId: "a", amount: 1 }));
}
void tested;
