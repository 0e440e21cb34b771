/** A broker in memory on a clock that stands still, scripted handlers, and subscriptions over them. */
import { openSqlite } from "../../src/adapters/sqlite/mod.ts";
import type { Acceptance, Reaction, ReactionKind, RunContext } from "../../src/domain/reaction.ts";
import { consumerName, InstanceWatch } from "../../src/engine/instance-watch.ts";
import { LeaseKeeper, type OtherEngine } from "../../src/engine/lease-keeper.ts";
import { ReconnectPause } from "../../src/engine/reconnect-pause.ts";
import { noActivity } from "../../src/engine/service.ts";
import type { StreamSettings } from "../../src/engine/settings.ts";
import { StreamReader } from "../../src/engine/stream-reader.ts";
import { StreamSubscription } from "../../src/engine/stream-subscription.ts";
import type { Suspects } from "../../src/engine/suspects.ts";
import { decodeDeadLetter } from "../../src/messages/dead-letter.ts";
import type { DecodedMessage } from "../../src/messages/envelope.ts";
import type { Broker, EntryFields } from "../../src/ports/broker.ts";
import type { InstanceRecord } from "../../src/ports/instances.ts";
import { silentLog } from "../../src/ports/log.ts";
import type { Telemetry, TraceEvent } from "../../src/ports/telemetry.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { ManualClock } from "./manual-clock.ts";

export const CATEGORY = "bank::account";
export const GROUP = "bank.Recorder";
const random = new SystemRandom();

export const defaultSettings: StreamSettings = {
  messagesPerTick: 10,
  blockingTimeout_ms: 1_000,
  maxRetries: 3,
  retryDelay_ms: 1_000,
  enableDeadLetters: true,
  retentionMaxLength: null,
  breakerThreshold: 10,
  breakerReset_ms: 60_000,
  concurrency: 1,
  shared: true,
  claimIdle_ms: 30_000,
  claimForeignIdle_ms: 600_000,
  timeout_ms: 300_000,
  deadLetterAtOnce: [],
  onGroupLost: "start",
  startFrom: "start",
  originCategory: null,
};

/** A message as it lies in a stream. `source`: the aggregate, its source stream is `bank::account-<source>`. */
export function messageText(
  source: string,
  number: number,
  options: { readonly type?: string; readonly kind?: string; readonly deadline?: string } = {},
) {
  return JSON.stringify({
    data: { source, number },
    metadata: {
      headers: {
        id: `${CATEGORY}-${source}-0.${number}`,
        time: "2026-11-22T12:00:00+00:00",
        type: options.type ?? "Bank.Deposited.v1",
        stream: `${CATEGORY}-${source}`,
        deadline: options.deadline ?? null,
      },
      envelope: { specversion: "1.0", checksum: null },
      domain: { kind: options.kind ?? "EVENT", stream_category: CATEGORY, origin_stream: null },
    },
  });
}

/** `A1` is message 1 of source A. */
export const nameOf = (message: DecodedMessage): string => `${String(message.data["source"])}${String(message.data["number"])}`;

export type Script = (name: string, context: RunContext) => unknown;

export interface ReactionOptions {
  readonly kind?: ReactionKind;
  readonly name?: string;
  readonly accepts?: (type: string) => Acceptance;
  readonly runPayload?: Reaction["runPayload"];
  readonly options?: Reaction["options"];
  readonly categories?: readonly string[];
}

export function reactionOf(script: Script, options: ReactionOptions = {}): Reaction {
  const name = options.name ?? "Recorder";
  return {
    kind: options.kind ?? "eventHandler",
    name,
    fqn: `bank.${name}`,
    options: options.options ?? {},
    categories: options.categories ?? [CATEGORY],
    broker: "default",
    accepts: options.accepts ?? (() => "handled"),
    run: async (message, context) => await script(nameOf(message), context),
    runPayload: options.runPayload ?? (async () => {}),
    onFailure: async () => {},
  };
}

/** Collects what a subscription tells the world. */
export class Recorder implements Telemetry {
  readonly traces: TraceEvent[] = [];
  readonly counts = new Map<string, number>();

  trace(event: TraceEvent): void {
    this.traces.push(event);
  }

  count(name: string, _labels?: unknown, by = 1): void {
    this.counts.set(name, (this.counts.get(name) ?? 0) + by);
  }

  observe(): void {}

  events(): readonly string[] {
    return this.traces.map((trace) => trace.event);
  }
}

