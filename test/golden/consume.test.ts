/**
 * Messages as Python recorded them, through the engine as the binary composes it, to handlers written from the SDK's description; and our own
 * messages beside Python's. Nothing but memory: no server, no Python.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { Domain, f } from "protean";
import type { Domain as AnyDomain } from "../../src/domain/domain.ts";
import { checksumOfText } from "../../src/messages/checksum.ts";
import { decodeDeadLetter, restoreOriginal } from "../../src/messages/dead-letter.ts";
import { memberText, objectMembers } from "../../src/messages/json.ts";
import { domain, type Note, notes, partner, repaired } from "../interop/bank.ts";
import { publishAccount, publishCommands, publishFacts, publishLedger, publishTransfer, publishTypes } from "../interop/publish.ts";
import { openDomain, type RunningDomain } from "../interop/running.ts";
import { type RecordedEntry, readFixtureLines, readFixtureRecords } from "./fixtures.ts";

const ACCOUNT = "corner_bank::account";

/** Domains that read what the bank's aggregates write, with handlers that the Python application doesn't have. */
const reader = new Domain("Corner Bank");
class Customer extends reader.aggregate("Customer", {
  factEvents: true,
  fields: { name: f.string(), vip: f.boolean({ default: false }) },
}) {}
const facts: unknown[] = [];
reader.eventHandler("FactReader", { partOf: Customer }).handle(Customer.FactEvent, (event) => {
  facts.push([event.id, event.name, event.vip, event.$metadata?.headers.id, event.toJSON()]);
});

const opened: RunningDomain[] = [];
async function open(of: AnyDomain = domain): Promise<RunningDomain> {
  const running = await openDomain(of);
  opened.push(running);
  return running;
}
beforeEach(() => {
  notes.length = 0;
  facts.length = 0;
  repaired.value = false;
});
afterEach(async () => {
  for (const running of opened.splice(0)) await running.close();
});

/** What a handler saw, without what only ours has, in an order that doesn't depend on who came first. */
function seen(all: readonly Pick<Note, "handler" | "class" | "payload" | "metadata">[]): unknown[] {
  return all
    .map(({ handler, class: name, payload, metadata }) => ({
      handler,
      payload,
      ...(name === undefined ? {} : { class: name, metadata: JSON.parse(JSON.stringify(metadata)) as unknown }),
    }))
    .sort((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1));
}
function keyOf(one: { readonly handler: string; readonly class?: string; readonly metadata?: unknown }): string {
  const id = (one.metadata as { readonly headers: { readonly id: string } } | undefined)?.headers.id ?? "";
  return `${one.handler} ${one.class ?? ""} ${id}`;
}

/** A line that a Python handler printed: parsed, and the message's own characters. */
function handledByPython() {
  return readFixtureLines("handled-by-python.jsonl").map((line) => {
    const note = JSON.parse(line) as Note & { readonly metadata?: { readonly headers: { readonly id: string; readonly type: string } } };
    const [data, metadata] = [memberText(line, "payload") ?? "", memberText(line, "metadata")];
    return { note, data, metadata };
  });
}

