/** A bank with every kind of element, and stores in memory whose steps can be watched and broken. */
import { openSqlite } from "../../../../src/adapters/sqlite/mod.ts";
import { g } from "../../../../src/domain/context.ts";
import { Domain, returns } from "../../../../src/domain/domain.ts";
import { f } from "../../../../src/domain/fields.ts";
import type { Reaction, RunContext } from "../../../../src/domain/reaction.ts";
import { decodeStored } from "../../../../src/domain/read-message.ts";
import type { DomainSettings, DomainStores } from "../../../../src/domain/stores.ts";
import { ValidationError } from "../../../../src/errors.ts";
import type { DecodedMessage } from "../../../../src/messages/envelope.ts";
import type { CommitSet, Database } from "../../../../src/ports/database.ts";
import { ALL_STREAMS, type Append, type EventStore } from "../../../../src/ports/event-store.ts";
import { type LogFields, silentLog } from "../../../../src/ports/log.ts";
import { silentTelemetry } from "../../../../src/ports/telemetry.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { ShiftedClock } from "../../../support/shifted-clock.ts";

/** Pauses end at once and are written down. */
export class NoPauseClock extends ShiftedClock {
  readonly pauses_ms: number[] = [];
  override async sleep(delay_ms: number): Promise<void> {
    this.pauses_ms.push(delay_ms);
    await this.turn();
  }
}

export interface Bench {
  readonly stores: DomainStores;
  readonly settings: { -readonly [K in keyof DomainSettings]: DomainSettings[K] };
  readonly clock: NoPauseClock;
  readonly database: Database;
  /** Everything that was committed, in order. */
  readonly commits: { readonly database: string; readonly set: CommitSet }[];
  readonly appends: (readonly Append[])[];
  /** Called before each commit and append; throwing is the crash. */
  fault: ((step: "append" | "commit", database: string, content: CommitSet | readonly Append[]) => void | Promise<void>) | null;
  readonly logged: { readonly level: string; readonly event: string; readonly fields: LogFields }[];
}

