import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { currentConnector, provideConnector } from "../../../../src/domain/stores.ts";
import { Discard, TransactionError } from "../../../../src/errors.ts";
import { assertChain, drain, fixed, given, processAndWait, testDomain } from "../../../../src/testing.ts";
import { bank, banking, bench, stored } from "./bank.ts";

const SYNC = { settings: { eventProcessing: "sync", commandProcessing: "sync" } } as const;

describe("synchronous dispatch", () => {
  test("handlers run after the commit, breadth-first, and a whole transfer is through when process returns", async () => {
    const { domain, on, open, Account, Transfer, TransferAsked, Summary } = await banking(SYNC);
    await open("A1", 100);
    await open("A2", 0);
    const transfer = Transfer.createNew({ id: "T1" });
    transfer.raise(new TransferAsked({ transferId: "T1", from: "A1", to: "A2", amount: 30 }));
    await domain.repositoryFor(Transfer).add(transfer);
    expect((await domain.repositoryFor(Account).get("A1")).balance).toBe(70);
    expect((await domain.repositoryFor(Account).get("A2")).balance).toBe(30);
    expect((await domain.viewFor(Summary).get("A2")).balance).toBe(30);
    expect((await stored(on, "Transition")).at(-1)?.data["is_complete"]).toBe(true);
    expect((await stored(on, "DepositMade")).map(({ metadata }) => metadata.domain.asynchronous)).toEqual([false]);
  });

  test("failures are collected, everything is durable, the others have run", async () => {
    const { on, hooks, open, deposit, domain, Summary } = await banking(SYNC);
    await open("A1", 100);
    hooks["first"] = () => {
      throw new Error("first");
    };
    hooks["second"] = () => {
      throw new Error("second");
    };
    const failed = await deposit("A1", 5).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(TransactionError);
    expect((failed as TransactionError).about.cause).toBeInstanceOf(AggregateError);
    expect(await stored(on, "DepositMade")).toHaveLength(1);
    expect((await domain.viewFor(Summary).get("A1")).balance).toBe(105);
  });

  test("a handler that discards the event fails nobody, unless another method of it failed", async () => {
    const { hooks, open, deposit, domain, Summary } = await banking(SYNC);
    await open("A1", 100);
    hooks["first"] = () => {
      throw new Discard("nothing for us");
    };
    await deposit("A1", 5);
    expect((await domain.viewFor(Summary).get("A1")).balance).toBe(105);
    hooks["second"] = () => {
      throw new Error("second");
    };
    await expect(deposit("A1", 5)).rejects.toBeInstanceOf(TransactionError);
  });
});

