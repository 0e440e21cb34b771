/**
 * The TypeScript twin of `python-app/bank.py`: the same domain, written only with what "protean" exports, as somebody would who moves that
 * application handler by handler. Every `fqn` is the Python handler's, so both programs share its consumer groups.
 */
import { Domain, f, g, type HandlerContext, type JsonObject, type Metadata } from "protean";

declare module "protean" {
  interface G {
    tenant_id?: string;
  }
}

export const domain = new Domain("Corner Bank");

/** What a handler saw, in the shape that the Python handlers print. */
export interface Note {
  readonly handler: string;
  readonly class?: string;
  readonly payload: JsonObject;
  readonly metadata?: Metadata | null;
  readonly tenant?: string | undefined;
  readonly attempt: number;
}

export const notes: Note[] = [];

function note(
  handler: string,
  message: { readonly $name: string; readonly $metadata: Metadata | null; toJSON(): JsonObject },
  context: HandlerContext,
): void {
  notes.push({
    handler,
    class: message.$name,
    payload: message.toJSON(),
    metadata: message.$metadata,
    tenant: g.tenant_id,
    attempt: context.message.attempt,
  });
}

/** Amounts that make the AuditTrail handler fail: always, and the first time. */
export const POISON = 666;
export const FLAKY = 13;
const flakySeen = new Set<string | null>();

/** While this is set, a poison amount is handled like any other: the bug behind the dead letters was repaired. */
export const repaired = { value: false };

const TIERS = ["BASIC", "GOLD"] as const;

export class Money extends domain.valueObject("Money", {
  fields: { amount: f.float(), currency: f.string({ maxLength: 3, default: "EUR" }) },
}) {}

export class Beneficiary extends domain.entity("Beneficiary", {
  fields: {
    name: f.string({ maxLength: 80 }),
    iban: f.string({ maxLength: 34, optional: true }),
    addedOn: f.date({ optional: true }),
  },
}) {}

export class Card extends domain.entity("Card", {
  fields: { number: f.string({ maxLength: 19, optional: true }), active: f.boolean({ default: true }) },
}) {}

export class AccountOpened extends domain.event("AccountOpened", {
  published: true,
  fields: { accountId: f.identifier(), holder: f.string(), deposit: f.float({ optional: true }) },
}) {}

/** Version 2 added `currency`; see the upcaster. */
export class DepositMade extends domain.event("DepositMade", {
  version: 2,
  fields: {
    accountId: f.identifier(),
    amount: f.float(),
    currency: f.string(),
    balance: f.float({ optional: true }),
    reference: f.string({ optional: true }),
  },
}) {}

domain.upcaster({ eventType: DepositMade, fromVersion: 1, toVersion: 2 }, (data) => ({ ...data, currency: "EUR" }));

/** One field of every kind. `as: "string"` where Python keeps microseconds or writes times without an offset. */
export class TypesProbed extends domain.event("TypesProbed", {
  fields: {
    accountId: f.identifier(),
    text: f.string({ optional: true }),
    longText: f.text({ optional: true }),
    whole: f.integer({ optional: true }),
    real: f.float({ optional: true }),
    exact: f.decimal({ precision: 20, scale: 6, optional: true }),
    flag: f.boolean({ optional: true }),
    day: f.date({ optional: true }),
    moment: f.dateTime({ as: "string", optional: true }),
    momentUtc: f.dateTime({ optional: true }),
    tier: f.string({ choices: TIERS, optional: true }),
    state: f.status(TIERS, { optional: true }),
    words: f.list(f.string()),
    numbers: f.list(f.integer()),
    moments: f.list(f.dateTime({ as: "string" })),
    table: f.dict(),
    money: f.valueObject(Money, { optional: true }),
    monies: f.list(f.valueObject(Money)),
    nothing: f.string({ optional: true }),
  },
}) {}

