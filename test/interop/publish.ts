/** What `app.py publish` writes, written by the twin: the same aggregates, payloads and order. Needs the bank's domain on its stores. */
import { randomUUID } from "node:crypto";
import { Account, Beneficiary, Card, Customer, domain, Ledger, MakeDeposit, Money, OpenAccount, TypesProbed } from "./bank.ts";

/** Opens an account with one deposit, in two units of work. @returns its identity */
export async function publishAccount(amount = 25.5, number = 0): Promise<string> {
  const repository = domain.repositoryFor(Account);
  const accountId = randomUUID();
  await repository.add(Account.open(new OpenAccount({ accountId, holder: `Holder ${number}`, deposit: 10 })));
  await publishDeposit(accountId, amount, number);
  return accountId;
}

export async function publishDeposit(accountId: string, amount: number, number = 0): Promise<void> {
  const repository = domain.repositoryFor(Account);
  const account = await repository.get(accountId);
  account.deposit(amount, `ref-${number}`);
  await repository.add(account);
}

export async function publishCommands(): Promise<string> {
  const accountId = randomUUID();
  await domain.process(new OpenAccount({ accountId, holder: "Holder 0", deposit: 5 }), { correlationId: `corr-${accountId}` });
  await domain.process(new MakeDeposit({ accountId, amount: 25.5, reference: "ref-0" }));
  return accountId;
}

export async function publishTypes(): Promise<string> {
  const account = new Account({
    accountId: randomUUID(),
    holder: "Types",
    ceiling: new Money({ amount: 9.5 }),
    rate: "0.0125",
    notes: 'line one\nline "two" é € 😀',
    beneficiaries: [new Beneficiary({ name: "Ann", iban: "X1", addedOn: "2026-02-01" }), new Beneficiary({ name: "Bob" })],
    card: new Card({ number: "4000-1" }),
  });
  account.raise(
    new TypesProbed({
      accountId: account.accountId,
      text: 'café € 😀 <b>"q"</b> \\ /',
      longText: "two\nlines\ttab",
      whole: 42,
      real: 12,
      exact: "12345.670000",
      flag: true,
      day: "2026-01-31",
      moment: "2026-01-31T09:30:00.120000",
      momentUtc: new Date("2026-01-31T09:30:00Z"),
      tier: "GOLD",
      state: "BASIC",
      words: ["b", "a"],
      numbers: [3, 1, 2],
      moments: ["2026-01-31T09:30:00"],
      table: { z: 1, a: { y: [1, null, true], x: 1.5 } },
      money: new Money({ amount: 1.1 }),
      monies: [new Money({ amount: 2 }), new Money({ amount: 3.25, currency: "USD" })],
    }),
  );
  await domain.repositoryFor(Account).add(account);
  return account.accountId;
}

/** A customer with fact events, changed once. */
export async function publishFacts(): Promise<string> {
  const repository = domain.repositoryFor(Customer);
  const { id } = await repository.add(new Customer({ name: "Customer 0" }));
  const customer = await repository.get(id);
  customer.vip = true;
  await repository.add(customer);
  return id;
}

/** An event-sourced ledger with three entries. */
export async function publishLedger(): Promise<string> {
  const repository = domain.repositoryFor(Ledger);
  const id = randomUUID();
  await repository.add(Ledger.start("Ledger 0", id));
  const ledger = await repository.get(id);
  for (const amount of [1, 2, 3]) ledger.post(amount);
  await repository.add(ledger);
  return id;
}

/** A foreign message for the subscriber. */
export async function publishTransfer(amount = 25.5): Promise<void> {
  await domain.brokers.publish("wire_transfers", { transfer: 0, amount, ...(amount === 666 ? { poison: true } : {}) });
}

export async function publishAll(): Promise<void> {
  await publishAccount();
  await publishCommands();
  await publishTypes();
  await publishFacts();
  await publishLedger();
  await publishTransfer();
}
