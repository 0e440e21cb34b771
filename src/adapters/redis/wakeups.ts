import { CONTROL_STREAM, type Wakeups } from "../../ports/broker.ts";
import type { Clock } from "../../ports/clock.ts";
import { type Connection, Refusal, type Reply } from "./connection.ts";
import { listOf, numberOf, textOf } from "./replies.ts";
import { NEWEST_IDS } from "./scripts.ts";

/** Longest block; never 0, which is for ever (known-traps C6). */
const BLOCK_ms = 5_000;
/** Block when the server doesn't let us cut it short (no permission for CLIENT UNBLOCK). */
const BLOCK_STUBBORN_ms = 250;
/** What an answer may take beyond its block. */
const MARGIN_ms = 2_000;
/** An XREAD over many streams is dear: changes of the set are gathered before it is sent again. */
const MANY_STREAMS = 20;
const GATHER_ms = 5;
const UNBLOCK_AGAIN_ms = 1;

export interface WakerOptions {
  /** For everything but the block. */
  readonly commands: Connection;
  /** Makes the connection for the block. */
  readonly connect: (onReady: () => void) => Connection;
  readonly clock: Clock;
  readonly block_ms?: number | undefined;
  readonly margin_ms?: number | undefined;
}

/** What one handle knows of one stream. */
interface Watch {
  readonly handle: Handle;
  readonly stream: string;
  /** Entries after this one wake; null: not asked yet. */
  after: string | null;
  /** In the set: `wake` is owed. */
  isWanted: boolean;
}

/**
 * Tells readers when their streams may have something new: one blocking XREAD over all streams, for all readers of the process (rulings 22).
 * XREAD takes nothing away and belongs to no group, so one connection serves any number of streams and groups.
 *
 * A stream that was added wakes its reader once and is then out of the set until a read of it comes back empty, from whatever group: the broker
 * tells us (`drained`). So a busy stream isn't watched, and its payloads don't travel twice: XREAD has no way to leave them out. A reader
 * that doesn't read through this broker can `add` again instead; adding a stream that is in the set changes nothing. A reader that is woken
 * while a read is under way must read once more: with several groups on one stream the empty read may have been another's.
 *
 * What is missed? Nothing, by the order of commands on *one* connection, that for commands:
 * - first `add`: NEWEST_IDS goes out, and when its answer is there the stream is watched from that id and `wake` is called once for nothing, since an entry may
 *   have come between the reader's last read and `add`; the read that follows sees whatever that id covers;
 * - when XREAD finds something: NEWEST_IDS goes out first, then `wake` is called, so that the reader's next read is behind it in the same connection
 *   and sees all entries up to the answer. From there the stream is watched again at the next `add`;
 * - an entry that comes between that answer and the reader's last, empty read wakes once for nothing; one that comes after it wakes rightly.
 *
 * Ids can go backwards (DEL, a restored dump), and then nothing would wake: after each block that ran out the ids are compared, and after
 * each new connection all is asked anew and everybody woken. Hand-backs and groups that vanish don't show in a stream at all: CONTROL_STREAM
 * is always in the set for the first, the readers' own slow polling serves the second.
 */
export class Waker {
  readonly #options: WakerOptions;
  readonly #handles = new Set<Handle>();
  #blocking: Connection | null = null;
  #clientId: number | null = null;
  #canUnblock = true;
  /** The set has changed since the XREAD in flight was sent. */
  #changed = false;
  #inFlight = false;
  /** Number of the XREAD that was sent last. */
  #flight = 0;
  #unblocking = false;
  readonly #asking = new Set<Watch>();
  #stopped = new AbortController();

  constructor(options: WakerOptions) {
    this.#options = options;
  }

