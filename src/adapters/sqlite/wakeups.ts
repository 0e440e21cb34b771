import { CONTROL_STREAM, type Wakeups } from "../../ports/broker.ts";
import type { Changes } from "./changes.ts";

/**
 * Wakes one reader whenever a stream that it added has changed. The reader adds a stream once; it may add it again when it found it empty,
 * which changes nothing here. Woken while a read is under way, it reads once more.
 *
 * The first `add` wakes once for nothing, because an entry may have come since the last read. The control stream is always in the set.
 */
export class StreamWakeups implements Wakeups {
  readonly #changes: Changes;
  readonly #wake: (stream: string) => void;
  /** Streams, each with its `changed` when `wake` was last called. */
  readonly #watched = new Map<string, number>();
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
    if (this.#watched.has(stream)) return;
    this.#watched.set(stream, -1);
    queueMicrotask(() => this.#fire(stream));
  }

  remove(stream: string): void {
    this.#watched.delete(stream);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#watched.clear();
    this.#stop();
  }

  #fire(stream: string): void {
    const upTo = this.#watched.get(stream);
    if (upTo === undefined) return;
    const changed = this.#changes.changeOf(stream);
    if (changed === upTo) return;
    this.#watched.set(stream, changed);
    this.#wake(stream);
  }
}