describe("snapshots", () => {
  test("are written at the threshold on loading, shorten the next load, and are ignored when they don't fit", async () => {
    const { domain, on, open, deposit, Account } = await banking();
    await open("A1", 100);
    for (let count = 0; count < 9; count += 1) await deposit("A1", 1);
    const repository = domain.repositoryFor(Account);
    expect((await repository.get("A1")).balance).toBe(109);
    const snapshot = await on.stores.eventStore.lastOfStream("fidelis::account:snapshot-A1");
    expect(JSON.parse(snapshot?.data ?? "")).toEqual({ id: "A1", holder: "holder of A1", balance: 109, _version: 9 });
    expect([snapshot?.type, snapshot?.metadata]).toEqual(["SNAPSHOT", null]);
    await deposit("A1", 1);
    expect((await repository.get("A1")).balance).toBe(110);
    expect((await repository.get("A1")).$version).toBe(10);

    await on.stores.eventStore.append([
      {
        id: on.stores.random.uuid(),
        stream: "fidelis::account:snapshot-A1",
        type: "SNAPSHOT",
        data: '{"balance": "much", "_version": 10}',
        metadata: null,
        expectedVersion: null,
      },
    ]);
    expect((await repository.get("A1")).balance).toBe(110);
    expect(on.logged.map(({ event }) => event)).toContain("snapshot.ignored");
  });

  test("an aggregate as it was can be read but not changed", async () => {
    const { domain, open, deposit, Account, DepositMade } = await banking();
    await open("A1", 100);
    await deposit("A1", 1);
    await deposit("A1", 2);
    const repository = domain.repositoryFor(Account);
    const was = await repository.get("A1", { atVersion: 1 });
    expect(was.balance).toBe(101);
    expect(() => (was as InstanceType<typeof Account>).raise(new DepositMade({ accountId: "A1", amount: 1 }))).toThrow();
    await expect(repository.add(was as InstanceType<typeof Account>)).rejects.toThrow("reading only");
    expect(await repository.getOrNull("A1", { atVersion: 9 })).toBeNull();
    expect(await repository.getOrNull("A1", { asOf: "2001-01-01" })).toBeNull();
    await expect(repository.get("A1", { atVersion: 9 })).rejects.toThrow("`Account` object with identifier A1 has no version 9.");
    await expect(repository.get("A1", { asOf: new Date(0) })).rejects.toThrow("A1 did not exist at 1970-01-01T00:00:00+00:00.");
    await expect(repository.get("A9")).rejects.toThrow("`Account` object with identifier A9 does not exist.");
    expect((await repository.get("A1", { asOf: new Date(Date.now() + 60_000) })).balance).toBe(103);
  });

  test("createSnapshots does all instances of a class", async () => {
    const { domain, on, open, Account } = await banking();
    await open("A1");
    await open("A2");
    expect(await domain.createSnapshots(Account)).toBe(2);
    expect(await domain.createAllSnapshots()).toBe(2);
    expect(await on.stores.eventStore.lastOfStream("fidelis::account:snapshot-A2")).not.toBeNull();
    await expect(domain.createSnapshot(Account, "A9")).rejects.toThrow("does not exist");
  });
});

describe("queries", () => {
  test("pages know where they are, and iteration goes over everything", async () => {
    const { domain, Summary } = await banking();
    const repository = domain.repositoryFor(Summary);
    await domain.unitOfWork(async () => {
      for (let index = 0; index < 120; index += 1) {
        await repository.add(new Summary({ accountId: `A${String(index).padStart(3, "0")}`, holder: "x", balance: index }));
      }
    });
    const page = await repository.query.orderBy("-balance").offset(50).limit(25).all();
    expect([page.length, page.total, page.page, page.pageSize, page.totalPages, page.hasNext, page.hasPrev]).toEqual([
      25,
      120,
      3,
      25,
      5,
      true,
      true,
    ]);
    expect(page[0]?.balance).toBe(69);
    expect(await repository.query.all()).toHaveLength(100);
    expect(await repository.query.limit(null).all()).toHaveLength(120);
    let count = 0;
    for await (const row of domain.viewFor(Summary).query.filter({ balance: { gte: 10 } })) count += row.holder === "x" ? 1 : 0;
    expect(count).toBe(110);
    expect(
      await repository.query
        .filter({ balance: { lt: 3 } })
        .exclude({ accountId: "A001" })
        .only("balance")
        .orderBy("balance")
        .all(),
    ).toEqual([{ balance: 0 }, { balance: 2 }] as never);
    await expect(repository.findBy({ balance: { lt: 3 } })).rejects.toThrow("more than one");
    expect(() => repository.query.orderBy("nothing" as never)).toThrow("no field `nothing`");
    await expect((domain.viewFor(Summary).query as unknown as typeof repository.query).delete()).rejects.toThrow("only be read");
  });
});

