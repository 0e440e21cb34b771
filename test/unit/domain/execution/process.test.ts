import { describe, expect, test } from "bun:test";
import { Priority, processingPriority } from "../../../../src/domain/context.ts";
import type { CommandReceipt } from "../../../../src/domain/process-command.ts";
import {
  CommandExpiredError,
  ConnectionError,
  DuplicateCommandError,
  IncorrectUsageError,
  InvalidDataError,
  ValidationError,
} from "../../../../src/errors.ts";
import { type CommitSet, ReservationLostError } from "../../../../src/ports/database.ts";
import { bank, banking, lastStored, reactionNamed, running, stored } from "./bank.ts";

describe("process", () => {
  test("stores an asynchronous command with its outbox row in one commit and answers a receipt", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const receipt = await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }), { asynchronous: true });
    const command = await lastStored(on, "MakeDeposit");
    expect(receipt).toEqual({
      id: command.id,
      stream: "fidelis::account:command-A1",
      correlationId: command.metadata.domain.correlation_id,
    });
    expect(command.metadata.domain).toMatchObject({
      kind: "COMMAND",
      asynchronous: true,
      stream_category: "fidelis::account:command",
      expected_version: null,
    });
    expect(command.metadata.domain.correlation_id).toMatch(/^[0-9a-f]{32}$/);
    expect(command.data).toMatchObject({ account_id: "A1", amount: 5 });
    expect(on.commits).toHaveLength(1);
    expect(on.commits[0]?.set.outbox.map(({ messageId, streamName }) => [messageId, streamName])).toEqual([
      [receipt.id, "fidelis::account:command-A1"],
    ] as never);
  });

  test("two commands for one aggregate have two message ids", async () => {
    const { domain, MakeDeposit } = await banking();
    const one = (await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }))) as CommandReceipt;
    const two = (await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }))) as CommandReceipt;
    expect(one.id).not.toBe(two.id);
  });

  test("commands read from the event store get no outbox row and no category to publish to", async () => {
    const { domain, on, MakeDeposit } = await banking({ settings: { commandSubscriptionType: () => "event_store" } });
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    expect(on.commits.flatMap(({ set }) => set.outbox)).toEqual([]);
    expect((await lastStored(on, "MakeDeposit")).metadata.domain.stream_category).toBeNull();
  });

  test("asynchronous: false runs the handler and resolves to its result; the command is stored without outbox row", async () => {
    const { domain, on, OpenAccount, Account } = await banking();
    const id = await domain.process(new OpenAccount({ holder: "Ann", deposit: 10 }), { asynchronous: false });
    expect((await domain.repositoryFor(Account).get(id)).balance).toBe(10);
    const command = await lastStored(on, "OpenAccount");
    expect(command.metadata.domain).toMatchObject({ asynchronous: false, stream_category: null });
    const event = await lastStored(on, "AccountOpened");
    expect(event.metadata.domain).toMatchObject({ causation_id: command.id, correlation_id: command.metadata.domain.correlation_id });
    expect(on.commits.flatMap(({ set }) => set.outbox.map(({ type }) => type))).toEqual(["Fidelis.AccountOpened.v1"]);
  });

  test("configured sync wins over asynchronous: true, which still resolves to a receipt", async () => {
    const { domain, on, OpenAccount } = await banking({ settings: { commandProcessing: "sync" } });
    const receipt = await domain.process(new OpenAccount({ holder: "Ann", deposit: 10 }), { asynchronous: true });
    expect(receipt).toHaveProperty("stream");
    expect(await stored(on, "AccountOpened")).toHaveLength(1);
    expect(await domain.process(new OpenAccount({ holder: "Bea", deposit: 10 }))).toBeString();
  });

  test("inside a unit of work a command is stored with the commit and gone with the rollback", async () => {
    const { domain, on, MakeDeposit, open } = await banking();
    await domain
      .unitOfWork(async () => {
        await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }));
        throw new Error("no");
      })
      .catch(() => {});
    expect(await stored(on)).toHaveLength(0);
    await domain.unitOfWork(async () => {
      await open("A1");
      await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }));
    });
    expect(on.commits).toHaveLength(1);
    expect(on.commits[0]?.set.appends).toHaveLength(2);
  });

  test("inline without a handler is an error, asynchronously it is fine", async () => {
    const { domain, CloseAccount, on } = await banking();
    await expect(domain.process(new CloseAccount({ accountId: "A1" }), { asynchronous: false })).rejects.toThrow("no handler");
    await domain.process(new CloseAccount({ accountId: "A1" }));
    expect(await stored(on, "CloseAccount")).toHaveLength(1);
  });

  test("only commands of this domain are taken, and only after init", async () => {
    const { domain, DepositMade } = await banking();
    await expect(domain.process(new DepositMade({ accountId: "A", amount: 1 }) as never)).rejects.toBeInstanceOf(IncorrectUsageError);
    const other = bank();
    await expect(domain.process(new other.MakeDeposit({ accountId: "A", amount: 1 }))).rejects.toThrow("belongs to domain");
    await expect(other.domain.process(new other.MakeDeposit({ accountId: "A", amount: 1 }))).rejects.toThrow("await domain.init() first");
  });

  test("payloads above the limit are refused with the field and its size, before anything is stored", async () => {
    const { domain, on, OpenAccount } = await banking({ settings: { maxMessage_bytes: 100 } });
    const refused = domain.process(new OpenAccount({ holder: "x".repeat(200), deposit: 1 }));
    await expect(refused).rejects.toBeInstanceOf(InvalidDataError);
    await expect(refused).rejects.toThrow(/`holder` with 202 bytes/);
    expect(await stored(on)).toHaveLength(0);
  });
});

