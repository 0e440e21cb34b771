import { describe, expect, test } from "bun:test";
import { g } from "../../../../src/domain/context.ts";
import { ReactionBuilder } from "../../../../src/domain/reactions.ts";
import {
  ConnectionError,
  DeserializationError,
  ExpectedVersionError,
  UnitOfWorkClosedError,
  ValidationError,
} from "../../../../src/errors.ts";
import { type DecodedMessage, decodeMessage } from "../../../../src/messages/envelope.ts";
import { banking, lastStored, reactionNamed, running, stored } from "./bank.ts";

function foreign(type: string, data: object, metadata: object = {}): DecodedMessage {
  return decodeMessage(
    JSON.stringify({ data, metadata: { headers: { id: "f-1", type, stream: "other-1" }, domain: { kind: "EVENT" }, ...metadata } }),
  );
}

describe("accepting", () => {
  test("goes by name: what no method is for is ignored, a version nobody knows is not", async () => {
    const { domain } = await banking();
    const projector = reactionNamed(domain, "SummaryProjector");
    expect(projector.accepts("Fidelis.DepositMade.v1")).toBe("handled");
    expect(projector.accepts("Fidelis.WithdrawalMade.v1")).toBe("ignored");
    expect(projector.accepts("Fidelis.DepositMade.v2")).toBe("unknown-version");
    expect(projector.accepts("Other.DepositMade.v1")).toBe("ignored");
    const watcher = reactionNamed(domain, "Watcher");
    expect(watcher.accepts("Other.Thing.v1")).toBe("handled");
    expect(watcher.accepts("Fidelis.WithdrawalMade.v2")).toBe("unknown-version");
    expect(reactionNamed(domain, "AccountHandler").accepts("Fidelis.CloseAccount.v1")).toBe("ignored");
  });

  test("handleAny runs only when nothing matched, and gets undeclared types as generic events", async () => {
    const { domain, on, seen, open, deposit } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const watcher = reactionNamed(domain, "Watcher");
    await watcher.run(await lastStored(on, "AccountOpened"), running({ deliveryKey: "1" }));
    await watcher.run(await lastStored(on, "DepositMade"), running({ deliveryKey: "2" }));
    await watcher.run(foreign("Other.Thing.v3", { $name: "x", a: 1 }), running({ deliveryKey: "3" }));
    expect(seen).toEqual(["any AccountOpened", "first 5 undefined", "second 5", "any Other.Thing.v3"]);
  });

  test("a payload that doesn't fit is a decoding error that names type and field", async () => {
    const { domain } = await banking();
    const bad = foreign("Fidelis.DepositMade.v1", { account_id: "A1", amount: "many", transfer_id: null });
    const run = reactionNamed(domain, "SummaryProjector").run(bad, running());
    await expect(run).rejects.toBeInstanceOf(DeserializationError);
    await expect(run).rejects.toThrow(/Fidelis.DepositMade.v1.*amount/);
  });
});

