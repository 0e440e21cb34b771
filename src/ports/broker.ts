import type { Idempotency } from "./idempotency.ts";
import type { Instances } from "./instances.ts";
import type { Leases } from "./leases.ts";
import type { TraceEvent } from "./telemetry.ts";

/** Field name and value as bytes: what arrives is kept as it is, readable or not (known-traps B3). */
export type EntryFields = readonly (readonly [name: string, value: Uint8Array])[];

export interface StreamEntry {
  /** `<milliseconds>-<sequence>`, growing inside a stream. */
  readonly id: string;
  readonly fields: EntryFields;
}

export interface OutgoingEntry {
  readonly stream: string;
  readonly fields: Readonly<Record<string, string | Uint8Array>>;
}

/** One request of `read`. */
export interface ReadRequest {
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  readonly count: number;
}

export type ReadResult =
  | { readonly kind: "entries"; readonly entries: readonly StreamEntry[] }
  /** The group or its stream vanished (FLUSHALL, failover to an empty replica): known-traps B10. */
  | { readonly kind: "groupLost" };

export interface PendingEntry {
  readonly id: string;
  readonly consumer: string;
  readonly idle_ms: number;
  /** Redis' delivery counter: 1 after the first read, see `claim` and `setAttempts`. */
  readonly deliveries: number;
}

export interface ClaimResult {
  readonly entries: readonly StreamEntry[];
  /** Asked for, pending, but the entry was deleted or trimmed: acknowledged by the claim, count them as lost by trim (known-traps B2). */
  readonly deleted: readonly string[];
}

export interface GroupInfo {
  readonly name: string;
  readonly consumers: number;
  readonly pending: number;
  readonly lastDeliveredId: string;
  /** Entries not delivered yet; null when it can't be known (never 0 instead). */
  readonly lag: number | null;
}

export interface ConsumerInfo {
  readonly name: string;
  readonly pending: number;
  readonly idle_ms: number;
}

/** Tells when streams may have something new. Streams are added and removed while it runs. */
export interface Wakeups {
  add(stream: string): void;
  remove(stream: string): void;
  close(): Promise<void>;
}

/** The consumer that `replay` makes an entry pending for. It never exists, so whoever of the group comes first may take the entry at once (rulings 60). */
export const REPLAY_CONSUMER = "replayer";

/** Entries written here (fields `event`: `released` or `replay`, `stream`, `group`) make every engine look again for things to take over or to replay (rulings 22). */
export const CONTROL_STREAM = "protean:control";

/**
 * Streams with consumer groups, with the semantics of Redis Streams (wire-format §5, §7, §8).
 *
 * Contract, checked by `test/conformance/broker.ts`:
 * - `publish` writes all entries or none, in order, and answers their ids;
 * - `read` never waits; it gives each entry of a stream to one consumer of a group and keeps it pending there until it is acknowledged, dead-lettered
 *   or taken over; all requests of one call are one round trip;
 * - attempts: the first delivery counts 1; nothing but `setAttempts`, `handBack` and `claim` with `attempts` changes the counter;
 * - `deadLetter` adds to the dead-letter stream and acknowledges in one step: a kill leaves both or neither (C13);
 * - taking over: `claim` moves only entries that are still pending and idle for at least `minIdle_ms`, and resets their idle time;
 * - every call has a deadline of its own; a connection that doesn't answer is thrown away and made anew (D5, known-traps C14), the call fails with
 *   ConnectionError and may be repeated;
 * - connections are O(1) in the number of streams, groups and consumers (D14).
 */
export interface Broker {
  /** Key under `[brokers]`. */
  readonly name: string;
  /** `inline`, `sqlite` or `redis`. */
  readonly provider: string;
  /** What operators see; no password. */
  readonly address: string;
  readonly identity: string;
  readonly leases: Leases;
  readonly instances: Instances;
  readonly idempotency: Idempotency;

  publish(entries: readonly OutgoingEntry[]): Promise<readonly string[]>;
  /** Makes the stream and the group if they are missing; the group begins at the stream's start or end. */
  createGroup(stream: string, group: string, from: "start" | "end"): Promise<"created" | "existed">;
  read(requests: readonly ReadRequest[]): Promise<readonly ReadResult[]>;
  /** Acknowledgements asked for together travel together, at the latest in the next turn of the loop. Resolves when the broker has them; answers how many were pending. */
  acknowledge(stream: string, group: string, ids: readonly string[]): Promise<number>;
  deadLetter(letter: {
    readonly stream: string;
    readonly group: string;
    readonly id: string;
    readonly deadLetterStream: string;
    readonly fields: Readonly<Record<string, string | Uint8Array>>;
  }): Promise<string>;