describe("protean/testing", () => {
  const before = currentConnector();
  beforeAll(() => {
    provideConnector(async ({ config }) => {
      const keys = config as { readonly event_processing: "sync" | "async"; readonly command_processing: "sync" | "async" };
      return (await bench({ settings: { eventProcessing: keys.event_processing, commandProcessing: keys.command_processing } })).stores;
    });
  });
  afterAll(() => {
    if (before !== null) provideConnector(before);
  });

  test("given an aggregate with history, a command is accepted or rejected", async () => {
    const { domain, Account, AccountOpened, DepositMade, MakeDeposit, MakeWithdrawal } = bank();
    await using _ = await testDomain(domain, { clock: fixed("2026-01-01") });
    const result = await given(
      Account,
      "A1",
      new AccountOpened({ accountId: "A1", holder: "Ann", deposit: 10 }),
      new DepositMade({ accountId: "A1", amount: 5 }),
    ).process(new MakeWithdrawal({ accountId: "A1", amount: 20 }));
    expect(result.rejected).toBe(true);
    expect(result.rejectionMessages).toEqual(["insufficient funds"]);
    expect(result.aggregate.balance).toBe(15);
    const more = await result.process(new MakeDeposit({ accountId: "A1", amount: 1 }));
    expect(more.accepted).toBe(true);
    expect(more.events.get(DepositMade)?.amount).toBe(1);
    expect(more.events.get(DepositMade)?.$metadata?.headers.time).toBe("2026-01-01T00:00:00+00:00");
    expect(more.allEvents.names as readonly string[]).toEqual(["DepositMade"]);
  });

  test("given a process manager, its state and the commands it sent", async () => {
    const { domain, TransferManager, TransferAsked, MakeWithdrawal, DepositMade } = bank();
    await using _ = await testDomain(domain);
    const run = await given(TransferManager, new TransferAsked({ transferId: "T1", from: "A1", to: "A2", amount: 3 })).run();
    expect([run.notStarted, run.complete, run.transitions]).toEqual([false, false, 1]);
    expect(run.state.step).toBe("withdrawing");
    expect(run.sent.get(MakeWithdrawal)?.accountId).toBe("A1");
    const none = await given(TransferManager, new DepositMade({ accountId: "A2", amount: 3, transferId: "T7" })).run();
    expect(none.notStarted).toBe(true);
  });

  test("given events, the projection that they make, with sync and async processing alike", async () => {
    const { domain, Summary, AccountOpened, DepositMade } = bank();
    for (const eventProcessing of ["sync", "async"] as const) {
      await testDomain(domain, { eventProcessing });
      const row = await given(
        new AccountOpened({ accountId: "A1", holder: "Ann", deposit: 10 }),
        new DepositMade({ accountId: "A1", amount: 5 }),
      ).project(Summary, "A1");
      expect(row.found).toBe(true);
      expect(row.projection.balance).toBe(15);
      expect(row.has({ balance: 15, movements: 1 })).toBe(true);
      expect(row.has({ balance: 16 })).toBe(false);
    }
  });

  test("processAndWait and drain run everything that follows, and the trace shows the chain", async () => {
    const { domain, open, MakeDeposit, DepositMade, AccountOpened, Summary } = bank();
    const t = await testDomain(domain, { eventProcessing: "async", commandProcessing: "async" });
    await open("A1", 100);
    const receipt = (await processAndWait(new MakeDeposit({ accountId: "A1", amount: 5 }))) as { correlationId: string };
    expect((await domain.viewFor(Summary).get("A1")).balance).toBe(105);
    expect(await drain()).toBe(0);
    const trace = await domain.correlationTrace(receipt.correlationId);
    assertChain(trace, [MakeDeposit, DepositMade]);
    expect(trace.map(({ depth }) => depth)).toEqual([0, 1]);
    expect(() => assertChain(trace, [DepositMade, AccountOpened])).toThrow("the chain lacks Fidelis.AccountOpened.v1");
    await expect(processAndWait(new MakeDeposit({ accountId: "A1", amount: 5 }), { until: () => false, timeout_ms: 20 })).rejects.toThrow(
      "still waiting",
    );
    await t.close();
  });
});
