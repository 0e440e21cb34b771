import { describe, expect, test } from "bun:test";
import { currentDomain, g } from "../../../../src/domain/context.ts";
import { Domain } from "../../../../src/domain/domain.ts";
import { f } from "../../../../src/domain/fields.ts";
import { NoDomainException, ObjectNotFoundError } from "../../../../src/errors.ts";
import { checksumOfText } from "../../../../src/messages/checksum.ts";
import { attach, type Bench, banking, bench, lastStored, reactionNamed, running, stored } from "./bank.ts";

/** A row as another writer would have left it. */
async function append(on: Bench, stream: string, type: string, data: object, id: string): Promise<void> {
  const text = JSON.stringify(data);
  const metadata = {
    headers: { id, type, stream },
    envelope: { specversion: "1.0", checksum: checksumOfText(text) },
    domain: { kind: "EVENT", stream_category: stream.slice(0, stream.indexOf("-")), asynchronous: true },
  };
  const row = { id: on.stores.random.uuid(), stream, type, data: text, metadata: JSON.stringify(metadata), expectedVersion: null };
  await on.stores.eventStore.append([row]);
}

function shop() {
  const domain = new Domain("shop");
  const seen: object[] = [];
  class Sold extends domain.event("Sold", { fields: { sku: f.string(), currency: f.string() }, version: 2 }) {}
  class Returned extends domain.event("Returned", { fields: { sku: f.string() }, lenient: true }) {}
  class Item extends domain.aggregate("Item", {
    eventSourced: true,
    fields: { sold: f.list(f.string()) },
    events: [Sold, Returned],
    apply: {
      Sold(item, event) {
        item.sold = [...item.sold, `${event.sku} ${event.currency}`];
      },
      Returned() {},
    },
  }) {}
  domain.upcaster({ eventType: Sold, fromVersion: 1, toVersion: 2 }, (data) => ({ ...data, currency: "EUR" }));
  class StockReserved extends domain.externalEvent("Inventory.StockReserved.v1", { fields: { orderId: f.identifier() } }) {}
  domain
    .eventHandler("Sales", { partOf: Item })
    .handle(Sold, (event) => void seen.push(event))
    .handle(Returned, (event) => void seen.push(event));
  domain.eventHandler("Stock", { streamCategory: "inventory::stock" }).handle(StockReserved, (event) => void seen.push(event));
  return { domain, seen, Item, Sold, Returned, StockReserved };
}

describe("reading messages", () => {
  test("an older version comes through the upcasters, in handlers and in aggregates", async () => {
    const { domain, seen, Item, Sold } = shop();
    const on = await bench();
    await attach(domain, on);
    await append(on, "shop::item-I1", "Shop.Sold.v1", { sku: "s" }, "shop::item-I1-0");
    const sales = reactionNamed(domain, "Sales");
    expect(sales.accepts("Shop.Sold.v1")).toBe("handled");
    expect(sales.accepts("Shop.Sold.v3")).toBe("unknown-version");
    await sales.run(await lastStored(on, "Sold"), running());
    expect(seen[0]).toBeInstanceOf(Sold);
    expect(seen[0]).toMatchObject({ sku: "s", currency: "EUR" });
    expect((await domain.repositoryFor(Item).get("I1")).sold as readonly string[]).toEqual(["s EUR"]);
  });

  test("a lenient event tells which fields were dropped, and they don't get into g", async () => {
    const { domain, seen, Returned } = shop();
    const on = await bench();
    await attach(domain, on);
    await append(on, "shop::item-I1", "Shop.Returned.v1", { sku: "s", colour: "red" }, "shop::item-I1-0");
    await reactionNamed(domain, "Sales").run(await lastStored(on, "Returned"), running());
    expect((seen[0] as InstanceType<typeof Returned>).$metadata?.extensions).toEqual({ _dropped_fields: ["colour"] });
  });

  test("an external event is taken by its full type, with fields that we don't know", async () => {
    const { domain, seen, StockReserved } = shop();
    const on = await bench();
    await attach(domain, on);
    await append(on, "inventory::stock-1", "Inventory.StockReserved.v1", { order_id: 17, shelf: "b" }, "inventory::stock-1-0");
    await reactionNamed(domain, "Stock").run(await lastStored(on, "StockReserved"), running());
    expect(seen[0]).toBeInstanceOf(StockReserved);
    expect(seen[0]).toMatchObject({ orderId: "17" });
  });
});

describe("context", () => {
  test("middleware gives each request a context with its id, and its correlation id to the commands", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const answered: [string, string][] = [];
    const request = (headers: Record<string, string>) => ({
      req: { header: (name: string) => headers[name] },
      header: (name: string, value: string) => void answered.push([name, value]),
    });
    const ids: unknown[] = [];
    const route = async (): Promise<void> => {
      ids.push(g["request_id"]);
      expect(currentDomain()).toBe(domain);
      await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }));
    };
    await domain.middleware()(request({ "x-request-id": "r-1", "x-correlation-id": "c-1" }), route);
    await domain.middleware()(request({ "x-request-id": "bad id\n" }), route);
    expect(ids[0]).toBe("r-1");
    expect(ids[1]).toMatch(/^[0-9a-f-]{36}$/);
    expect(answered).toEqual(ids.map((id) => ["x-request-id", String(id)]));
    const correlations = (await stored(on, "MakeDeposit")).map(({ metadata }) => metadata.domain.correlation_id);
    expect(correlations[0]).toBe("c-1");
    expect(correlations[1]).toMatch(/^[0-9a-f]{32}$/);
    expect(() => currentDomain()).toThrow(NoDomainException);
  });

  test("a handler called as a plain function runs in a unit of work", async () => {
    const { open, AccountHandler, MakeDeposit, Account, domain, SummaryProjector, WithdrawalMade } = await banking();
    await open("A1", 1);
    await AccountHandler.invoke(new MakeDeposit({ accountId: "A1", amount: 2 }));
    expect((await domain.repositoryFor(Account).get("A1")).balance).toBe(3);
    const unknown = SummaryProjector.invoke(new WithdrawalMade({ accountId: "A1", amount: 1 }) as never);
    await expect(unknown as Promise<unknown>).rejects.toBeInstanceOf(ObjectNotFoundError);
  });
});