describe("exactly once", () => {
  test("a command that is delivered again has no second effect, and its handler isn't called", async () => {
    const { domain, on, seen, open, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const command = await lastStored(on, "MakeDeposit");
    const handler = reactionNamed(domain, "AccountHandler");
    await handler.run(command, running({ deliveryKey: "7-0" }));
    await handler.run(command, running({ deliveryKey: "7-0", attempt: 2 }));
    expect(seen).toEqual(["deposit 5"]);
    expect(on.commits.at(-1)?.set.markers).toEqual([{ messageId: "7-0", handler: "fidelis.AccountHandler.handle_make_deposit" }]);
    await handler.run(command, running({ deliveryKey: "8-0" }));
    expect(await stored(on, "DepositMade")).toHaveLength(2);
  });

  test("two runs of one delivery at the same time have one effect", async () => {
    const { domain, on, open, deposit, Summary } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const projector = reactionNamed(domain, "SummaryProjector");
    await projector.run(await lastStored(on, "AccountOpened"), running({ deliveryKey: "open" }));
    const event = await lastStored(on, "DepositMade");
    await Promise.all([1, 2, 3].map(() => projector.run(event, running({ deliveryKey: event.id ?? "" }))));
    expect(await domain.repositoryFor(Summary).get("A1")).toMatchObject({ balance: 105, movements: 1 });
  });

  test("a crash at the commit leaves neither effect nor marker, and the next run does both", async () => {
    const { domain, on, open, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const command = await lastStored(on, "MakeDeposit");
    const handler = reactionNamed(domain, "AccountHandler");
    on.fault = () => {
      on.fault = null;
      throw new Error("killed");
    };
    await expect(handler.run(command, running())).rejects.toThrow("killed");
    expect(await stored(on, "DepositMade")).toHaveLength(0);
    await handler.run(command, running({ attempt: 2 }));
    expect(await stored(on, "DepositMade")).toHaveLength(1);
  });

  test("of several methods those that are done are not run again", async () => {
    const { domain, on, seen, hooks, open, deposit } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const event = await lastStored(on, "DepositMade");
    const watcher = reactionNamed(domain, "Watcher");
    hooks["first"] = () => {
      throw new Error("first");
    };
    await expect(watcher.run(event, running())).rejects.toThrow("first");
    expect(seen).toEqual(["first 5 undefined", "second 5"]);
    hooks["first"] = undefined;
    await watcher.run(event, running({ attempt: 2 }));
    expect(seen).toEqual(["first 5 undefined", "second 5", "first 5 undefined"]);
  });

  test("a projection in another database has its marker there", async () => {
    const { domain, on, open, deposit, Elsewhere } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const projector = reactionNamed(domain, "ElsewhereProjector");
    const event = await lastStored(on, "DepositMade");
    await projector.run(event, running());
    await projector.run(event, running());
    expect(on.commits.at(-1)).toMatchObject({
      database: "second",
      set: { markers: [{ handler: "fidelis.ElsewhereProjector.on_deposit_made" }] },
    });
    expect((await domain.repositoryFor(Elsewhere).get("A1")).movements).toBe(1);
  });

  test("with the event store apart the marker is only there when everything else is", async () => {
    const { domain, on, open, MakeDeposit } = await banking({ apart: true });
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const steps: string[] = [];
    on.fault = (step, database, content) =>
      void steps.push(`${step} ${database} ${"markers" in content ? content.markers.length : ""}`.trim());
    await reactionNamed(domain, "AccountHandler").run(await lastStored(on, "MakeDeposit"), running());
    expect(steps).toEqual(["append event store", "commit default 1"]);
  });

  test("when events and outbox rows are two databases, the events are first and the marker is last, on its own", async () => {
    const { domain, on, open, seen, MakeDeposit } = await banking({ apart: "second" });
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const steps: string[] = [];
    on.fault = (step, database, content) => {
      if (!("markers" in content)) throw new Error("the store is one of the databases");
      steps.push(
        `${step} ${database}: ${content.appends.length} appends, ${content.outbox.length} outbox, ${content.markers.length} markers`,
      );
      if (steps.length === 3) throw new Error("killed");
    };
    const handler = reactionNamed(domain, "AccountHandler");
    const command = await lastStored(on, "MakeDeposit");
    await expect(handler.run(command, running())).rejects.toThrow("killed");
    expect(steps).toEqual([
      "commit second: 1 appends, 0 outbox, 0 markers",
      "commit default: 0 appends, 2 outbox, 0 markers",
      "commit second: 0 appends, 0 outbox, 1 markers",
    ]);
    on.fault = null;
    // At least once across databases: without its marker the message is run again, never skipped.
    await handler.run(command, running({ attempt: 2 }));
    expect(seen).toEqual(["deposit 5", "deposit 5"]);
  });
});

describe("failures", () => {
  test("all methods run; one failure surfaces as itself, several as an AggregateError", async () => {
    const { domain, on, seen, hooks, open, deposit } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const event = await lastStored(on, "DepositMade");
    const watcher = reactionNamed(domain, "Watcher");
    const broken = new ValidationError({ amount: ["no"] });
    hooks["first"] = () => {
      throw broken;
    };
    expect(await watcher.run(event, running({ deliveryKey: "a" })).catch((error: unknown) => error)).toBe(broken);
    hooks["second"] = () => {
      throw new Error("second");
    };
    const both = (await watcher.run(event, running({ deliveryKey: "b" })).catch((error: unknown) => error)) as AggregateError;
    expect(both).toBeInstanceOf(AggregateError);
    expect(both.errors).toHaveLength(2);
    expect(seen.filter((line) => line.startsWith("second"))).toHaveLength(2);
  });

  test("a version conflict stops at once and keeps its type", async () => {
    const { domain, on, seen, hooks, open, deposit } = await banking({
      settings: {
        versionRetry: { enabled: false, maxRetries: 3, backoff: "exponential", baseDelay_ms: 50, maxDelay_ms: 1_000, exceptions: [] },
      },
    });
    await open("A1");
    await deposit("A1", 5);
    hooks["first"] = () => {
      throw new ExpectedVersionError("lost");
    };
    await expect(reactionNamed(domain, "Watcher").run(await lastStored(on, "DepositMade"), running())).rejects.toBeInstanceOf(
      ExpectedVersionError,
    );
    expect(seen).toEqual(["first 5 undefined"]);
  });

  test("version conflicts are tried again after 50, 100 and 200 ms with a fresh unit", async () => {
    const { domain, on, hooks, open, deposit, MakeDeposit, Account } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const command = await lastStored(on, "MakeDeposit");
    let others = 3;
    hooks["deposit"] = () => {
      others -= 1;
      // Somebody else is faster, outside of this handler's unit of work.
      if (others >= 0) return new Promise((resolve) => outside.push(() => void deposit("A1", 1).then(resolve)));
      return undefined;
    };
    const outside: (() => void)[] = [];
    const run = reactionNamed(domain, "AccountHandler").run(command, running());
    let done = false;
    void run.finally(() => {
      done = true;
    });
    while (!done) {
      outside.shift()?.();
      await on.clock.turn();
    }
    await run;
    expect(on.clock.pauses_ms).toEqual([50, 100, 200]);
    expect((await domain.repositoryFor(Account).get("A1")).balance).toBe(108);
  });

  test("a retry that would start after the deadline is not taken", async () => {
    const { domain, on, hooks, open, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }), { expiresAfter_ms: 120 });
    hooks["deposit"] = () => {
      throw new ExpectedVersionError("lost");
    };
    on.clock.ahead_ms = 60;
    await expect(reactionNamed(domain, "AccountHandler").run(await lastStored(on, "MakeDeposit"), running())).rejects.toBeInstanceOf(
      ExpectedVersionError,
    );
    expect(on.clock.pauses_ms.length).toBeLessThan(3);
  });

  test("transient errors are tried again only when that is switched on", async () => {
    const { domain, on, hooks, seen, open, MakeDeposit } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const command = await lastStored(on, "MakeDeposit");
    let failures = 2;
    hooks["deposit"] = () => {
      failures -= 1;
      if (failures >= 0) throw new ConnectionError("away");
    };
    const handler = reactionNamed(domain, "AccountHandler");
    await expect(handler.run(command, running())).rejects.toBeInstanceOf(ConnectionError);
    on.settings.transientRetry = { ...on.settings.transientRetry, enabled: true };
    failures = 2;
    seen.length = 0;
    await handler.run(command, running());
    expect(seen).toHaveLength(3);
    expect(on.clock.pauses_ms).toEqual([100, 200]);
  });

  test("onError is told, and its own errors are swallowed and logged", async () => {
    const { domain, on, errors, open, deposit } = await banking();
    await open("A1");
    await deposit("A1", 5);
    const watcher = reactionNamed(domain, "Watcher");
    const failure = new Error("failed");
    await watcher.onFailure(failure, await lastStored(on, "DepositMade"));
    expect(errors).toEqual([failure]);
    errors.push = () => {
      throw new Error("onError itself");
    };
    await watcher.onFailure(failure, await lastStored(on, "DepositMade"));
    expect(on.logged.map(({ event }) => event)).toContain("engine.error_handler_failed");
  });
});

