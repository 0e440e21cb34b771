/** Large deposits are reported: each leaves a row that somebody has to look at, `protean query ComplianceAlert`. */
import { f } from "protean";
import { Account, DepositMade } from "./account.ts";
import { domain } from "./domain.ts";

/** Deposits from this amount on are reported. */
export const REPORTED_FROM = 10_000;

export class ComplianceAlert extends domain.projection("ComplianceAlert", {
  fields: {
    /** Id of the event, so that the same deposit can't be reported twice. */
    alertId: f.string({ identifier: true }),
    accountId: f.identifier(),
    amount: f.float(),
  },
}) {}

export const ComplianceAlertHandler = domain
  .eventHandler("ComplianceAlertHandler", { partOf: Account })
  .handle(DepositMade, async ({ accountId, amount }, { message, log }) => {
    if (amount < REPORTED_FROM || message.id === null) return;
    const alertId = message.id;
    await domain.repositoryFor(ComplianceAlert).upsert(
      alertId,
      () => new ComplianceAlert({ alertId, accountId, amount }),
      () => undefined,
    );
    log.warning("compliance.large_deposit", { account_id: accountId, amount });
  });