describe("recorded entries", () => {
  test("every handler sees the fields, metadata, correlation and causation that its Python twin saw", async () => {
    const bank = await open();
    const entries = readFixtureRecords<RecordedEntry>("redis-stream-entries.jsonl");
    for (const { stream, fields } of entries) await bank.put(stream, fields.data);
    // Events that the recorded commands caused have no recorded entry: they are put together from the characters that a handler printed.
    const lines = handledByPython().filter(({ note }) => note.handler !== "AccountCommands");
    const recorded = new Set(entries.map(({ fields }) => memberText(memberText(fields.data, "metadata") ?? "{}", "headers")));
    const caused = new Map(
      lines.flatMap(({ note, data, metadata }) => (metadata === null ? [] : [[note.metadata?.headers.id, { data, metadata }]])),
    );
    let added = 0;
    for (const { data, metadata } of caused.values()) {
      if (recorded.has(memberText(metadata, "headers"))) continue;
      added += 1;
      await bank.put(ACCOUNT, `{"data": ${data}, "metadata": ${metadata}}`);
    }
    expect(added).toBe(2);

    const report = await bank.settle();

    expect(seen(notes)).toEqual(seen(lines.map(({ note }) => note)));
    expect(notes.filter(({ metadata }) => metadata?.domain.correlation_id?.startsWith("corr-") === true).length).toBeGreaterThan(0);
    expect(notes.every(({ class: name, tenant }) => name === undefined || tenant === "t-main")).toBe(true);
    expect([report.summary.deadLettered, report.summary.retried, report.failed]).toEqual([0, 0, false]);
  });

  test("a message's extensions are the context `g` of its handlers and of what they raise", async () => {
    const bank = await open();
    const command = handledByPython().find(({ note }) => note.class === "OpenAccount");
    await bank.stores.eventStore.append([rowOf(command, (text) => text.replace("t-main", "t-other"))]);
    await bank.settle();
    expect(notes.map(({ handler, tenant }) => [handler, tenant]).sort()).toEqual([
      ["AccountCommands", "t-other"],
      ["AccountSummaries", "t-other"],
      ["AuditTrail", "t-other"],
      ["Greeter", "t-other"],
      ["Onboarding", "t-other"],
    ]);
  });

  test("recorded commands run, and what they cause equals what they caused in Python", async () => {
    const bank = await open();
    const lines = handledByPython();
    const commands = lines.filter(({ note }) => note.handler === "AccountCommands");
    for (const line of commands) await bank.stores.eventStore.append([rowOf(line)]);
    const report = await bank.settle();
    expect(report.failed).toBe(false);
    // Times, and the command's place in its store, are of this run; our own messages carry our fully qualified names.
    const comparable = (all: readonly Note[]) =>
      seen(all).map((one) =>
        JSON.parse(
          JSON.stringify(one, (key, value: unknown) => (key === "time" || key === "event_store" || key === "fqn" ? "of this run" : value)),
        ),
      );
    const id = commands[0]?.note.payload["account_id"];
    const ofAccount = lines.map(({ note }) => note).filter(({ payload }) => payload["account_id"] === id);
    expect(ofAccount.length).toBeGreaterThanOrEqual(9);
    expect(comparable(notes)).toEqual(comparable(ofAccount));
  });

  test("published events of the other broker reach an external event, fewer fields declared than sent", async () => {
    const desk = await open(partner);
    for (const { stream, fields } of readFixtureRecords<RecordedEntry>("redis-external-entries.jsonl")) await desk.put(stream, fields.data);
    const report = await desk.settle();
    expect(notes.map(({ class: name, payload, tenant }) => ({ name, payload, tenant }))).toEqual([
      {
        name: "CornerBank.AccountOpened.v1",
        payload: { account_id: "e69b419a-b064-4296-b366-f9db319777fd", holder: "Holder 0" },
        tenant: "t-main",
      },
    ]);
    expect(report.summary.deadLettered).toBe(0);
  });

  test("fact events reach handlers of the aggregate's fact event", async () => {
    const running = await open(reader);
    const entries = readFixtureRecords<RecordedEntry>("redis-stream-entries.jsonl").filter(
      ({ stream }) => stream === "corner_bank::customer",
    );
    for (const { stream, fields } of entries) await running.put(stream, fields.data);
    await running.settle();
    const id = "a66aa427-0ab6-46a3-a25c-eb1cec44b69d";
    const category = "corner_bank::customer-fact";
    expect(facts).toEqual([
      [id, "Customer 0", false, `${category}-${id}-0.1`, { id, name: "Customer 0", vip: false }],
      [id, "Customer 0", true, `${category}-${id}-1.1`, { id, name: "Customer 0", vip: true }],
    ]);
  });

  test("entries of both lanes carry the same messages", async () => {
    const bank = await open();
    const entries = readFixtureRecords<RecordedEntry>("redis-lane-entries.jsonl");
    for (const { fields } of entries) await bank.put(ACCOUNT, fields.data);
    const report = await bank.settle({ only: ["AuditTrail"] });
    expect(notes.map(({ payload }) => payload)).toEqual(
      entries.map(({ fields }) => (JSON.parse(fields.data) as { readonly data: Note["payload"] }).data),
    );
    expect(report.summary.deadLettered).toBe(0);
  });
});

