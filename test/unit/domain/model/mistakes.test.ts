/** Every mistake of the table in the API's page, told at `init` (here: `freeze`) with its place; bad beside good. */
import { describe, expect, test } from "bun:test";
import { ConfigurationError, Domain, f, type ProteanError } from "../../../../src/mod.ts";

type Declare = (d: Domain) => void;

/** The errors that freezing reports, as `Name: message`. */
function reported(declare: Declare): string[] {
  const d = new Domain("fidelis");
  declare(d);
  return errorsOf(d).map((error) => `${error.name}: ${error.message}`);
}

function errorsOf(d: Domain): ProteanError[] {
  try {
    d.freeze();
    return [];
  } catch (error) {
    const found = error as ProteanError;
    return found.about.cause instanceof AggregateError ? (found.about.cause.errors as ProteanError[]) : [found];
  }
}

/** What types forbid, a program without types can still write. */
const loose = (value: unknown): never => value as never;

function bank(d: Domain) {
  class DepositMade extends d.event("DepositMade", { fields: { accountId: f.identifier(), amount: f.float() } }) {}
  class Account extends d.aggregate("Account", {
    eventSourced: true,
    fields: { balance: f.float({ default: 0 }) },
    events: [DepositMade],
    apply: {
      DepositMade(account, e) {
        account.balance += e.amount;
      },
    },
  }) {}
  class TransferDone extends d.event("TransferDone", { fields: { transferId: f.identifier() } }) {}
  class Transfer extends d.aggregate("Transfer", { fields: { note: f.text({ optional: true }) }, events: [TransferDone] }) {}
  class Summary extends d.projection("Summary", { fields: { accountId: f.identifier({ identifier: true }), balance: f.float() } }) {}
  class OpenAccount extends d.command("OpenAccount", { partOf: Account, fields: { holder: f.string() } }) {}
  class CompleteTransfer extends d.command("CompleteTransfer", { partOf: Transfer, fields: { transferId: f.identifier() } }) {}
  return { DepositMade, Account, TransferDone, Transfer, Summary, OpenAccount, CompleteTransfer };
}

const nothing = (): void => {};