export class Account extends domain.aggregate("Account", {
  fields: {
    accountId: f.auto({ identifier: true }),
    holder: f.string({ maxLength: 100 }),
    balance: f.float({ default: 0 }),
    overdraft: f.integer({ default: 0 }),
    rate: f.decimal({ precision: 10, scale: 4, optional: true }),
    tier: f.string({ choices: TIERS, default: "BASIC" }),
    openedOn: f.date({ optional: true }),
    openedAt: f.dateTime({ optional: true }),
    active: f.boolean({ default: true }),
    notes: f.text({ optional: true }),
    tags: f.list(f.string()),
    limits: f.dict(),
    ceiling: f.valueObject(Money, { optional: true }),
    beneficiaries: f.hasMany(Beneficiary),
    card: f.hasOne(Card),
  },
  events: [AccountOpened, DepositMade, TypesProbed],
}) {
  static open(command: OpenAccount): Account {
    const account = new Account({
      accountId: command.accountId,
      holder: command.holder,
      balance: command.deposit,
      overdraft: 50,
      openedOn: "2026-01-31",
      openedAt: new Date("2026-01-31T09:30:00Z"),
      tags: ["new", "é"],
      limits: { daily: 500, weekly: null },
      ceiling: new Money({ amount: 10_000 }),
    });
    account.raise(new AccountOpened({ accountId: account.accountId, holder: account.holder, deposit: command.deposit }));
    return account;
  }

  deposit(amount: number, reference: string | null = null): void {
    this.balance += amount;
    this.raise(new DepositMade({ accountId: this.accountId, amount, currency: "EUR", balance: this.balance, reference }));
  }
}

export class OpenAccount extends domain.command("OpenAccount", {
  partOf: Account,
  fields: { accountId: f.identifier({ identifier: true }), holder: f.string(), deposit: f.float({ default: 0 }) },
}) {}

export class MakeDeposit extends domain.command("MakeDeposit", {
  partOf: Account,
  fields: { accountId: f.identifier({ identifier: true }), amount: f.float(), reference: f.string({ optional: true }) },
}) {}

/** No identity field: the command gets an id of its own. */
export class TouchAccounts extends domain.command("TouchAccounts", {
  partOf: Account,
  fields: { reason: f.string({ optional: true }) },
}) {}

export const AccountCommands = domain
  .commandHandler("AccountCommands", { partOf: Account, fqn: "bank.AccountCommands" })
  .handle(OpenAccount, async (command, context) => {
    note("AccountCommands", command, context);
    await domain.repositoryFor(Account).add(Account.open(command));
    return command.accountId;
  })
  .handle(MakeDeposit, async (command, context) => {
    note("AccountCommands", command, context);
    if (command.amount < 0) throw new Error("negative deposit");
    const repository = domain.repositoryFor(Account);
    const account = await repository.get(command.accountId);
    account.deposit(command.amount, command.reference);
    await repository.add(account);
  })
  .handle(TouchAccounts, (command, context) => note("AccountCommands", command, context));

export const AuditTrail = domain
  .eventHandler("AuditTrail", { partOf: Account, fqn: "bank.AuditTrail" })
  .handle(AccountOpened, (event, context) => note("AuditTrail", event, context))
  .handle(DepositMade, (event, context) => {
    note("AuditTrail", event, context);
    if (event.amount === POISON && !repaired.value) throw new Error("poison amount");
    const id = event.$metadata?.headers.id ?? null;
    if (event.amount === FLAKY && !flakySeen.has(id)) {
      flakySeen.add(id);
      throw new Error("flaky amount");
    }
  })
  .handle(TypesProbed, (event, context) => note("AuditTrail", event, context));

export const Greeter = domain
  .eventHandler("Greeter", { partOf: Account, fqn: "bank.Greeter" })
  .handle(AccountOpened, (event, context) => note("Greeter", event, context));

export class AccountSummary extends domain.projection("AccountSummary", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    holder: f.string({ optional: true }),
    deposits: f.integer({ default: 0 }),
    total: f.float({ default: 0 }),
  },
}) {}

/** Python's outbox promises no order: either event may come first, so both create the row when it is missing. */
const changeSummary = async (accountId: string, change: (row: AccountSummary) => void): Promise<void> => {
  const repository = domain.repositoryFor(AccountSummary);
  const row = (await repository.getOrNull(accountId)) ?? new AccountSummary({ accountId });
  change(row);
  await repository.add(row);
};

