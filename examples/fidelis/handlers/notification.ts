/** Tells account holders what happened. Here a line in the log stands for the letter. */
import { Account, AccountOpened, DepositMade, WithdrawalMade } from "./account.ts";
import { domain } from "./domain.ts";

export const NotificationHandler = domain
  .eventHandler("NotificationHandler", { partOf: Account })
  .handle(AccountOpened, ({ accountId, holderName }, { log }) => {
    log.info("notification.welcome", { account_id: accountId, holder_name: holderName });
  })
  .handle(DepositMade, ({ accountId, amount }, { log }) => {
    log.info("notification.deposit", { account_id: accountId, amount });
  })
  .handle(WithdrawalMade, ({ accountId, amount }, { log }) => {
    log.info("notification.withdrawal", { account_id: accountId, amount });
  });
