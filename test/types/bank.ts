// The tutorial's bank as a user writes it; the type assertions and tests of the model lean on it.
import { Domain, f, g, returns, ValidationError } from "../../src/mod.ts";

export const domain = new Domain("fidelis");

// ---------------------------------------------------------- events (no imports from the aggregate: no cycles)
export class AccountOpened extends domain.event("AccountOpened", {
  fields: { accountId: f.identifier(), accountNumber: f.string(), holderName: f.string(), openingDeposit: f.float() },
}) {}
export class DepositMade extends domain.event("DepositMade", {
  fields: {
    accountId: f.identifier(),
    amount: f.float(),
    reference: f.string({ optional: true }),
    transferId: f.identifier({ optional: true }),
  },
}) {}
export class WithdrawalMade extends domain.event("WithdrawalMade", {
  fields: {
    accountId: f.identifier(),
    amount: f.float(),
    reference: f.string({ optional: true }),
    transferId: f.identifier({ optional: true }),
  },
}) {}

// ---------------------------------------------------------- event-sourced aggregate
type Posting = { amount: number; reference?: string | null; transferId?: string | null };

export class Account extends domain.aggregate("Account", {
  eventSourced: true,
  fields: {
    accountNumber: f.string({ maxLength: 20 }),
    holderName: f.string({ maxLength: 100 }),
    balance: f.float({ default: 0 }),
    status: f.status(["ACTIVE", "CLOSED"], { default: "ACTIVE" }),
  },
  events: [AccountOpened, DepositMade, WithdrawalMade],
  apply: {
    AccountOpened(account, e) {
      account.accountNumber = e.accountNumber;
      account.holderName = e.holderName;
      account.balance = e.openingDeposit;
      account.status = "ACTIVE";
    },
    DepositMade(account, e) {
      account.balance += e.amount;
    },
    WithdrawalMade(account, e) {
      account.balance -= e.amount;
    },
  },
  invariants: {
    post: {
      balanceMustNotBeNegative(account) {
        if (account.balance !== null && account.balance < 0) throw new ValidationError({ balance: ["Insufficient funds"] });
      },
    },
  },
}) {
  static open(accountNumber: string, holderName: string, openingDeposit: number): Account {
    const account = Account.createNew();
    account.raise(new AccountOpened({ accountId: account.id, accountNumber, holderName, openingDeposit }));
    return account;
  }
  deposit({ amount, ...rest }: Posting): void {
    if (amount <= 0) throw new ValidationError({ amount: ["Deposit amount must be positive"] });
    this.raise(new DepositMade({ accountId: this.id, amount, ...rest }));
  }
  withdraw({ amount, ...rest }: Posting): void {
    if (amount <= 0) throw new ValidationError({ amount: ["Withdrawal amount must be positive"] });
    this.raise(new WithdrawalMade({ accountId: this.id, amount, ...rest }));
  }
}

// ---------------------------------------------------------- commands and their handler
export class OpenAccount extends domain.command("OpenAccount", {
  partOf: Account,
  fields: { accountNumber: f.string(), holderName: f.string(), openingDeposit: f.float() },
  returns: returns<string>(),
}) {}
const posting = {
  accountId: f.identifier(),
  amount: f.float(),
  reference: f.string({ optional: true }),
  transferId: f.identifier({ optional: true }),
};
export class MakeDeposit extends domain.command("MakeDeposit", { partOf: Account, fields: posting }) {}
export class MakeWithdrawal extends domain.command("MakeWithdrawal", { partOf: Account, fields: posting }) {}

export const AccountCommandHandler = domain
  .commandHandler("AccountCommandHandler", { partOf: Account })
  .handle(OpenAccount, async (c) => {
    const account = Account.open(c.accountNumber, c.holderName, c.openingDeposit);
    await domain.repositoryFor(Account).add(account);
    return account.id;
  })
  .handle(MakeDeposit, async (c) => {
    const repo = domain.repositoryFor(Account);
    const account = await repo.get(c.accountId);
    account.deposit(c);
    await repo.add(account);
  })
  .handle(MakeWithdrawal, async (c) => {
    const repo = domain.repositoryFor(Account);
    const account = await repo.get(c.accountId);
    account.withdraw(c);
    await repo.add(account);
  });

// ---------------------------------------------------------- projection, projector, query
export class AccountSummary extends domain.projection("AccountSummary", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    accountNumber: f.string(),
    holderName: f.string(),
    balance: f.float(),
    transactionCount: f.integer({ default: 0 }),
  },
}) {}

export const AccountSummaryProjector = domain
  .projector("AccountSummaryProjector", { projectorFor: AccountSummary, aggregates: [Account], idempotent: true })
  .on(AccountOpened, async (e) => {
    const { accountId, accountNumber, holderName } = e;
    await domain
      .repositoryFor(AccountSummary)
      .add(new AccountSummary({ accountId, accountNumber, holderName, balance: e.openingDeposit, transactionCount: 1 }));
  })
  .on(DepositMade, (e) => adjust(e.accountId, e.amount))
  .on(WithdrawalMade, (e) => adjust(e.accountId, -e.amount));

async function adjust(accountId: string, by: number): Promise<void> {
  const repo = domain.repositoryFor(AccountSummary);
  const row = await repo.get(accountId);
  row.balance += by;
  row.transactionCount += 1;
  await repo.add(row);
}