describe("time limits", () => {
  test("a handler past its limit can't load, save, process or commit any more", async () => {
    const { domain, on, hooks, open, MakeDeposit, CloseAccount } = await banking();
    await open("A1");
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 5 }));
    const limit = new AbortController();
    const later: unknown[] = [];
    hooks["deposited"] = async () => {
      limit.abort();
      later.push(await domain.process(new CloseAccount({ accountId: "A1" })).catch((error: unknown) => error));
      later.push(await open("A2").catch((error: unknown) => error));
    };
    const run = reactionNamed(domain, "AccountHandler").run(await lastStored(on, "MakeDeposit"), running({ signal: limit.signal }));
    await expect(run).rejects.toBeInstanceOf(UnitOfWorkClosedError);
    expect(later.every((error) => error instanceof UnitOfWorkClosedError)).toBe(true);
    expect(await stored(on, "DepositMade")).toHaveLength(0);
    expect(await stored(on, "CloseAccount")).toHaveLength(0);
  });
});

describe("context", () => {
  test("extensions, correlation and causation of the message are in the handler and on what it makes, also for messages handled at once", async () => {
    const { domain, on, hooks, open, MakeDeposit, CloseAccount } = await banking();
    domain.commandEnrichers.push(() => ({ tenant_id: g["tenant_id"] }));
    for (const id of ["A1", "A2", "A3"]) await open(id);
    for (const id of ["A1", "A2", "A3"]) {
      await domain.context(() => domain.process(new MakeDeposit({ accountId: id, amount: 1 }), { correlationId: `c-${id}` }), {
        tenant_id: `t-${id}`,
      } as never);
    }
    hooks["deposit"] = async (command: InstanceType<typeof MakeDeposit>) => {
      await on.clock.turn();
      expect(g["tenant_id"]).toBe(`t-${command.accountId}`);
      g["note"] = command.accountId;
      await on.clock.turn();
      expect(g["note"]).toBe(command.accountId);
      await domain.process(new CloseAccount({ accountId: command.accountId }));
    };
    const commands = await stored(on, "MakeDeposit");
    const handler = reactionNamed(domain, "AccountHandler");
    await Promise.all(commands.map((command, index) => handler.run(command, running({ deliveryKey: `${index}-0` }))));
    expect(g["tenant_id"]).toBeUndefined();
    for (const made of [...(await stored(on, "CloseAccount")), ...(await stored(on, "DepositMade"))]) {
      const id = made.data["account_id"];
      const cause = commands.find((command) => command.data["account_id"] === id);
      expect(made.metadata.domain).toMatchObject({ correlation_id: `c-${id}`, causation_id: cause?.id });
    }
    expect((await stored(on, "CloseAccount")).map(({ metadata }) => metadata.extensions["tenant_id"])).toEqual(["t-A1", "t-A2", "t-A3"]);
  });

  test("writing to g outside of a context throws and says what to do", () => {
    expect(() => {
      g["tenant_id"] = "x";
    }).toThrow("no context is open");
  });
});

