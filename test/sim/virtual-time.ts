/**
 * Time, chance and processes of a simulated run. Everything that ever happens is one entry of one queue; between two entries the loop of the real
 * runtime is emptied, so that what follows from an entry has happened, in the order of the language, before the next one begins. With the same seed
 * the same queue is made, and the same run.
 */
import type { Clock } from "../../src/ports/clock.ts";
import type { Random } from "../../src/ports/random.ts";

/** A small fast generator (sfc32); the state is made of the seed and a name, so that two users of one seed don't share their chances. */
export class Dice implements Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, name: string) {
    let hash = 0x811c9dc5;
    for (const letter of name) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193);
    this.#a = seed >>> 0;
    this.#b = hash >>> 0;
    this.#c = Math.floor(seed / 0x1_0000_0000) >>> 0;
    for (let round = 0; round < 12; round += 1) this.#next();
  }

  #next(): number {
    const sum = (this.#a + this.#b + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) >>> 0;
    this.#c = (this.#c + sum) >>> 0;
    return sum;
  }

  float(): number {
    return this.#next() / 0x1_0000_0000;
  }

  hex(length: number): string {
    let text = "";
    while (text.length < length) text += this.#next().toString(16).padStart(8, "0");
    return text.slice(0, length);
  }

  uuid(): string {
    const hex = this.hex(32);
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
  }

  chance(probability: number): boolean {
    return this.float() < probability;
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.float();
  }

  /** From `low` to `high`, both included. */
  whole(low: number, high: number): number {
    return low + Math.floor(this.float() * (high - low + 1));
  }

  pick<Item>(items: readonly Item[]): Item | undefined {
    return items[Math.floor(this.float() * items.length)];
  }
}

interface Happening {
  readonly at_ms: number;
  readonly number: number;
  run: (() => void) | null;
}

/** The queue of what is to happen, by time; of the same moment, in the order in which it was asked for. */
export class VirtualTime {
  now_ms = 0;
  happened = 0;
  #number = 0;
  readonly #heap: Happening[] = [];

  /** @returns the way to call it off */
  at(delay_ms: number, run: () => void): () => void {
    this.#number += 1;
    const happening: Happening = { at_ms: this.now_ms + Math.max(0, delay_ms), number: this.#number, run };
    this.#push(happening);
    return () => {
      happening.run = null;
    };
  }

  /** Lets time pass until `done` is true or `limit_ms` is reached; false at the limit. */
  async until(done: () => boolean, limit_ms: number): Promise<boolean> {
    await emptied();
    while (!done()) {
      const next = this.#heap[0];
      if (next === undefined || next.at_ms > limit_ms) {
        this.now_ms = Math.max(this.now_ms, limit_ms);
        return false;
      }
      this.#pop();
      if (next.run === null) continue;
      this.now_ms = Math.max(this.now_ms, next.at_ms);
      this.happened += 1;
      next.run();
      await emptied();
    }
    return true;
  }

  /** Nothing more happens. */
  end(): void {
    this.#heap.length = 0;
  }

  #push(happening: Happening): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(happening);
    while (at > 0) {
      const above = (at - 1) >> 1;
      const parent = heap[above] as Happening;
      if (isBefore(parent, happening)) break;
      heap[at] = parent;
      at = above;
    }
    heap[at] = happening;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= heap.length) break;
      if (below + 1 < heap.length && isBefore(heap[below + 1] as Happening, heap[below] as Happening)) below += 1;
      const child = heap[below] as Happening;
      if (isBefore(last, child)) break;
      heap[at] = child;
      at = below;
    }
    heap[at] = last;
  }
}

function isBefore(left: Happening, right: Happening): boolean {
  return left.at_ms < right.at_ms || (left.at_ms === right.at_ms && left.number < right.number);
}

/** All that is ready has run: one turn of the real loop comes after every waiting promise. */
function emptied(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * A process of the simulated cluster: what it is to do comes through it, so that it can stand still or be dead.
 *
 * running   things happen to it at their moment
 * paused    they are kept, and happen at once when it goes on (SIGSTOP)
 * dead      nothing happens to it any more (SIGKILL); its promises stay open for ever
 */
export class SimulatedProcess implements Clock {
  readonly name: string;
  readonly pid: number;
  readonly random: Dice;
  readonly startedAt_ms: number;
  readonly #time: VirtualTime;
  readonly #offset_ms: number;
  #skew_ms: number;
  #state: "running" | "paused" | "dead" = "running";
  #missed: (() => void)[] = [];

  constructor(options: {
    readonly name: string;
    readonly pid: number;
    readonly time: VirtualTime;
    readonly random: Dice;
    readonly skew_ms: number;
  }) {
    this.name = options.name;
    this.pid = options.pid;
    this.random = options.random;
    this.#time = options.time;
    this.#skew_ms = options.skew_ms;
    this.#offset_ms = 1_000 + options.random.between(0, 1e6);
    this.startedAt_ms = this.now_ms();
  }

  get isDead(): boolean {
    return this.#state === "dead";
  }

  get isPaused(): boolean {
    return this.#state === "paused";
  }

  now_ms(): number {
    return BEGIN_ms + this.#time.now_ms + this.#skew_ms;
  }

  monotonic_ms(): number {
    return this.#offset_ms + this.#time.now_ms;
  }

  /** Its wall clock is set. */
  step(by_ms: number): void {
    this.#skew_ms += by_ms;
  }

  sleep(delay_ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const abort = () => {
        cancel();
        resolve();
      };
      const cancel = this.timer(delay_ms, () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      });
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  timer(delay_ms: number, run: () => void): () => void {
    let off = false;
    const cancel = this.#time.at(delay_ms, () =>
      this.happens(() => {
        if (!off) run();
      }),
    );
    return () => {
      off = true;
      cancel();
    };
  }

  turn(): Promise<void> {
    return new Promise((resolve) => void this.timer(0, resolve));
  }

  /** Something reaches the process now. */
  happens(run: () => void): void {
    if (this.#state === "running") run();
    else if (this.#state === "paused") this.#missed.push(run);
  }

  kill(): void {
    this.#state = "dead";
    this.#missed = [];
  }

  pause(): void {
    if (this.#state === "running") this.#state = "paused";
  }

  resume(): void {
    if (this.#state !== "paused") return;
    this.#state = "running";
    for (const run of this.#missed.splice(0)) this.#time.at(0, () => this.happens(run));
  }
}

const BEGIN_ms = Date.parse("2026-11-22T12:00:00Z");