describe("recorded dead letters", () => {
  const letters = readFixtureRecords<RecordedEntry>("dlq-entries.jsonl");

  test("say which message failed where, and give back the original's very characters", () => {
    for (const { stream, fields } of letters) {
      const record = decodeDeadLetter(fields);
      expect(`${record.originalStream}:dlq`).toBe(stream);
      expect(record.consumerGroup).toMatch(/^bank\.\w+$/);
      expect([record.retryCount, record.error, record.reference]).toEqual([stream.startsWith("wire") ? 2 : 3, null, null]);
      const restored = String(restoreOriginal(fields)["data"]);
      expect(restored).not.toContain("_dlq_metadata");
      expect(fields.data.startsWith(restored.slice(0, -1))).toBe(true);
      const data = memberText(restored, "data");
      if (data !== null) expect(restored).toContain(`"checksum": "${checksumOfText(data)}"`);
    }
  });

  test("are replayed to the group that failed and to no other", async () => {
    const bank = await open();
    repaired.value = true;
    await bank.settle(); // groups exist before anything is replayed
    const ofMainStreams = letters.filter(({ stream }) => !stream.includes(":backfill"));
    for (const { stream, fields } of ofMainStreams) {
      const [id = ""] = await bank.put(stream, fields.data);
      const record = decodeDeadLetter(fields);
      const replayed = await bank.broker.replay({
        deadLetterStream: stream,
        deadLetterId: id,
        stream: record.originalStream ?? "",
        group: record.consumerGroup ?? "",
        originalId: record.originalId ?? "",
        fields: restoreOriginal(fields),
      });
      expect(replayed).toBe("copied");
    }
    const report = await bank.settle();
    expect(notes.map(({ handler, payload, attempt }) => [handler, payload["amount"], attempt]).sort()).toEqual([
      ["AuditTrail", 666, 1],
      ["WireTransfers", 666, 1],
    ]);
    expect(report.summary.deadLettered).toBe(0);
    for (const { stream } of ofMainStreams) expect(await bank.broker.length(stream)).toBe(0);
  });
});

// ---------------------------------------------------------------------------------------------------------------- altered messages

/**
 * What becomes of an altered message, by its number in the recording. Python's words stand beside ours where they differ: `wedged` is an entry that it
 * read for ever, `lost` one that it gave up.
 */
type Outcome = "handled" | "ignored" | "expired" | "dead letter";
const STREAM_OUTCOMES: Readonly<Record<Outcome, readonly number[]>> = {
  // Beyond Python: envelope keys that nobody knows (9, 24, 29, 48, 63), W3C traceparent (39), no or odd kind (42, 43, 45, 46), null version,
  // priority and extensions (51, 59, 65), numbers for sequence and correlation id (55, 60). Python wedged or dead-lettered them.
  handled: [
    1, 2, 3, 5, 6, 7, 8, 9, 13, 16, 17, 18, 23, 24, 26, 27, 29, 30, 31, 32, 33, 34, 35, 36, 37, 39, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50,
    51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 74,
  ],
  /** Types of which this handler has no method (D28); Python dead-letters them. */
  ignored: [10, 11],
  expired: [41],
  "dead letter": [4, 12, 14, 15, 19, 20, 21, 22, 25, 28, 38, 71, 72, 73],
};
/** Decoding errors are given up at once; only a version that a newer worker may know is tried again (rulings 1). */
const TRIED_AGAIN: readonly number[] = [12];

interface AlteredEntry {
  readonly n: number;
  readonly change: string;
  readonly entry: Readonly<Record<string, string>>;
  readonly handled: number;
  readonly handled_message: Pick<Note, "payload"> & { readonly metadata: Metadata };
}
type Metadata = Readonly<Record<"headers" | "envelope" | "domain" | "extensions", Readonly<Record<string, unknown>>>>;

/** Metadata that Python's reader takes from the message; these four it fills in from its own class instead. */
function withoutClassFacts(metadata: unknown): unknown {
  const { domain: facts, ...rest } = JSON.parse(JSON.stringify(metadata)) as Metadata;
  const { version: _version, fqn: _fqn, kind: _kind, priority: _priority, ...others } = facts;
  return { ...rest, domain: others };
}