/** Stores in memory. `apart`: the event store is a database of its own, or that of the databases' `second`. */
export async function bench(
  options: { readonly apart?: boolean | "second"; readonly settings?: Partial<DomainSettings> } = {},
): Promise<Bench> {
  const clock = new NoPauseClock();
  const tools = { clock, random: new SystemRandom(), log: silentLog };
  const main = await openSqlite({ file: ":memory:", ...tools });
  const second = await openSqlite({ file: ":memory:", ...tools });
  const third = await openSqlite({ file: ":memory:", ...tools });
  const settings: DomainSettings = {
    eventProcessing: "async",
    commandProcessing: "async",
    messageProcessing: "async",
    lenientDeserialization: false,
    snapshotThreshold: 10,
    commandDefaultTimeout_ms: null,
    outbox: { enabled: true, broker: "default", externalBrokers: ["partners"], maxAttempts: 3 },
    commandSubscriptionType: () => "stream",
    idempotency: { ttl_ms: 86_400_000, errorTtl_ms: 60_000 },
    versionRetry: { enabled: true, maxRetries: 3, backoff: "exponential", baseDelay_ms: 50, maxDelay_ms: 1_000, exceptions: [] },
    transientRetry: { enabled: false, maxRetries: 3, backoff: "exponential", baseDelay_ms: 100, maxDelay_ms: 1_000, exceptions: [] },
    maxMessage_bytes: 4 * 1024 * 1024,
    ...options.settings,
  };
  const made = {
    commits: [] as Bench["commits"],
    appends: [] as Bench["appends"],
    fault: null as Bench["fault"],
    logged: [] as Bench["logged"],
  };
  const watched = (database: Database, name: string): Database =>
    new Proxy(database, {
      get(target, key) {
        if (key === "name") return name;
        if (key === "commit") {
          return async (set: CommitSet) => {
            await made.fault?.("commit", name, set);
            const result = await target.commit(set);
            made.commits.push({ database: name, set });
            return result;
          };
        }
        const value = Reflect.get(target, key, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  const store = options.apart === "second" ? second.eventStore : options.apart === true ? third.eventStore : main.eventStore;
  const eventStore: EventStore = new Proxy(store, {
    get(target, key) {
      if (key === "append") {
        return async (messages: readonly Append[]) => {
          await made.fault?.("append", "event store", messages);
          const result = await target.append(messages);
          made.appends.push(messages);
          return result;
        };
      }
      const value = Reflect.get(target, key, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const log =
    (level: string) =>
    (event: string, fields: LogFields = {}) =>
      void made.logged.push({ level, event, fields });
  const database = watched(main.database, "default");
  const stores: DomainStores = {
    settings,
    databases: new Map([
      ["default", database],
      ["second", watched(second.database, "second")],
    ]),
    eventStore,
    brokers: new Map([["default", main.broker]]),
    idempotency: main.database.idempotency,
    clock,
    random: tools.random,
    log: { debug: log("debug"), info: log("info"), warning: log("warning"), error: log("error"), with: () => silentLog },
    telemetry: silentTelemetry,
    async close() {
      await main.close();
      await second.close();
      await third.close();
    },
  };
  return Object.assign(made, { stores, settings: settings as Bench["settings"], clock, database });
}

/** Attaches the stores and makes the tables. */
export async function attach(domain: Domain, on: Bench): Promise<void> {
  domain.useStores(on.stores);
  await on.stores.eventStore.setup();
  for (const database of on.stores.databases.values()) await database.setup();
}

/** The bank; a new one for each test, so that nothing is shared. */
export function bank() {
  const domain = new Domain("fidelis");
  /** What handlers saw, for tests to look at. */
  const seen: string[] = [];
  /** Code that tests put into handlers. */
  const hooks: Record<string, ((...given: never[]) => unknown) | undefined> = {};
  const hook = async (name: string, ...given: unknown[]): Promise<unknown> =>
    await (hooks[name] as ((...values: unknown[]) => unknown) | undefined)?.(...given);

  class AccountOpened extends domain.event("AccountOpened", {
    fields: { accountId: f.identifier(), holder: f.string(), deposit: f.float() },
  }) {}
  class DepositMade extends domain.event("DepositMade", {
    fields: { accountId: f.identifier(), amount: f.float(), transferId: f.identifier({ optional: true }) },
    published: true,
  }) {}
  class WithdrawalMade extends domain.event("WithdrawalMade", {
    fields: { accountId: f.identifier(), amount: f.float(), transferId: f.identifier({ optional: true }) },
  }) {}
  class Account extends domain.aggregate("Account", {
    eventSourced: true,
    fields: { holder: f.string(), balance: f.float({ default: 0 }) },
    events: [AccountOpened, DepositMade, WithdrawalMade],
    apply: {
      AccountOpened(account, event) {
        account.holder = event.holder;
        account.balance = event.deposit;
      },
      DepositMade(account, event) {
        account.balance += event.amount;
      },
      WithdrawalMade(account, event) {
        account.balance -= event.amount;
      },
    },
    invariants: {
      post: {
        notNegative(account) {
          if (account.balance < 0) throw new ValidationError({ balance: ["insufficient funds"] });
        },
      },
    },
  }) {}

  class OrderPlaced extends domain.event("OrderPlaced", { fields: { orderId: f.identifier(), total: f.float() } }) {}
  class OrderChanged extends domain.event("OrderChanged", { fields: { orderId: f.identifier(), total: f.float() } }) {}
  class Order extends domain.aggregate("Order", {
    fields: { total: f.float({ default: 0 }) },
    events: [OrderPlaced, OrderChanged],
    factEvents: true,
  }) {}

  class OpenAccount extends domain.command("OpenAccount", {
    partOf: Account,
    fields: { holder: f.string(), deposit: f.float() },
    returns: returns<string>(),
  }) {}
  class MakeDeposit extends domain.command("MakeDeposit", {
    partOf: Account,
    fields: { accountId: f.identifier({ identifier: true }), amount: f.float(), transferId: f.identifier({ optional: true }) },
  }) {}
  class MakeWithdrawal extends domain.command("MakeWithdrawal", {
    partOf: Account,
    fields: { accountId: f.identifier({ identifier: true }), amount: f.float(), transferId: f.identifier({ optional: true }) },
  }) {}
  class CloseAccount extends domain.command("CloseAccount", {
    partOf: Account,
    fields: { accountId: f.identifier({ identifier: true }) },
  }) {}
  class PlaceOrder extends domain.command("PlaceOrder", {
    partOf: Order,
    fields: { orderId: f.identifier({ identifier: true }), total: f.float() },
  }) {}

  const AccountHandler = domain
    .commandHandler("AccountHandler", { partOf: Account, expiresAfter_ms: 60_000 })
    .handle(OpenAccount, async (command) => {
      const account = Account.createNew();
      account.raise(new AccountOpened({ accountId: account.id, holder: command.holder, deposit: command.deposit }));
      await domain.repositoryFor(Account).add(account);
      return account.id;
    })
    .handle(MakeDeposit, async (command, context) => {
      seen.push(`deposit ${command.amount}`);
      const repository = domain.repositoryFor(Account);
      const account = await repository.get(command.accountId);
      await hook("deposit", command, context);
      account.raise(new DepositMade({ accountId: account.id, amount: command.amount, transferId: command.transferId }));
      await repository.add(account);
      await hook("deposited", command, context);
    })
    .handle(MakeWithdrawal, async (command) => {
      const repository = domain.repositoryFor(Account);
      const account = await repository.get(command.accountId);
      account.raise(new WithdrawalMade({ accountId: account.id, amount: command.amount, transferId: command.transferId }));
      await repository.add(account);
    });
  domain.commandHandler("OrderHandler", { partOf: Order }).handle(PlaceOrder, async (command) => {
    const order = new Order({ id: command.orderId, total: command.total });
    order.raise(new OrderPlaced({ orderId: order.id, total: command.total }));
    await domain.repositoryFor(Order).add(order);
  });

  class Summary extends domain.projection("Summary", {
    fields: { accountId: f.identifier({ identifier: true }), holder: f.string(), balance: f.float(), movements: f.integer({ default: 0 }) },
  }) {}
  class Elsewhere extends domain.projection("Elsewhere", {
    fields: { accountId: f.identifier({ identifier: true }), movements: f.integer({ default: 0 }) },
    provider: "second",
  }) {}
  const SummaryProjector = domain
    .projector("SummaryProjector", { projectorFor: Summary, aggregates: [Account], idempotent: true })
    .on(AccountOpened, async (event) => {
      seen.push("project opened");
      await domain.repositoryFor(Summary).add(new Summary({ accountId: event.accountId, holder: event.holder, balance: event.deposit }));
    })
    .on(DepositMade, async (event) => {
      seen.push("project deposit");
      const repository = domain.repositoryFor(Summary);
      const row = await repository.get(event.accountId);
      await hook("project", event);
      row.balance += event.amount;
      row.movements += 1;
      await repository.add(row);
    });
  domain
    .projector("ElsewhereProjector", { projectorFor: Elsewhere, aggregates: [Account], idempotent: true })
    .on(DepositMade, async (event) => {
      await domain.repositoryFor(Elsewhere).upsert(
        event.accountId,
        () => new Elsewhere({ accountId: event.accountId, movements: 1 }),
        (row) => {
          row.movements += 1;
        },
      );
    });

  const errors: unknown[] = [];
  const Watcher = domain
    .eventHandler("Watcher", { partOf: Account })
    .handle(DepositMade, { name: "first" }, async (event, context) => {
      seen.push(`first ${event.amount} ${String(g["tenant_id"])}`);
      await hook("first", event, context);
    })
    .handle(DepositMade, { name: "second" }, async (event, context) => {
      seen.push(`second ${event.amount}`);
      await hook("second", event, context);
    })
    .handleAny((event) => {
      seen.push(`any ${event.$name}`);
    })
    .onError((error) => {
      errors.push(error);
    });

  class TransferAsked extends domain.event("TransferAsked", {
    fields: { transferId: f.identifier(), from: f.string(), to: f.string(), amount: f.float() },
  }) {}
  class Transfer extends domain.aggregate("Transfer", {
    eventSourced: true,
    fields: { amount: f.float({ default: 0 }) },
    events: [TransferAsked],
    apply: {
      TransferAsked(transfer, event) {
        transfer.amount = event.amount;
      },
    },
  }) {}
  const TransferManager = domain
    .processManager("TransferManager", {
      aggregates: [Transfer, Account],
      fields: {
        transferId: f.identifier({ identifier: true }),
        to: f.string({ optional: true }),
        amount: f.float({ default: 0 }),
        step: f.string({ default: "new" }),
      },
    })
    .handle(TransferAsked, { start: true, correlate: "transferId" }, async (manager, event) => {
      manager.to = event.to;
      manager.amount = event.amount;
      manager.step = "withdrawing";
      await domain.process(new MakeWithdrawal({ accountId: event.from, amount: event.amount, transferId: event.transferId }));
      await hook("asked", manager, event);
    })
    .handle(WithdrawalMade, { correlate: "transferId" }, async (manager) => {
      manager.step = "depositing";
      if (manager.to !== null)
        await domain.process(new MakeDeposit({ accountId: manager.to, amount: manager.amount, transferId: manager.transferId }));
    })
    .handle(DepositMade, { correlate: "transferId", end: true }, (manager) => {
      manager.step = "done";
    });

  class RichAccounts extends domain.query("RichAccounts", {
    partOf: Summary,
    fields: { atLeast: f.float() },
    returns: returns<readonly string[]>(),
  }) {}
  domain.queryHandler("SummaryQueries", { partOf: Summary }).read(RichAccounts, async (query) => {
    const rows = await domain
      .viewFor(Summary)
      .query.filter({ balance: { gte: query.atLeast } })
      .orderBy("-balance")
      .all();
    return rows.map((row) => row.holder);
  });

  class Payment extends domain.valueObject("Payment", {
    fields: { accountId: f.identifier(), amount: f.float({ min: 0.01 }), reference: f.string() },
  }) {}
  const Payments = domain.subscriber("Payments", { stream: "webhooks", payload: Payment }).handle(async (payment, context) => {
    seen.push(`payment ${payment.reference}`);
    await domain.process(new MakeDeposit({ accountId: payment.accountId, amount: payment.amount }), { idempotencyKey: payment.reference });
    await hook("payment", payment, context);
  });

  const open = async (id: string, deposit = 100): Promise<void> => {
    const account = Account.createNew({ id });
    account.raise(new AccountOpened({ accountId: id, holder: `holder of ${id}`, deposit }));
    await domain.repositoryFor(Account).add(account);
  };
  const deposit = async (id: string, amount: number): Promise<void> => {
    const repository = domain.repositoryFor(Account);
    await domain.unitOfWork(async () => {
      const account = await repository.get(id);
      account.raise(new DepositMade({ accountId: id, amount }));
      await repository.add(account);
    });
  };

  return {
    domain,
    seen,
    errors,
    hooks,
    open,
    deposit,
    Account,
    AccountOpened,
    DepositMade,
    WithdrawalMade,
    Order,
    OrderPlaced,
    OrderChanged,
    OpenAccount,
    MakeDeposit,
    MakeWithdrawal,
    CloseAccount,
    PlaceOrder,
    AccountHandler,
    Summary,
    Elsewhere,
    SummaryProjector,
    Watcher,
    Transfer,
    TransferAsked,
    TransferManager,
    RichAccounts,
    Payment,
    Payments,
  };
}

export type Bank = ReturnType<typeof bank>;

/** A bank on fresh stores. */
export async function banking(options: Parameters<typeof bench>[0] = {}): Promise<Bank & { readonly on: Bench }> {
  const made = bank();
  const on = await bench(options);
  await attach(made.domain, on);
  return Object.assign(made, { on });
}

export function reactionNamed(domain: Domain, name: string): Reaction {
  const found = domain.reactions.find((reaction) => reaction.name === name);
  if (found === undefined) throw new Error(`no reaction ${name}`);
  return found;
}

export function running(changes: Partial<RunContext> = {}): RunContext {
  return {
    attempt: 1,
    signal: new AbortController().signal,
    workerId: "w",
    log: silentLog,
    deliveryKey: "delivery-1",
    fences: [],
    ...changes,
  };
}

/** Everything in the store, oldest first. */
export async function stored(on: Bench, type = ""): Promise<DecodedMessage[]> {
  const rows = await on.stores.eventStore.readCategory(ALL_STREAMS, 0, 1_000);
  return rows.filter((row) => row.metadata !== null && row.type.includes(type)).map(decodeStored);
}

export async function lastStored(on: Bench, type: string): Promise<DecodedMessage> {
  const found = (await stored(on, type)).at(-1);
  if (found === undefined) throw new Error(`nothing of type ${type} is stored`);
  return found;
}