export class RichAccounts extends domain.query("RichAccounts", {
  partOf: AccountSummary,
  fields: { atLeast: f.float({ min: 0 }) },
  returns: returns<readonly AccountSummary[]>(),
}) {}
export const AccountQueries = domain.queryHandler("AccountQueries", { partOf: AccountSummary }).read(RichAccounts, (q) =>
  domain
    .viewFor(AccountSummary)
    .query.filter({ balance: { gte: q.atLeast } })
    .orderBy("-balance")
    .all(),
);

// ---------------------------------------------------------- event handler
export const alerts: string[] = [];
export const ComplianceAlertHandler = domain.eventHandler("ComplianceAlertHandler", { partOf: Account }).handle(DepositMade, (e, ctx) => {
  if (e.amount >= 10_000) alerts.push(`${e.accountId}:${e.amount}:${String(g["tenant_id"])}:${ctx.metadata?.headers.type}`);
});
domain.eventEnricher(() => ({ tenant_id: (g["tenant_id"] as string | undefined) ?? "public" }));

// ---------------------------------------------------------- transfer: aggregate + process manager
export class TransferInitiated extends domain.event("TransferInitiated", {
  fields: { transferId: f.identifier(), sourceAccountId: f.string(), destinationAccountId: f.string(), amount: f.float() },
}) {}
export class TransferCompleted extends domain.event("TransferCompleted", { fields: { transferId: f.identifier() } }) {}

export class Transfer extends domain.aggregate("Transfer", {
  eventSourced: true,
  fields: {
    sourceAccountId: f.string(),
    destinationAccountId: f.string(),
    amount: f.float(),
    status: f.status(["INITIATED", "COMPLETED"], { default: "INITIATED", transitions: { INITIATED: ["COMPLETED"] } }),
  },
  events: [TransferInitiated, TransferCompleted],
  apply: {
    TransferInitiated(t, e) {
      t.sourceAccountId = e.sourceAccountId;
      t.destinationAccountId = e.destinationAccountId;
      t.amount = e.amount;
      t.status = "INITIATED";
    },
    TransferCompleted(t) {
      t.status = "COMPLETED";
    },
  },
}) {
  static initiate(sourceAccountId: string, destinationAccountId: string, amount: number): Transfer {
    const transfer = Transfer.createNew();
    transfer.raise(new TransferInitiated({ transferId: transfer.id, sourceAccountId, destinationAccountId, amount }));
    return transfer;
  }
  complete(): void {
    this.raise(new TransferCompleted({ transferId: this.id }));
  }
}
export class InitiateTransfer extends domain.command("InitiateTransfer", {
  partOf: Transfer,
  fields: { sourceAccountId: f.string(), destinationAccountId: f.string(), amount: f.float({ min: 0.01 }) },
  returns: returns<string>(),
}) {}
export class CompleteTransfer extends domain.command("CompleteTransfer", { partOf: Transfer, fields: { transferId: f.identifier() } }) {}
export const TransferCommandHandler = domain
  .commandHandler("TransferCommandHandler", { partOf: Transfer })
  .handle(
    InitiateTransfer,
    async (c) => (await domain.repositoryFor(Transfer).add(Transfer.initiate(c.sourceAccountId, c.destinationAccountId, c.amount))).id,
  )
  .handle(CompleteTransfer, async (c) => {
    const repo = domain.repositoryFor(Transfer);
    const transfer = await repo.get(c.transferId);
    transfer.complete();
    await repo.add(transfer);
  });

export const FundsTransferPM = domain
  .processManager("FundsTransferPM", {
    aggregates: [Transfer, Account],
    fields: {
      transferId: f.identifier({ identifier: true }),
      sourceAccountId: f.string({ optional: true }),
      destinationAccountId: f.string({ optional: true }),
      amount: f.float({ default: 0 }),
      status: f.status(["new", "withdrawing", "depositing", "completing", "completed"], { default: "new" }),
    },
  })
  .handle(TransferInitiated, { start: true, correlate: "transferId" }, async (pm, e) => {
    pm.sourceAccountId = e.sourceAccountId;
    pm.destinationAccountId = e.destinationAccountId;
    pm.amount = e.amount;
    pm.status = "withdrawing";
    await domain.process(new MakeWithdrawal({ accountId: e.sourceAccountId, amount: e.amount, transferId: e.transferId }));
  })
  .handle(WithdrawalMade, { correlate: "transferId" }, async (pm) => {
    pm.status = "depositing";
    if (pm.destinationAccountId)
      await domain.process(new MakeDeposit({ accountId: pm.destinationAccountId, amount: pm.amount, transferId: pm.transferId }));
  })
  .handle(DepositMade, { correlate: "transferId" }, async (pm) => {
    pm.status = "completing";
    await domain.process(new CompleteTransfer({ transferId: pm.transferId }));
  })
  .handle(TransferCompleted, { correlate: "transferId", end: true }, (pm) => {
    pm.status = "completed";
  });

// ---------------------------------------------------------- subscriber: external payments, validated at the border
export class ExternalPayment extends domain.valueObject("ExternalPayment", {
  fields: { accountId: f.identifier(), amount: f.float({ min: 0.01 }), paymentRef: f.string() },
}) {}
export const rejected: string[] = [];
export const ExternalPayments = domain
  .subscriber("ExternalPayments", { stream: "payflow_webhooks", payload: ExternalPayment })
  .handle(async (p) => {
    await domain.process(new MakeDeposit({ accountId: p.accountId, amount: p.amount, reference: p.paymentRef }), {
      idempotencyKey: p.paymentRef,
    });
  })
  .onError((error) => {
    rejected.push(String(error));
  });