describe("the altered entries of a stream", () => {
  const altered = readFixtureRecords<AlteredEntry>("tolerance-stream.jsonl");
  const good = withData(altered[0]?.entry["data"] ?? "", '{"account_id": "good", "holder": "H", "deposit": 1.5}');

  test("the table speaks of each of them once", () => {
    expect(
      Object.values(STREAM_OUTCOMES)
        .flat()
        .sort((one, other) => one - other),
    ).toEqual(altered.map(({ n }) => n));
    expect(altered).toHaveLength(74);
  });

  for (const { n, change, entry, handled, handled_message } of altered) {
    const outcome = outcomeIn(STREAM_OUTCOMES, n);
    test(`${n}, ${change.trim()}: ${outcome}, and the next message runs`, async () => {
      const bank = await open();
      await bank.broker.publish([entry, { data: good }].map((fields) => ({ stream: ACCOUNT, fields })));
      const report = await bank.settle({ only: ["AuditTrail"] });

      const [next, ...others] = notes.filter(({ payload }) => payload["account_id"] === "good");
      expect(next).toBeDefined();
      expect(others).toEqual([]);
      const runs = notes.filter((note) => note !== next);
      const letters = await bank.deadLetters(ACCOUNT);
      expect([report.quiet, report.unsettled, (await bank.broker.groups(ACCOUNT))[0]?.pending]).toEqual([true, [], 0]);
      expect({ runs: runs.length, letters: letters.length }).toEqual({
        runs: outcome === "handled" ? 1 : 0,
        letters: outcome === "dead letter" ? 1 : 0,
      });

      if (handled === 1) {
        expect(outcome).toBe("handled");
        expect(runs[0]?.payload).toEqual(handled_message.payload);
        expect(withoutClassFacts(runs[0]?.metadata)).toEqual(withoutClassFacts(handled_message.metadata));
      }
      const [letter] = letters;
      if (letter !== undefined) {
        const record = decodeDeadLetter(letter);
        expect(record.error?.class).toBe("DeserializationError");
        expect(record.error?.attempts).toHaveLength(TRIED_AGAIN.includes(n) ? 3 : 1);
        expect(record.consumerGroup).toBe("bank.AuditTrail");
        const restored = Object.entries(restoreOriginal(letter)).map(([name, value]) => [name, Buffer.from(value).toString()]);
        expect(Object.fromEntries(restored)).toEqual(entry);
      }
    });
  }
});

const STORE_OUTCOMES: Readonly<Record<Outcome, readonly number[]>> = {
  // Beyond Python: the type comes from the row where headers are empty (5), unknown keys of the metadata (17).
  handled: [1, 4, 5, 6, 7, 10, 12, 15, 16, 17, 20, 22],
  /** Metadata without a kind (3), synchronous (11). */
  ignored: [3, 11],
  expired: [13, 14],
  // Where Python's cursor stuck (2, 9, 18, 19, 21, 23), ours notes the message and goes on.
  "dead letter": [2, 8, 9, 18, 19, 21, 23],
};

interface AlteredRow {
  readonly n: number;
  readonly change: string;
  readonly row: { readonly stream: string; readonly type: string; readonly metadata: object | null };
  /** jsonb as the database gives it back; null where the column was NULL. */
  readonly stored_data: string | null;
  readonly handled: number;
  readonly handled_message: (Pick<Note, "payload" | "class"> & { readonly metadata: Metadata }) | null;
}

