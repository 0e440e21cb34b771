import { SendError } from "../../errors.ts";
import { replayStream } from "../../messages/names.ts";
import type {
  Broker,
  ClaimResult,
  ConsumerInfo,
  GroupInfo,
  OutgoingEntry,
  PendingEntry,
  ReadRequest,
  ReadResult,
  StreamEntry,
  Wakeups,
} from "../../ports/broker.ts";
import { CONTROL_STREAM } from "../../ports/broker.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Idempotency } from "../../ports/idempotency.ts";
import type { Instances } from "../../ports/instances.ts";
import type { Leases } from "../../ports/leases.ts";
import type { TraceEvent } from "../../ports/telemetry.ts";
import { Acknowledgements } from "./acknowledgements.ts";
import { type Argument, type Connection, Refusal, type Reply, type Request } from "./connection.ts";
import { RedisIdempotency } from "./idempotency.ts";
import { RedisInstances } from "./instances.ts";
import { RedisLeases } from "./leases.ts";
import { accepted, entriesOf, fieldArguments, infoOf, listOf, numberOf, textOf } from "./replies.ts";
import {
  CLAIM,
  DEAD_LETTER,
  HAND_BACK,
  NEWEST_IDS,
  PUBLISH,
  REFRESH,
  REMOVE_CONSUMER,
  REPLAY,
  REWIND,
  SET_ATTEMPTS,
  TRIM_ACKNOWLEDGED,
  TRIM_OLD,
} from "./scripts.ts";
import { Traces } from "./traces.ts";
import { Waker } from "./wakeups.ts";

/** Ids that one script may walk through, so that it never holds up the server for long. */
const IDS_PER_SCRIPT = 500;
/** Streams that `streams` answers at most, and rounds of SCAN that it takes at most. */
const STREAMS_MOST = 10_000;
const SCAN_ROUNDS_MOST = 10_000;
const SCAN_COUNT = 1_000;

export interface RedisBrokerParts {
  readonly name: string;
  readonly address: string;
  readonly identity: string;
  readonly commands: Connection;
  /** Makes the one connection that blocks. */
  readonly connectWaker: (onReady: () => void) => Connection;
  readonly clock: Clock;
  readonly block_ms?: number | undefined;
  readonly margin_ms?: number | undefined;
}

/**
 * Redis Streams (wire-format §5, §7, §8): Redis 6.2 or newer. Two connections, whatever the number of streams: one for all commands, one that blocks.
 *
 * A stream or group that doesn't exist holds nothing: questions about it answer with nothing, only `read` tells that the group is lost.
 */
export class RedisBroker implements Broker {
  readonly name: string;
  readonly provider = "redis";
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly instances: Instances;
  readonly idempotency: Idempotency;
  readonly #connection: Connection;
  readonly #acknowledgements: Acknowledgements;
  readonly #traces: Traces;
  readonly #waker: Waker;

