import { describe, expect, test } from "bun:test";
import { currentUnitOfWork, g } from "../../../../src/domain/context.ts";
import { stateOf } from "../../../../src/domain/instance.ts";
import { ExpectedVersionError, TransactionError, UnitOfWorkClosedError } from "../../../../src/errors.ts";
import { banking, lastStored, stored } from "./bank.ts";

describe("a unit of work", () => {
  test("writes events, rows and outbox rows in one commit when event store and database are one", async () => {
    const { domain, on, open, Order, OrderPlaced } = await banking();
    await domain.unitOfWork(async () => {
      await open("A1");
      const order = new Order({ id: "O1", total: 5 });
      order.raise(new OrderPlaced({ orderId: "O1", total: 5 }));
      await domain.repositoryFor(Order).add(order);
      expect(on.commits).toHaveLength(0);
    });
    expect(on.commits).toHaveLength(1);
    const set = on.commits[0]?.set;
    expect(set?.appends.map((append) => append.stream)).toEqual(["fidelis::account-A1", "fidelis::order-O1", "fidelis::order-fact-O1"]);
    expect(set?.appends.map((append) => append.expectedVersion)).toEqual([-1, -1, null]);
    expect(set?.rows.map((row) => row.kind)).toEqual(["insert"]);
    expect(set?.outbox.map((row) => row.targetBroker)).toEqual(["default", "default", "default"]);
    expect(on.appends).toHaveLength(0);
  });

  test("leaves nothing when its code throws, and nothing after that is accepted", async () => {
    const { domain, on, open, Account } = await banking();
    let late: Promise<unknown> | null = null;
    const failing = domain.unitOfWork(async () => {
      await open("A1");
      late = Promise.resolve()
        .then(() => on.clock.turn())
        .then(() => on.clock.turn())
        .then(() => domain.repositoryFor(Account).get("A1"));
      late.catch(() => {});
      throw new Error("no");
    });
    await expect(failing).rejects.toThrow("no");
    expect(on.commits).toHaveLength(0);
    await expect(late as unknown as Promise<unknown>).rejects.toBeInstanceOf(UnitOfWorkClosedError);
  });

  test("a forgotten await can't write outside of it: not with a repository, not with process, not with publish", async () => {
    const { domain, on, open, MakeDeposit, Account } = await banking();
    await open("A1");
    const late: Promise<unknown>[] = [];
    await domain.unitOfWork(async () => {
      const after = on.clock.turn().then(() => on.clock.turn());
      late.push(
        after.then(() => open("A2")),
        after.then(() => domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }))),
        after.then(() => domain.brokers.publish("s", { a: 1 })),
        after.then(() => domain.repositoryFor(Account).getOrNull("A1")),
      );
      for (const promise of late) promise.catch(() => {});
    });
    for (const result of await Promise.allSettled(late)) {
      expect(result.status === "rejected" && result.reason instanceof UnitOfWorkClosedError).toBe(true);
    }
    expect(await stored(on)).toHaveLength(1);
  });

  test("one identity is one object inside it, also for two loads at the same time", async () => {
    const { domain, open, Account } = await banking();
    await open("A1");
    await domain.unitOfWork(async () => {
      const repository = domain.repositoryFor(Account);
      const [one, two] = await Promise.all([repository.get("A1"), repository.get("A1")]);
      expect(one).toBe(two as never);
      expect(await repository.get("A1")).toBe(one as never);
    });
  });

  test("an event-sourced aggregate that is not added is not saved, and a debug line says how many events that were", async () => {
    const { domain, on, open, Account, DepositMade } = await banking();
    await open("A1");
    await domain.unitOfWork(async () => {
      const account = await domain.repositoryFor(Account).get("A1");
      account.raise(new DepositMade({ accountId: "A1", amount: 1 }));
      account.raise(new DepositMade({ accountId: "A1", amount: 2 }));
    });
    expect(await stored(on)).toHaveLength(1);
    expect(on.logged.map(({ fields }) => fields["message"])).toContain("2 events raised on `Account` A1 were not saved");
  });

  test("of two units that change one aggregate exactly one wins", async () => {
    const { domain, on, open, Account, DepositMade } = await banking();
    await open("A1");
    const waiting = Promise.withResolvers<void>();
    let arrived = 0;
    const deposit = (): Promise<void> =>
      domain.unitOfWork(async () => {
        const account = await domain.repositoryFor(Account).get("A1");
        arrived += 1;
        if (arrived === 2) waiting.resolve();
        await waiting.promise;
        account.raise(new DepositMade({ accountId: "A1", amount: 1 }));
        await domain.repositoryFor(Account).add(account);
      });
    const results = await Promise.allSettled([deposit(), deposit()]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const lost = results.find((result) => result.status === "rejected");
    expect(lost?.reason).toBeInstanceOf(ExpectedVersionError);
    expect(await stored(on, "DepositMade")).toHaveLength(1);
  });

  test("of two units that change one state-based aggregate exactly one wins, and no event of the other is stored", async () => {
    const { domain, on, Order, OrderChanged } = await banking();
    await domain.repositoryFor(Order).add(new Order({ id: "O1", total: 1 }));
    const change = async (total: number): Promise<void> => {
      await domain.unitOfWork(async () => {
        const order = await domain.repositoryFor(Order).get("O1");
        await on.clock.turn();
        order.total = total;
        order.raise(new OrderChanged({ orderId: "O1", total }));
        await domain.repositoryFor(Order).add(order);
      });
    };
    const results = await Promise.allSettled([change(2), change(3)]);
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await stored(on, "OrderChanged")).toHaveLength(1);
  });

  test("events of state-based aggregates carry the stream's position in the store and null in the outbox", async () => {
    const { domain, on, Order, OrderPlaced, OrderChanged } = await banking();
    const order = new Order({ id: "O1", total: 1 });
    order.raise(new OrderPlaced({ orderId: "O1", total: 1 }));
    order.raise(new OrderChanged({ orderId: "O1", total: 1 }));
    await domain.repositoryFor(Order).add(order);
    await domain.unitOfWork(async () => {
      const again = await domain.repositoryFor(Order).get("O1");
      again.total = 2;
      again.raise(new OrderChanged({ orderId: "O1", total: 2 }));
      await domain.repositoryFor(Order).add(again);
    });
    const events = (await stored(on)).filter(({ stream }) => stream === "fidelis::order-O1");
    expect(events.map(({ id }) => id)).toEqual(["fidelis::order-O1-0.1", "fidelis::order-O1-0.2", "fidelis::order-O1-1.1"]);
    expect(events.map(({ metadata }) => metadata.domain.expected_version)).toEqual([-1, 0, 1]);
    const rows = on.commits.flatMap(({ set }) => set.outbox);
    expect(rows.map(({ metadata }) => JSON.parse(metadata).domain.expected_version)).toEqual(rows.map(() => null));
    const facts = await stored(on, "OrderFactEvent");
    expect(facts.map(({ id }) => id)).toEqual(["fidelis::order-fact-O1-0.3", "fidelis::order-fact-O1-1.2"]);
    expect(facts.at(-1)?.data).toMatchObject({ total: 2 });
  });

  test("a fact event tells what the aggregate is at commit, even when it changed after add", async () => {
    const { domain, on, Order } = await banking();
    await domain.unitOfWork(async () => {
      const order = new Order({ id: "O1", total: 1 });
      await domain.repositoryFor(Order).add(order);
      expect(stateOf(order).events).toHaveLength(1);
      order.total = 9;
    });
    const facts = await stored(on, "OrderFactEvent");
    expect(facts.map(({ data }) => data["total"])).toEqual([9]);
    expect((await domain.repositoryFor(Order).get("O1")).total).toBe(9);
  });

  test("published events get one outbox row more for each external broker", async () => {
    const { on, open, deposit } = await banking();
    await open("A1");
    await deposit("A1", 5);
    expect(on.commits.map(({ set }) => set.outbox.map((row) => row.targetBroker))).toEqual([["default"], ["default", "partners"]]);
  });

  test("without an outbox nothing is written to it", async () => {
    const { on, open } = await banking({
      settings: { outbox: { enabled: false, broker: "default", externalBrokers: [], maxAttempts: 3 } },
    });
    await open("A1");
    expect(on.commits.flatMap(({ set }) => set.outbox)).toEqual([]);
  });

  test("nested units join the outermost, and the failure of a nested one dooms it even when its error is swallowed", async () => {
    const { domain, on, open } = await banking();
    await domain.unitOfWork(async () => {
      const outer = currentUnitOfWork();
      await domain.unitOfWork(async () => {
        expect(currentUnitOfWork()).toBe(outer);
        await open("A1");
      });
      expect(on.commits).toHaveLength(0);
    });
    expect(on.commits).toHaveLength(1);
    const doomed = domain.unitOfWork(async () => {
      await open("A2");
      await domain
        .unitOfWork(() => {
          throw new Error("inner");
        })
        .catch(() => {});
    });
    await expect(doomed).rejects.toBeInstanceOf(TransactionError);
    expect(on.commits).toHaveLength(1);
  });

  test("a failed commit can be tried again with a fresh unit", async () => {
    const { on, open, deposit } = await banking();
    await open("A1");
    on.fault = () => {
      on.fault = null;
      throw new Error("the disk is full");
    };
    await expect(deposit("A1", 5)).rejects.toThrow("the disk is full");
    await deposit("A1", 5);
    expect(await stored(on, "DepositMade")).toHaveLength(1);
  });

  test("publishing waits for the commit and a rollback sends nothing", async () => {
    const { domain, on } = await banking();
    await domain.unitOfWork(async () => {
      await domain.brokers.publish("s", { hello: 1 });
      expect(await on.stores.brokers.get("default")?.length("s")).toBe(0);
    });
    expect(await on.stores.brokers.get("default")?.length("s")).toBe(1);
    await domain
      .unitOfWork(async () => {
        await domain.brokers.publish("s", { hello: 2 });
        throw new Error("no");
      })
      .catch(() => {});
    expect(await on.stores.brokers.get("default")?.length("s")).toBe(1);
    await expect(domain.brokers.publish("s", {})).rejects.toThrow("empty");
  });

  test("events carry what the context says: extensions of enrichers, priority, correlation", async () => {
    const { domain, on, open } = await banking();
    domain.eventEnrichers.push(
      () => ({ tenant_id: g["tenant_id"] ?? "public", source: "bank" }),
      () => ({ source: "later wins" }),
    );
    await domain.context(() => open("A1"), { tenant_id: "acme" } as never);
    const event = await lastStored(on, "AccountOpened");
    expect(event.metadata.extensions).toEqual({ tenant_id: "acme", source: "later wins" });
    expect(event.metadata.domain).toMatchObject({
      correlation_id: null,
      causation_id: null,
      priority: 0,
      asynchronous: true,
      stream_category: "fidelis::account",
    });
  });
});