describe("projections", () => {
  test("two changes of one row at the same time are both there afterwards", async () => {
    const { domain, on, hooks, open, deposit, Summary } = await banking();
    await open("A1", 100);
    await deposit("A1", 5);
    await deposit("A1", 7);
    const projector = reactionNamed(domain, "SummaryProjector");
    await projector.run(await lastStored(on, "AccountOpened"), running({ deliveryKey: "open" }));
    const both = Promise.withResolvers<void>();
    let loaded = 0;
    hooks["project"] = () => {
      loaded += 1;
      if (loaded === 2) both.resolve();
      return loaded <= 2 ? both.promise : undefined;
    };
    const events = await stored(on, "DepositMade");
    await Promise.all(events.map((event) => projector.run(event, running({ deliveryKey: event.id ?? "" }))));
    expect(await domain.repositoryFor(Summary).get("A1")).toMatchObject({ balance: 112, movements: 2 });
    expect(on.clock.pauses_ms).toEqual([50]);
  });

  test("rows can be removed and changed in sets, and upsert makes or changes", async () => {
    const { domain, Summary } = await banking();
    const repository = domain.repositoryFor(Summary);
    for (const id of ["A", "B", "C"]) await repository.add(new Summary({ accountId: id, holder: id, balance: 1 }));
    await repository.query.filter({ holder: { in: ["A", "B"] } }).update({ balance: 9 });
    await repository.remove(await repository.get("A"));
    await repository.upsert(
      "B",
      () => new Summary({ accountId: "B", holder: "new", balance: 0 }),
      (row) => {
        row.movements = 4;
      },
    );
    await repository.upsert(
      "D",
      () => new Summary({ accountId: "D", holder: "new", balance: 0 }),
      () => {
        throw new Error("not there yet");
      },
    );
    await repository.query.filter({ accountId: "C" }).delete();
    const rows = await repository.query.orderBy("accountId").all();
    expect(rows.map(({ accountId, holder, balance, movements }) => [accountId, holder, balance, movements])).toEqual([
      ["B", "B", 9, 4],
      ["D", "new", 0, 0],
    ]);
  });

  test("inside a unit of work queries see what isn't committed yet", async () => {
    const { domain, on, Summary } = await banking();
    const repository = domain.repositoryFor(Summary);
    await domain.unitOfWork(async () => {
      await repository.add(new Summary({ accountId: "A", holder: "Ann", balance: 1 }));
      expect((await repository.query.filter({ holder: "Ann" }).all()).total).toBe(1);
      expect(await domain.viewFor(Summary).exists("A")).toBe(true);
      await repository.query.filter({ holder: "Ann" }).delete();
      expect(await repository.query.count()).toBe(0);
      expect(on.commits).toHaveLength(0);
    });
    expect(await domain.viewFor(Summary).count()).toBe(0);
  });

  test("a row added and removed in one unit leaves no trace", async () => {
    const { domain, Summary } = await banking();
    const repository = domain.repositoryFor(Summary);
    await domain.unitOfWork(async () => {
      const row = await repository.add(new Summary({ accountId: "A", holder: "Ann", balance: 1 }));
      await repository.remove(row);
    });
    expect(await repository.getOrNull("A")).toBeNull();
  });

  test("rebuildProjection makes the rows anew from the store, markers or not", async () => {
    const { domain, on, open, deposit, Summary } = await banking();
    await open("A1", 100);
    await deposit("A1", 5);
    const projector = reactionNamed(domain, "SummaryProjector");
    for (const event of await stored(on)) await projector.run(event, running({ deliveryKey: event.id ?? "" }));
    const repository = domain.repositoryFor(Summary);
    await repository.query.update({ balance: -1 });
    expect(await domain.rebuildProjection(Summary)).toBe(2);
    expect(await repository.get("A1")).toMatchObject({ balance: 105, movements: 1 });
  });
});