  constructor(parts: RedisBrokerParts) {
    this.name = parts.name;
    this.address = parts.address;
    this.identity = parts.address;
    this.#connection = parts.commands;
    this.leases = new RedisLeases(parts.commands);
    this.instances = new RedisInstances(parts.commands);
    this.idempotency = new RedisIdempotency(parts.commands, false);
    this.#acknowledgements = new Acknowledgements(parts.commands);
    this.#traces = new Traces(parts.commands, parts.clock);
    this.#waker = new Waker({
      commands: parts.commands,
      connect: parts.connectWaker,
      clock: parts.clock,
      block_ms: parts.block_ms,
      margin_ms: parts.margin_ms,
    });
  }

  async publish(entries: readonly OutgoingEntry[]): Promise<readonly string[]> {
    if (entries.length === 0) return [];
    const numbers = new Map<string, number>();
    const args: Argument[] = [];
    for (const entry of entries) {
      let number = numbers.get(entry.stream);
      if (number === undefined) {
        number = numbers.size + 1;
        numbers.set(entry.stream, number);
      }
      const fields = fieldArguments(entry.fields);
      args.push(number, fields.length, ...fields);
    }
    return listOf(await sent(this.#connection.run(PUBLISH, [...numbers.keys()], args))).map(textOf);
  }

  async createGroup(stream: string, group: string, from: "start" | "end"): Promise<"created" | "existed"> {
    try {
      await this.#connection.call("xgroup", ["CREATE", stream, group, from === "start" ? "0" : "$", "MKSTREAM"]);
      return "created";
    } catch (error) {
      if (error instanceof Refusal && error.word === "BUSYGROUP") return "existed";
      throw error;
    }
  }

  async read(requests: readonly ReadRequest[]): Promise<readonly ReadResult[]> {
    const only = requests[0];
    if (only === undefined) return [];
    let results: readonly ReadResult[];
    if (requests.length === 1) {
      const { name, args } = readRequest(only);
      results = [readResult(await this.#connection.call(name, args, { binary: true }).catch(refusalAsReply))];
    } else {
      results = (await this.#connection.pipeline(requests.map(readRequest))).map(readResult);
    }
    for (const [at, { stream }] of requests.entries()) {
      const result = results[at];
      if (result?.kind === "entries" && result.entries.length === 0) this.#waker.drained(stream);
    }
    return results;
  }

  acknowledge(stream: string, group: string, ids: readonly string[]): Promise<number> {
    return this.#acknowledgements.add(stream, group, ids);
  }

  async deadLetter(letter: Parameters<Broker["deadLetter"]>[0]): Promise<string> {
    const keys = [letter.stream, letter.deadLetterStream];
    return textOf(await sent(this.#connection.run(DEAD_LETTER, keys, [letter.group, letter.id, ...fieldArguments(letter.fields)])));
  }

  async refresh(stream: string, group: string, consumer: string, ids: readonly string[]): Promise<readonly string[]> {
    const held: string[] = [];
    for (const part of parts(ids)) {
      for (const id of listOf(await this.#connection.run(REFRESH, [stream], [group, consumer, ...part]))) held.push(textOf(id));
    }
    return held;
  }

  async setAttempts(
    stream: string,
    group: string,
    consumer: string,
    attempts: readonly { readonly id: string; readonly attempt: number }[],
  ): Promise<void> {
    for (const part of parts(attempts)) {
      await this.#connection.run(SET_ATTEMPTS, [stream], [group, consumer, ...part.flatMap((one) => [one.id, one.attempt])]);
    }
  }

  async pending(
    stream: string,
    group: string,
    options: { readonly consumer?: string; readonly minIdle_ms?: number; readonly after?: string | null; readonly count: number },
  ): Promise<readonly PendingEntry[]> {
    const args: Argument[] = [stream, group];
    if (options.minIdle_ms !== undefined && options.minIdle_ms > 0) args.push("IDLE", Math.ceil(options.minIdle_ms));
    args.push(options.after === undefined || options.after === null ? "-" : `(${options.after}`, "+", options.count);
    if (options.consumer !== undefined) args.push(options.consumer);
    return listOf(await this.#asked("xpending", args)).map((reply) => {
      const [id, consumer, idle, deliveries] = listOf(reply);
      return { id: textOf(id), consumer: textOf(consumer), idle_ms: numberOf(idle), deliveries: numberOf(deliveries) };
    });
  }

  async claim(
    stream: string,
    group: string,
    consumer: string,
    ids: readonly string[],
    options: { readonly minIdle_ms: number; readonly attempts?: number; readonly from?: ReadonlySet<string> },
  ): Promise<ClaimResult> {
    const entries: StreamEntry[] = [];
    const deleted: string[] = [];
    const owners = [...(options.from ?? [])];
    // Nobody may be robbed: an empty list is not the same as none.
    if (options.from !== undefined && owners.length === 0) return { entries, deleted };
    for (const part of parts(ids)) {
      const args = [group, consumer, Math.ceil(options.minIdle_ms), options.attempts ?? "", owners.length, ...owners, ...part];
      const [taken, gone] = listOf(await this.#connection.run(CLAIM, [stream], args, { binary: true }));
      entries.push(...entriesOf(taken ?? []));
      for (const id of listOf(gone ?? [])) deleted.push(textOf(id));
    }
    return { entries, deleted };
  }

  async handBack(
    stream: string,
    group: string,
    consumer: string,
    entries: readonly { readonly id: string; readonly attempt: number }[],
  ): Promise<void> {
    for (const part of parts(entries)) {
      const args = [group, consumer, ...part.flatMap((one) => [one.id, one.attempt])];
      await this.#connection.run(HAND_BACK, [stream, CONTROL_STREAM], args);
    }
  }

  async consumers(stream: string, group: string): Promise<readonly ConsumerInfo[]> {
    return listOf(await this.#asked("xinfo", ["CONSUMERS", stream, group])).map((reply) => {
      const info = infoOf(reply);
      return { name: textOf(info.get("name")), pending: numberOf(info.get("pending")), idle_ms: numberOf(info.get("idle")) };
    });
  }

  async removeConsumer(stream: string, group: string, consumer: string): Promise<boolean> {
    return (await this.#connection.run(REMOVE_CONSUMER, [stream], [group, consumer])) === 1;
  }

  async groups(stream: string): Promise<readonly GroupInfo[]> {
    return listOf(await this.#asked("xinfo", ["GROUPS", stream])).map((reply) => {
      const info = infoOf(reply);
      // Redis 6.2 doesn't know the lag; 7 doesn't after entries were deleted in the middle (known-traps A28).
      const lag = info.get("lag") ?? null;
      return {
        name: textOf(info.get("name")),
        consumers: numberOf(info.get("consumers")),
        pending: numberOf(info.get("pending")),
        lastDeliveredId: textOf(info.get("last-delivered-id")),
        lag: lag === null ? null : numberOf(lag),
      };
    });
  }

  async length(stream: string): Promise<number> {
    return numberOf(await this.#connection.call("xlen", [stream]));
  }

  async range(
    stream: string,
    options: { readonly from?: string; readonly to?: string; readonly count: number; readonly reverse?: boolean },
  ): Promise<readonly StreamEntry[]> {
    const from = options.from ?? "-";
    const to = options.to ?? "+";
    const reply = await this.#connection.call(
      options.reverse === true ? "xrevrange" : "xrange",
      [stream, ...(options.reverse === true ? [to, from] : [from, to]), "COUNT", options.count],
      { binary: true },
    );
    return entriesOf(reply ?? []);
  }

  async remove(stream: string, ids: readonly string[]): Promise<number> {
    const requests = [...parts(ids)].map((part) => ({ name: "xdel", args: [stream, ...part] }));
    let removed = 0;
    for (const reply of await this.#connection.pipeline(requests)) removed += numberOf(accepted(reply));
    return removed;
  }

  async streams(suffix: string): Promise<readonly string[]> {
    const pattern = `*${suffix.replace(/[\\*?[\]]/g, "\\$&")}`;
    const found = new Set<string>();
    let cursor = "0";
    for (let round = 0; round < SCAN_ROUNDS_MOST && found.size < STREAMS_MOST; round++) {
      const [next, keys] = listOf(await this.#connection.call("scan", [cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, "TYPE", "stream"]));
      for (const key of listOf(keys ?? [])) found.add(textOf(key));
      cursor = textOf(next);
      if (cursor === "0") break;
    }
    return [...found].sort();
  }

  async replay(options: Parameters<Broker["replay"]>[0]): Promise<"redelivered" | "copied" | "missing"> {
    const keys = [options.deadLetterStream, options.stream, replayStream(options.stream, options.group), CONTROL_STREAM];
    const args = [options.deadLetterId, options.group, options.originalId, ...fieldArguments(options.fields)];
    return textOf(await sent(this.#connection.run(REPLAY, keys, args))) as "redelivered" | "copied" | "missing";
  }

  async newestIds(streams: readonly string[]): Promise<ReadonlyMap<string, string>> {
    const newest = new Map<string, string>();
    for (const part of parts(streams)) {
      const ids = listOf(await this.#connection.run(NEWEST_IDS, part, [])).map(textOf);
      for (const [at, stream] of part.entries()) newest.set(stream, ids[at] ?? "0-0");
    }
    return newest;
  }

  /** Not in portions: half a rewind would be a group that has lost the other half. */
  async rewind(
    stream: string,
    group: string,
    to: { readonly lastDelivered: string; readonly pending: readonly string[] },
  ): Promise<number> {
    return numberOf(await this.#connection.run(REWIND, [stream, CONTROL_STREAM], [group, to.lastDelivered, ...to.pending]));
  }

  /** `maxLength`: while the stream is longer, acknowledged entries go whatever their age; at most 1,000 in one call. */
  async trimAcknowledged(stream: string, options: { readonly olderThan_ms: number; readonly maxLength?: number }): Promise<number> {
    return numberOf(await this.#connection.run(TRIM_ACKNOWLEDGED, [stream], [Math.ceil(options.olderThan_ms), options.maxLength ?? ""]));
  }

  async trimOld(stream: string, olderThan_ms: number): Promise<number> {
    return numberOf(await this.#connection.run(TRIM_OLD, [stream], [Math.ceil(olderThan_ms)]));
  }

  wakeups(wake: (stream: string) => void): Wakeups {
    return this.#waker.open(wake);
  }

  writeTraces(domain: string, events: readonly (TraceEvent & { readonly timestamp: string })[], retention_days: number): Promise<boolean> {
    return this.#traces.write(domain, events, retention_days);
  }

  async ping(): Promise<string> {
    const info = textOf(await this.#connection.call("info", ["server"]));
    return /redis_version:(\S+)/.exec(info)?.[1] ?? "unknown";
  }

  /** Redis needs nothing prepared. */
  async setup(): Promise<readonly string[]> {
    return [];
  }

  async close(): Promise<void> {
    await this.#waker.close();
    await this.#connection.close();
  }

  /** For commands that refuse what doesn't exist: that is an empty list. */
  async #asked(name: string, args: readonly Argument[]): Promise<Reply> {
    try {
      return await this.#connection.call(name, args);
    } catch (error) {
      if (error instanceof Refusal && (error.word === "NOGROUP" || error.message.endsWith("no such key"))) return [];
      throw error;
    }
  }
}

function readRequest(request: ReadRequest): Request {
  return {
    name: "xreadgroup",
    args: ["GROUP", request.group, request.consumer, "COUNT", request.count, "STREAMS", request.stream, ">"],
    binary: true,
  };
}

function refusalAsReply(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  throw error;
}

/**
 * Whatever Redis has against one request, the entries that the others got are already pending and must come back. Making the group anew
 * repairs it or says what is wrong.
 */
function readResult(reply: Reply): ReadResult {
  if (reply instanceof Refusal) return { kind: "groupLost" };
  if (reply === null) return { kind: "entries", entries: [] };
  const stream = listOf(reply)[0];
  return { kind: "entries", entries: stream === undefined ? [] : entriesOf(listOf(stream)[1] ?? []) };
}

async function sent(answer: Promise<Reply>): Promise<Reply> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refusal) throw new SendError(error.message, { cause: error });
    throw error;
  }
}

function* parts<T>(list: readonly T[]): Generator<readonly T[]> {
  if (list.length <= IDS_PER_SCRIPT) {
    if (list.length > 0) yield list;
    return;
  }
  for (let from = 0; from < list.length; from += IDS_PER_SCRIPT) yield list.slice(from, from + IDS_PER_SCRIPT);
}
