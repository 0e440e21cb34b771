/**
 * Messages that were given up, of both kinds in one list: entries of dead-letter streams, and positions that an event-store subscription
 * exhausted (`es:POSITION`).
 */
import type { ConnectedStores } from "../compose/connect.ts";
import { DeserializationError } from "../errors.ts";
import { type DeadLetterRecord, decodeDeadLetter, type RawFields, restoreOriginal } from "../messages/dead-letter.ts";
import { decodeMessage, decodeRow } from "../messages/envelope.ts";
import { deadLetterStream } from "../messages/names.ts";
import type { Broker, StreamEntry } from "../ports/broker.ts";
import type { Command, FlagSpec, Invocation } from "./command.ts";
import { confirm } from "./confirm.ts";
import { type Exhausted, exhaustedPositions } from "./exhausted.ts";
import type { Outcome } from "./output.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { openBackends, openProject } from "./project.ts";

const LIMIT = 100;
const PAGE = 500;
const SUFFIX = ":dlq";
const WAIT_ms = 30_000;
const LOOK_ms = 100;

const SUBSCRIPTION = {
  subscription: { type: "text", hint: "STREAM", description: "Only this stream category" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

/** A row of the list. */
interface Letter {
  readonly id: string;
  readonly subscription: string;
  readonly group: string | null;
  readonly type: string | null;
  readonly error_class: string | null;
  readonly error: string | null;
  readonly failed_at: string | null;
  readonly attempts: number | null;
}

interface StreamLetter {
  readonly broker: Broker;
  readonly stream: string;
  readonly entry: StreamEntry;
  readonly record: DeadLetterRecord;
}

interface StoreLetter {
  /** `failed-…` */
  readonly failures: string;
  readonly exhausted: Exhausted;
}

export const dlqList: Command = {
  description: "Messages that were given up, newest first: dead letters of streams, and es: positions of event-store subscriptions",
  flags: {
    ...SUBSCRIPTION,
    handler: { type: "text", hint: "NAME", description: "Only of this handler's group" },
    type: { type: "text", hint: "TEXT", description: "Only types that hold this text" },
    error: { type: "text", hint: "TEXT", description: "Only errors that hold this text" },
    limit: { type: "text", hint: "N", description: "At most N (100)" },
    cursor: { type: "text", hint: "ID", description: "Go on below this id" },
    output: {
      type: "text",
      short: "o",
      hint: "FORMAT",
      choices: ["table", "json", "jsonl", "csv"],
      description: "table, json, jsonl or csv",
    },
  },
  async run(invocation) {
    const { values } = invocation;
    const limit = values.integer("limit", { least: 1, most: 10_000 }) ?? LIMIT;
    const { stores, close } = await openBackends(invocation);
    try {
      const [handler, type, error] = [values.text("handler"), values.text("type"), values.text("error")];
      const cursor = values.text("cursor") ?? null;
      const wanted = (letter: Letter) =>
        (handler === undefined || letter.group?.endsWith(`.${handler}`) === true || letter.group === handler) &&
        (type === undefined || letter.type?.includes(type) === true) &&
        (error === undefined || `${letter.error_class}: ${letter.error}`.includes(error));
      const letters: Letter[] = [];
      if (stores !== null) {
        for await (const found of streamLetters(stores, values.text("subscription"), cursor, limit, (one) => wanted(rowOf(one)))) {
          letters.push(rowOf(found));
        }
        if (cursor === null) letters.push(...(await storeLetters(stores, values.text("subscription"))).map(rowOfStore).filter(wanted));
      }
      letters.sort((one, other) => ((one.failed_at ?? "") < (other.failed_at ?? "") ? 1 : -1));
      const rows = letters.slice(0, limit);
      const next = rows.length === limit ? (rows.filter(({ id }) => !id.startsWith("es:")).at(-1)?.id ?? null) : null;
      const first = rows[0];
      return {
        data: { dead_letters: rows, next_cursor: next },
        list: {
          columns: [
            { key: "id", title: "ID" },
            { key: "subscription", title: "STREAM" },
            { key: "group", title: "GROUP" },
            { key: "type", title: "TYPE" },
            { key: "error_class", title: "ERROR" },
            { key: "error", title: "MESSAGE", rank: 3 },
            { key: "failed_at", title: "FAILED AT", rank: 1 },
            { key: "attempts", title: "ATTEMPTS", rank: 2 },
          ],
          rows: rows as unknown as readonly Readonly<Record<string, unknown>>[],
          empty: "No dead letters.",
          ...(first === undefined ? {} : { hint: `Look closer: protean dlq inspect ${first.id}` }),
        },
      };
    } finally {
      await close();
    }
  },
};

export const dlqInspect: Command = {
  description: "A dead letter: error, stack, attempts, payload",
  flags: SUBSCRIPTION,
  positionals: [{ name: "ID", description: "as protean dlq list shows it", required: true, rest: true }],
  async run(invocation) {
    const { values } = invocation;
    const { stores, close } = await openBackends(invocation);
    try {
      const found: object[] = [];
      for (const id of values.positionals) found.push(await inspectOne(stores, id, values.text("subscription")));
      return { data: { dead_letters: found }, text: found.map(inspectText).join("\n\n") };
    } finally {
      await close();
    }
  },
};

export const dlqReplay: Command = {
  description: "Give dead letters to the handler that failed, and to no other",
  flags: {
    ...SUBSCRIPTION,
    to: {
      type: "text",
      hint: "WHOM",
      choices: ["failed-group", "all"],
      description: "failed-group (default), or all groups of the stream",
    },
    "dry-run": { type: "boolean", description: "Only show what would be replayed" },
    wait: { type: "optional", hint: "DURATION", description: "Wait for the outcome (30s); exit 1 when one fails again" },
  },
  positionals: [{ name: "ID", description: "as protean dlq list shows it", required: true, rest: true }],
  async run(invocation) {
    const { values, output } = invocation;
    const ids = [...new Set(values.positionals)];
    const fromStore = ids.filter((id) => id.startsWith("es:"));
    const wait_ms = values.has("wait") ? (values.duration_ms("wait") ?? WAIT_ms) : null;
    if (fromStore.length > 0 && fromStore.length < ids.length)
      throw usageError("es: ids and others can't be replayed together", "Replay them one kind after the other.");
    if (fromStore.length > 0) return await replayFromStore(invocation, fromStore);
    const { stores, close } = await openBackends(invocation);
    try {
      const letters: StreamLetter[] = [];
      for (const id of ids) letters.push(await findStreamLetter(stores, id, values.text("subscription")));
      if (values.has("dry-run")) {
        const lines = letters.map(
          (letter) => `would replay ${letter.entry.id} of ${letter.stream} to ${receiver(letter, values.text("to"))}`,
        );
        return { data: { would_replay: letters.map(({ entry }) => entry.id) }, text: lines.join("\n") };
      }
      if (ids.length > 1) await confirm(invocation.values, `Replay ${ids.length} messages?`, "nothing was replayed");
      const results: { id: string; how: string; outcome?: string }[] = [];
      for (const letter of letters) {
        const how = await replayOne(letter, values.text("to") === "all");
        const outcome = wait_ms === null || stores === null ? undefined : await outcomeOf(letter, how, wait_ms, stores);
        results.push({ id: letter.entry.id, how, ...(outcome === undefined ? {} : { outcome }) });
      }
      const isBad = results.some(({ outcome }) => outcome !== undefined && outcome !== "handled");
      if (wait_ms === null) output.hint("A running server handles them now; protean dlq list shows what fails again.");
      return {
        exitCode: isBad ? EXIT.found : EXIT.good,
        data: { replayed: results },
        text: results.map(({ id, how, outcome }) => `${id} ${how}${outcome === undefined ? "" : `: ${outcome}`}`).join("\n"),
      };
    } finally {
      await close();
    }
  },
};

// ------------------------------------------------------------------------------------------------------------ streams

/** Newest first inside each stream, read in pages, at most `limit` of each. */
async function* streamLetters(
  stores: ConnectedStores,
  category: string | undefined,
  below: string | null,
  limit: number,
  wanted: (letter: StreamLetter) => boolean,
): AsyncGenerator<StreamLetter> {
  for (const broker of stores.brokers.values()) {
    const streams = category === undefined ? await broker.streams(SUFFIX) : [deadLetterStream(category)];
    for (const name of streams) {
      const stream = name.slice(0, -SUFFIX.length);
      let given = 0;
      for (let to = below ?? "+"; given < limit; ) {
        const entries = await broker.range(name, { to, count: PAGE, reverse: true });
        for (const entry of entries) {
          if (entry.id === to || given >= limit) continue;
          const letter = { broker, stream, entry, record: recordOf(entry) };
          if (!wanted(letter)) continue;
          given += 1;
          yield letter;
        }
        const last = entries.at(-1);
        if (last === undefined || entries.length < PAGE) break;
        to = last.id;
      }
    }
  }
}

function fieldsOf(entry: StreamEntry): RawFields {
  return Object.fromEntries(entry.fields);
}

function recordOf(entry: StreamEntry): DeadLetterRecord {
  return decodeDeadLetter(fieldsOf(entry));
}

function typeOf(text: string | null): string | null {
  if (text === null) return null;
  try {
    return decodeMessage(text).type;
  } catch (error) {
    // Foreign payloads have no type; what can't be read is here for that very reason.
    if (error instanceof DeserializationError) return null;
    throw error;
  }
}

function rowOf({ stream, entry, record }: StreamLetter): Letter {
  return {
    id: entry.id,
    subscription: stream,
    group: record.consumerGroup,
    type: typeOf(record.originalText),
    error_class: record.error?.class ?? null,
    error: record.error?.message ?? null,
    failed_at: record.failedAt,
    attempts: record.retryCount,
  };
}

async function findStreamLetter(stores: ConnectedStores | null, id: string, category: string | undefined): Promise<StreamLetter> {
  const found: StreamLetter[] = [];
  for (const broker of stores?.brokers.values() ?? []) {
    const streams = category === undefined ? await broker.streams(SUFFIX) : [deadLetterStream(category)];
    for (const name of streams) {
      if (!/^\d+-\d+$/.test(id)) continue;
      const [entry] = await broker.range(name, { from: id, to: id, count: 1 });
      if (entry !== undefined) found.push({ broker, stream: name.slice(0, -SUFFIX.length), entry, record: recordOf(entry) });
    }
  }
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  if (found.length > 1) {
    throw usageError(
      `${id} is a dead letter of ${found.map(({ stream }) => stream).join(" and of ")}`,
      "Say which with --subscription STREAM.",
    );
  }
  throw new CommandError(EXIT.notFound, "NOT_FOUND", `there is no dead letter ${id}`, { fix: "protean dlq list shows all of them." });
}

function receiver({ stream, record }: StreamLetter, to: string | undefined): string {
  return to === "all" ? `all groups of ${stream}` : (record.consumerGroup ?? "nobody: it names no group");
}

async function replayOne({ broker, stream, entry, record }: StreamLetter, toAll: boolean): Promise<string> {
  const fields = restoreOriginal(fieldsOf(entry));
  const letters = deadLetterStream(stream);
  if (toAll) {
    await broker.publish([{ stream, fields }]);
    await broker.remove(letters, [entry.id]);
    return "published again";
  }
  const { consumerGroup: group, originalId } = record;
  if (group === null || originalId === null) {
    throw new CommandError(EXIT.usage, "NO_GROUP", `dead letter ${entry.id} doesn't say which group failed`, {
      fix: "Give it to every group: --to all",
    });
  }
  const how = await broker.replay({ deadLetterStream: letters, deadLetterId: entry.id, stream, group, originalId, fields });
  if (how === "missing") throw new CommandError(EXIT.notFound, "NOT_FOUND", `dead letter ${entry.id} is gone: somebody else replayed it`);
  return how;
}

/** Handled, failed again, or not known within the time: looks until the group no longer holds the entry. */
async function outcomeOf(
  { broker, stream, record }: StreamLetter,
  how: string,
  wait_ms: number,
  { clock }: ConnectedStores,
): Promise<string> {
  const { consumerGroup: group, originalId } = record;
  if (how === "published again" || group === null || originalId === null) return "not followed: it went to every group";
  const until_ms = clock.monotonic_ms() + wait_ms;
  const isHeld = async (): Promise<boolean> => {
    if (how === "redelivered") {
      for (let after: string | null = null; ; ) {
        const page = await broker.pending(stream, group, { after, count: PAGE });
        if (page.some(({ id }) => id === originalId)) return true;
        if (page.length < PAGE) return false;
        after = page.at(-1)?.id ?? null;
      }
    }
    const copies = `${stream}:replay:${group}`;
    const [info] = (await broker.groups(copies)).filter(({ name }) => name === group);
    return info === undefined ? (await broker.length(copies)) > 0 : info.pending > 0 || info.lag !== 0;
  };
  while (await isHeld()) {
    if (clock.monotonic_ms() >= until_ms) return "still waiting; is a server running?";
    await clock.sleep(LOOK_ms);
  }
  const newest = await broker.range(deadLetterStream(stream), { count: PAGE, reverse: true });
  const failedAgain = newest.some((entry) => {
    const again = recordOf(entry);
    return again.consumerGroup === group && (again.originalId === originalId || again.originalText === record.originalText);
  });
  return failedAgain ? "failed again" : "handled";
}

// -------------------------------------------------------------------------------------------------------- event store

async function storeLetters({ eventStore }: ConnectedStores, category: string | undefined): Promise<readonly StoreLetter[]> {
  const found: StoreLetter[] = [];
  for (let after: string | null = null; ; ) {
    const streams: readonly string[] = await eventStore.streams("failed", after, PAGE);
    for (const failures of streams) {
      if (category !== undefined && !failures.endsWith(`-${category}`)) continue;
      for (const exhausted of await exhaustedPositions(eventStore, failures)) found.push({ failures, exhausted });
    }
    if (streams.length < PAGE) return found;
    after = streams.at(-1) ?? null;
  }
}

/** `failed-<subscriber>-<category>`: a subscriber's name holds no dash, unless it is a merged one of a dashed category. */
function partsOf(failures: string): { readonly subscriber: string; readonly category: string } {
  const rest = failures.slice("failed-".length);
  const dash = rest.indexOf("-");
  return { subscriber: rest.slice(0, dash), category: rest.slice(dash + 1) };
}

function rowOfStore({ failures, exhausted }: StoreLetter): Letter {
  const { subscriber, category } = partsOf(failures);
  return {
    id: `es:${exhausted.position}`,
    subscription: category,
    group: subscriber,
    type: exhausted.messageType,
    error_class: exhausted.errorClass,
    error: exhausted.error,
    failed_at: exhausted.time,
    // Runs, as for broker streams: the first one and its retries.
    attempts: exhausted.retryCount + 1,
  };
}

async function findStoreLetters(stores: ConnectedStores | null, id: string, category: string | undefined): Promise<readonly StoreLetter[]> {
  const position = Number(id.slice("es:".length));
  const all = stores === null || !Number.isInteger(position) ? [] : await storeLetters(stores, category);
  const found = all.filter(({ exhausted }) => exhausted.position === position);
  if (found.length > 0) return found;
  throw new CommandError(EXIT.notFound, "NOT_FOUND", `no event-store subscription has given up position ${id.slice(3)}`, {
    fix: "protean dlq list shows all of them.",
  });
}

async function inspectOne(stores: ConnectedStores | null, id: string, category: string | undefined): Promise<object> {
  if (id.startsWith("es:")) {
    const [letter] = await findStoreLetters(stores, id, category);
    if (letter === undefined || stores === null) throw new Error("a letter that was found is there");
    const { exhausted } = letter;
    const [row] = await stores.eventStore.readStream(exhausted.stream, exhausted.streamPosition, 1);
    return {
      ...rowOfStore(letter),
      original_stream: exhausted.stream,
      original_id: exhausted.messageId,
      payload: row === undefined ? null : jsonOr(row.data),
      metadata: row === undefined || row.metadata === null ? null : jsonOr(row.metadata),
    };
  }
  const letter = await findStreamLetter(stores, id, category);
  const { record } = letter;
  let payload: unknown = record.originalText === null ? null : jsonOr(record.originalText);
  let metadata: unknown = null;
  if (typeof payload === "object" && payload !== null && "data" in payload && "metadata" in payload)
    ({ data: payload, metadata } = payload);
  return {
    ...rowOf(letter),
    consumer: record.consumer,
    original_stream: record.originalStream,
    original_id: record.originalId,
    stack: record.error?.stack ?? null,
    history: record.error?.attempts ?? [],
    reference: record.reference,
    payload,
    metadata,
  };
}

function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // It is here because nobody could read it: shown as it is.
    return text;
  }
}