describe("priority", () => {
  test("is the argument's, else the context's, else the message's in hand, else 0; and events have their command's", async () => {
    const { domain, on, hooks, open, MakeDeposit, CloseAccount } = await banking();
    await open("A1");
    hooks["deposit"] = () => domain.process(new CloseAccount({ accountId: "A1" }));
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { asynchronous: false, priority: 7 });
    expect((await lastStored(on, "DepositMade")).metadata.domain.priority).toBe(7);
    expect((await lastStored(on, "CloseAccount")).metadata.domain.priority).toBe(7);
    await domain.context(() => processingPriority(Priority.LOW, () => domain.process(new CloseAccount({ accountId: "A1" }))));
    expect((await lastStored(on, "CloseAccount")).metadata.domain.priority).toBe(-50);
    await domain.context(() =>
      processingPriority(Priority.LOW, () => domain.process(new CloseAccount({ accountId: "A1" }), { priority: 3 })),
    );
    expect((await lastStored(on, "CloseAccount")).metadata.domain.priority).toBe(3);
    expect(on.commits.at(-1)?.set.outbox.map(({ priority }) => priority)).toEqual([3]);
  });

  test("needs no context of its own around it", async () => {
    const { domain, on, open, CloseAccount } = await banking();
    await open("A1");
    await processingPriority(Priority.LOW, () => domain.process(new CloseAccount({ accountId: "A1" })));
    expect((await lastStored(on, "CloseAccount")).metadata.domain.priority).toBe(-50);
    await domain.process(new CloseAccount({ accountId: "A1" }));
    expect((await lastStored(on, "CloseAccount")).metadata.domain.priority).toBe(0);
  });
});

describe("deadlines", () => {
  test("come from the call, else the message in hand, else the handler, else the configuration", async () => {
    const { domain, on, hooks, open, MakeDeposit, CloseAccount, PlaceOrder } = await banking({
      settings: { commandDefaultTimeout_ms: 5_000 },
    });
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { deadline: "2030-01-01T00:00:00Z" });
    expect((await lastStored(on, "MakeDeposit")).metadata.headers.deadline).toBe("2030-01-01T00:00:00+00:00");
    hooks["deposit"] = () => domain.process(new CloseAccount({ accountId: "A1" }));
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), {
      asynchronous: false,
      deadline: new Date("2031-01-01T00:00:00Z"),
    });
    expect((await lastStored(on, "CloseAccount")).metadata.headers.deadline).toBe("2031-01-01T00:00:00+00:00");
    await domain.process(new PlaceOrder({ orderId: "O1", total: 1 }));
    const order = await lastStored(on, "PlaceOrder");
    const span_ms = Date.parse(order.metadata.headers.deadline ?? "") - Date.parse(order.metadata.headers.time ?? "");
    expect(Math.abs(span_ms - 5_000)).toBeLessThan(50);
    await expect(
      domain.process(new PlaceOrder({ orderId: "O1", total: 1 }), { deadline: "2030-01-01", expiresAfter_ms: 1 }),
    ).rejects.toBeInstanceOf(IncorrectUsageError);
  });

  test("an expired command is refused before anything is stored", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const late = domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { asynchronous: false, deadline: "2020-01-01T00:00:00Z" });
    await expect(late).rejects.toBeInstanceOf(CommandExpiredError);
    expect(await stored(on)).toHaveLength(0);
  });
});

