import postgres from "postgres";
import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Driver, DriverOptions, Result, SqlValue } from "./pool.ts";
import { quoted } from "./sql.ts";

/** The net under LISTEN, for writers that don't notify, such as Python (rulings 32): one statement for the whole database. */
const PROBE_ms = 250;
/** NOTIFY takes a lock of the whole database, so commits of this much time share one (rulings 21). */
const NOTIFY_ms = 20;
/** Messages whose positions a probe adds up: one that becomes visible late, below the newest, changes the sum. */
const PROBED_messages = 50;

const KINDS = ["messages", "outbox"] as const;
type Kind = (typeof KINDS)[number];
const CHANNELS: Readonly<Record<Kind, string>> = { messages: "protean_messages", outbox: "protean_outbox" };

type Query = (text: string, values?: readonly SqlValue[]) => Promise<Result>;

/**
 * Tells listeners that messages or outbox rows were added, by this process or another.
 *
 * idle        nobody listens: no connection, no timer
 * listening   one connection of its own LISTENs; beside it the table ends are probed, in one statement each `PROBE_ms`
 *
 * A commit of ours wakes our own listeners at once, and after it, never inside it, others are notified, at most once each `NOTIFY_ms`.
 */
export class Changes {
  readonly #query: Query;
  readonly #driver: DriverOptions;
  readonly #schema: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #listeners: Readonly<Record<Kind, Set<() => void>>> = { messages: new Set(), outbox: new Set() };
  readonly #seen = new Map<Kind, string>();
  #sql: Driver | null = null;
  #cancelProbe: (() => void) | null = null;
  #cancelNotify: (() => void) | null = null;
  readonly #toNotify = new Set<Kind>();
  #notified_ms = Number.NEGATIVE_INFINITY;
  /** Readers wait for something that no append announces: a hole in `$all` that has to be decided (D16). */
  #pendingLook = false;
  #closed = false;

  constructor(options: {
    readonly query: Query;
    readonly driver: DriverOptions;
    readonly schema: string;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    this.#query = options.query;
    this.#driver = options.driver;
    this.#schema = options.schema;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  onMessages(wake: () => void): () => void {
    return this.#listen("messages", wake);
  }

  onOutbox(wake: () => void): () => void {
    return this.#listen("outbox", wake);
  }

  /** To be called after a commit that may have added something. */
  committed(kinds: { readonly messages?: boolean; readonly outbox?: boolean }): void {
    for (const kind of KINDS) {
      if (kinds[kind] !== true) continue;
      this.#wake(kind);
      this.#toNotify.add(kind);
    }
    if (this.#toNotify.size === 0 || this.#cancelNotify !== null || this.#closed) return;
    const wait_ms = Math.max(0, this.#notified_ms + NOTIFY_ms - this.#clock.monotonic_ms());
    this.#cancelNotify = this.#clock.timer(wait_ms, () => void this.#notify());
  }

  /** Wakes readers of messages at the next probe, whether anything was added or not. */
  lookAgain(): void {
    this.#pendingLook = true;
  }

  close(): void {
    this.#closed = true;
    this.#cancelNotify?.();
    this.#rest();
  }

  #listen(kind: Kind, wake: () => void): () => void {
    const listener = () => wake();
    this.#listeners[kind].add(listener);
    if (!this.#closed) this.#begin();
    return () => {
      this.#listeners[kind].delete(listener);
      if (KINDS.every((other) => this.#listeners[other].size === 0)) this.#rest();
    };
  }

  #begin(): void {
    if (this.#sql !== null) return;
    const sql = postgres(this.#driver);
    this.#sql = sql;
    for (const kind of KINDS) {
      const listening = sql.listen(
        CHANNELS[kind],
        () => this.#wake(kind),
        // Also after the connection was lost and made again: what was notified meanwhile is missed.
        () => this.#wake(kind),
      );
      // The driver goes on trying; the probe does the work until then.
      listening.catch((error: unknown) => this.#log.debug("postgresql.listen_failed", { error }));
    }
    this.#scheduleProbe();
  }

  #rest(): void {
    this.#cancelProbe?.();
    this.#cancelProbe = null;
    this.#sql?.end({ timeout: 0 }).catch(() => {});
    this.#sql = null;
    this.#seen.clear();
  }

  #wake(kind: Kind): void {
    for (const wake of [...this.#listeners[kind]]) wake();
  }

  #scheduleProbe(): void {
    this.#cancelProbe = this.#clock.timer(PROBE_ms, () => {
      void this.#probe().finally(() => {
        if (this.#sql !== null) this.#scheduleProbe();
      });
    });
  }

  async #probe(): Promise<void> {
    const columns = KINDS.filter((kind) => this.#listeners[kind].size > 0).map((kind) => `(${this.#endOf(kind)})::text AS ${kind}`);
    if (columns.length === 0) return;
    try {
      const { rows } = await this.#query(`SELECT ${columns.join(", ")}`);
      for (const kind of KINDS) {
        const end = rows[0]?.[kind];
        if (end === undefined || end === null) continue;
        const before = this.#seen.get(kind);
        this.#seen.set(kind, end);
        if (before !== end || (kind === "messages" && this.#pendingLook)) {
          if (kind === "messages") this.#pendingLook = false;
          this.#wake(kind);
        }
      }
    } catch (error) {
      // Away, or not set up yet: whoever reads says so; the next probe looks again.
      this.#log.debug("postgresql.probe_failed", { error });
    }
  }

  #endOf(kind: Kind): string {
    return kind === "outbox"
      ? `SELECT coalesce(max(protean_position), 0) FROM ${quoted(this.#schema)}.outbox`
      : `SELECT coalesce(sum(p), 0) FROM (SELECT global_position AS p FROM message_store.messages ORDER BY global_position DESC LIMIT ${PROBED_messages}) AS tail`;
  }

  async #notify(): Promise<void> {
    const channels = [...this.#toNotify].map((kind) => CHANNELS[kind]);
    this.#toNotify.clear();
    this.#notified_ms = this.#clock.monotonic_ms();
    this.#cancelNotify = null;
    try {
      await this.#query("SELECT pg_notify(channel, '') FROM unnest($1::text[]) AS channel", [`{${channels.join(",")}}`]);
    } catch (error) {
      // A wake-up is only a hint: others find the rows by their own probes.
      this.#log.debug("postgresql.notify_failed", { error });
    }
  }
}