function inspectText(letter: object): string {
  const lines: string[] = [];
  for (const [name, value] of Object.entries(letter)) {
    if (value === null || (Array.isArray(value) && value.length === 0)) continue;
    const label = `${name.replaceAll("_", " ")}:`.padEnd(17);
    if (typeof value === "string" && value.includes("\n")) lines.push(label.trimEnd(), ...value.split("\n").map((line) => `  ${line}`));
    else if (typeof value === "object")
      lines.push(
        label.trimEnd(),
        ...JSON.stringify(value, null, 2)
          .split("\n")
          .map((line) => `  ${line}`),
      );
    else lines.push(`${label} ${String(value)}`);
  }
  return lines.join("\n");
}

/** Runs the handler in this process, once, as the original does; a success is recorded as `Resolved`. */
async function replayFromStore(invocation: Invocation, ids: readonly string[]): Promise<Outcome> {
  const { values } = invocation;
  const project = await openProject(invocation, { role: "engine", setUp: true });
  try {
    const { stores, domain } = project;
    const letters: StoreLetter[] = [];
    for (const id of ids) letters.push(...(await findStoreLetters(stores, id, values.text("subscription"))));
    if (values.has("dry-run")) {
      const lines = letters.map((letter) => `would run ${partsOf(letter.failures).subscriber} for position ${letter.exhausted.position}`);
      return { data: { would_replay: ids }, text: lines.join("\n") };
    }
    if (letters.length > 1) await confirm(invocation.values, `Replay ${letters.length} messages?`, "nothing was replayed");
    const { RecoveryLedger } = await import("../engine/recovery-ledger.ts");
    const { commandGroup } = await import("../messages/names.ts");
    const results: { id: string; handler: string; outcome: string; error?: string }[] = [];
    for (const { failures, exhausted } of letters) {
      const { subscriber, category } = partsOf(failures);
      const id = `es:${exhausted.position}`;
      const candidates = domain.reactions.filter(
        ({ fqn, kind, categories }) =>
          fqn === subscriber ||
          (kind === "commandHandler" && categories.some((one) => commandGroup(one.replace(/:command$/, "")) === subscriber)),
      );
      const [row] = await stores.eventStore.readStream(exhausted.stream, exhausted.streamPosition, 1);
      const reaction = row === undefined ? undefined : candidates.find((one) => one.accepts(row.type) === "handled");
      if (row === undefined || reaction === undefined) {
        throw new CommandError(
          EXIT.notFound,
          "NOT_FOUND",
          `position ${exhausted.position}: ${row === undefined ? "the message is gone" : `no handler ${subscriber} here takes ${row.type}`}`,
        );
      }
      const message = decodeRow({ ...row, dataText: row.data, metadataText: row.metadata });
      try {
        await reaction.run(message, {
          attempt: 1,
          signal: new AbortController().signal,
          workerId: "cli",
          log: stores.log,
          deliveryKey: message.metadata.domain.kind === "COMMAND" || message.id === null ? `${row.stream}@${row.position}` : message.id,
          fences: [],
        });
      } catch (error) {
        const why = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
        results.push({ id, handler: reaction.name, outcome: "failed again", error: why });
        continue;
      }
      const ledger = new RecoveryLedger({
        store: stores.eventStore,
        subscriber,
        category,
        clock: stores.clock,
        random: stores.random,
        log: stores.log,
      });
      await ledger.resolved(
        {
          position: exhausted.position,
          retryCount: exhausted.retryCount,
          stream: exhausted.stream,
          streamPosition: exhausted.streamPosition,
        },
        { messageType: exhausted.messageType, messageId: exhausted.messageId },
      );
      results.push({ id, handler: reaction.name, outcome: "handled" });
    }
    const isBad = results.some(({ outcome }) => outcome !== "handled");
    return {
      exitCode: isBad ? EXIT.found : EXIT.good,
      data: { replayed: results },
      text: results
        .map(({ id, handler, outcome, error }) => `${id} ${handler}: ${outcome}${error === undefined ? "" : ` (${error})`}`)
        .join("\n"),
    };
  } finally {
    await project.close();
  }
}