export const AccountSummaries = domain
  .projector("AccountSummaries", { projectorFor: AccountSummary, aggregates: [Account], idempotent: true, fqn: "bank.AccountSummaries" })
  .on(AccountOpened, { name: "opened" }, async (event, context) => {
    note("AccountSummaries", event, context);
    await changeSummary(event.accountId, (row) => {
      row.holder = event.holder;
      row.total += event.deposit ?? 0;
    });
  })
  .on(DepositMade, { name: "deposited" }, async (event, context) => {
    note("AccountSummaries", event, context);
    await changeSummary(event.accountId, (row) => {
      row.deposits += 1;
      row.total += event.amount;
    });
  });

/** Also emits fact events. */
export class Customer extends domain.aggregate("Customer", {
  factEvents: true,
  fields: { name: f.string(), vip: f.boolean({ default: false }) },
}) {}

export class LedgerStarted extends domain.event("LedgerStarted", {
  fields: { ledgerId: f.identifier(), title: f.string({ optional: true }) },
}) {}

export class EntryPosted extends domain.event("EntryPosted", {
  fields: { ledgerId: f.identifier(), amount: f.float({ optional: true }) },
}) {}

export class Ledger extends domain.aggregate("Ledger", {
  eventSourced: true,
  fields: { ledgerId: f.auto({ identifier: true }), title: f.string({ optional: true }), total: f.float({ default: 0 }) },
  events: [LedgerStarted, EntryPosted],
  apply: {
    LedgerStarted(ledger, event) {
      ledger.title = event.title;
      ledger.total = 0;
    },
    EntryPosted(ledger, event) {
      ledger.total += event.amount ?? 0;
    },
  },
}) {
  static start(title: string, id: string): Ledger {
    const ledger = Ledger.createNew({ id });
    ledger.raise(new LedgerStarted({ ledgerId: ledger.ledgerId, title }));
    return ledger;
  }

  post(amount: number): void {
    this.raise(new EntryPosted({ ledgerId: this.ledgerId, amount }));
  }
}

export const LedgerWatcher = domain
  .eventHandler("LedgerWatcher", { partOf: Ledger, fqn: "bank.LedgerWatcher" })
  .handle(LedgerStarted, (event, context) => note("LedgerWatcher", event, context))
  .handle(EntryPosted, (event, context) => note("LedgerWatcher", event, context));

export const Onboarding = domain
  .processManager("Onboarding", {
    aggregates: [Account],
    fqn: "bank.Onboarding",
    fields: {
      accountId: f.identifier({ identifier: true }),
      openedAt: f.dateTime({ optional: true }),
      deposits: f.integer({ default: 0 }),
    },
  })
  .handle(AccountOpened, { start: true, correlate: "accountId", name: "opened" }, (state, event, context) => {
    note("Onboarding", event, context);
    state.openedAt = new Date("2026-01-31T09:30:00Z");
  })
  .handle(DepositMade, { start: true, correlate: "accountId", name: "deposited" }, (state, event, context) => {
    note("Onboarding", event, context);
    state.deposits += 1;
    if (state.deposits >= 2) state.markAsComplete();
  });

export const WireTransfers = domain
  .subscriber("WireTransfers", { stream: "wire_transfers", fqn: "bank.WireTransfers" })
  .handle((payload: JsonObject, context) => {
    notes.push({ handler: "WireTransfers", payload, attempt: context.message.attempt });
    if (payload["poison"] === true && !repaired.value) throw new Error("poison transfer");
  });

domain.eventEnricher(() => ({ tenant_id: g.tenant_id ?? "t-main", source: "bank" }));
domain.commandEnricher(() => ({ tenant_id: "t-main", channel: "cli" }));

/** Another context, which reads what the bank publishes to its partners: a subset of the fields is enough for it. */
export const partner = new Domain("Partner");

export class PartnerAccountOpened extends partner.externalEvent("CornerBank.AccountOpened.v1", {
  fields: { accountId: f.identifier(), holder: f.string() },
}) {}

export const PartnerDesk = partner
  .eventHandler("PartnerDesk", { streamCategory: "corner_bank::account" })
  .handle(PartnerAccountOpened, (event, context) => note("PartnerDesk", event, context));
