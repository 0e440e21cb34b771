/**
 * Payments that the provider "payflow" reports on a stream of its own, in its own form:
 * `protean send message payflow_webhooks '{"payment_ref": "pay-1", "account_id": "ada", "amount": 25}'`.
 */
import { f } from "protean";
import { MakeDeposit } from "./account.ts";
import { domain } from "./domain.ts";

/** What we need of a report. Everything else in it is let pass; a report without these fields is refused at the border. */
export class ExternalPayment extends domain.valueObject("ExternalPayment", {
  fields: { paymentRef: f.string(), accountId: f.identifier(), amount: f.float({ min: 0.01 }) },
}) {}

/** The provider repeats its reports; its reference is the key by which a repeated one is known. */
export const ExternalPayments = domain
  .subscriber("ExternalPayments", { stream: "payflow_webhooks", payload: ExternalPayment, deadLetterAtOnce: ["ValidationError"] })
  .handle(async ({ paymentRef, accountId, amount }) => {
    await domain.process(new MakeDeposit({ accountId, amount, reference: paymentRef }), { idempotencyKey: paymentRef });
  });
