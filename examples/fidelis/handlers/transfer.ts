/**
 * Moving money from one account to another.
 *
 * initiated    the transfer exists; the process manager asks the source account for the money
 * depositing   the source has paid; the destination is asked to take it
 * completed    the destination has it
 * failed       the source refused; nothing was moved
 *
 * `protean query TransferSummary t1` shows where a transfer is.
 */
import { f, returns, ValidationError } from "protean";
import { Account, DepositMade, MakeDeposit, MakeWithdrawal, TransferWithdrawalRefused, WithdrawalMade } from "./account.ts";
import { domain } from "./domain.ts";

export class TransferInitiated extends domain.event("TransferInitiated", {
  fields: {
    transferId: f.identifier(),
    sourceAccountId: f.identifier(),
    destinationAccountId: f.identifier(),
    amount: f.float(),
  },
}) {}

export class TransferCompleted extends domain.event("TransferCompleted", { fields: { transferId: f.identifier() } }) {}

export class TransferFailed extends domain.event("TransferFailed", { fields: { transferId: f.identifier(), reason: f.string() } }) {}

/** Event-sourced: its history is what an auditor asks for. */
export class Transfer extends domain.aggregate("Transfer", {
  eventSourced: true,
  fields: {
    sourceAccountId: f.identifier(),
    destinationAccountId: f.identifier(),
    amount: f.float(),
    status: f.status(["INITIATED", "COMPLETED", "FAILED"], {
      default: "INITIATED",
      transitions: { INITIATED: ["COMPLETED", "FAILED"] },
    }),
  },
  events: [TransferInitiated, TransferCompleted, TransferFailed],
  apply: {
    TransferInitiated(transfer, event) {
      transfer.sourceAccountId = event.sourceAccountId;
      transfer.destinationAccountId = event.destinationAccountId;
      transfer.amount = event.amount;
      transfer.status = "INITIATED";
    },
    TransferCompleted(transfer) {
      transfer.status = "COMPLETED";
    },
    TransferFailed(transfer) {
      transfer.status = "FAILED";
    },
  },
}) {
  static initiate(id: string, sourceAccountId: string, destinationAccountId: string, amount: number): Transfer {
    const transfer = Transfer.createNew({ id });
    transfer.raise(new TransferInitiated({ transferId: id, sourceAccountId, destinationAccountId, amount }));
    return transfer;
  }

  complete(): void {
    this.raise(new TransferCompleted({ transferId: this.id }));
  }

  fail(reason: string): void {
    this.raise(new TransferFailed({ transferId: this.id, reason }));
  }
}

// -------------------------------------------------------------------------------------------------------------- commands

/** The caller may choose the id; without one the transfer gets a number of its own. */
export class InitiateTransfer extends domain.command("InitiateTransfer", {
  partOf: Transfer,
  fields: {
    transferId: f.identifier({ optional: true }),
    sourceAccountId: f.identifier(),
    destinationAccountId: f.identifier(),
    amount: f.float({ min: 0.01 }),
  },
  returns: returns<string>(),
}) {}

export class CompleteTransfer extends domain.command("CompleteTransfer", { partOf: Transfer, fields: { transferId: f.identifier() } }) {}

export class FailTransfer extends domain.command("FailTransfer", {
  partOf: Transfer,
  fields: { transferId: f.identifier(), reason: f.string() },
}) {}

