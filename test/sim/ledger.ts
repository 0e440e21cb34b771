/**
 * The domain of the simulation: that of the crash tests, on virtual time. Handlers say what they ran (whatever became of it) to their host; what took
 * effect is rows of their own units of work.
 *
 * Post → Book (state-based) → Posted → Recorder (may run twice), Tally (idempotent), Archive (idempotent, from the event store), Confirming
 * (process manager), which sends Confirm → Receipt (event-sourced) → Confirmed. Messages of another system arrive on `incoming`, for Incoming.
 */
import type { HandlerContext } from "../../src/domain/context.ts";
import { Domain } from "../../src/domain/domain.ts";
import { f } from "../../src/domain/fields.ts";

/** What handlers of one process see of it. */
export interface HandlerHost {
  ran(handler: string, entry: string, message: { readonly id: string | null; readonly attempt: number }): void;
  failed(): void;
  /** A row id that nobody else has. */
  rowId(): string;
  /** Waits for as long as this run of a handler takes. */
  work(handler: string): Promise<void>;
  /** The process is gone when this is called; never answers. */
  die(): Promise<never>;
}

/** How handlers take a posting: `poison` always fails at Recorder, `deadly` ends the process there, `flaky` fails at the first attempt everywhere. */
export type Mood = "fine" | "flaky" | "poison" | "deadly";

/** One process's copy of the code. `host` may change when it is used for another process. */
export function ledgerDomain() {
  const slot: { host: HandlerHost } = { host: NOBODY };
  const domain = new Domain("ledger");
  const posting = { bookId: f.identifier(), entryId: f.string(), mood: f.string({ default: "fine" }) };

  class Posted extends domain.event("Posted", { fields: { ...posting, number: f.integer() } }) {}
  class Confirmed extends domain.event("Confirmed", { fields: { entryId: f.identifier() } }) {}

  class Book extends domain.aggregate("Book", {
    fields: { bookId: f.identifier({ identifier: true }), posted: f.integer({ default: 0 }) },
    events: [Posted],
  }) {
    post(entryId: string, mood: string): void {
      this.posted += 1;
      this.raise(new Posted({ bookId: this.bookId, entryId, mood, number: this.posted }));
    }
  }

  class Receipt extends domain.aggregate("Receipt", {
    eventSourced: true,
    fields: { times: f.integer({ default: 0 }) },
    events: [Confirmed],
    apply: {
      Confirmed(receipt) {
        receipt.times += 1;
      },
    },
  }) {}

  class Post extends domain.command("Post", { partOf: Book, fields: posting }) {}
  class Confirm extends domain.command("Confirm", { partOf: Receipt, fields: { entryId: f.identifier() } }) {}

  class Handled extends domain.aggregate("Handled", {
    fields: { rowId: f.identifier({ identifier: true }), handler: f.string(), entryId: f.string(), messageId: f.string() },
  }) {}

  /** `backwards` counts messages whose number was not above the one before. */
  const tally = {
    bookId: f.identifier({ identifier: true }),
    count: f.integer({ default: 0 }),
    last: f.integer({ default: 0 }),
    backwards: f.integer({ default: 0 }),
  };
  class BookTally extends domain.projection("BookTally", { fields: tally }) {}
  class BookArchive extends domain.projection("BookArchive", { fields: tally }) {}

  const begin = async (handler: string, entryId: string, { message }: HandlerContext, mood = "fine") => {
    slot.host.ran(handler, entryId, message);
    await slot.host.work(handler);
    if (mood === "flaky" && message.attempt < 2) {
      slot.host.failed();
      throw new Error("not at the first attempt");
    }
  };
  const handled = async (handler: string, entryId: string, { message }: HandlerContext) => {
    await domain.repositoryFor(Handled).add(new Handled({ rowId: slot.host.rowId(), handler, entryId, messageId: message.id ?? "none" }));
  };

  domain.commandHandler("Posting", { partOf: Book }).handle(Post, async (command, context) => {
    await begin("Posting", command.entryId, context);
    const books = domain.repositoryFor(Book);
    const book = (await books.getOrNull(command.bookId)) ?? new Book({ bookId: command.bookId });
    book.post(command.entryId, command.mood);
    await books.add(book);
  });

  domain.commandHandler("Confirmation", { partOf: Receipt }).handle(Confirm, async (command, context) => {
    await begin("Confirmation", command.entryId, context);
    const receipts = domain.repositoryFor(Receipt);
    const receipt = (await receipts.getOrNull(command.entryId)) ?? Receipt.createNew({ id: command.entryId });
    receipt.raise(new Confirmed({ entryId: command.entryId }));
    await receipts.add(receipt);
  });

  domain.eventHandler("Recorder", { partOf: Book, concurrency: 3 }).handle(Posted, async (event, context) => {
    await begin("Recorder", event.entryId, context, event.mood);
    if (event.mood === "poison") {
      slot.host.failed();
      throw new Error("poison");
    }
    if (event.mood === "deadly") await slot.host.die();
    await handled("Recorder", event.entryId, context);
  });

  const step = (row: { count: number; last: number; backwards: number }, number: number) => {
    row.count += 1;
    if (number <= row.last) row.backwards += 1;
    row.last = number;
  };

  domain
    .projector("Tally", { projectorFor: BookTally, aggregates: [Book], idempotent: true })
    .on(Posted, async ({ bookId, entryId, mood, number }, context) => {
      await begin("Tally", entryId, context, mood);
      const rows = domain.repositoryFor(BookTally);
      const row = (await rows.getOrNull(bookId)) ?? new BookTally({ bookId });
      step(row, number);
      await rows.add(row);
      await handled("Tally", entryId, context);
    });

  domain
    .projector("Archive", { projectorFor: BookArchive, aggregates: [Book], idempotent: true, subscriptionType: "event_store" })
    .on(Posted, async ({ bookId, entryId, mood, number }, context) => {
      await begin("Archive", entryId, context, mood);
      const rows = domain.repositoryFor(BookArchive);
      const row = (await rows.getOrNull(bookId)) ?? new BookArchive({ bookId });
      step(row, number);
      await rows.add(row);
      await handled("Archive", entryId, context);
    });

  domain
    .processManager("Confirming", {
      aggregates: [Book, Receipt],
      fields: { entryId: f.identifier({ identifier: true }), confirmed: f.boolean({ default: false }) },
    })
    .handle(Posted, { start: true, correlate: "entryId" }, async (_state, { entryId }, context) => {
      await begin("Confirming", entryId, context);
      await domain.process(new Confirm({ entryId }));
      await handled("Confirming", entryId, context);
    })
    .handle(Confirmed, { correlate: "entryId", end: true }, async (state, { entryId }, context) => {
      await begin("Confirming.end", entryId, context);
      state.confirmed = true;
      await handled("Confirming.end", entryId, context);
    });

  domain.subscriber("Incoming", { stream: "incoming" }).handle(async (payload, context) => {
    const entryId = String((payload as { readonly entryId?: unknown }).entryId);
    await begin("Incoming", entryId, context);
    await domain.unitOfWork(() => handled("Incoming", entryId, context));
  });

  return { domain, slot, Post };
}

export type Ledger = ReturnType<typeof ledgerDomain>;

const NOBODY: HandlerHost = {
  ran() {},
  failed() {},
  rowId: () => "",
  work: () => new Promise(() => {}),
  die: () => new Promise(() => {}),
};
