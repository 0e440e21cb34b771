import type { Clock } from "../ports/clock.ts";

interface Entry<Item> {
  readonly due_ms: number;
  /** Keeps the order of those due at the same moment. */
  readonly number: number;
  readonly item: Item;
}

/**
 * Things to be done at a later moment, with one timer for all of them: armed for the earliest, none while nothing waits.
 * A binary heap, so that a million waiting retries cost a million entries and not a million timers.
 */
export class RetrySchedule<Item> {
  readonly #clock: Clock;
  readonly #due: (items: readonly Item[]) => void;
  readonly #heap: Entry<Item>[] = [];
  #number = 0;
  #cancelTimer: (() => void) | null = null;
  #armedFor_ms = Number.POSITIVE_INFINITY;

  /** @param due gets everything that became due, earliest first */
  constructor(clock: Clock, due: (items: readonly Item[]) => void) {
    this.#clock = clock;
    this.#due = due;
  }

  get size(): number {
    return this.#heap.length;
  }

  /** Milliseconds until the earliest; null when nothing waits. */
  nextIn_ms(): number | null {
    const first = this.#heap[0];
    return first === undefined ? null : Math.max(0, first.due_ms - this.#clock.monotonic_ms());
  }

  add(item: Item, delay_ms: number): void {
    const heap = this.#heap;
    this.#number += 1;
    const entry = { due_ms: this.#clock.monotonic_ms() + delay_ms, number: this.#number, item };
    let at = heap.length;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above];
      if (parent === undefined || !before(entry, parent)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = entry;
    this.#arm();
  }

  /** Takes out everything that waits, earliest first, and disarms the timer. */
  clear(): readonly Item[] {
    const items: Item[] = [];
    for (let entry = this.#pop(); entry !== null; entry = this.#pop()) items.push(entry.item);
    this.#arm();
    return items;
  }

  /** Takes out those that `leave` says yes to. */
  removeWhere(leave: (item: Item) => boolean): readonly Item[] {
    const left: Item[] = [];
    const kept = this.#heap.filter((entry) => {
      if (!leave(entry.item)) return true;
      left.push(entry.item);
      return false;
    });
    if (left.length > 0) {
      // A sorted array is a heap.
      kept.sort((one, other) => (before(one, other) ? -1 : 1));
      this.#heap.splice(0, this.#heap.length, ...kept);
      this.#arm();
    }
    return left;
  }

  #pop(): Entry<Item> | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length > 0) {
      let at = 0;
      for (;;) {
        const left = heap[2 * at + 1];
        if (left === undefined) break;
        const right = heap[2 * at + 2];
        const takeRight = right !== undefined && before(right, left);
        const child = takeRight ? right : left;
        if (!before(child, last)) break;
        heap[at] = child;
        at = 2 * at + (takeRight ? 2 : 1);
      }
      heap[at] = last;
    }
    return first;
  }

  #arm(): void {
    const due_ms = this.#heap[0]?.due_ms ?? Number.POSITIVE_INFINITY;
    if (due_ms === this.#armedFor_ms) return;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#armedFor_ms = due_ms;
    if (due_ms === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#clock.timer(Math.max(0, due_ms - this.#clock.monotonic_ms()), () => {
      this.#cancelTimer = null;
      this.#armedFor_ms = Number.POSITIVE_INFINITY;
      const now_ms = this.#clock.monotonic_ms();
      const items: Item[] = [];
      for (let first = this.#heap[0]; first !== undefined && first.due_ms <= now_ms; first = this.#heap[0]) {
        this.#pop();
        items.push(first.item);
      }
      this.#arm();
      if (items.length > 0) this.#due(items);
    });
  }
}

function before<Item>(one: Entry<Item>, other: Entry<Item>): boolean {
  return one.due_ms < other.due_ms || (one.due_ms === other.due_ms && one.number < other.number);
}
