/** One row per account for those who only look: `protean query AccountSummary ada`, `protean query RichAccounts '{"at_least": 1000}'`. */
import { f, returns } from "protean";
import { Account, AccountOpened, DepositMade, WithdrawalMade } from "./account.ts";
import { domain } from "./domain.ts";

export class AccountSummary extends domain.projection("AccountSummary", {
  fields: {
    accountId: f.identifier({ identifier: true }),
    holderName: f.string(),
    balance: f.float(),
    transactionCount: f.integer({ default: 0 }),
  },
}) {}

/** `idempotent`: an event that arrives again, after a kill say, is counted once. */
export const AccountSummaryProjector = domain
  .projector("AccountSummaryProjector", { projectorFor: AccountSummary, aggregates: [Account], idempotent: true })
  .on(AccountOpened, async ({ accountId, holderName, openingDeposit }) => {
    const transactionCount = openingDeposit > 0 ? 1 : 0;
    await domain
      .repositoryFor(AccountSummary)
      .add(new AccountSummary({ accountId, holderName, balance: openingDeposit, transactionCount }));
  })
  .on(DepositMade, (event) => post(event.accountId, event.amount))
  .on(WithdrawalMade, (event) => post(event.accountId, -event.amount));

/** Events of one account arrive in their order, so the row is there. */
async function post(accountId: string, amount: number): Promise<void> {
  const summaries = domain.repositoryFor(AccountSummary);
  const summary = await summaries.get(accountId);
  summary.balance += amount;
  summary.transactionCount += 1;
  await summaries.add(summary);
}

export class RichAccounts extends domain.query("RichAccounts", {
  partOf: AccountSummary,
  fields: { atLeast: f.float({ min: 0 }) },
  returns: returns<readonly AccountSummary[]>(),
}) {}

export const AccountQueries = domain.queryHandler("AccountQueries", { partOf: AccountSummary }).read(RichAccounts, (query) =>
  domain
    .viewFor(AccountSummary)
    .query.filter({ balance: { gte: query.atLeast } })
    .orderBy("-balance")
    .all(),
);