const rows: readonly (readonly [mistake: string, declare: Declare, message: string])[] = [
  [
    "fold missing",
    (d) => {
      const { Transfer } = bank(d);
      class Withdrawn extends d.event("WithdrawalMade", { fields: {} }) {}
      d.aggregate("Purse", loose({ eventSourced: true, fields: {}, events: [Withdrawn], apply: {} }));
      void Transfer;
    },
    "IncorrectUsageError: aggregate `Purse`: `apply` lacks `WithdrawalMade`",
  ],
  [
    "event listed by two aggregates",
    (d) => {
      const { TransferDone } = bank(d);
      d.aggregate("Wallet", { fields: {}, events: [TransferDone] });
    },
    "IncorrectUsageError: event `TransferDone` belongs to `Transfer` already (mistakes.test.ts:",
  ],
  [
    "event listed by none",
    (d) => {
      d.event("Foo", { fields: {} });
    },
    "IncorrectUsageError: event `Foo` is in no aggregate's `events`; list it, or declare it with `domain.externalEvent`",
  ],
  [
    "command of another aggregate",
    (d) => {
      const { Account, CompleteTransfer } = bank(d);
      d.commandHandler("H", { partOf: Account }).handle(loose(CompleteTransfer), nothing);
    },
    "IncorrectUsageError: command `CompleteTransfer` is part of `Transfer`, handler `H` is for `Account`",
  ],
  [
    "command handled twice",
    (d) => {
      const { Account, OpenAccount } = bank(d);
      d.commandHandler("A", { partOf: Account }).handle(OpenAccount, nothing);
      d.commandHandler("B", { partOf: Account }).handle(OpenAccount, nothing);
    },
    "NotSupportedError: command `OpenAccount` has two handlers: mistakes.test.ts:",
  ],
  [
    "event outside the projector's aggregates",
    (d) => {
      const { Summary, Transfer, DepositMade } = bank(d);
      d.projector("P", { projectorFor: Summary, aggregates: [Transfer] }).on(loose(DepositMade), nothing);
    },
    "IncorrectUsageError: projector `P` never receives `DepositMade`: it listens to fidelis::transfer",
  ],
  [
    "projection without identifier",
    (d) => {
      d.projection("P", loose({ fields: { a: f.string() } }));
    },
    "IncorrectUsageError: projection `P` needs a field with { identifier: true }",
  ],
  [
    "process manager without start",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.processManager("PM", { aggregates: [Account], fields: { accountId: f.identifier({ identifier: true }) } }).handle(
        DepositMade,
        { correlate: "accountId" },
        nothing,
      );
    },
    "IncorrectUsageError: process manager `PM` needs a handler with { start: true }",
  ],
  [
    "correlate names no common field",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.processManager("PM", { aggregates: [Account], fields: { transferId: f.identifier({ identifier: true }) } }).handle(
        DepositMade,
        loose({ start: true, correlate: "accountId" }),
        nothing,
      );
    },
    'IncorrectUsageError: `correlate: "accountId"` is not a field of process manager `PM`',
  ],
  [
    "correlate with two pairs",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.processManager("PM", { aggregates: [Account], fields: { a: f.identifier(), b: f.identifier() } }).handle(
        DepositMade,
        { start: true, correlate: { a: "accountId", b: "accountId" } },
        nothing,
      );
    },
    "IncorrectUsageError: `PM`, `DepositMade`: `correlate` takes exactly one pair, not 2",
  ],
  [
    "second method, same event, no name",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.eventHandler("Alerts", { partOf: Account }).handle(DepositMade, nothing).handle(DepositMade, nothing);
    },
    "IncorrectUsageError: `Alerts` handles `DepositMade` twice; give the second one { name }",
  ],
  [
    "subscriber without stream",
    (d) => {
      d.subscriber("S", loose({})).handle(nothing);
    },
    "IncorrectUsageError: subscriber `S` needs `stream`",
  ],
  [
    "unknown option",
    (d) => {
      d.aggregate("A", loose({ fields: {}, evnets: [] }));
    },
    "ConfigurationError: aggregate `A` has no option `evnets`; did you mean `events`?",
  ],
  [
    "unknown option of a field",
    (d) => {
      d.aggregate("A", { fields: { a: f.string(loose({ maxLenght: 3 })) } });
    },
    "ConfigurationError: aggregate `A`, field `a`: f.string has no option `maxLenght`; did you mean `maxLength`?",
  ],
  ...["$x", "_x", "toJSON", "raise", "~x", "constructor", "__proto__"].map(
    (name) =>
      [
        `field named ${name}`,
        (d: Domain) => {
          d.valueObject("V", { fields: Object.fromEntries([[name, f.string()]]) });
        },
        `IncorrectUsageError: field name \`${name}\` is reserved (\`V\`)`,
      ] as const,
  ),
  [
    "two fields, one wire name",
    (d) => {
      d.valueObject("V", { fields: { accountId: f.string(), account_id: f.string() } });
    },
    "IncorrectUsageError: `accountId` and `account_id` are both `account_id` on the wire",
  ],
  [
    "upcaster chain broken",
    (d) => {
      class Deposited extends d.event("DepositMade", { version: 3, fields: {} }) {}
      d.aggregate("A", { fields: {}, events: [Deposited] });
      d.upcaster({ eventType: Deposited, fromVersion: 1, toVersion: 2 }, (data) => data);
    },
    "ConfigurationError: DepositMade v1 → v3: no upcaster from version 2",
  ],
  [
    "two upcasters from one version",
    (d) => {
      class Deposited extends d.event("DepositMade", { version: 2, fields: {} }) {}
      d.aggregate("A", { fields: {}, events: [Deposited] });
      d.upcaster({ eventType: Deposited, fromVersion: 1, toVersion: 2 }, (data) => data);
      d.upcaster({ eventType: Deposited, fromVersion: 1, toVersion: 2 }, (data) => data);
    },
    "ConfigurationError: DepositMade: two upcasters from version 1",
  ],
  [
    "the same element twice",
    (d) => {
      d.valueObject("Money", { fields: {} });
      d.valueObject("Money", { fields: {} });
    },
    'IncorrectUsageError: `Money` is declared twice in domain "fidelis": mistakes.test.ts:',
  ],
  [
    "a constructor of the user's",
    (d) => {
      class Account extends d.aggregate("Account", { fields: {} }) {
        constructor(readonlyName: string) {
          super({ id: readonlyName });
        }
      }
      d.command("Open", { partOf: loose(Account), fields: {} });
    },
    "IncorrectUsageError: Account: declare a static factory instead of a constructor",
  ],
  [
    "sequentialBy",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.eventHandler("E", { partOf: Account, sequentialBy: "accountId" }).handle(DepositMade, nothing);
    },
    "ConfigurationError: event handler `E`: `sequentialBy` belongs to a later version",
  ],
  [
    "sequentialBy that names no field",
    (d) => {
      const { Account, DepositMade } = bank(d);
      d.eventHandler("E", { partOf: Account, sequentialBy: "acountId" }).handle(DepositMade, nothing);
    },
    'IncorrectUsageError: event handler `E`: `sequentialBy: "acountId"` is not a field of `DepositMade`; did you mean `accountId`?',
  ],
  [
    "child entities in an event",
    (d) => {
      class Line extends d.entity("Line", { fields: {} }) {}
      class Foo extends d.event("Foo", { fields: { lines: f.hasMany(Line) } }) {}
      d.aggregate("A", { fields: {}, events: [Foo] });
    },
    "IncorrectUsageError: event `Foo`, field `lines`: only aggregates and entities hold child entities",
  ],
  [
    "an entity held twice",
    (d) => {
      class Line extends d.entity("Line", { fields: {} }) {}
      d.aggregate("A", { fields: { one: f.hasOne(Line), many: f.hasMany(Line) } });
    },
    "IncorrectUsageError: entity `Line` is held by `A.one` and `A.many`",
  ],
  [
    "a retired field name",
    (d) => {
      d.aggregate("A", { fields: { old: f.string() }, reserved: ["old"] });
    },
    "IncorrectUsageError: aggregate `A`, field `old`: the name is retired (`reserved`) and may not be declared again",
  ],
  [
    "a default that the field refuses",
    (d) => {
      d.aggregate("A", { fields: { size: f.integer({ min: 3, default: 1 }) } });
    },
    "IncorrectUsageError: aggregate `A`, field `size`: its default is refused: size: is less than 3",
  ],
  [
    "a counting identity",
    (d) => {
      d.aggregate("A", { fields: { id: f.auto({ identifier: true, increment: true }) } });
    },
    "NotSupportedError: aggregate `A`, field `id`: counting identities belong to a later version",
  ],
  [
    "a version that is none",
    (d) => {
      d.aggregate("A", { fields: {}, events: [d.event("E", { version: 0, fields: {} })] });
    },
    "IncorrectUsageError: event `E`: version is a whole number from 1, not 0",
  ],
  [
    "an external event without a type string",
    (d) => {
      d.externalEvent("StockReserved", { fields: {} });
    },
    "IncorrectUsageError: external event `StockReserved`: the name is a full type string",
  ],
  [
    "an event handler that reads nothing",
    (d) => {
      d.eventHandler("E", loose({})).handleAny(nothing);
    },
    "IncorrectUsageError: event handler `E` needs `partOf` (an aggregate) or `streamCategory`",
  ],
  [
    "two handlers in one group",
    (d) => {
      const { Account } = bank(d);
      d.eventHandler("A", { partOf: Account, fqn: "x.Y" });
      d.eventHandler("B", { partOf: Account, fqn: "x.Y" });
    },
    'IncorrectUsageError: `A` and `B` have one fqn, "x.Y"',
  ],
];

