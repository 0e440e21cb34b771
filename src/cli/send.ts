/**
 * Puts something in: a command of this domain, an event of another context, a payload for subscribers.
 *
 * Everything is read and checked before anything is stored, so that a mistake in the last line of a file leaves nothing behind.
 */
import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { nearest } from "../config/nearest.ts";
import type { ElementKind, ElementMeta } from "../domain/element.ts";
import type { CommandReceipt } from "../domain/process-command.ts";
import {
  ConfigurationError,
  ConnectionError,
  DatabaseError,
  DeserializationError,
  ProteanError,
  SendError,
  ValidationError,
} from "../errors.ts";
import { encodePayload } from "../messages/checksum.ts";
import { isoOfEpoch } from "../messages/datetime.ts";
import { encodeMessage, type Metadata, SPEC_VERSION } from "../messages/envelope.ts";
import { type JsonObject, parseJson, toJsonText } from "../messages/json.ts";
import { eventStream } from "../messages/names.ts";
import { drawTree, type Followed, Follower } from "../observatory/follow.ts";
import { readStandardInput, workingDirectory } from "../runtime/environment.ts";
import { readTextIfPresent } from "../runtime/files.ts";
import type { Values } from "./arguments.ts";
import type { Command, FlagSpec, Invocation } from "./command.ts";
import { durationText } from "./duration.ts";
import type { Outcome } from "./output.ts";
import { followedSubscriptions } from "./plan.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { type OpenProject, openProject } from "./project.ts";

const WAIT_ms = 30_000;
const PRIORITIES: Readonly<Record<string, number>> = { BULK: -100, LOW: -50, NORMAL: 0, HIGH: 50, CRITICAL: 100 };