describe("idempotency keys", () => {
  test("a second submission is the first one's receipt and stores nothing", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const send = (): Promise<unknown> => domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    const [one, two, three] = await Promise.all([send(), send(), send()]);
    expect(two).toEqual(one);
    expect(three).toEqual(one);
    expect(await stored(on, "MakeDeposit")).toHaveLength(1);
    await expect(
      domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k", raiseOnDuplicate: true }),
    ).rejects.toBeInstanceOf(DuplicateCommandError);
  });

  test("the key of an async command is noted in the command's own transaction: a kill right after it leaves no second command (rulings 14)", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const { idempotency } = domain.stores;
    if (idempotency === null) throw new Error("keys are kept in the database here");
    idempotency.succeed = () => Promise.reject(new Error("the process died before this"));
    const send = (): Promise<unknown> => domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    const first = await send();
    expect(await send()).toEqual(first);
    expect(await stored(on, "MakeDeposit")).toHaveLength(1);
  });

  test("a second run at once gets the first one's result", async () => {
    const { domain, on, OpenAccount } = await banking();
    const send = () => domain.process(new OpenAccount({ holder: "Ann", deposit: 1 }), { idempotencyKey: "k", asynchronous: false });
    const [one, two] = await Promise.all([send(), send()]);
    expect(one).toBeString();
    expect(two).toBe(one);
    expect(await stored(on, "AccountOpened")).toHaveLength(1);
  });

  test("a submission is never taken for handled: the engine still runs the command, and only once", async () => {
    const { domain, on, open, seen, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    const handler = reactionNamed(domain, "AccountHandler");
    const command = await lastStored(on, "MakeDeposit");
    await handler.run(command, running({ deliveryKey: "1-0" }));
    await handler.run(command, running({ deliveryKey: "2-0" }));
    expect(seen).toEqual(["deposit 1"]);
    expect(await stored(on, "DepositMade")).toHaveLength(1);
  });

  test("the number that Python notes at submission doesn't keep the command from running", async () => {
    const { domain, on, open, seen, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    await on.stores.idempotency?.succeed("k", 0, 1_000_000);
    await reactionNamed(domain, "AccountHandler").run(await lastStored(on, "MakeDeposit"), running());
    expect(seen).toEqual(["deposit 1"]);
  });

  test("after a failed run the key can be used again at once, by one at a time", async () => {
    const { domain, on, open, hooks, MakeDeposit } = await banking();
    await open("A1");
    hooks["deposit"] = () => {
      throw new ValidationError({ amount: ["no"] });
    };
    const send = (): Promise<unknown> =>
      domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k", asynchronous: false });
    await expect(send()).rejects.toBeInstanceOf(ValidationError);
    expect(await on.stores.idempotency?.get("k")).toEqual({ state: "error" });
    hooks["deposit"] = undefined;
    await Promise.all([send(), send(), send()]);
    expect(await stored(on, "DepositMade")).toHaveLength(1);
  });

  test("a commit without an answer that takes effect later, when the command was sent again, doesn't become a second command", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const send = (): Promise<unknown> => domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    const late: CommitSet[] = [];
    on.fault = (step, _database, content) => {
      if (step !== "commit" || late.length > 0) return;
      late.push(content as CommitSet);
      throw new ConnectionError("no answer");
    };
    await expect(send()).rejects.toBeInstanceOf(ConnectionError);
    await send();
    for (const set of late) await expect(on.database.commit(set)).rejects.toBeInstanceOf(ReservationLostError);
    expect(late).toHaveLength(1);
    expect(await stored(on, "MakeDeposit")).toHaveLength(1);
  });

  test("a submission whose reservation ran out under way gets what the one after it got", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const other = { accepted: true, id: "other", stream: "s", correlation_id: "c" };
    on.fault = async () => {
      on.fault = null;
      await on.stores.idempotency?.succeed("k", other, 60_000);
    };
    const receipt = await domain.process(new MakeDeposit({ accountId: "A1", amount: 1 }), { idempotencyKey: "k" });
    expect(receipt).toEqual({ id: "other", stream: "s", correlationId: "c" });
    expect(await stored(on, "MakeDeposit")).toEqual([]);
  });

  test("a key whose unit of work rolled back is free again", async () => {
    const { domain, on, MakeDeposit } = await banking();
    const command = new MakeDeposit({ accountId: "A1", amount: 1 });
    await domain
      .unitOfWork(async () => {
        await domain.process(command, { idempotencyKey: "k" });
        throw new Error("no");
      })
      .catch(() => {});
    await domain.process(command, { idempotencyKey: "k" });
    expect(await stored(on, "MakeDeposit")).toHaveLength(1);
  });
});

describe("queries", () => {
  test("dispatch runs the one handler and gives its result", async () => {
    const { domain, RichAccounts, Summary, MakeDeposit } = await banking();
    const repository = domain.repositoryFor(Summary);
    await repository.add(new Summary({ accountId: "A1", holder: "Ann", balance: 50 }));
    await repository.add(new Summary({ accountId: "A2", holder: "Bea", balance: 500 }));
    await repository.add(new Summary({ accountId: "A3", holder: "Cid", balance: 100 }));
    expect(await domain.dispatch(new RichAccounts({ atLeast: 100 }))).toEqual(["Bea", "Cid"]);
    await expect(domain.dispatch(new MakeDeposit({ accountId: "A1", amount: 1 }) as never)).rejects.toBeInstanceOf(IncorrectUsageError);
  });
});
