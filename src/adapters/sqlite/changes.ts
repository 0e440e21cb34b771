import { type FSWatcher, watch } from "node:fs";
import { basename, dirname } from "node:path";
import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Connection } from "./connection.ts";

/** A commit touches the file several times; one look is enough for all (rulings 28). */
const DEBOUNCE_ms = 5;
/** The net under the file watcher, which is blind on bind mounts (rulings 28): `PRAGMA data_version` costs microseconds. */
const NET_ms = 250;
/** The same where there is no watcher: the net is then all that sees other processes. */
const NET_ALONE_ms = 50;

interface Heads {
  readonly messages: number;
  /** Highest number and count of the calls to `signalOutbox`. */
  readonly outbox: string;
  readonly streams: number;
}

/**
 * Tells listeners that messages, outbox rows or stream entries were added, by this process or another.
 *
 * idle      nobody listens: no watcher, no timer
 * watching  the folder is watched and the net is cast; both, and every commit of ours, lead to `look`
 * look      compares three index reads with what they were, and wakes only those whose kind moved
 */
export class Changes {
  readonly #options: {
    readonly connection: Connection;
    /** null in memory: no other process can see it. */
    readonly file: string | null;
    /** false: no file watcher (see OpenOptions). */
    readonly watches: boolean;
    readonly clock: Clock;
    readonly log: Log;
  };
  readonly #messages = new Set<() => void>();
  readonly #outbox = new Set<() => void>();
  readonly #streams = new Set<(streams: readonly string[]) => void>();
  #heads: Heads | null = null;
  #looking = false;
  #watcher: FSWatcher | null = null;
  #cancelDebounce: (() => void) | null = null;
  #cancelNet: (() => void) | null = null;
  #dataVersion = -1;
  #closed = false;

  constructor(options: {
    readonly connection: Connection;
    readonly file: string | null;
    readonly watches: boolean;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    this.#options = options;
  }

  onMessages(wake: () => void): () => void {
    return this.#listen(this.#messages, wake);
  }

  onOutbox(wake: () => void): () => void {
    return this.#listen(this.#outbox, wake);
  }

  onStreams(wake: (streams: readonly string[]) => void): () => void {
    return this.#listen(this.#streams, wake);
  }

  /** Grows with every entry that is added to the stream; 0 for none. */
  changeOf(stream: string): number {
    return (
      this.#quietly(
        () => this.#options.connection.get<{ changed: number }>("SELECT changed FROM protean_stream WHERE name = ?", stream)?.changed,
      ) ?? 0
    );
  }

  /** To be called after a commit that may have added something; calls of one turn are one look. */
  committed(): void {
    if (this.#looking || this.#heads === null) return;
    this.#looking = true;
    queueMicrotask(() => {
      this.#looking = false;
      this.#look();
    });
  }

  close(): void {
    this.#closed = true;
    this.#rest();
  }

  #listen<F>(listeners: Set<F>, wake: F): () => void {
    listeners.add(wake);
    if (this.#heads === null && !this.#closed) this.#begin();
    return () => {
      listeners.delete(wake);
      if (this.#messages.size + this.#outbox.size + this.#streams.size === 0) this.#rest();
    };
  }

  #begin(): void {
    this.#heads = this.#readHeads();
    const { file, watches } = this.#options;
    if (file === null) return;
    if (watches) this.#beginWatching(file);
    this.#castNet();
  }

  #beginWatching(file: string): void {
    const { log } = this.#options;
    const prefix = basename(file);
    try {
      this.#watcher = watch(dirname(file), { persistent: false }, (_event, name) => {
        if (name === null || name.startsWith(prefix)) this.#touched();
      });
      // Out of inotify watches, folder gone: the net still works.
      this.#watcher.on("error", (error) => log.debug("sqlite.watch_failed", { file, error }));
    } catch (error) {
      log.debug("sqlite.watch_failed", { file, error });
    }
  }

  #rest(): void {
    this.#watcher?.close();
    this.#watcher = null;
    this.#cancelDebounce?.();
    this.#cancelDebounce = null;
    this.#cancelNet?.();
    this.#cancelNet = null;
    this.#heads = null;
  }

  #touched(): void {
    if (this.#cancelDebounce !== null || this.#heads === null) return;
    this.#cancelDebounce = this.#options.clock.timer(DEBOUNCE_ms, () => {
      this.#cancelDebounce = null;
      this.#look();
    });
  }

  #castNet(): void {
    this.#cancelNet = this.#options.clock.timer(this.#options.watches ? NET_ms : NET_ALONE_ms, () => {
      const version = this.#quietly(() => this.#options.connection.get<{ data_version: number }>("PRAGMA data_version")?.data_version);
      if (version !== undefined && version !== this.#dataVersion) {
        this.#dataVersion = version;
        this.#look();
      }
      if (this.#heads !== null) this.#castNet();
    });
  }

  #look(): void {
    const before = this.#heads;
    if (before === null) return;
    const now = this.#readHeads();
    if (now === null) return;
    this.#heads = now;
    if (now.messages !== before.messages) for (const wake of this.#messages) wake();
    if (now.outbox !== before.outbox) for (const wake of this.#outbox) wake();
    if (now.streams !== before.streams && this.#streams.size > 0) {
      const names = this.#quietly(() =>
        this.#options.connection.all<{ name: string }>("SELECT name FROM protean_stream WHERE changed > ?", before.streams),
      );
      const streams = (names ?? []).map(({ name }) => name);
      for (const wake of this.#streams) wake(streams);
    }
  }

  #readHeads(): Heads | null {
    const heads = this.#quietly(() =>
      this.#options.connection.get<Heads>(
        `SELECT coalesce((SELECT max(global_position) FROM messages), 0) AS messages,
                coalesce((SELECT max(rowid) FROM outbox), 0) || '/' || (SELECT n FROM protean_signal WHERE name = 'outbox') AS outbox,
                coalesce((SELECT max(changed) FROM protean_stream), 0) AS streams`,
      ),
    );
    return heads ?? (this.#heads === null ? { messages: -1, outbox: "", streams: -1 } : null);
  }

  /** A look that fails (the file is being recovered by another process) is made up by the next one. */
  #quietly<R>(read: () => R): R | undefined {
    try {
      return read();
    } catch (error) {
      this.#options.log.debug("sqlite.look_failed", { error });
      return undefined;
    }
  }
}

/** Inside a transaction: rows became ready that were in the outbox before. */
export function signalOutbox(connection: Connection): void {
  connection.run("UPDATE protean_signal SET n = n + 1 WHERE name = 'outbox'");
}