const FLAGS = {
  file: { type: "text", hint: "FILE", description: "Payloads, one JSON object a line; - is standard input" },
  count: { type: "text", hint: "N", description: "Send each payload N times (1)" },
  "correlation-id": { type: "text", hint: "ID", description: "Correlation id (else a new one)" },
  wait: { type: "optional", hint: "DURATION", description: "Wait until everything it brings about is settled (30s), then show it" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

interface Sent {
  readonly id: string | null;
  readonly stream: string;
  readonly correlation_id: string | null;
  readonly entry_id?: string;
  /** What the handler returned, when it ran at once. */
  readonly result?: unknown;
}

export const sendCommand: Command = {
  description: "Send a command; its payload is checked against the declaration",
  flags: {
    ...FLAGS,
    "idempotency-key": { type: "text", hint: "KEY", description: "Submissions with the same key are one command" },
    priority: { type: "text", hint: "P", description: "BULK, LOW, NORMAL, HIGH, CRITICAL or a whole number" },
  },
  positionals: [
    { name: "NAME", description: "the command", required: true },
    { name: "JSON", description: "its payload, in declared or wire names; - reads it from standard input" },
  ],
  examples: [`protean send command PlaceOrder '{"order_id": "o1", "amount": 20}' --wait`],
  async run(invocation) {
    const { values } = invocation;
    const priority = priorityOf(values);
    const payloads = await payloadsOf(values, 1);
    const key = values.text("idempotency-key");
    if (key !== undefined && payloads.length > 1)
      throw usageError("--idempotency-key makes all of them one command", "Send one, or leave the key out.");
    return await withProject(invocation, async (project, follower) => {
      const meta = elementNamed(project, values.positional(0) ?? "", ["command"]);
      const commands = await inputsOf(meta, payloads);
      const sent: Sent[] = [];
      for (const command of commands) {
        const correlationId = values.text("correlation-id") ?? randomUUID();
        follower?.watch(correlationId);
        const answer = await submit(project, command, {
          correlationId,
          ...(key === undefined ? {} : { idempotencyKey: key }),
          ...(priority === undefined ? {} : { priority }),
        });
        if (isReceipt(answer)) {
          if (answer.correlationId !== null) follower?.watch(answer.correlationId);
          sent.push({ id: answer.id, stream: answer.stream, correlation_id: answer.correlationId });
        } else sent.push({ id: null, stream: meta.owner?.category ?? "", correlation_id: correlationId, result: answer ?? null });
      }
      return sent;
    });
  },
};

export const sendEvent: Command = {
  description: "Publish an event as another context would: its envelope goes to the category's stream",
  flags: {
    ...FLAGS,
    stream: { type: "text", hint: "CATEGORY", description: "Stream category (else the one that its handlers read)" },
  },
  positionals: [
    { name: "NAME", description: "the event: its name or its full type, such as Inventory.StockReserved.v1", required: true },
    { name: "JSON", description: "its payload, in declared or wire names; - reads it from standard input" },
  ],
  async run(invocation) {
    const { values } = invocation;
    const payloads = await payloadsOf(values, 1);
    return await withProject(invocation, async (project, follower) => {
      const meta = elementNamed(project, values.positional(0) ?? "", ["externalEvent", "event"]);
      const category = values.text("stream") ?? categoryFor(project, meta);
      const events = await inputsOf(meta, payloads);
      const { toWire } = await import("../domain/wire.ts");
      const broker = project.stores.brokers.get("default");
      if (broker === undefined) throw new Error("there is no default broker");
      const sent: Sent[] = [];
      for (const event of events) {
        const { dataText, checksum } = encodePayload(toWire(event));
        const correlationId = values.text("correlation-id") ?? randomUUID();
        const metadata = eventMetadataOf(meta, category, event, checksum, correlationId, project.stores.clock.now_ms());
        const id = metadata.headers.id ?? "";
        follower?.watch(correlationId);
        const [entryId = ""] = await broker.publish([{ stream: category, fields: { data: encodeMessage({ dataText, metadata }) } }]);
        follower?.watchEntry({ id, type: meta.type, broker: broker.name, stream: category, entryId });
        sent.push({ id, stream: category, correlation_id: correlationId, entry_id: entryId });
      }
      return sent;
    });
  },
};

export const sendMessage: Command = {
  description: "Publish a payload on a broker's stream, as a foreign program would, for subscribers",
  flags: { ...FLAGS, broker: { type: "text", hint: "NAME", description: "Key under [brokers] (default)" } },
  positionals: [
    { name: "STREAM", description: "the stream that a subscriber reads", required: true },
    { name: "JSON", description: "the payload, an object; - reads it from standard input" },
  ],
  async run(invocation) {
    const { values } = invocation;
    const payloads = await payloadsOf(values, 1);
    if (payloads.some((payload) => Object.keys(payload).length === 0))
      throw usageError("the payload is empty", "Give an object with at least one key.");
    const stream = values.positional(0) ?? "";
    return await withProject(invocation, async (project, follower) => {
      const name = values.text("broker") ?? "default";
      const broker = project.stores.brokers.get(name);
      if (broker === undefined)
        throw usageError(`there is no broker "${name}"`, `Use one of: ${[...project.stores.brokers.keys()].join(", ")}.`);
      const streams = project.domain.reactions.filter(({ kind }) => kind === "subscriber").flatMap(({ categories }) => categories);
      if (!streams.includes(stream)) {
        const near = nearest(stream, streams);
        invocation.output.hint(`no subscriber here reads ${stream}${near === null ? "" : `; did you mean ${near}?`}`);
      }
      const sent: Sent[] = [];
      for (const payload of payloads) {
        const [entryId = ""] = await broker.publish([{ stream, fields: { data: toJsonText(payload as never) } }]);
        follower?.watchEntry({ id: entryId, type: stream, broker: name, stream, entryId });
        sent.push({ id: entryId, stream, correlation_id: null, entry_id: entryId });
      }
      return sent;
    });
  },
};

async function withProject(
  invocation: Invocation,
  send: (project: OpenProject, follower: Follower | null) => Promise<readonly Sent[]>,
): Promise<Outcome> {
  const { values } = invocation;
  const wait_ms = values.has("wait") ? (values.duration_ms("wait") ?? WAIT_ms) : null;
  const project = await openProject(invocation, { role: "client", setUp: true });
  try {
    const follower = wait_ms === null ? null : await Follower.begin(followOptions(project));
    const sent = await send(project, follower);
    if (follower === null || wait_ms === null) return { data: { sent }, text: sent.map(sentText).join("\n") };
    const followed = await follower.untilSettled(wait_ms);
    return waited(invocation, sent, followed, wait_ms);
  } finally {
    await project.close();
  }
}

function followOptions({ config, domain, stores }: OpenProject): Parameters<typeof Follower.begin>[0] {
  return {
    store: stores.eventStore,
    databases: stores.databases,
    brokers: stores.brokers,
    subscriptions: followedSubscriptions(domain.reactions, config),
    clock: stores.clock,
    hasTraces: (config.observatory.traceRetention_days ?? 0) > 0,
  };
}

function waited({ output }: Invocation, sent: readonly Sent[], followed: Followed, wait_ms: number): Outcome {
  for (const line of followed.unseen) output.hint(`note: ${line}`);
  const open = [
    ...followed.open,
    ...followed.messages.flatMap(({ type, open: names }) =>
      names.map((name) => (name.startsWith("in ") ? `${type} waits ${name}` : `${type} waits for ${name}`)),
    ),
  ];
  if (!followed.settled) {
    output.say(`not settled after ${durationText(wait_ms)}: ${open.slice(0, 5).join("; ") || "messages are still coming"}`);
    output.hint("Is a server running? Start one with: protean server");
  }
  const exitCode = followed.settled && !followed.failed ? EXIT.good : EXIT.found;
  const results = sent.flatMap((one) => (one.result === undefined ? [] : [sentText(one)]));
  return {
    exitCode,
    data: {
      sent,
      settled: followed.settled,
      failed: followed.failed,
      messages: followed.messages.map(({ causationId, ...message }) => ({ ...message, causation_id: causationId })),
      open,
      unseen: followed.unseen,
    },
    text: [...results, ...drawTree(followed.messages)].join("\n"),
  };
}

function sentText({ id, stream, correlation_id, result }: Sent): string {
  if (result !== undefined) return `handled at once${result === null ? "" : `: ${JSON.stringify(result)}`}`;
  return `sent ${id ?? ""} to ${stream}${correlation_id === null ? "" : `  correlation ${correlation_id}`}`;
}

/** With `command_processing = "sync"` the handler runs in here: what it throws is a result, not a wrong call. */
async function submit(project: OpenProject, command: object, options: object): Promise<unknown> {
  try {
    return await project.domain.process(command as never, options);
  } catch (error) {
    const isOutside =
      error instanceof ConnectionError ||
      error instanceof DatabaseError ||
      error instanceof SendError ||
      error instanceof ConfigurationError;
    if (isOutside || project.config.commandProcessing !== "sync") throw error;
    const name = error instanceof Error ? error.name : "Error";
    const about = error instanceof ProteanError ? error.about : {};
    throw new CommandError(
      EXIT.found,
      "HANDLER_FAILED",
      `the handler failed: ${name}: ${error instanceof Error ? error.message : String(error)}`,
      {
        at: about.at,
        fix: about.fix,
        cause: error,
      },
    );
  }
}

function isReceipt(answer: unknown): answer is CommandReceipt {
  return typeof answer === "object" && answer !== null && "stream" in answer && "correlationId" in answer && "id" in answer;
}

function priorityOf(values: Values): number | undefined {
  const text = values.text("priority");
  if (text === undefined) return undefined;
  const priority = PRIORITIES[text.toUpperCase()] ?? (/^-?\d+$/.test(text) ? Number(text) : undefined);
  if (priority === undefined)
    throw usageError(`--priority: "${text}" is none of ${Object.keys(PRIORITIES).join(", ")}, and no whole number`);
  return priority;
}

/** Where a payload stood in its file, for telling what is wrong with it. */
const places = new WeakMap<JsonObject, string>();

/** The payloads of the argument or the file, each as often as `--count` says. */
async function payloadsOf(values: Values, position: number): Promise<readonly JsonObject[]> {
  const argument = values.positional(position);
  const file = values.text("file");
  if (argument !== undefined && file !== undefined) throw usageError("a payload and --file were both given", "Give one of them.");
  const count = values.integer("count", { least: 1, most: 1_000_000 }) ?? 1;
  const payloads = file === undefined ? [await onePayload(argument)] : await linesOf(file);
  if (payloads.length === 0) throw usageError(`${file} holds no payload`);
  return payloads.flatMap((payload) => Array.from({ length: count }, () => payload));
}

async function onePayload(argument: string | undefined): Promise<JsonObject> {
  return argument === "-" ? objectIn(await readStandardInput(), "standard input") : objectIn(argument ?? "{}", "the payload");
}

async function linesOf(file: string): Promise<readonly JsonObject[]> {
  const text = file === "-" ? await readStandardInput() : await readTextIfPresent(resolve(workingDirectory(), file));
  if (text === null) throw usageError(`--file: there is no file ${file}`);
  const name = file === "-" ? "standard input" : file;
  return text.split("\n").flatMap((line, index) => {
    if (line.trim() === "") return [];
    const place = `${name}:${index + 1}`;
    const payload = objectIn(line, place);
    places.set(payload, place);
    return [payload];
  });
}

function objectIn(text: string, what: string): JsonObject {
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    if (!(error instanceof DeserializationError)) throw error;
    throw usageError(`${what} is no JSON: ${error.message.replace(/^not JSON: /, "")}`, `Quote it for your shell: '{"name": "value"}'`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw usageError(`${what} is no JSON object`);
  return value as JsonObject;
}

/** Instances, all of them or none. @throws CommandError naming every field that is wrong, and its line */
async function inputsOf(meta: ElementMeta, payloads: readonly JsonObject[]): Promise<readonly object[]> {
  const { fromInput } = await import("../domain/wire.ts");
  return payloads.map((payload) => {
    try {
      return fromInput(meta, payload);
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error;
      const known = [...meta.fields.values()].flatMap(({ name, wireName }) => [name, wireName]);
      const near = Object.entries(error.messages)
        .filter(([, reasons]) => reasons.some((reason) => reason.includes("not a declared field")))
        .map(([field]) => nearest(field, known))
        .find((name) => name !== null);
      const place = places.get(payload);
      throw new CommandError(EXIT.usage, "VALIDATION", `${meta.name}: ${error.message}`, {
        at: place,
        fix:
          near === undefined || near === null
            ? `Its fields are: ${[...meta.fields.keys()].join(", ") || "none"}.`
            : `Did you mean "${near}"?`,
        cause: error,
      });
    }
  });
}

/** By name or full type. @throws CommandError with the nearest name */
export function elementNamed({ domain }: Pick<OpenProject, "domain">, name: string, kinds: readonly ElementKind[]): ElementMeta {
  const all = [...domain.elements.values()].filter(({ kind }) => kinds.includes(kind));
  const found = all.find((meta) => meta.name === name || meta.type === name) ?? all.find((meta) => meta.type.split(".")[1] === name);
  if (found !== undefined) return found;
  const names = all.map((meta) => meta.name);
  const near = nearest(name, names);
  const what = kinds.map((kind) => kind.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)).join(" or ");
  const other = domain.elements.get(name);
  throw new CommandError(
    EXIT.usage,
    "UNKNOWN_ELEMENT",
    `domain "${domain.name}" has no ${what} "${name}"${other === undefined ? "" : `, it is a ${other.kind}`}`,
    {
      fix: near !== null ? `Did you mean "${near}"?` : names.length > 0 ? `It has: ${names.join(", ")}.` : `It declares no ${what}.`,
    },
  );
}

function categoryFor({ domain }: OpenProject, meta: ElementMeta): string {
  const own = meta.owner?.category;
  if (own !== null && own !== undefined) return own;
  const categories = new Set(
    domain.reactionMetas
      .filter(({ methods }) => methods.some(({ target }) => target === meta))
      .flatMap((reaction) => reaction.categories()),
  );
  const [only] = categories;
  if (only !== undefined && categories.size === 1) return only;
  throw usageError(
    categories.size === 0 ? `no handler reads ${meta.name}` : `handlers read ${meta.name} from ${[...categories].join(", ")}`,
    "Say where it is published with --stream CATEGORY.",
  );
}

function eventMetadataOf(
  meta: ElementMeta,
  category: string,
  event: object,
  checksum: string,
  correlationId: string,
  now_ms: number,
): Metadata {
  const id = randomUUID();
  const identity = meta.identity === null ? id : String((event as Record<string, unknown>)[meta.identity] ?? id);
  return {
    headers: {
      id,
      time: isoOfEpoch(now_ms),
      type: meta.type,
      stream: eventStream(category, identity),
      traceparent: null,
      idempotency_key: null,
      deadline: null,
    },
    envelope: { specversion: SPEC_VERSION, checksum },
    domain: {
      fqn: meta.fqn,
      kind: "EVENT",
      origin_stream: null,
      stream_category: category,
      version: meta.version,
      sequence_id: "0",
      asynchronous: true,
      expected_version: null,
      priority: 0,
      correlation_id: correlationId,
      causation_id: null,
    },
    event_store: null,
    extensions: {},
  };
}
