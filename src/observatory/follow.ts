/**
 * Follows what one submission brings about, until all of it is settled (rulings 56).
 *
 * It looks, again and again, at what every process leaves behind, so it works whoever runs the engine:
 *
 * store      messages of our correlation ids, appended since we began
 * outbox     rows of theirs that are not published yet
 * traces     which handler began, ended, failed, gave up; and the entry that an outbox row became
 * groups     whether every group that wants an entry has taken it and no longer holds it
 * positions  whether every event-store subscription that wants a message has passed it
 *
 * Settled is what shows nothing open in two looks in a row: between a commit and the next look everything it brought about is visible.
 */
import { DeserializationError } from "../errors.ts";
import { decodeRow } from "../messages/envelope.ts";
import { parseJson } from "../messages/json.ts";
import { categoryOf, positionStream } from "../messages/names.ts";
import { decodeTraceEvent, TRACE_STREAM } from "../messages/trace-event.ts";
import type { Broker, StreamEntry } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import { ALL_STREAMS, type EventStore } from "../ports/event-store.ts";
import type { OutboxStatus } from "../ports/outbox-store.ts";

/** A subscription as far as following needs it. */
export interface FollowedSubscription {
  /** Class names of its handlers: several for the merged subscription of a command category. */
  readonly handlers: readonly string[];
  /** Consumer group, or subscriber name in the store. */
  readonly group: string;
  readonly type: "stream" | "event_store" | "broker";
  readonly categories: readonly string[];
  /** Key under `[brokers]`. */
  readonly broker: string;
  /** False for messages that it acknowledges without running anything. */
  wants(type: string): boolean;
}

export interface FollowOptions {
  readonly store: EventStore;
  readonly databases: ReadonlyMap<string, Database>;
  readonly brokers: ReadonlyMap<string, Broker>;
  readonly subscriptions: readonly FollowedSubscription[];
  readonly clock: Clock;
  /** `observatory.trace_retention_days` is above 0. */
  readonly hasTraces: boolean;
}

export interface HandlerRun {
  readonly handler: string;
  readonly state: "running" | "completed" | "failed" | "skipped" | "dead-lettered";
  readonly attempts: number;
  readonly duration_ms: number | null;
  readonly error: string | null;
}

/** A message of the chain. */
export interface FollowedMessage {
  readonly id: string;
  readonly type: string;
  readonly stream: string;
  readonly causationId: string | null;
  readonly runs: readonly HandlerRun[];
  /** What nobody has finished yet, in words; empty when it is settled. */
  readonly open: readonly string[];
}

export interface Followed {
  readonly settled: boolean;
  /** A handler failed for good: the last run of some message failed or was dead-lettered. */
  readonly failed: boolean;
  /** In the order in which they were seen. */
  readonly messages: readonly FollowedMessage[];
  /** Entries that we put on streams ourselves and that are no messages of the chain (foreign payloads). */
  readonly open: readonly string[];
  /** What this way of looking can't see here. */
  readonly unseen: readonly string[];
}

const LOOK_ms = 60;
const PAGE = 500;
const UNPUBLISHED: readonly OutboxStatus[] = ["pending", "processing", "failed"];

interface Node {
  readonly id: string;
  type: string;
  stream: string;
  causationId: string | null;
  globalPosition: number | null;
  readonly entries: { readonly broker: string; readonly stream: string; readonly id: string }[];
  readonly runs: Map<string, HandlerRun>;
}

export class Follower {
  readonly #options: FollowOptions;
  readonly #traces: Broker | null;
  readonly #correlations = new Set<string>();
  readonly #nodes = new Map<string, Node>();
  /** Entries that have no correlation id of their own: what they cause names them. */
  readonly #foreign = new Set<string>();
  readonly #memoryStore: boolean;
  #position = 0;
  #trace = "0-0";

  private constructor(options: FollowOptions) {
    this.#options = options;
    this.#traces = options.hasTraces ? (options.brokers.get("default") ?? null) : null;
    this.#memoryStore = options.store.provider === "memory";
  }