export const TransferCommandHandler = domain
  .commandHandler("TransferCommandHandler", { partOf: Transfer, deadLetterAtOnce: ["ValidationError", "ObjectNotFoundError"] })
  .handle(InitiateTransfer, async ({ transferId, sourceAccountId, destinationAccountId, amount }) => {
    if (sourceAccountId === destinationAccountId) throw new ValidationError({ destinationAccountId: ["is the source account"] });
    const accounts = domain.repositoryFor(Account);
    await accounts.get(sourceAccountId);
    await accounts.get(destinationAccountId);
    const id = transferId ?? crypto.randomUUID();
    const transfers = domain.repositoryFor(Transfer);
    if ((await transfers.getOrNull(id)) !== null) throw new ValidationError({ transferId: ["there is such a transfer already"] });
    await transfers.add(Transfer.initiate(id, sourceAccountId, destinationAccountId, amount));
    return id;
  })
  .handle(CompleteTransfer, async ({ transferId }) => {
    const transfers = domain.repositoryFor(Transfer);
    const transfer = await transfers.get(transferId);
    transfer.complete();
    await transfers.add(transfer);
  })
  .handle(FailTransfer, async ({ transferId, reason }) => {
    const transfers = domain.repositoryFor(Transfer);
    const transfer = await transfers.get(transferId);
    transfer.fail(reason);
    await transfers.add(transfer);
  });

// -------------------------------------------------------------------------------------------------------- process manager

/**
 * Carries a transfer through. Every event that it waits for has the transfer's id; postings outside of transfers have none and pass by.
 * Commands sent here are stored together with the new state, so a kill in between leaves both or neither.
 */
export const FundsTransferPM = domain
  .processManager("FundsTransferPM", {
    aggregates: [Transfer, Account],
    fields: {
      transferId: f.identifier({ identifier: true }),
      destinationAccountId: f.identifier({ optional: true }),
      amount: f.float({ default: 0 }),
      status: f.status(["new", "withdrawing", "depositing", "completing", "failing", "done"], { default: "new" }),
    },
  })
  .handle(TransferInitiated, { start: true, correlate: "transferId" }, async (state, event) => {
    state.destinationAccountId = event.destinationAccountId;
    state.amount = event.amount;
    state.status = "withdrawing";
    await domain.process(new MakeWithdrawal({ accountId: event.sourceAccountId, amount: event.amount, transferId: event.transferId }));
  })
  .handle(WithdrawalMade, { correlate: "transferId" }, async (state) => {
    if (state.destinationAccountId === null) throw new ValidationError({ destinationAccountId: ["is unknown"] });
    state.status = "depositing";
    await domain.process(new MakeDeposit({ accountId: state.destinationAccountId, amount: state.amount, transferId: state.transferId }));
  })
  .handle(TransferWithdrawalRefused, { correlate: "transferId" }, async (state, { reason }) => {
    state.status = "failing";
    await domain.process(new FailTransfer({ transferId: state.transferId, reason }));
  })
  .handle(DepositMade, { correlate: "transferId" }, async (state) => {
    state.status = "completing";
    await domain.process(new CompleteTransfer({ transferId: state.transferId }));
  })
  .handle(TransferCompleted, { correlate: "transferId", end: true }, (state) => {
    state.status = "done";
  })
  .handle(TransferFailed, { correlate: "transferId", end: true }, (state) => {
    state.status = "done";
  });

// ------------------------------------------------------------------------------------------------------------- projection

export class TransferSummary extends domain.projection("TransferSummary", {
  fields: {
    transferId: f.identifier({ identifier: true }),
    sourceAccountId: f.identifier(),
    destinationAccountId: f.identifier(),
    amount: f.float(),
    status: f.string(),
    reason: f.string({ optional: true }),
  },
}) {}

export const TransferSummaryProjector = domain
  .projector("TransferSummaryProjector", { projectorFor: TransferSummary, aggregates: [Transfer], idempotent: true })
  .on(TransferInitiated, async ({ transferId, sourceAccountId, destinationAccountId, amount }) => {
    const summary = new TransferSummary({ transferId, sourceAccountId, destinationAccountId, amount, status: "initiated" });
    await domain.repositoryFor(TransferSummary).add(summary);
  })
  .on(TransferCompleted, ({ transferId }) => close(transferId, "completed", null))
  .on(TransferFailed, ({ transferId, reason }) => close(transferId, "failed", reason));

async function close(transferId: string, status: string, reason: string | null): Promise<void> {
  const summaries = domain.repositoryFor(TransferSummary);
  const summary = await summaries.get(transferId);
  summary.status = status;
  summary.reason = reason;
  await summaries.add(summary);
}
