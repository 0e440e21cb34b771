/** What the queue needs to know of an entry. */
export interface Queued {
  /** `<milliseconds>-<sequence>`. */
  readonly id: string;
  /** Its source stream, found when it comes to the front; null = no order promised. */
  sourceStream(): string | null;
}

/**
 * The entries of one subscription that wait for their run.
 *
 * An entry at the front takes its source stream: until `release`, entries of the same source stream that come to the front are parked behind it, in
 * stream order, while those of other source streams go past (known-traps B5, D27). A failed entry keeps its source stream while it waits for
 * its retry; `again` puts it to the front then. What was taken over from a dead consumer goes in by its id, before younger ones.
 */
export class SourceQueue<Item extends Queued> {
  #ready: Item[] = [];
  /** Index of the first of `#ready`: shifting an array of a batch for each message would move it all. */
  #head = 0;
  /** Entries whose source stream is already theirs: retries that are due, successors of one that ended. */
  readonly #released: Item[] = [];
  /** Taken source streams with what is parked behind. */
  readonly #taken = new Map<string, Item[] | null>();
  #parked = 0;

  /** Entries not begun, parked ones included. */
  get size(): number {
    return this.#ready.length - this.#head + this.#released.length + this.#parked;
  }

  /** Entries not begun that wait for nothing. */
  get unstarted(): number {
    return this.#ready.length - this.#head + this.#released.length;
  }

  /** Entries that wait behind another of their source stream. */
  get parked(): number {
    return this.#parked;
  }

  /** Adds new entries, which are in order among themselves. */
  add(items: readonly Item[]): void {
    const [first] = items;
    const last = this.#ready.at(-1);
    if (first === undefined) return;
    for (const item of items) this.#ready.push(item);
    if (last !== undefined && this.#head < this.#ready.length - items.length && compareIds(first.id, last.id) < 0) {
      this.#ready = this.#ready.slice(this.#head).sort((one, other) => compareIds(one.id, other.id));
      this.#head = 0;
    }
  }

  /** A failed entry that may run again; its source stream is still its own. */
  again(item: Item): void {
    this.#released.push(item);
  }

  /** Puts back what `take` gave and was not begun; its source stream stays its own. */
  putBack(item: Item): void {
    this.#released.unshift(item);
  }

  /**
   * The next entry that may run now, taking its source stream; null when there is none.
   * @param skip looks at each entry before its source stream is asked for; those it says yes to are left out, they are the caller's now
   */
  take(skip: (item: Item) => boolean): Item | null {
    const released = this.#released.shift();
    if (released !== undefined) return released;
    for (;;) {
      const item = this.#ready[this.#head];
      if (item === undefined) {
        this.#ready = [];
        this.#head = 0;
        return null;
      }
      this.#head += 1;
      if (this.#head > 1_024) {
        this.#ready = this.#ready.slice(this.#head);
        this.#head = 0;
      }
      if (skip(item)) continue;
      const source = item.sourceStream();
      if (source === null) return item;
      const behind = this.#taken.get(source);
      if (behind === undefined) {
        this.#taken.set(source, null);
        return item;
      }
      this.#parked += 1;
      if (behind === null) this.#taken.set(source, [item]);
      else insert(behind, item);
    }
  }

  /** The entry is settled: the next of its source stream may run. */
  release(item: Item): void {
    const source = item.sourceStream();
    if (source === null) return;
    const behind = this.#taken.get(source);
    if (behind === undefined) return;
    const next = behind?.shift();
    if (next === undefined) this.#taken.delete(source);
    else {
      this.#parked -= 1;
      this.#released.push(next);
    }
  }

  /** Takes out everything that is not begun. Source streams of running entries stay taken. */
  drain(): readonly Item[] {
    const released = this.#released.splice(0);
    const items = [...released, ...this.#ready.slice(this.#head)];
    this.#ready = [];
    this.#head = 0;
    for (const [source, behind] of this.#taken) {
      if (behind === null) continue;
      items.push(...behind);
      this.#taken.set(source, null);
    }
    this.#parked = 0;
    for (const item of released) this.release(item);
    return items;
  }

  /** Takes out the unbegun entries that `leave` says yes to. */
  removeWhere(leave: (item: Item) => boolean): readonly Item[] {
    const left: Item[] = [];
    const keep = (item: Item) => {
      if (!leave(item)) return true;
      left.push(item);
      return false;
    };
    this.#ready = this.#ready.slice(this.#head).filter(keep);
    this.#head = 0;
    for (const [source, behind] of this.#taken) {
      if (behind === null) continue;
      const kept = behind.filter(keep);
      this.#parked -= behind.length - kept.length;
      this.#taken.set(source, kept.length === 0 ? null : kept);
    }
    const released = this.#released.splice(0);
    for (const item of released) {
      if (keep(item)) this.#released.push(item);
      else this.release(item);
    }
    return left;
  }
}

function insert<Item extends Queued>(items: Item[], item: Item): void {
  let at = items.length;
  for (let previous = items[at - 1]; previous !== undefined && compareIds(item.id, previous.id) < 0; previous = items[at - 1]) at -= 1;
  items.splice(at, 0, item);
}

/** Order of two entry ids of one stream: negative when `one` is older. */
export function compareIds(one: string, other: string): number {
  const dash = one.indexOf("-");
  const otherDash = other.indexOf("-");
  const difference = Number(one.slice(0, dash)) - Number(other.slice(0, otherDash));
  return difference !== 0 ? difference : Number(one.slice(dash + 1)) - Number(other.slice(otherDash + 1));
}