  /** Remembers where store and traces end now: call it before sending. */
  static async begin(options: FollowOptions): Promise<Follower> {
    const follower = new Follower(options);
    const last = await options.store.lastOfCategory(ALL_STREAMS);
    follower.#position = (last?.globalPosition ?? 0) + 1;
    const [newest] = (await follower.#traces?.range(TRACE_STREAM, { count: 1, reverse: true })) ?? [];
    follower.#trace = newest?.id ?? "0-0";
    return follower;
  }

  /** Follows everything with this correlation id. */
  watch(correlationId: string): void {
    this.#correlations.add(correlationId);
  }

  /** Follows an entry that we published ourselves; `id` is its message id, for foreign payloads the entry's own. */
  watchEntry(message: {
    readonly id: string;
    readonly type: string;
    readonly broker: string;
    readonly stream: string;
    readonly entryId: string;
  }): void {
    if (message.id === message.entryId) this.#foreign.add(message.id);
    this.#node(message.id, message.type, message.stream, null).entries.push({
      broker: message.broker,
      stream: message.stream,
      id: message.entryId,
    });
  }

  /** Looks until all is settled, or `limit_ms` is over, or `signal` aborts. */
  async untilSettled(limit_ms: number, signal?: AbortSignal): Promise<Followed> {
    const { clock } = this.#options;
    const until_ms = clock.monotonic_ms() + limit_ms;
    let quiet = 0;
    for (;;) {
      const followed = await this.look();
      quiet = isOpen(followed) ? 0 : quiet + 1;
      if (quiet >= 2) return { ...followed, settled: true };
      if (clock.monotonic_ms() >= until_ms || signal?.aborted === true) return followed;
      await clock.sleep(LOOK_ms, signal);
    }
  }

  /** One look at everything. */
  async look(): Promise<Followed> {
    // In this order: what a step finds open can only have been opened by what an earlier step saw.
    await this.#readStore();
    const unpublished = await this.#readOutbox();
    await this.#readTraces();
    const messages: FollowedMessage[] = [];
    for (const node of this.#nodes.values()) {
      messages.push({
        id: node.id,
        type: node.type,
        stream: node.stream,
        causationId: node.causationId,
        runs: [...node.runs.values()],
        open: unpublished.has(node.id) ? ["in the outbox"] : await this.#openOf(node),
      });
    }
    const known = new Set(this.#nodes.keys());
    const open = [...unpublished].filter((id) => !known.has(id)).map((id) => `${id} is in the outbox`);
    const failed = messages.some(({ runs }) => runs.some(({ state }) => state === "failed" || state === "dead-lettered"));
    return { settled: false, failed, messages, open, unseen: this.#unseen() };
  }

  #unseen(): readonly string[] {
    const unseen: string[] = [];
    if (this.#traces === null)
      unseen.push("traces are off (observatory.trace_retention_days): handlers, durations and errors can't be seen");
    if (this.#memoryStore)
      unseen.push("the event store is in memory: what subscriptions of type event_store still have to do can't be seen");
    return unseen;
  }

  #node(id: string, type: string, stream: string, causationId: string | null): Node {
    let node = this.#nodes.get(id);
    if (node === undefined) {
      node = { id, type, stream, causationId, globalPosition: null, entries: [], runs: new Map() };
      this.#nodes.set(id, node);
    }
    return node;
  }

  /** Of a correlation id of ours, or caused by a foreign entry of ours: then its correlation id is ours from now on. */
  #isOurs(correlationId: string | null, causationId: string | null): boolean {
    if (correlationId !== null && this.#correlations.has(correlationId)) return true;
    if (causationId === null || !this.#foreign.has(causationId)) return false;
    if (correlationId !== null) this.#correlations.add(correlationId);
    return true;
  }

  async #readStore(): Promise<void> {
    for (;;) {
      const rows = await this.#options.store.readCategory(ALL_STREAMS, this.#position, PAGE);
      for (const row of rows) {
        this.#position = Math.max(this.#position, row.globalPosition + 1);
        // The text is looked at before it is parsed: most rows are of other chains.
        const { metadata: text } = row;
        if (text === null || ![...this.#correlations, ...this.#foreign].some((id) => text.includes(id))) continue;
        try {
          const { metadata, id, type } = decodeRow({ ...row, dataText: row.data, metadataText: row.metadata });
          const { correlation_id, causation_id } = metadata.domain;
          if (id === null || !this.#isOurs(correlation_id, causation_id)) continue;
          const node = this.#node(id, type, row.stream, causation_id);
          node.globalPosition = row.globalPosition;
          node.stream = row.stream;
          node.causationId ??= causation_id;
        } catch (error) {
          if (!(error instanceof DeserializationError)) throw error;
        }
      }
      if (rows.length < PAGE) return;
    }
  }

  /** Message ids of our rows that no broker has yet. */
  async #readOutbox(): Promise<ReadonlySet<string>> {
    const ids = new Set<string>();
    // Where everything runs inside `process`, nobody of the chain waits for what lies in the outbox.
    if (this.#options.subscriptions.every(({ type }) => type === "broker")) return ids;
    for (const { outbox } of this.#options.databases.values()) {
      for (const status of UNPUBLISHED) {
        for (let after: string | undefined; ; ) {
          const rows = await outbox.list({ status, limit: PAGE, ...(after === undefined ? {} : { after }) });
          for (const row of rows) {
            if (!this.#isOurs(row.correlationId, row.causationId)) continue;
            ids.add(row.messageId);
            this.#node(row.messageId, row.type, row.streamName, row.causationId);
          }
          const last = rows.at(-1);
          if (last === undefined || rows.length < PAGE) break;
          after = last.id;
        }
      }
    }
    return ids;
  }

  async #readTraces(): Promise<void> {
    if (this.#traces === null) return;
    for (;;) {
      const entries = await this.#traces.range(TRACE_STREAM, { from: nextId(this.#trace), count: PAGE });
      for (const entry of entries) {
        this.#trace = entry.id;
        this.#readTrace(entry);
      }
      if (entries.length < PAGE) return;
    }
  }

  #readTrace(entry: StreamEntry): void {
    const bytes = entry.fields.find(([name]) => name === "data")?.[1];
    if (bytes === undefined) return;
    let trace: ReturnType<typeof decodeTraceEvent>;
    try {
      trace = decodeTraceEvent(new TextDecoder().decode(bytes));
    } catch (error) {
      // A trace that nobody can read tells nothing; it stops nothing either.
      if (error instanceof DeserializationError) return;
      throw error;
    }
    const { correlation_id: correlation, message_id: id } = trace;
    if (!this.#isOurs(correlation, trace.causation_id) && !this.#nodes.has(id)) return;
    const node = this.#node(id, trace.message_type, trace.stream, trace.causation_id);
    if (trace.event === "outbox.published") {
      const entryId = (trace.metadata as { readonly entry_id?: unknown }).entry_id;
      // A stream's name is the category of the message; the trace of a command has it too.
      if (typeof entryId === "string") node.entries.push({ broker: "default", stream: trace.stream, id: entryId });
      return;
    }
    const { handler } = trace;
    if (handler === null) return;
    const before = node.runs.get(handler);
    const attempts = before?.attempts ?? 0;
    const seen = {
      handler,
      duration_ms: rounded(trace.duration_ms) ?? before?.duration_ms ?? null,
      error: trace.error ?? before?.error ?? null,
    };
    const set = (run: Omit<HandlerRun, "handler">) => node.runs.set(handler, { handler, ...run });
    if (trace.event === "handler.started") set({ ...seen, state: "running", attempts: attempts + 1 });
    else if (trace.event === "handler.completed") set({ ...seen, error: null, state: "completed", attempts });
    else if (trace.event === "handler.skipped") set({ ...seen, state: "skipped", attempts });
    else if (trace.event === "message.dlq" || trace.status === "exhausted") set({ ...seen, state: "dead-lettered", attempts });
    else if (trace.event === "handler.failed") set({ ...seen, state: "failed", attempts: Math.max(1, attempts) });
  }

  async #openOf(node: Node): Promise<readonly string[]> {
    const open: string[] = [];
    const category = categoryOf(node.stream);
    for (const subscription of this.#options.subscriptions) {
      const isSubscribers = subscription.type === "broker";
      const reads = subscription.categories.some((one) => one === category || one === node.stream || one === ALL_STREAMS);
      if (!reads || !(isSubscribers || subscription.wants(node.type))) continue;
      const isDone =
        subscription.type === "event_store"
          ? await this.#hasPassed(subscription, node)
          : await this.#hasSettled(subscription, node, category);
      if (!isDone) open.push(subscription.handlers.join(", "));
      else if (isSubscribers && node.entries.length > 0) noteSubscribers(node, subscription);
    }
    for (const { handler, state } of node.runs.values()) if (state === "running" && !open.includes(handler)) open.push(handler);
    return open;
  }

  async #hasSettled(subscription: FollowedSubscription, node: Node, category: string): Promise<boolean> {
    const broker = this.#options.brokers.get(subscription.broker);
    if (broker === undefined) return true;
    const stream = subscription.type === "broker" ? node.stream : category;
    const entries = node.entries.filter((entry) => entry.broker === subscription.broker && entry.stream === stream);
    const group = (await broker.groups(stream)).find(({ name }) => name === subscription.group);
    if (entries.length === 0) {
      // Subscribers only get what somebody puts on their stream.
      if (subscription.type === "broker") return true;
      if (this.#traces !== null && endedIn(node, subscription)) return true;
      // Which entry it became is unknown: then the whole group must have nothing left.
      return this.#traces === null && group !== undefined && group.lag === 0 && group.pending === 0;
    }
    if (group === undefined) return false;
    for (const { id } of entries) {
      if (compareIds(group.lastDeliveredId, id) < 0) return false;
      const [held] = await broker.pending(stream, subscription.group, { after: previousId(id), count: 1 });
      if (held?.id === id) return false;
    }
    return true;
  }

  async #hasPassed(subscription: FollowedSubscription, node: Node): Promise<boolean> {
    // Nobody else sees a store in memory; handlers that run show up in the traces.
    if (this.#memoryStore) return true;
    const runs = [...node.runs.values()].filter(({ handler }) => subscription.handlers.includes(handler));
    if (runs.length > 0) return runs.every(({ state }) => state !== "running" && state !== "failed");
    if (node.globalPosition === null) return false;
    for (const category of subscription.categories) {
      if (category !== ALL_STREAMS && category !== categoryOf(node.stream)) continue;
      const last = await this.#options.store.lastOfStream(positionStream(subscription.group, category));
      if (last === null) return false;
      const position = (parseJson(last.data) as { readonly position?: unknown }).position;
      if (typeof position !== "number" || position < node.globalPosition) return false;
    }
    return true;
  }
}

/** Traces of other writers may have any number of decimals. */
function rounded(duration_ms: number | null): number | null {
  return duration_ms === null ? null : Math.round(duration_ms * 100) / 100;
}

/** The engine traces no runs of subscribers; of a settled entry without a dead letter they are known to have ended well. */
function noteSubscribers(node: Node, { handlers }: FollowedSubscription): void {
  for (const handler of handlers) {
    if (!node.runs.has(handler)) node.runs.set(handler, { handler, state: "completed", attempts: 1, duration_ms: null, error: null });
  }
}

function endedIn(node: Node, subscription: FollowedSubscription): boolean {
  const runs = [...node.runs.values()].filter(({ handler }) => subscription.handlers.includes(handler));
  return runs.length > 0 && runs.every(({ state }) => state === "completed" || state === "skipped" || state === "dead-lettered");
}

function isOpen({ messages, open }: Followed): boolean {
  return open.length > 0 || messages.some((message) => message.open.length > 0);
}

function partsOf(id: string): readonly [bigint, bigint] {
  const [time = "0", sequence = "0"] = id.split("-");
  return [BigInt(/^\d+$/.test(time) ? time : 0), BigInt(/^\d+$/.test(sequence) ? sequence : 0)];
}

function compareIds(one: string, other: string): number {
  const [left, right] = [partsOf(one), partsOf(other)];
  if (left[0] !== right[0]) return left[0] < right[0] ? -1 : 1;
  return left[1] === right[1] ? 0 : left[1] < right[1] ? -1 : 1;
}

const SEQUENCE_MAX = 2n ** 64n - 1n;

/** The largest id below this one. */
function previousId(id: string): string {
  const [time, sequence] = partsOf(id);
  if (sequence > 0n) return `${time}-${sequence - 1n}`;
  return time > 0n ? `${time - 1n}-${SEQUENCE_MAX}` : "0-0";
}

/** The smallest id above this one. */
function nextId(id: string): string {
  const [time, sequence] = partsOf(id);
  return `${time}-${sequence + 1n}`;
}

/** One line for every message and every run, as a tree of causes. */
export function drawTree(all: readonly FollowedMessage[]): readonly string[] {
  const lines: string[] = [];
  // The stored states of process managers are messages too; nobody asked for them.
  const messages = all.filter(({ type, open, runs }) => open.length + runs.length > 0 || !/\._\w+Transition\.v\d+$/.test(type));
  const ids = new Set(messages.map(({ id }) => id));
  const childrenOf = (id: string) => messages.filter(({ causationId }) => causationId === id);
  const draw = (message: FollowedMessage, indent: string, isLast: boolean | null): void => {
    const branch = isLast === null ? "" : isLast ? "└── " : "├── ";
    const below = isLast === null ? indent : `${indent}${isLast ? "    " : "│   "}`;
    lines.push(`${indent}${branch}${message.type} (${message.id})`);
    const children = childrenOf(message.id).filter((child) => child !== message);
    for (const run of message.runs) lines.push(`${below}${children.length > 0 ? "│ " : "  "}${runText(run)}`);
    for (const name of message.open) {
      if (!message.runs.some(({ handler }) => handler === name)) lines.push(`${below}${children.length > 0 ? "│ " : "  "}… ${name}`);
    }
    for (const [index, child] of children.entries()) draw(child, below, index === children.length - 1);
  };
  for (const root of messages.filter(({ causationId, id }) => causationId === null || causationId === id || !ids.has(causationId))) {
    draw(root, "", null);
  }
  return lines;
}

function runText({ handler, state, attempts, duration_ms, error }: HandlerRun): string {
  const mark = state === "completed" ? "✓" : state === "skipped" ? "–" : state === "running" ? "…" : "✗";
  const duration = duration_ms === null ? "" : `  ${duration_ms < 10 ? duration_ms.toFixed(1) : Math.round(duration_ms)} ms`;
  const tries = attempts > 1 ? `  ${attempts} attempts` : "";
  const word = state === "completed" || state === "running" ? "" : `  ${state}`;
  return `${mark} ${handler}${duration}${tries}${word}${error === null ? "" : `  ${error}`}`;
}
