import { type Broker, REPLAY_CONSUMER, type StreamEntry } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { InstanceWatch } from "./instance-watch.ts";
import { instanceOfConsumer } from "./instance-watch.ts";

const PAGE = 500;
/** What has been pending for us for this long and isn't held never reached us: the connection broke under the reply. Longer than any call may take. */
const UNSEEN_ms = 6_000;

/** An entry that is ours now. */
export interface TakenEntry {
  readonly entry: StreamEntry;
  /** Attempts that its former owners used. */
  readonly used: number;
}

export interface TakeOver {
  readonly broker: Broker;
  readonly clock: Clock;
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  readonly instances: InstanceWatch;
  readonly claimIdle_ms: number;
  /** Entries of consumers that aren't ours; 0 = never. */
  readonly claimForeignIdle_ms: number;
  /** We hold the lease of this group: whatever another engine of ours has pending is ours to take. */
  readonly exclusive: boolean;
  /** No read of ours can be in flight: what is pending for us and not held was forgotten (a lease lost and regained). */
  readonly ownToo: boolean;
  /** Entries taken in one step. */
  readonly batch: number;
  readonly holds: (id: string) => boolean;
  /** Resolves when there is room for another batch; false: stop. */
  readonly room: () => Promise<boolean>;
  readonly take: (entries: readonly TakenEntry[]) => void;
  /** Entries that were pending but don't exist any more (known-traps B2). */
  readonly lostByTrim: (ids: readonly string[]) => void;
}

/**
 * Looks through all that is pending in a group and takes what its owner will never finish.
 *
 * - a consumer of ours whose instance is dead: at once, attempts kept, so that a message that kills its process reaches its limit (D40)
 * - handed back by a drain, or stuck (its owner refreshes what it holds): idle beyond the limit, attempts kept
 * - our own, delivered by a reply that got lost in an outage: soon, attempts kept
 * - put back by `replay`: at once
 * - a foreign consumer (Python never refreshes, and counts re-reads as deliveries): only when entry and consumer are idle beyond the
 *   longer limit, attempts begin anew (rulings 4, 5)
 *
 * Pages to the end, whatever a page gave (known-traps B14).
 */
export async function takeOver(options: TakeOver): Promise<void> {
  const { broker, stream, group, consumer } = options;
  let alive = await options.instances.alive();
  let idleForeigners: ReadonlySet<string> | null = null;
  let after: string | null = null;
  for (;;) {
    const page = await broker.pending(stream, group, { after, count: PAGE });
    const last = page.at(-1);
    if (last === undefined) return;
    after = last.id;
    const isDead = (owner: string) => {
      const instance = instanceOfConsumer(owner);
      return instance !== null && !alive.has(instance);
    };
    // Nobody is taken for dead by a list that is older than what he holds: he may have begun since.
    const seen_ms = options.clock.monotonic_ms();
    if (page.some((pending) => isDead(pending.consumer))) alive = await options.instances.alive(seen_ms);
    const atOnce: string[] = [];
    const idle: string[] = [];
    const unseen: string[] = [];
    const foreign: string[] = [];
    const used = new Map<string, number>();
    /** Whose entries are free at once: another engine may see the same and be faster, and then they are not free any more. */
    const owners = new Set<string>();
    for (const pending of page) {
      if (options.holds(pending.id)) continue;
      const instance = instanceOfConsumer(pending.consumer);
      if (pending.consumer === REPLAY_CONSUMER) {
        atOnce.push(pending.id);
        owners.add(pending.consumer);
        used.set(pending.id, pending.deliveries);
      } else if (instance === null) {
        if (options.claimForeignIdle_ms <= 0 || pending.idle_ms <= options.claimForeignIdle_ms) continue;
        idleForeigners ??= await idleConsumers(options);
        if (!idleForeigners.has(pending.consumer)) continue;
        foreign.push(pending.id);
        used.set(pending.id, 0);
      } else if (pending.consumer === consumer ? options.ownToo : options.exclusive || !alive.has(instance)) {
        atOnce.push(pending.id);
        owners.add(pending.consumer);
        used.set(pending.id, pending.deliveries);
      } else if (pending.consumer === consumer && pending.idle_ms > UNSEEN_ms) {
        unseen.push(pending.id);
        // Delivered and counted, but never run.
        used.set(pending.id, Math.max(0, pending.deliveries - 1));
      } else if (pending.idle_ms > options.claimIdle_ms) {
        idle.push(pending.id);
        used.set(pending.id, pending.deliveries);
      }
    }
    const claims: readonly (readonly [ids: readonly string[], options: Parameters<Broker["claim"]>[4]])[] = [
      [atOnce, { minIdle_ms: 0, from: owners }],
      [idle, { minIdle_ms: options.claimIdle_ms }],
      [unseen, { minIdle_ms: UNSEEN_ms }],
      [foreign, { minIdle_ms: options.claimForeignIdle_ms, attempts: 0 }],
    ];
    for (const [ids, how] of claims) {
      for (let at = 0; at < ids.length; at += options.batch) {
        if (!(await options.room())) return;
        const { entries, deleted } = await broker.claim(stream, group, consumer, ids.slice(at, at + options.batch), how);
        if (entries.length > 0) options.take(entries.map((entry) => ({ entry, used: used.get(entry.id) ?? 0 })));
        if (deleted.length > 0) options.lostByTrim(deleted);
      }
    }
    if (page.length < PAGE) return;
  }
}

async function idleConsumers(options: TakeOver): Promise<ReadonlySet<string>> {
  const consumers = await options.broker.consumers(options.stream, options.group);
  return new Set(consumers.filter((consumer) => consumer.idle_ms > options.claimForeignIdle_ms).map((consumer) => consumer.name));
}

/** Removes consumers of dead engines of ours that hold nothing (known-traps B11). */
export async function removeDeadConsumers(
  broker: Broker,
  stream: string,
  group: string,
  instances: InstanceWatch,
): Promise<readonly string[]> {
  const alive = await instances.alive();
  const removed: string[] = [];
  for (const consumer of await broker.consumers(stream, group)) {
    const instance = instanceOfConsumer(consumer.name);
    const dead = consumer.name === REPLAY_CONSUMER || (instance !== null && !alive.has(instance));
    if (dead && consumer.pending === 0 && (await broker.removeConsumer(stream, group, consumer.name))) removed.push(consumer.name);
  }
  return removed;
}