describe("a mistake in the declarations", () => {
  for (const [mistake, declare, message] of rows) {
    test(`${mistake} is reported in one line`, () => {
      const found = reported(declare);
      expect(found.map((line) => line.slice(0, message.length))).toContain(message);
    });
  }

  test("none is reported for the bank", () => {
    expect(reported(bank)).toEqual([]);
  });

  test("names its place and, where there is one, the fix", () => {
    const d = new Domain("fidelis");
    d.event("Foo", { fields: {} });
    const [error] = errorsOf(d);
    expect(error?.about.at).toMatch(/test\/unit\/domain\/model\/mistakes\.test\.ts:\d+:\d+$/);
    expect(error?.code).toBe("INCORRECT_USAGE");
  });

  test("all are told at once, each with code, place and fix", () => {
    const d = new Domain("fidelis");
    d.event("Foo", { fields: {} });
    d.aggregate("A", loose({ fields: {}, evnets: [] }));
    d.subscriber("S", loose({})).handle(nothing);
    let message = "";
    try {
      d.freeze();
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toContain('domain "fidelis" has 3 mistakes');
    expect(message).toContain("INCORRECT_USAGE IncorrectUsageError: event `Foo` is in no aggregate's `events`");
    expect(message).toContain("UNKNOWN_OPTION ConfigurationError: aggregate `A` has no option `evnets`");
    expect(message).toContain("subscriber `S` needs `stream`");
    expect(message.match(/at .*mistakes\.test\.ts:\d+:\d+/g)?.length).toBe(3);
    expect(message).toContain("fix: Options are: fields, events");
  });

  test("declaring after init names both places", () => {
    const d = new Domain("fidelis");
    d.freeze();
    expect(() => d.event("Late", { fields: {} })).toThrow(
      /event `Late` is declared after domain "fidelis" was initialised \(.*mistakes\.test\.ts:\d+:\d+\)/,
    );
  });

  test("raising another aggregate's event is refused", () => {
    const d = new Domain("fidelis");
    const { Account, TransferDone } = bank(d);
    const account = Account.createNew();
    expect(() => account.raise(loose(new TransferDone({ transferId: "t" })))).toThrow(ConfigurationError);
    expect(() => account.raise(loose(new TransferDone({ transferId: "t" })))).toThrow(
      "Event `TransferDone` is not associated with aggregate `Account`. Add it to Account's `events`",
    );
  });

  test("an asynchronous schema is refused where it is declared", () => {
    const schema = { "~standard": { version: 1 as const, vendor: "slow", validate: async (value: unknown) => ({ value }) } };
    expect(() => f.custom(schema)).toThrow("this slow schema validates asynchronously");
  });

  test("nothing runs before init", () => {
    const d = new Domain("fidelis");
    expect(() => d.stores).toThrow('domain "fidelis" is not initialised: await domain.init() first');
  });
});

describe("what check finds beside mistakes", () => {
  test("a class with another name than its element is an information", () => {
    const d = new Domain("fidelis");
    class Renamed extends d.valueObject("Money", { fields: {} }) {}
    new Renamed({});
    expect(d.check().map(({ level, code, message }) => ({ level, code, message }))).toEqual([
      { level: "info", code: "NAME_DIFFERS", message: "class Renamed is element `Money`" },
    ]);
  });

  test("a long text of the aggregate in a short field of its event is a warning", () => {
    const d = new Domain("fidelis");
    class Noted extends d.event("Noted", { fields: { note: f.string() } }) {}
    d.aggregate("A", { fields: { note: f.text() }, events: [Noted] });
    expect(d.check().map(({ code }) => code)).toEqual(["TEXT_INTO_STRING"]);
  });
});