describe("subscribers", () => {
  test("get the checked payload; what they process carries the source's id and one correlation", async () => {
    const { domain, on, seen } = await banking();
    const subscriber = reactionNamed(domain, "Payments");
    await subscriber.runPayload(
      { account_id: "A1", amount: 5, reference: "r-1", extra: true },
      { id: "1-0", stream: "webhooks" },
      running(),
    );
    expect(seen).toEqual(["payment r-1"]);
    const command = await lastStored(on, "MakeDeposit");
    expect(command.metadata.domain.causation_id).toBe("1-0");
    expect(command.metadata.domain.correlation_id).toMatch(/^[0-9a-f]{32}$/);
    const envelope = {
      accountId: "A1",
      amount: 5,
      reference: "r-2",
      metadata: { headers: { id: "src-9" }, domain: { correlation_id: "chain" } },
    };
    await subscriber.runPayload(envelope, { id: "2-0", stream: "webhooks" }, running());
    expect((await lastStored(on, "MakeDeposit")).metadata.domain).toMatchObject({ causation_id: "src-9", correlation_id: "chain" });
  });

  test("a payload that doesn't fit is refused with the field", async () => {
    const { domain, seen } = await banking();
    const run = reactionNamed(domain, "Payments").runPayload(
      { account_id: "A1", amount: -5, reference: "r" },
      { id: "1-0", stream: "webhooks" },
      running(),
    );
    await expect(run).rejects.toBeInstanceOf(ValidationError);
    await expect(run).rejects.toThrow("amount");
    expect(seen).toEqual([]);
  });

  test("run at once with message_processing sync", async () => {
    const { domain, on, seen } = await banking({ settings: { messageProcessing: "sync" } });
    await domain.brokers.publish("webhooks", { account_id: "A1", amount: 5, reference: "r-1" });
    expect(seen).toEqual(["payment r-1"]);
    expect(await on.stores.brokers.get("default")?.length("webhooks")).toBe(1);
  });
});

