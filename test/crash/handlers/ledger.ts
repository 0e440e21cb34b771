/**
 * The domain of the crash tests. Every handler says twice what it did: a line in `runs.log` when it begins (what really ran, whatever became of
 * it) and rows of its own unit of work (what took effect).
 *
 * Post → Book → Posted → Recorder (may run twice), Tally (idempotent), Archive (idempotent, from the event store), Confirming (process manager),
 * which sends Confirm → Receipt → Confirmed. Messages of another system arrive on the stream `incoming`, for Incoming.
 */
import { appendFileSync, existsSync } from "node:fs";
import { Domain, f, type HandlerContext } from "protean";

export const domain = new Domain("ledger");

// ------------------------------------------------------------------------------------------------------------ what happens

/** `mood` says how Recorder (gated: Tally too; twice: Archive instead) takes it: fine, poison (throws), deadly (ends the process), stuck (settles long after its time), gated (waits for a file), twice (fails once). */
const posting = {
  bookId: f.identifier(),
  entryId: f.string(),
  mood: f.string({ default: "fine" }),
};

export class Posted extends domain.event("Posted", { fields: { ...posting, number: f.integer() } }) {}
export class Confirmed extends domain.event("Confirmed", { fields: { entryId: f.identifier() } }) {}

export class Book extends domain.aggregate("Book", {
  fields: { bookId: f.identifier({ identifier: true }), posted: f.integer({ default: 0 }) },
  events: [Posted],
}) {
  post(entryId: string, mood: string): void {
    this.posted += 1;
    this.raise(new Posted({ bookId: this.bookId, entryId, mood, number: this.posted }));
  }
}

export class Receipt extends domain.aggregate("Receipt", {
  eventSourced: true,
  fields: { times: f.integer({ default: 0 }) },
  events: [Confirmed],
  apply: {
    Confirmed(receipt) {
      receipt.times += 1;
    },
  },
}) {}

export class Post extends domain.command("Post", { partOf: Book, fields: posting }) {}
export class Confirm extends domain.command("Confirm", { partOf: Receipt, fields: { entryId: f.identifier() } }) {}

/** One row for each committed run of a handler that isn't protected from running twice. */
export class Handled extends domain.aggregate("Handled", {
  fields: {
    rowId: f.identifier({ identifier: true }),
    handler: f.string(),
    entryId: f.string(),
    messageId: f.string(),
    attempt: f.integer(),
    pid: f.integer(),
  },
}) {}

/** `backwards` counts messages whose number was not above the one before. */
const tally = {
  bookId: f.identifier({ identifier: true }),
  count: f.integer({ default: 0 }),
  last: f.integer({ default: 0 }),
  backwards: f.integer({ default: 0 }),
};
export class BookTally extends domain.projection("BookTally", { fields: tally }) {}
export class BookArchive extends domain.projection("BookArchive", { fields: tally }) {}

// ------------------------------------------------------------------------------------------------------------ the plain file

function ran(handler: string, entryId: string, { message }: HandlerContext): void {
  const line = { handler, entry: entryId, message: message.id, attempt: message.attempt, pid: process.pid, at: Date.now() };
  appendFileSync("runs.log", `${JSON.stringify(line)}\n`);
}

async function handled(handler: string, entryId: string, { message }: HandlerContext): Promise<void> {
  await domain.repositoryFor(Handled).add(
    new Handled({
      rowId: crypto.randomUUID(),
      handler,
      entryId,
      messageId: message.id ?? "none",
      attempt: message.attempt,
      pid: process.pid,
    }),
  );
}

// ------------------------------------------------------------------------------------------------------------ who handles it

export const Posting = domain.commandHandler("Posting", { partOf: Book }).handle(Post, async (command, context) => {
  ran("Posting", command.entryId, context);
  const books = domain.repositoryFor(Book);
  const book = (await books.getOrNull(command.bookId)) ?? new Book({ bookId: command.bookId });
  book.post(command.entryId, command.mood);
  await books.add(book);
});

export const Confirmation = domain.commandHandler("Confirmation", { partOf: Receipt }).handle(Confirm, async (command, context) => {
  ran("Confirmation", command.entryId, context);
  const receipts = domain.repositoryFor(Receipt);
  const receipt = (await receipts.getOrNull(command.entryId)) ?? Receipt.createNew({ id: command.entryId });
  receipt.raise(new Confirmed({ entryId: command.entryId }));
  await receipts.add(receipt);
});

/** Not idempotent: the row of a run that was committed but not acknowledged is there twice. */
export const Recorder = domain.eventHandler("Recorder", { partOf: Book }).handle(Posted, async (event, context) => {
  ran("Recorder", event.entryId, context);
  if (event.mood === "poison") throw new Error("poison");
  if (event.mood === "deadly") process.exit(17);
  if (event.mood === "gated") await opened("gate");
  if (event.mood === "stuck") {
    await opened("gate");
    // Its time is long over: nothing of this may be stored, and the handler learns it.
    await handled("Recorder", event.entryId, context).catch((error: unknown) => {
      appendFileSync("refused.log", `${error instanceof Error ? error.name : String(error)}\n`);
      throw error;
    });
    return;
  }
  await handled("Recorder", event.entryId, context);
});

async function opened(file: string): Promise<void> {
  while (!existsSync(file)) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** One step of a tally of numbers that must only grow. */
function step(row: { count: number; last: number; backwards: number }, number: number): void {
  row.count += 1;
  if (number <= row.last) row.backwards += 1;
  row.last = number;
}

export const Tally = domain
  .projector("Tally", { projectorFor: BookTally, aggregates: [Book], idempotent: true })
  .on(Posted, async ({ bookId, entryId, mood, number }, context) => {
    ran("Tally", entryId, context);
    if (mood === "gated") await opened("gate");
    const rows = domain.repositoryFor(BookTally);
    const row = (await rows.getOrNull(bookId)) ?? new BookTally({ bookId });
    step(row, number);
    await rows.add(row);
    await handled("Tally", entryId, context);
  });

export const Archive = domain
  .projector("Archive", { projectorFor: BookArchive, aggregates: [Book], idempotent: true, subscriptionType: "event_store" })
  .on(Posted, async ({ bookId, entryId, mood, number }, context) => {
    ran("Archive", entryId, context);
    if (mood === "twice" && context.message.attempt < 2) throw new Error("not at the first attempt");
    const rows = domain.repositoryFor(BookArchive);
    const row = (await rows.getOrNull(bookId)) ?? new BookArchive({ bookId });
    step(row, number);
    await rows.add(row);
    await handled("Archive", entryId, context);
  });

export const Confirming = domain
  .processManager("Confirming", {
    aggregates: [Book, Receipt],
    fields: { entryId: f.identifier({ identifier: true }), confirmed: f.boolean({ default: false }) },
  })
  .handle(Posted, { start: true, correlate: "entryId" }, async (_state, { entryId }, context) => {
    ran("Confirming", entryId, context);
    await domain.process(new Confirm({ entryId }));
    await handled("Confirming", entryId, context);
  })
  .handle(Confirmed, { correlate: "entryId", end: true }, async (state, { entryId }, context) => {
    ran("Confirming.end", entryId, context);
    state.confirmed = true;
    await handled("Confirming.end", entryId, context);
  });

export const Incoming = domain.subscriber("Incoming", { stream: "incoming" }).handle(async (payload, context) => {
  const entryId = String((payload as { readonly entryId?: unknown }).entryId);
  ran("Incoming", entryId, context);
  await domain.unitOfWork(() => handled("Incoming", entryId, context));
});