describe("the altered commands of an event store", () => {
  const altered = readFixtureRecords<AlteredRow>("tolerance-message-db.jsonl");
  const intact = altered.find(({ n }) => n === 10)?.row;

  test("the table speaks of each of them once", () => {
    expect(
      Object.values(STORE_OUTCOMES)
        .flat()
        .sort((one, other) => one - other),
    ).toEqual(altered.map(({ n }) => n));
    expect(altered).toHaveLength(23);
  });

  for (const { n, change, row, stored_data, handled, handled_message } of altered) {
    const outcome = outcomeIn(STORE_OUTCOMES, n);
    test(`${n}, ${change}: ${outcome}, and the next command runs`, async () => {
      const bank = await open();
      const { eventStore } = bank.stores;
      const metadata = row.metadata === null ? null : JSON.stringify(row.metadata);
      await eventStore.append([
        { id: randomUUID(), stream: row.stream, type: row.type, data: stored_data ?? "null", metadata, expectedVersion: null },
        {
          id: randomUUID(),
          stream: `${ACCOUNT}:command-good`,
          type: intact?.type ?? "",
          data: '{"account_id": "good", "holder": "H", "deposit": 1.5}',
          metadata: JSON.stringify(intact?.metadata),
          expectedVersion: null,
        },
      ]);
      const report = await bank.settle({ only: ["AccountCommands"] });

      const [next, ...others] = notes.filter(({ payload }) => payload["account_id"] === "good");
      expect(next).toBeDefined();
      expect(others).toEqual([]);
      expect([report.quiet, report.unsettled]).toEqual([true, []]);
      const runs = notes.filter((note) => note !== next);
      const failures = (await eventStore.readCategory("$all", 0, 1_000)).filter(({ stream }) => stream.startsWith("failed-"));
      expect({ runs: runs.length, failures: failures.map(({ type }) => type) }).toEqual({
        runs: outcome === "handled" ? 1 : 0,
        failures: outcome === "dead letter" ? ["Exhausted"] : [],
      });
      if (outcome === "dead letter") {
        expect(JSON.parse(failures[0]?.data ?? "{}")).toMatchObject({
          stream_name: row.stream,
          stream_position: 0,
          error: { class: n === 8 ? "NoHandler" : "DeserializationError" },
        });
      }
      if (handled === 1) {
        expect(outcome).toBe("handled");
        const [run] = runs;
        expect([run?.class, run?.payload]).toEqual([handled_message?.class, handled_message?.payload ?? {}]);
        const ours = JSON.parse(JSON.stringify(run?.metadata)) as Metadata;
        // Where the row's own id and time stand in, they are those of this run.
        const { id, time } = (row.metadata as Metadata | null)?.headers ?? {};
        const theirs = handled_message?.metadata;
        const headers = { ...theirs?.headers, ...(id ? {} : { id: ours.headers["id"] }), ...(time ? {} : { time: ours.headers["time"] }) };
        expect(withoutClassFacts(ours)).toEqual(withoutClassFacts({ ...theirs, headers }));
      }
    });
  }
});

// ---------------------------------------------------------------------------------------------------------------- our own messages

