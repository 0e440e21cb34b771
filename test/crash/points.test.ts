/**
 * The matrix of "what a kill leaves": the server dies exactly at a point (PROTEAN_CRASH_AT, src/compose/crash-points.ts), is started again, and the
 * books are compared. A point is given with the pass at which it strikes and whose pass it is.
 */
import { describe, expect, test } from "bun:test";
import { BACKENDS, type Verdict } from "./harness.ts";
import { sitesOfFile } from "./sites.ts";

const LIMIT_ms = 60_000;
const BACK_ms = 5_000;
/** One that dies before its first heartbeat isn't known to be dead: its leases run out. */
const LEASE_ms = 10_000;
const ENTRIES = 6;
const siteOf = sitesOfFile();

interface Case extends Verdict {
  readonly at: string;
  readonly leaves: string;
  readonly moods?: readonly string[];
}

const CASES: readonly Case[] = [
  { at: "C2:2/ledger.Posting", leaves: "nothing of the handler's work is there; the command runs again" },
  { at: "C3:2/ledger.Posting", leaves: "events without rows are no more than nothing (G60)" },
  { at: "C5:2/ledger.Posting", leaves: "events and rows without outbox rows are no more than nothing (G62)" },
  { at: "C6:2/ledger.Posting", leaves: "the command takes effect once" },
  { at: "C7:3", leaves: "claimed rows are published" },
  { at: "C8:2", leaves: "published rows may be published again, with the same ids, and take effect once" },
  { at: "C9/ledger.Recorder", leaves: "entries that were read run once" },
  { at: "C9/ledger.Tally", leaves: "a projector's entries that were read run once, in order" },
  { at: "C9/Commands:ledger::book", leaves: "commands that were read run once" },
  { at: "C9/ledger.Incoming", leaves: "foreign messages that were read run once" },
  { at: "C10:2/ledger.Recorder", leaves: "what was committed and not acknowledged runs twice" },
  { at: "C10:2/ledger.Tally", leaves: "an idempotent projector's effect is there once" },
  { at: "C10:2/Commands:ledger::book", leaves: "a command's effect is there once" },
  { at: "C11:2/ledger.Recorder", leaves: "what was acknowledged is done" },
  { at: "C12/ledger.Recorder", leaves: "a counted attempt that didn't run costs at most that attempt", moods: ["poison=3"] },
  { at: "C13-before/ledger.Recorder", leaves: "one dead letter", moods: ["poison=3"] },
  { at: "C13/ledger.Recorder", leaves: "one dead letter, and no further run", moods: ["poison=3"] },
  { at: "C14/Archive", leaves: "an event-store subscription runs again what its cursor didn't pass; effects are there once" },
  { at: "C15/Archive", leaves: "a failure that wasn't recorded is met again", moods: ["twice=3"], failing: ["twice"] },
  { at: "C16/Archive", leaves: "a recorded failure is recovered once", moods: ["twice=3"], failing: ["twice"] },
  { at: "C17/Archive", leaves: "what recovery handled takes effect once", moods: ["twice=3"], failing: ["twice"] },
  {
    at: "C3:2/ledger.Confirming",
    leaves: "commands of a process manager without its transition are no more than nothing (C19)",
  },
  { at: "C5:2/ledger.Confirming", leaves: "commands and transition without outbox rows are no more than nothing (C19)" },
  { at: "C6:2/ledger.Confirming", leaves: "the process manager's step is taken once" },
  { at: "C20/outbox", leaves: "the next owner of the lease publishes" },
  { at: "C20/ledger.Tally", leaves: "the next owner of the lease projects" },
];

describe.each([...BACKENDS])("on %s", (backend) => {
  test.each(CASES.map((one) => [one.at, one.leaves, one] as const))(
    "killed at %s: %s",
    async (_at, _leaves, one) => {
      const site = await siteOf(backend);
      const producing = site.produce("c", ENTRIES, { books: 2, moods: one.moods ?? [] });
      await site.dies(one.at);
      await producing;
      const deadLetters = one.moods?.[0]?.startsWith("poison") === true ? ["c-00003", "c-00006"] : [];
      await site.start();
      const started_ms = performance.now();
      await site.settled({ ...one, deadLetters });
      expect(performance.now() - started_ms).toBeLessThan(one.at.startsWith("C20") ? LEASE_ms : BACK_ms);
      await site.verify({ ...one, deadLetters });
      if (one.at.startsWith("C12") || one.at.startsWith("C13")) {
        for (const entry of deadLetters) expect(site.runs("Recorder").filter((run) => run.entry === entry).length).toBeLessThanOrEqual(3);
      }
    },
    LIMIT_ms,
  );

  test(
    "a sender killed at C1, when its command is stored: the command is handled all the same (G2)",
    async () => {
      const site = await siteOf(backend);
      await site.start();
      await site.produce("c", ENTRIES, { crashAt: "C1:3", foreign: false });
      expect(site.produced()).toHaveLength(3);
      await site.verify({ exactly: true });
    },
    LIMIT_ms,
  );

  test(
    "with the event store in a file of its own, killed at C4 and then at C23: every stored event is published, nothing is lost (G63)",
    async () => {
      const config = '[event_store]\nprovider = "sqlite"\ndatabase_uri = "sqlite:///events.db"';
      const site = await siteOf(backend, { config });
      const producing = site.produce("c", ENTRIES, { books: 2, foreign: false });
      await site.dies("C4:2/Ledger.Confirmed");
      await producing;
      await site.dies("C23");
      await site.verify({ twoDatabases: true });
    },
    LIMIT_ms,
  );
});

test("a crash point that there isn't is refused with the list of those there are", async () => {
  const site = await siteOf("sqlite");
  const { exitCode, stderr } = await site.launch({ crashAt: "C99" }).ended;
  expect(exitCode).toBe(2);
  expect(stderr).toContain('PROTEAN_CRASH_AT: there is no point "C99"');
  expect(stderr).toContain("C8, C9, C10");
});
