/** Accounts: what can happen to one, what it refuses, and who carries out the commands. */
import { f, returns, ValidationError } from "protean";
import { domain } from "./domain.ts";

// ---------------------------------------------------------------------------------------------------------------- events

export class AccountOpened extends domain.event("AccountOpened", {
  fields: { accountId: f.identifier(), holderName: f.string(), openingDeposit: f.float() },
}) {}

/** Set on postings that belong to a transfer: the process manager finds its instance by it, so it has to travel on the events. */
const transferId = f.identifier({ optional: true });

export class DepositMade extends domain.event("DepositMade", {
  fields: { accountId: f.identifier(), amount: f.float(), reference: f.string({ optional: true }), transferId },
}) {}

export class WithdrawalMade extends domain.event("WithdrawalMade", {
  fields: { accountId: f.identifier(), amount: f.float(), reference: f.string({ optional: true }), transferId },
}) {}

/** The account could not pay its side of a transfer. */
export class TransferWithdrawalRefused extends domain.event("TransferWithdrawalRefused", {
  fields: { accountId: f.identifier(), amount: f.float(), transferId: f.identifier(), reason: f.string() },
}) {}

// ------------------------------------------------------------------------------------------------------------- aggregate

interface Posting {
  readonly amount: number;
  readonly reference: string | null;
  readonly transferId: string | null;
}

export class Account extends domain.aggregate("Account", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    holderName: f.string({ maxLength: 100 }),
    balance: f.float({ default: 0 }),
  },
  events: [AccountOpened, DepositMade, WithdrawalMade, TransferWithdrawalRefused],
  invariants: {
    post: {
      balanceIsNotNegative(account) {
        if (account.balance < 0) throw new ValidationError({ balance: ["insufficient funds"] });
      },
    },
  },
}) {
  static open(accountId: string, holderName: string, openingDeposit: number): Account {
    const account = new Account({ accountId, holderName, balance: openingDeposit });
    account.raise(new AccountOpened({ accountId, holderName, openingDeposit }));
    return account;
  }

  deposit({ amount, reference, transferId }: Posting): void {
    this.balance += amount;
    this.raise(new DepositMade({ accountId: this.accountId, amount, reference, transferId }));
  }

  /** @throws ValidationError when the money isn't there; nothing is changed then */
  withdraw({ amount, reference, transferId }: Posting): void {
    this.balance -= amount;
    this.raise(new WithdrawalMade({ accountId: this.accountId, amount, reference, transferId }));
  }

  /** A transfer has to hear that it can't go on: the refusal is an event and no error. */
  withdrawForTransfer(amount: number, transferId: string): void {
    if (amount > this.balance) {
      this.raise(new TransferWithdrawalRefused({ accountId: this.accountId, amount, transferId, reason: "insufficient funds" }));
    } else {
      this.withdraw({ amount, reference: null, transferId });
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- commands

/** The caller may choose the id; without one the account gets a number of its own. */
export class OpenAccount extends domain.command("OpenAccount", {
  partOf: Account,
  fields: {
    accountId: f.identifier({ optional: true }),
    holderName: f.string({ maxLength: 100 }),
    openingDeposit: f.float({ min: 0, default: 0 }),
  },
  returns: returns<string>(),
}) {}

const posting = {
  accountId: f.identifier(),
  amount: f.float({ min: 0.01 }),
  reference: f.string({ optional: true }),
  transferId: f.identifier({ optional: true }),
};

export class MakeDeposit extends domain.command("MakeDeposit", { partOf: Account, fields: posting }) {}

export class MakeWithdrawal extends domain.command("MakeWithdrawal", { partOf: Account, fields: posting }) {}

/** A refusal is final: `deadLetterAtOnce` saves the attempts that could only end the same way. */
export const AccountCommandHandler = domain
  .commandHandler("AccountCommandHandler", { partOf: Account, deadLetterAtOnce: ["ValidationError"] })
  .handle(OpenAccount, async (command) => {
    const accounts = domain.repositoryFor(Account);
    const accountId = command.accountId ?? crypto.randomUUID();
    if ((await accounts.getOrNull(accountId)) !== null) throw new ValidationError({ accountId: ["there is such an account already"] });
    await accounts.add(Account.open(accountId, command.holderName, command.openingDeposit));
    return accountId;
  })
  .handle(MakeDeposit, async (command) => {
    const accounts = domain.repositoryFor(Account);
    const account = await accounts.get(command.accountId);
    account.deposit(command);
    await accounts.add(account);
  })
  .handle(MakeWithdrawal, async (command) => {
    const accounts = domain.repositoryFor(Account);
    const account = await accounts.get(command.accountId);
    if (command.transferId === null) account.withdraw(command);
    else account.withdrawForTransfer(command.amount, command.transferId);
    await accounts.add(account);
  });