describe("process managers", () => {
  const start = async () => {
    const made = await banking();
    const { domain, open, Transfer, TransferAsked } = made;
    await open("A1", 100);
    await open("A2", 0);
    const transfer = Transfer.createNew({ id: "T1" });
    transfer.raise(new TransferAsked({ transferId: "T1", from: "A1", to: "A2", amount: 30 }));
    await domain.repositoryFor(Transfer).add(transfer);
    return { ...made, manager: reactionNamed(domain, "TransferManager") };
  };

  test("the transition, its commands and the marker are one commit", async () => {
    const { on, manager } = await start();
    await manager.run(await lastStored(on, "TransferAsked"), running());
    const set = on.commits.at(-1)?.set;
    expect(set?.appends.map(({ stream, expectedVersion }) => [stream, expectedVersion])).toEqual([
      ["fidelis::account:command-A1", null],
      ["fidelis::transfer_manager-T1", -1],
    ]);
    expect(set?.outbox.map(({ type }) => type)).toEqual(["Fidelis.MakeWithdrawal.v1"]);
    expect(set?.markers).toHaveLength(1);
    const transition = await lastStored(on, "Transition");
    expect(transition.type).toBe("Fidelis._TransferManagerTransition.v1");
    expect(transition.data).toEqual({
      state: { transfer_id: "T1", to: "A2", amount: 30, step: "withdrawing" },
      handler_name: "on_transfer_asked",
      is_complete: false,
    });
    expect(transition.metadata).toMatchObject({
      headers: { id: "fidelis::transfer_manager-T1-0", time: null },
      domain: {
        fqn: "abc._TransferManagerTransition",
        kind: "EVENT",
        sequence_id: "0",
        expected_version: -1,
        stream_category: "fidelis::transfer_manager",
      },
      extensions: {},
    });
  });

  test("a failing method leaves neither transition nor commands", async () => {
    const { on, manager, hooks } = await start();
    hooks["asked"] = () => {
      throw new Error("no");
    };
    await expect(manager.run(await lastStored(on, "TransferAsked"), running())).rejects.toThrow("no");
    expect(await stored(on, "MakeWithdrawal")).toHaveLength(0);
    expect(await stored(on, "Transition")).toHaveLength(0);
  });

  test("runs to its end, skips what isn't its own and what comes after the end", async () => {
    const { domain, on, manager, deposit } = await start();
    const handler = reactionNamed(domain, "AccountHandler");
    let delivery = 0;
    const next = () => {
      delivery += 1;
      return running({ deliveryKey: `d-${delivery}` });
    };
    await manager.run(await lastStored(on, "TransferAsked"), next());
    await handler.run(await lastStored(on, "MakeWithdrawal"), next());
    await manager.run(await lastStored(on, "WithdrawalMade"), next());
    await handler.run(await lastStored(on, "MakeDeposit"), next());
    const last = await lastStored(on, "DepositMade");
    await manager.run(last, next());
    await manager.run(last, next());
    await deposit("A2", 1);
    await manager.run(await lastStored(on, "DepositMade"), next());
    const transitions = await stored(on, "Transition");
    expect(transitions.map(({ data }) => [data["handler_name"], data["is_complete"]])).toEqual([
      ["on_transfer_asked", false],
      ["on_withdrawal_made", false],
      ["on_deposit_made", true],
    ]);
  });

  test("two events for one instance at the same time both make their transition", async () => {
    const { on, manager, hooks } = await start();
    const event = await lastStored(on, "TransferAsked");
    const both = Promise.withResolvers<void>();
    let arrived = 0;
    hooks["asked"] = () => {
      arrived += 1;
      if (arrived === 2) both.resolve();
      return both.promise;
    };
    await Promise.all(["a", "b"].map((deliveryKey) => manager.run(event, running({ deliveryKey }))));
    expect((await stored(on, "Transition")).map(({ id }) => id)).toEqual([
      "fidelis::transfer_manager-T1-0",
      "fidelis::transfer_manager-T1-1",
    ]);
    // The one that lost ran again on the new state; the commands of its first try were never stored.
    expect(await stored(on, "MakeWithdrawal")).toHaveLength(2);
    expect(on.clock.pauses_ms).toEqual([50]);
  });

  test("with onMissing retry an event that comes before its start fails, to be tried again", async () => {
    const { domain, on, TransferManager, MakeDeposit } = await start();
    const meta = ReactionBuilder.metaOf(TransferManager);
    const method = meta?.methods.find(({ name }) => name === "on_deposit_made");
    Object.assign(method ?? {}, { onMissing: "retry" });
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1, transferId: "T9" }), { asynchronous: false });
    const run = reactionNamed(domain, "TransferManager").run(await lastStored(on, "DepositMade"), running());
    await expect(run).rejects.toThrow("has no instance T9 yet");
  });

  test("an event for an instance that was never started is counted and skipped", async () => {
    const { domain, on, manager, MakeDeposit } = await start();
    await domain.process(new MakeDeposit({ accountId: "A1", amount: 1, transferId: "T9" }), { asynchronous: false });
    await manager.run(await lastStored(on, "DepositMade"), running());
    expect(await stored(on, "Transition")).toHaveLength(0);
    expect(on.logged.map(({ event }) => event)).toContain("pm.not_started");
  });
});