  /** Resets the idle time of entries that `consumer` holds, without counting; answers the ids it still holds (rulings 3). */
  refresh(stream: string, group: string, consumer: string, ids: readonly string[]): Promise<readonly string[]>;
  /** Sets the attempt counter of entries that `consumer` holds, right before they run again (D40, rulings 5 and 6). */
  setAttempts(
    stream: string,
    group: string,
    consumer: string,
    attempts: readonly { readonly id: string; readonly attempt: number }[],
  ): Promise<void>;
  /** Pending entries after `after` (exclusive, null = from the start), oldest id first. */
  pending(
    stream: string,
    group: string,
    options: { readonly consumer?: string; readonly minIdle_ms?: number; readonly after?: string | null; readonly count: number },
  ): Promise<readonly PendingEntry[]>;
  /**
   * Takes entries over. `attempts` sets the counter (0: the next run is the first), left out it stays. `from`: only entries that one of these consumers
   * still holds, so that of several who saw the same dead owner only one takes an entry.
   */
  claim(
    stream: string,
    group: string,
    consumer: string,
    ids: readonly string[],
    options: { readonly minIdle_ms: number; readonly attempts?: number; readonly from?: ReadonlySet<string> },
  ): Promise<ClaimResult>;
  /** Makes entries that `consumer` holds claimable at once by anybody, with these attempts used so far, and tells the others (CONTROL_STREAM). */
  handBack(
    stream: string,
    group: string,
    consumer: string,
    entries: readonly { readonly id: string; readonly attempt: number }[],
  ): Promise<void>;
  consumers(stream: string, group: string): Promise<readonly ConsumerInfo[]>;
  /** Removes a consumer that holds nothing; false (and nothing removed) when it does. One atomic step. */
  removeConsumer(stream: string, group: string, consumer: string): Promise<boolean>;

  groups(stream: string): Promise<readonly GroupInfo[]>;
  length(stream: string): Promise<number>;
  /** Entries between two ids (inclusive; `-` and `+` for the ends), at most `count`, newest first when `reverse`. */
  range(
    stream: string,
    options: { readonly from?: string; readonly to?: string; readonly count: number; readonly reverse?: boolean },
  ): Promise<readonly StreamEntry[]>;
  remove(stream: string, ids: readonly string[]): Promise<number>;
  /** Names of existing streams that end with `suffix`. */
  streams(suffix: string): Promise<readonly string[]>;
  /**
   * Puts a dead letter back for its group only (rulings 60): the original entry, if it is still in `stream`, becomes pending for `group` with no
   * attempts used; else `fields` are added to `{stream}:replay:{group}`. Removes the dead letter in the same step and tells the engines.
   */
  replay(options: {
    readonly deadLetterStream: string;
    readonly deadLetterId: string;
    readonly stream: string;
    readonly group: string;
    readonly originalId: string;
    readonly fields: Readonly<Record<string, string | Uint8Array>>;
  }): Promise<"redelivered" | "copied" | "missing">;
  /** The newest id that each stream ever had, also when its entry is gone; `0-0` where there is no stream. */
  newestIds(streams: readonly string[]): Promise<ReadonlyMap<string, string>>;
  /**
   * Takes a group back to an earlier state, after the store of its handlers was restored from a backup: what stands behind `lastDelivered` is
   * delivered again, and those of `pending` that are still in the stream and not pending now can be claimed at once by anybody, with no attempts
   * used. One atomic step. Answers how many of `pending` were made so; -1 when there is no such group.
   */
  rewind(stream: string, group: string, to: { readonly lastDelivered: string; readonly pending: readonly string[] }): Promise<number>;
  /**
   * Removes what every group has acknowledged: everything below the lowest entry that some group has pending or not read yet (known-traps W3),
   * and older than `olderThan_ms`. With no group nothing is removed. Answers how many went.
   */
  trimAcknowledged(stream: string, options: { readonly olderThan_ms: number; readonly maxLength?: number }): Promise<number>;
  /** Removes entries older than `olderThan_ms` whatever their state (dead letters). */
  trimOld(stream: string, olderThan_ms: number): Promise<number>;

  /**
   * `wake(stream)` is called soon after something was added to one of the streams, at the latest when it was read until a read found nothing: a stream
   * that is known to have entries need not wake again before that. May be called for nothing, and once after the first `add`. Whoever is woken
   * while a read is under way reads once more. A lost call is made up by the reader's own polling.
   */
  wakeups(wake: (stream: string) => void): Wakeups;
  /**
   * Writes trace events (wire-format §12) in one go; failures are dropped. `domain` is the raw domain name. Answers whether somebody listens on the
   * channel of traces, as far as known; with no events it only finds that out.
   */
  writeTraces(domain: string, events: readonly (TraceEvent & { readonly timestamp: string })[], retention_days: number): Promise<boolean>;

  /** @throws ConnectionError when it doesn't answer in time; else the server's version. */
  ping(): Promise<string>;
  setup(): Promise<readonly string[]>;
  close(): Promise<void>;
}