describe("two databases", () => {
  test("the event store comes first: a kill after it leaves the events and no rows", async () => {
    const { on, domain, Order, OrderPlaced } = await banking({ apart: true });
    const place = async (): Promise<void> => {
      const order = new Order({ id: "O1", total: 1 });
      order.raise(new OrderPlaced({ orderId: "O1", total: 1 }));
      await domain.repositoryFor(Order).add(order);
    };
    on.fault = (step) => {
      if (step === "commit") throw new Error("killed");
    };
    await expect(place()).rejects.toThrow("killed");
    expect(on.appends.map((messages) => messages.length)).toEqual([2]);
    expect(await domain.repositoryFor(Order).getOrNull("O1")).toBeNull();
    expect(on.commits).toHaveLength(0);
  });

  test("events that a kill left without their state don't give their ids to others (W22)", async () => {
    const { on, domain, Order, OrderPlaced } = await banking({ apart: true });
    const place = async (total: number): Promise<void> => {
      const order = new Order({ id: "O1", total });
      order.raise(new OrderPlaced({ orderId: "O1", total }));
      await domain.repositoryFor(Order).add(order);
    };
    on.fault = (step) => {
      if (step === "commit") throw new Error("killed");
    };
    await expect(place(1)).rejects.toThrow("killed");
    on.fault = null;
    await place(2);
    const messages = await stored(on);
    const ids = messages.map(({ id }) => id);
    expect(ids).toHaveLength(4);
    expect(new Set(ids).size).toBe(4);
    const rows = on.commits.flatMap(({ set }) => set.outbox.map(({ messageId }) => messageId));
    expect(new Set<string | null>(rows)).toEqual(new Set(ids.slice(2)));
  });

  test("all events of a unit are one append: a kill before it leaves none", async () => {
    const { on, open, domain } = await banking({ apart: true });
    on.fault = (step) => {
      if (step === "append") throw new Error("killed");
    };
    await expect(
      domain.unitOfWork(async () => {
        await open("A1");
        await open("A2");
      }),
    ).rejects.toThrow("killed");
    expect(await stored(on)).toHaveLength(0);
  });

  test("a stale row is found before anything is durable", async () => {
    const { on, domain, Order, OrderChanged } = await banking({ apart: true });
    await domain.repositoryFor(Order).add(new Order({ id: "O1", total: 1 }));
    const stale = await domain.repositoryFor(Order).get("O1");
    const fresh = await domain.repositoryFor(Order).get("O1");
    fresh.total = 2;
    await domain.repositoryFor(Order).add(fresh);
    const appends = on.appends.length;
    stale.total = 3;
    stale.raise(new OrderChanged({ orderId: "O1", total: 3 }));
    await expect(domain.repositoryFor(Order).add(stale)).rejects.toBeInstanceOf(ExpectedVersionError);
    expect(on.appends).toHaveLength(appends);
  });
});