describe("entries that we write", () => {
  /** Identities, times and checksums differ from run to run; names of modules are each program's own. All other characters count. */
  const normal = (text: string) =>
    text
      .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "UUID")
      .replaceAll(/"time": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00"/g, '"time": TIME')
      .replaceAll(/"checksum": "[0-9a-f]{64}"/g, '"checksum": CHECKSUM')
      .replaceAll(/"fqn": "\w+\.(\w+)"/g, '"fqn": "MODULE.$1"');

  async function written(bank: RunningDomain, broker: string): Promise<string[]> {
    const from = bank.stores.brokers.get(broker);
    const all: string[] = [];
    for (const stream of [ACCOUNT, "corner_bank::customer", "corner_bank::ledger", "wire_transfers"]) {
      const entries = (await from?.range(stream, { count: 1_000 })) ?? [];
      for (const { fields } of entries) {
        expect(fields.map(([name]) => name)).toEqual(["data"]);
        all.push(`${stream} ${Buffer.from(fields[0]?.[1] ?? []).toString()}`);
      }
    }
    return all;
  }

  test("are Python's, character by character", async () => {
    const bank = await open();
    await publishAccount();
    await publishTypes();
    await publishFacts();
    await publishLedger();
    await publishTransfer();
    await bank.settle({ only: ["outbox"] });

    const ours = await written(bank, "default");
    const theirs = readFixtureRecords<RecordedEntry>("redis-stream-entries.jsonl").map(({ stream, fields }) => `${stream} ${fields.data}`);
    expect(ours.map(normal).sort()).toEqual(theirs.map(normal).sort());
    for (const entry of ours) {
      const text = entry.slice(entry.indexOf(" ") + 1);
      const data = memberText(text, "data");
      if (data === null) continue;
      expect(text).toContain(`"checksum": "${checksumOfText(data)}"`);
      const { id, stream } = (JSON.parse(text) as { readonly metadata: Metadata }).metadata.headers;
      expect(String(id)).toMatch(new RegExp(`^${String(stream)}-\\d+(\\.\\d+)?$`));
    }
  });

  test("for other brokers are Python's stripped form", async () => {
    const bank = await open();
    await publishAccount();
    await publishLedger();
    await bank.settle({ only: ["outbox"] });
    const theirs = readFixtureRecords<RecordedEntry>("redis-external-entries.jsonl").map(
      ({ stream, fields }) => `${stream} ${fields.data}`,
    );
    expect((await written(bank, "partners")).map(normal)).toEqual(theirs.map(normal));
  });

  test("what one aggregate raised keeps its order", async () => {
    const bank = await open();
    await publishLedger();
    await bank.settle({ only: ["outbox"] });
    const sequence = (await written(bank, "default")).map((entry) => /"sequence_id": "(\d+)"/.exec(entry)?.[1]);
    expect(sequence).toEqual(["0", "1", "2", "3"]);
  });

  test("commands in the event store are Python's, but for their unique id", async () => {
    const bank = await open();
    const accountId = await publishCommands();
    const rows = await bank.stores.eventStore.readCategory(`${ACCOUNT}:command`, 0, 10);
    const theirs = handledByPython().filter(({ note }) => note.handler === "AccountCommands");
    expect(rows.map(({ stream, type, data }) => [stream, type, normal(data)])).toEqual(
      theirs.map(({ note, data }) => [`${ACCOUNT}:command-${accountId}`, note.metadata?.headers.type ?? "", normal(data)]),
    );
    const keys = (text: string | null): unknown =>
      objectMembers(text ?? "{}").map(({ key, from, to }) => {
        const value = (text ?? "").slice(from, to);
        if (key === "extensions") return Object.entries(JSON.parse(value) as object).sort(); // the recorded ones have the order of jsonb
        return value.startsWith("{") && key !== "event_store" ? [key, keys(value)] : key;
      });
    expect(rows.map(({ metadata }) => keys(metadata))).toEqual(theirs.map(({ metadata }) => keys(metadata)));
    const correlations = rows.map(({ metadata }) => (JSON.parse(metadata ?? "{}") as Metadata).domain["correlation_id"]);
    expect(correlations[0]).toBe(`corr-${accountId}`);
    expect(correlations[1]).toMatch(/^[0-9a-f]{32}$/);
    // Its handler's section says that they are read from the store: nothing may go to a stream that nobody reads.
    const report = await bank.settle({ only: ["outbox"] });
    expect([report.summary.published, await bank.broker.length(`${ACCOUNT}:command`)]).toEqual([0, 0]);
  });
});

// ---------------------------------------------------------------------------------------------------------------- helpers

function outcomeIn(table: Readonly<Record<Outcome, readonly number[]>>, n: number): Outcome | undefined {
  return (Object.keys(table) as Outcome[]).find((outcome) => table[outcome].includes(n));
}

/** The message with another payload and its right checksum. */
function withData(text: string, data: string): string {
  return text
    .replace(memberText(text, "data") ?? "", data)
    .replace(/"checksum": "[0-9a-f]{64}"/, `"checksum": "${checksumOfText(data)}"`)
    .replaceAll("tol-01", "good");
}

/** The row of the event store from which Python's handler got this command. */
function rowOf(line: ReturnType<typeof handledByPython>[number] | undefined, change = (metadata: string) => metadata) {
  const headers = line?.note.metadata?.headers as { readonly type: string; readonly stream: string } | undefined;
  return {
    id: randomUUID(),
    stream: headers?.stream ?? "",
    type: headers?.type ?? "",
    data: line?.data ?? "",
    metadata: change(line?.metadata ?? ""),
    expectedVersion: null,
  };
}
