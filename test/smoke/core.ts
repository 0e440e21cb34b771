/**
 * The bank of examples/fidelis in one process on stores in memory: command → event → projection → query, a transfer carried through by its process
 * manager, and the testing API. The same file runs under Bun, Deno and Node; it prints `ok bun`, `ok deno` or `ok node`.
 */
import { deepStrictEqual, rejects, strictEqual } from "node:assert";
import process from "node:process";
import { ValidationError } from "protean";
import { given, testDomain } from "protean/testing";
import { AccountOpened, DepositMade, MakeDeposit, MakeWithdrawal, OpenAccount } from "../../examples/fidelis/handlers/account.ts";
import { ComplianceAlert } from "../../examples/fidelis/handlers/compliance.ts";
import { domain } from "../../examples/fidelis/handlers/domain.ts";
import "../../examples/fidelis/handlers/notification.ts";
import "../../examples/fidelis/handlers/payments.ts";
import { AccountSummary, RichAccounts } from "../../examples/fidelis/handlers/summary.ts";
import {
  CompleteTransfer,
  FailTransfer,
  InitiateTransfer,
  Transfer,
  TransferCompleted,
  TransferInitiated,
  TransferSummary,
} from "../../examples/fidelis/handlers/transfer.ts";

const test = await testDomain(domain, { eventProcessing: "sync" });

// Command, event, projection, query.
strictEqual(
  await domain.process(new OpenAccount({ accountId: "ada", holderName: "Ada", openingDeposit: 500 }), { asynchronous: false }),
  "ada",
);
const generated = await domain.process(new OpenAccount({ holderName: "Grace" }), { asynchronous: false });
await domain.process(new MakeDeposit({ accountId: generated, amount: 12_000 }));
await domain.process(new MakeDeposit({ accountId: "ada", amount: 250.5, reference: "salary" }));
const summary = await domain.viewFor(AccountSummary).get("ada");
deepStrictEqual([summary.balance, summary.transactionCount], [750.5, 2]);
const rich = await domain.dispatch(new RichAccounts({ atLeast: 1_000 }));
deepStrictEqual(
  rich.map(({ holderName, balance }) => [holderName, balance]),
  [["Grace", 12_000]],
);
const alerts = await domain.viewFor(ComplianceAlert).query.all();
deepStrictEqual(
  alerts.map(({ accountId, amount }) => [accountId, amount]),
  [[generated, 12_000]],
);

// What is refused leaves nothing behind, on either side of a transfer.
await rejects(domain.process(new MakeWithdrawal({ accountId: "ada", amount: 1_000 })), ValidationError);
await domain.process(new InitiateTransfer({ transferId: "t1", sourceAccountId: generated, destinationAccountId: "ada", amount: 2_000 }));
await domain.process(new InitiateTransfer({ transferId: "t2", sourceAccountId: "ada", destinationAccountId: generated, amount: 900_000 }));
const transfers = domain.viewFor(TransferSummary);
deepStrictEqual([(await transfers.get("t1")).status, (await transfers.get("t2")).status], ["completed", "failed"]);
strictEqual((await transfers.get("t2")).reason, "insufficient funds");
const balances = [await domain.viewFor(AccountSummary).get("ada"), await domain.viewFor(AccountSummary).get(generated)];
deepStrictEqual(
  balances.map(({ balance }) => balance),
  [2_750.5, 10_000],
);

// The testing API: a history, a command, what came of it. Without reactions, since there are no accounts x and y.
const initiated = new TransferInitiated({ transferId: "t9", sourceAccountId: "x", destinationAccountId: "y", amount: 5 });
const completed = await given(Transfer, "t9", initiated).process(new CompleteTransfer({ transferId: "t9" }), { reactions: false });
strictEqual(completed.accepted, true);
strictEqual(completed.events.has(TransferCompleted), true);
strictEqual(completed.aggregate.status, "COMPLETED");
const failed = await completed.process(new FailTransfer({ transferId: "t9", reason: "too late" }), { reactions: false });
strictEqual(failed.rejected, true);
const history = [
  new AccountOpened({ accountId: "kay", holderName: "Kay", openingDeposit: 10 }),
  new DepositMade({ accountId: "kay", amount: 5 }),
];
const row = await given(...history).project(AccountSummary, "kay");
strictEqual(row.projection.balance, 15);

await test.close();
const runtime = "Bun" in globalThis ? "bun" : "Deno" in globalThis ? "deno" : "node";
process.stdout.write(`ok ${runtime}\n`);