  open(wake: (stream: string) => void): Wakeups {
    const handle = new Handle(this, wake);
    this.#handles.add(handle);
    this.add(handle, CONTROL_STREAM);
    if (this.#blocking === null) this.#begin();
    return handle;
  }

  add(handle: Handle, stream: string): void {
    if (!this.#handles.has(handle)) return;
    let watch = handle.watches.get(stream);
    if (watch === undefined) {
      watch = { handle, stream, after: null, isWanted: false };
      handle.watches.set(stream, watch);
    }
    if (watch.isWanted) return;
    watch.isWanted = true;
    if (watch.after === null) this.#ask(watch);
    else this.#interrupt();
  }

  /** A read of this stream found nothing: whoever watches it is owed a wake again. */
  drained(stream: string): void {
    for (const handle of this.#handles) if (handle.watches.has(stream)) this.add(handle, stream);
  }

  remove(handle: Handle, stream: string): void {
    if (stream !== CONTROL_STREAM) handle.watches.delete(stream);
  }

  async closeHandle(handle: Handle): Promise<void> {
    this.#handles.delete(handle);
    handle.watches.clear();
    if (this.#handles.size === 0) await this.close();
  }

  async close(): Promise<void> {
    this.#stopped.abort();
    for (const handle of this.#handles) handle.watches.clear();
    this.#handles.clear();
    const blocking = this.#blocking;
    this.#blocking = null;
    await blocking?.close();
  }

  #begin(): void {
    const stopped = new AbortController();
    this.#stopped = stopped;
    const blocking = this.#options.connect(() => {
      this.#clientId = null;
      if (this.#blocking === blocking) this.#askAll();
    });
    this.#blocking = blocking;
    void this.#run(blocking, stopped.signal);
  }

  async #run(blocking: Connection, stopped: AbortSignal): Promise<void> {
    let failures = 0;
    while (!stopped.aborted) {
      try {
        if (!blocking.isReady || this.#clientId === null) this.#clientId = numberOf(await blocking.call("client", ["ID"]));
        await this.#readOnce(blocking, stopped);
        failures = 0;
      } catch {
        // The connection logs its loss and comes back by itself; here we only wait for it.
        failures += 1;
        await this.#options.clock.sleep(Math.min(50 * failures, 500), stopped);
      }
    }
  }

  async #readOnce(blocking: Connection, stopped: AbortSignal): Promise<void> {
    const earliest = this.#set();
    this.#changed = false;
    if (earliest.size === 0) {
      // Nothing has an id yet: CONTROL_STREAM gets one as soon as the server answers at all.
      await this.#options.clock.sleep(10, stopped);
      return;
    }
    const block_ms = Math.min(this.#canUnblock ? BLOCK_ms : BLOCK_STUBBORN_ms, this.#options.block_ms ?? BLOCK_ms);
    this.#inFlight = true;
    this.#flight += 1;
    let found: Reply;
    try {
      found = await blocking.call("xread", ["COUNT", 1, "BLOCK", block_ms, "STREAMS", ...earliest.keys(), ...earliest.values()], {
        binary: true,
        deadline_ms: block_ms + (this.#options.margin_ms ?? MARGIN_ms),
      });
    } finally {
      this.#inFlight = false;
    }
    if (stopped.aborted) return;
    if (found !== null) this.#found(found);
    else if (!this.#changed) this.#compare([...earliest.keys()]);
  }

  /** The streams in the set, each with the earliest id that somebody waits behind. */
  #set(): Map<string, string> {
    const earliest = new Map<string, string>();
    for (const handle of this.#handles) {
      for (const watch of handle.watches.values()) {
        if (!watch.isWanted || watch.after === null) continue;
        const known = earliest.get(watch.stream);
        if (known === undefined || isLater(known, watch.after)) earliest.set(watch.stream, watch.after);
      }
    }
    return earliest;
  }

  #found(found: Reply): void {
    const busy: string[] = [];
    for (const pair of listOf(found)) {
      const [name, entries] = listOf(pair);
      const last = listOf(entries ?? []).at(-1);
      if (last === undefined) continue;
      const stream = (name as Buffer).toString("utf8");
      busy.push(stream);
      for (const watch of this.#wanted(stream)) this.#advance(watch, textOf(listOf(last)[0]));
    }
    if (busy.length === 0) return;
    // Sent before anybody is woken, see above; not sent again as EVAL if the server forgot the script, since that would come too late.
    const newest = this.#options.commands.call("evalsha", [NEWEST_IDS.digest, busy.length, ...busy]);
    const woken = busy.map((stream) => this.#wake(stream));
    newest.then(
      (reply) => {
        const ids = listOf(reply);
        for (const [at, watches] of woken.entries()) for (const watch of watches) this.#advance(watch, textOf(ids[at]));
      },
      // The id that XREAD gave stands: at worst it wakes once for nothing.
      () => {},
    );
  }

  /** Only forward: an answer may be older than what XREAD said since. */
  #advance(watch: Watch, id: string): void {
    if (watch.after !== null && isLater(id, watch.after)) watch.after = id;
  }

  /** In the set and behind an id. Those without one get their wake with it. */
  #wanted(stream: string): Watch[] {
    const wanted: Watch[] = [];
    for (const handle of this.#handles) {
      const watch = handle.watches.get(stream);
      if (watch?.isWanted === true && watch.after !== null) wanted.push(watch);
    }
    return wanted;
  }

  /** Answers those that were woken. */
  #wake(stream: string): readonly Watch[] {
    const wanted = this.#wanted(stream);
    for (const watch of wanted) this.#call(watch);
    return wanted;
  }

  #call(watch: Watch): void {
    if (watch.stream !== CONTROL_STREAM) watch.isWanted = false;
    watch.handle.wake(watch.stream);
  }

  /** A block ran out: has an id gone backwards? */
  #compare(streams: readonly string[]): void {
    void this.#newest(streams).then(
      (ids) => {
        for (const [at, stream] of streams.entries()) {
          const id = ids[at] ?? "0-0";
          for (const watch of this.#wanted(stream)) {
            if (watch.after === null || !isLater(watch.after, id)) continue;
            watch.after = id;
            this.#call(watch);
            this.#interrupt();
          }
        }
      },
      // The next block asks again.
      () => {},
    );
  }

  #askAll(): void {
    for (const handle of this.#handles) {
      for (const watch of handle.watches.values()) {
        watch.after = null;
        if (watch.isWanted) this.#ask(watch);
      }
    }
  }

  /** Streams that were asked about in one turn are asked about in one command. */
  #ask(watch: Watch): void {
    this.#asking.add(watch);
    if (this.#asking.size === 1) queueMicrotask(() => void this.#askNow());
  }

  async #askNow(): Promise<void> {
    const watches = [...this.#asking];
    this.#asking.clear();
    const streams = [...new Set(watches.map((watch) => watch.stream))];
    let ids: readonly string[];
    try {
      ids = await this.#newest(streams);
    } catch {
      await this.#options.clock.sleep(100, this.#stopped.signal);
      for (const watch of watches) if (this.#isOpen(watch) && watch.after === null) this.#ask(watch);
      return;
    }
    for (const watch of watches) {
      if (!this.#isOpen(watch) || watch.after !== null) continue;
      watch.after = ids[streams.indexOf(watch.stream)] ?? "0-0";
      this.#call(watch);
    }
    this.#interrupt();
  }

  #isOpen(watch: Watch): boolean {
    return watch.handle.watches.get(watch.stream) === watch;
  }

  async #newest(streams: readonly string[]): Promise<readonly string[]> {
    return listOf(await this.#options.commands.run(NEWEST_IDS, streams, [])).map(textOf);
  }

  /** Makes the XREAD in flight come back, so that it is sent again with the new set. */
  #interrupt(): void {
    this.#changed = true;
    if (!this.#inFlight || this.#unblocking || !this.#canUnblock) return;
    this.#unblocking = true;
    void this.#unblock();
  }

  /**
   * Sends CLIENT UNBLOCK until the XREAD in flight knows the set. The flag falls in the same breath in which there is nothing to do any more: a change
   * that comes a microtask later must begin this anew, or it would wait for the end of the block.
   */
  async #unblock(): Promise<void> {
    const stopped = this.#stopped.signal;
    try {
      if (this.#set().size > MANY_STREAMS) await this.#options.clock.sleep(GATHER_ms, stopped);
      while (this.#changed && this.#inFlight && !stopped.aborted && this.#clientId !== null) {
        const flight = this.#flight;
        const isUnblocked = (await this.#options.commands.call("client", ["UNBLOCK", this.#clientId])) === 1;
        // The answers travel on two connections: the next XREAD may be out already, with a set that has changed since. That one is to come back too.
        if (isUnblocked && this.#flight !== flight) continue;
        if (isUnblocked) return;
        // The XREAD has not reached the server yet, or has just come back.
        await this.#options.clock.sleep(UNBLOCK_AGAIN_ms, stopped);
      }
    } catch (error) {
      if (error instanceof Refusal) this.#canUnblock = false;
    } finally {
      this.#unblocking = false;
    }
  }
}

class Handle implements Wakeups {
  readonly #waker: Waker;
  readonly wake: (stream: string) => void;
  readonly watches = new Map<string, Watch>();

  constructor(waker: Waker, wake: (stream: string) => void) {
    this.#waker = waker;
    this.wake = wake;
  }

  add(stream: string): void {
    this.#waker.add(this, stream);
  }

  remove(stream: string): void {
    this.#waker.remove(this, stream);
  }

  close(): Promise<void> {
    return this.#waker.closeHandle(this);
  }
}

/** Whether `left` is the later id. Ids without a sequence, which Redis never gives, count as sequence 0. */
function isLater(left: string, right: string): boolean {
  const [leftTime = "0", leftSequence = "0"] = left.split("-");
  const [rightTime = "0", rightSequence = "0"] = right.split("-");
  const time = Number(leftTime) - Number(rightTime);
  return time > 0 || (time === 0 && Number(leftSequence) > Number(rightSequence));
}