export function instanceRecord(id: string): InstanceRecord {
  return {
    id,
    domain: "Bank",
    host: "host",
    pid: 7,
    bootId: "",
    pidNamespace: "",
    startedAt_ms: 0,
    version: "0",
    http: null,
    subscriptions: [],
    state: "running",
  };
}

export async function streamBench() {
  const clock = new ManualClock();
  const stores = await openSqlite({ file: ":memory:", clock, random, log: silentLog });
  const { broker } = stores;
  const engines: { readonly reader: StreamReader; readonly keeper: LeaseKeeper; readonly subscriptions: StreamSubscription[] }[] = [];

  const living = new Set<string>();
  /** The heartbeats of all engines that weren't killed. */
  const beat = async () => {
    for (const id of living) await broker.instances.beat(instanceRecord(id), 10_000);
  };

  const publish = async (...texts: readonly string[]) =>
    await broker.publish(texts.map((data) => ({ stream: CATEGORY, fields: { data } })));

  /** An engine with one subscription. `over` wraps the broker. */
  const engine = async (
    script: Script,
    options: {
      readonly settings?: Partial<StreamSettings>;
      readonly reaction?: ReactionOptions;
      readonly id?: string;
      readonly kind?: "stream" | "broker";
      readonly over?: (broker: Broker) => Broker;
      readonly start?: boolean;
      readonly group?: string;
      /** Shared by the subscriptions of one process. */
      readonly suspects?: Suspects;
      /** The other engines that its keeper of leases knows of. */
      readonly others?: () => Promise<readonly OtherEngine[]>;
    } = {},
  ) => {
    const id = options.id ?? random.hex(12);
    const record = instanceRecord(id);
    living.add(id);
    const through = options.over?.(broker) ?? broker;
    await broker.instances.beat(record, 10_000);
    const pause = new ReconnectPause({ random, log: silentLog, what: {} });
    const reader = new StreamReader({ broker: through, clock, pause });
    const keeper = new LeaseKeeper({
      owner: id,
      clock,
      log: silentLog,
      ...(options.others === undefined ? {} : { others: options.others }),
    });
    const telemetry = new Recorder();
    const reaction = reactionOf(script, options.reaction);
    const subscription = new StreamSubscription({
      name: `${reaction.name}:${CATEGORY}`,
      handler: reaction.name,
      kind: options.kind ?? "stream",
      reactions: [reaction],
      broker: through,
      reader,
      instances: new InstanceWatch({ instances: broker.instances, clock, own: record, processExists: () => true }),
      keeper,
      pause,
      stream: CATEGORY,
      group: options.group ?? GROUP,
      ...(options.suspects === undefined ? {} : { suspects: options.suspects }),
      consumer: consumerName(reaction.name, record),
      settings: { ...defaultSettings, ...options.settings },
      fenced: false,
      clock,
      log: silentLog,
      telemetry,
      activity: noActivity,
    });
    engines.push({ reader, keeper, subscriptions: [subscription] });
    if (options.start !== false) {
      void subscription.start();
      await clock.settle();
    }
    return {
      subscription,
      telemetry,
      reader,
      keeper,
      consumer: consumerName(reaction.name, record),
      /** As a kill would: nothing more is written, its heartbeat is gone. Its handlers must not be running. */
      kill: async () => {
        living.delete(id);
        await reader.stop();
        await broker.instances.remove(id);
      },
    };
  };

  const pending = async (stream = CATEGORY) => await broker.pending(stream, GROUP, { count: 1_000 });
  const deadLetters = async () => {
    const entries = await broker.range(`${CATEGORY}:dlq`, { count: 1_000 });
    return entries.map((entry) => ({ fields: entry.fields, letter: decodeDeadLetter(fieldsOf(entry.fields)) }));
  };

  const close = async () => {
    const now = AbortSignal.abort();
    for (const { reader, keeper, subscriptions } of engines) {
      for (const subscription of subscriptions) {
        const stopped = subscription.stop(now);
        await clock.advance(1_000);
        await stopped;
      }
      const stopping = Promise.all([reader.stop(), keeper.stop()]);
      await clock.advance(1_000);
      await stopping;
    }
    await stores.close();
  };

  return { clock, broker, stores, publish, beat, engine, pending, deadLetters, close };
}

export function fieldsOf(fields: EntryFields): Record<string, Uint8Array> {
  return Object.fromEntries(fields);
}

/** A gate that a scripted handler waits at. */
export function gate() {
  let open: () => void = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}
