import { Domain, f } from "protean";

/** The domain of the stream workload: one handler that does nothing, so that what is measured is the engine. */
export const domain = new Domain("bench");

export class AccountCredited extends domain.event("AccountCredited", {
  fields: {
    accountId: f.identifier(),
    amount: f.float(),
    currency: f.string(),
    reference: f.string(),
    note: f.string(),
    sentUs: f.integer(),
  },
}) {}

export class Account extends domain.aggregate("Account", {
  fields: { holder: f.string(), balance: f.float({ default: 0 }) },
  events: [AccountCredited],
}) {}

export const Bench = domain.eventHandler("Bench", { partOf: Account }).handle(AccountCredited, () => {});
