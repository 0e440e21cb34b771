/**
 * Identities of child entities. Tables hold no position of a child in its collection (the layout is Python's), so collections come back in the
 * order of the identities: generated ones ascend in the order in which they were made. They are version 7 UUIDs.
 */
import type { Domain } from "./domain.ts";

const COUNTER_MAX = 0xfff;

interface Last {
  readonly time_ms: number;
  readonly counter: number;
}

const lastOf = new WeakMap<Domain, Last>();

/** An identity above all that were made for this domain in this process. Before `init`, when no clock is there, any. */
export function newChildIdentity(domain: Domain): string {
  if (domain.options.identity !== undefined || !domain.isInitialised) return domain.newIdentity();
  const { clock, random } = domain.stores;
  const now_ms = Math.floor(clock.now_ms());
  const last = lastOf.get(domain);
  let next: Last = { time_ms: now_ms, counter: 0 };
  if (last !== undefined && now_ms <= last.time_ms) {
    const isFull = last.counter === COUNTER_MAX;
    next = { time_ms: isFull ? last.time_ms + 1 : last.time_ms, counter: isFull ? 0 : last.counter + 1 };
  }
  lastOf.set(domain, next);
  const time = next.time_ms.toString(16).padStart(12, "0");
  const counter = next.counter.toString(16).padStart(3, "0");
  // The last two groups of a version 4 UUID: 62 random bits with the variant in front.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${counter}-${random.uuid().slice(19)}`;
}
