import { CONTROL_STREAM, type Wakeups } from "../../ports/broker.ts";
import type { Changes } from "./changes.ts";

interface Watch {
  /** `changed` of the stream when `wake` was last called. */
  upTo: number;
  /** Added, and not woken since. */
  isWanted: boolean;
}

/**
 * Wakes one reader. It reads a stream until it gets nothing, calls `add`, and waits for `wake`, which comes once; then the stream is out
 * of the set until it is added again, so a busy one isn't watched.
 *
 * The first `add` wakes once for nothing, because an entry may have come since the last read. Any later one looks whether the stream
 * moved since `wake`, so that nothing falls into the gap. The control stream is always in the set.
 */
export class StreamWakeups implements Wakeups {
  readonly #changes: Changes;
  readonly #wake: (stream: string) => void;
  readonly #watches = new Map<string, Watch>();
  readonly #stop: () => void;
  #closed = false;

  constructor(changes: Changes, wake: (stream: string) => void) {
    this.#changes = changes;
    this.#wake = wake;
    this.#stop = changes.onStreams((streams) => {
      for (const stream of streams) {
        if (stream === CONTROL_STREAM) this.#wake(stream);
        else this.#fire(stream);
      }
    });
  }

  add(stream: string): void {
    if (this.#closed) return;
    const watch = this.#watches.get(stream);
    if (watch === undefined) this.#watches.set(stream, { upTo: -1, isWanted: true });
    else if (watch.isWanted) return;
    else {
      watch.isWanted = true;
      if (this.#changes.changeOf(stream) === watch.upTo) return;
    }
    queueMicrotask(() => this.#fire(stream));
  }

  remove(stream: string): void {
    this.#watches.delete(stream);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#watches.clear();
    this.#stop();
  }

  #fire(stream: string): void {
    const watch = this.#watches.get(stream);
    if (watch === undefined || !watch.isWanted) return;
    const changed = this.#changes.changeOf(stream);
    if (changed === watch.upTo) return;
    watch.isWanted = false;
    watch.upTo = changed;
    this.#wake(stream);
  }
}
