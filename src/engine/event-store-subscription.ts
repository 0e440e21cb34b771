import { DeserializationError, ExpectedVersionError } from "../errors.ts";
import { type DecodedMessage, decodeRow } from "../messages/envelope.ts";
import { categoryOf, isCommandCategory } from "../messages/names.ts";
import type { Clock } from "../ports/clock.ts";
import { ALL_STREAMS, type EventStore, type StoredMessage } from "../ports/event-store.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { Telemetry } from "../ports/telemetry.ts";
import type { Delivery, Outcome } from "./delivery.ts";
import type { LeaseKeeper } from "./lease-keeper.ts";
import { LeasedLoop, messageOf } from "./leased-loop.ts";
import { type FailureFacts, isBookkeeping, RecoveryLedger, type Unresolved } from "./recovery-ledger.ts";
import type { Activity, Service, ServiceStatus } from "./service.ts";
import type { EventStoreSettings } from "./settings.ts";

/**
 * Without a wake the store is looked at this often. The store itself notices what others append (`EventStore.onAppend`: one probe each 250 ms for all
 * subscriptions of a process, rulings 32), so this is only the net under that.
 */
const NET_ms = 5_000;
/** A quiet subscription writes its cursor this long after the last message (G21, W11). */
const FLUSH_ms = 500;
/** At most this many batches' worth of positions may wait for recovery before reading stops (rulings 31). */
const PARKED_BATCHES = 10;

/**
 * Hands the messages of one category (or of all) to one handler, straight from the event store, in order of global position.
 *
 * standby      another engine holds the lease
 * starting     reads the cursor and rebuilds what is unresolved; tried until the store answers
 * reading      asks for the next page after the cursor
 * handling     runs the page's messages one by one. A failure is recorded in the store before the cursor moves on; later events of the same source
 *              stream are recorded too, unrun, so that a stream's order holds (D11); commands of one stream don't wait for each other
 * recovering   runs what is unresolved again, each at most every `recoveryInterval_ms`, in order of position; after `maxRetries` an `Exhausted` record ends it
 * waiting      nothing new: sleeps until somebody appends, and writes the cursor once it has been quiet for half a second
 * held         too many unresolved positions: only recovers
 * stopping     ends after the message in hand and writes the cursor
 *
 * What a kill leaves: a message handled but not passed by the written cursor runs again (at most `positionUpdateInterval`, W11/G21); a failure
 * recorded but not passed runs again and is recorded twice under the same position, which counts once.
 */
export class EventStoreSubscription implements Service {
  readonly name: string;
  readonly #handler: string;
  readonly #category: string;
  readonly #delivery: Delivery;
  readonly #store: EventStore;
  readonly #settings: EventStoreSettings;
  readonly #loop: LeasedLoop;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #activity: Activity;
  readonly #workerId: string;
  readonly #ledger: RecoveryLedger;
  readonly #group: string;
  /** When an unresolved position may run again, by the monotonic clock; those not in it are due. */
  readonly #due = new Map<number, number>();
  readonly #drain = new AbortController();
  #cursor = -1;
  #unwritten = 0;
  #lastMessage_ms = 0;
  #handled = 0;
  #failed = 0;
  #retried = 0;
  #exhausted = 0;
  #ignored = 0;
  #inFlight = 0;

  constructor(options: {
    /** Consumer group, and subscriber name in the bookkeeping streams. */
    readonly group: string;
    readonly handler: string;
    readonly category: string;
    readonly delivery: Delivery;
    readonly store: EventStore;
    readonly settings: EventStoreSettings;
    readonly workerId: string;
    readonly keeper: LeaseKeeper;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Log;
    readonly telemetry: Telemetry;
    readonly activity: Activity;
  }) {
    this.name = `${options.group}-${options.category}`;
    this.#group = options.group;
    this.#handler = options.handler;
    this.#category = options.category;
    this.#delivery = options.delivery;
    this.#store = options.store;
    this.#settings = options.settings;
    this.#workerId = options.workerId;
    this.#clock = options.clock;
    this.#log = options.log.with({ subscriber: options.handler, category: options.category });
    this.#telemetry = options.telemetry;
    this.#activity = options.activity;
    this.#loop = new LeasedLoop({
      name: this.name,
      work: { begin: () => this.#begin(), turn: () => this.#turn(), end: () => this.#end() },
      keeper: options.keeper,
      leases: options.store.leases,
      leaseName: `subscription:${this.name}`,
      clock: options.clock,
      random: options.random,
      log: options.log,
      what: { subscriber: options.handler, store: options.store.address },
      activity: options.activity,
    });
    this.#ledger = new RecoveryLedger({
      store: options.store,
      subscriber: options.group,
      category: options.category,
      clock: options.clock,
      random: options.random,
      log: this.#log,
    });
  }

  start(): Promise<void> {
    this.#loop.start((wake) => this.#store.onAppend(wake));
    return Promise.resolve();
  }

  quiesce(): void {
    this.#loop.quiesce();
  }

  async stop(signal: AbortSignal): Promise<void> {
    const abort = () => this.#drain.abort();
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    await this.#loop.stop();
    signal.removeEventListener("abort", abort);
  }

  idleFor_ms(): number {
    return this.#loop.idleFor_ms();
  }

  status(): ServiceStatus {
    return {
      name: this.name,
      kind: "event_store",
      handler: this.#handler,
      stream: this.#category,
      group: this.#group,
      state: this.#loop.state,
      reason: this.#reason(),
      handled: this.#handled,
      failed: this.#failed,
      retried: this.#retried,
      deadLettered: this.#exhausted,
      ignored: this.#ignored,
      inFlight: this.#inFlight,
      parked: this.#ledger.unresolved.size,
      lastError: this.#loop.lastError,
      circuit: null,
      slow: null,
    };
  }

  /** Where it stands: the last position passed, ahead of what is written. */
  get cursor(): number {
    return this.#cursor;
  }

  #reason(): string | null {
    const { state, unreachable } = this.#loop;
    if (unreachable !== null) return unreachable;
    if (state === "standby") return "another engine owns this subscription";
    return state === "held" ? `${this.#ledger.unresolved.size} positions wait for recovery` : null;
  }

  async #begin(): Promise<void> {
    this.#cursor = await this.#ledger.load(this.#settings.enableRecovery);
    this.#unwritten = 0;
    this.#due.clear();
  }

  async #end(): Promise<void> {
    if (this.#unwritten === 0) return;
    try {
      await this.#ledger.write(this.#cursor);
    } catch (error) {
      this.#log.warning("subscription.cursor_not_written", { error: messageOf(error), cursor: this.#cursor });
    }
  }

  async #turn(): Promise<void> {
    const recovered = await this.#recover();
    const held = this.#ledger.unresolved.size >= PARKED_BATCHES * this.#settings.messagesPerTick;
    if (held) this.#loop.state = "held";
    const page = held ? [] : await this.#store.readCategory(this.#category, this.#cursor + 1, this.#settings.messagesPerTick);
    for (const row of page) {
      if (!this.#loop.isOwner) return;
      await this.#handle(row);
    }
    if (page.length > 0 || recovered) {
      this.#activity.productive(this.name);
      return;
    }
    await this.#rest();
  }

  async #rest(): Promise<void> {
    const due_ms = this.#nextDue_ms();
    this.#activity.empty(this.name, due_ms);
    const quiet_ms = this.#clock.monotonic_ms() - this.#lastMessage_ms;
    let limit_ms = Math.max(NET_ms, this.#settings.tickInterval_ms);
    // Passing our own records doesn't count: writing the cursor for them would be another record of ours, for ever (known-traps B7).
    if (this.#unwritten > 0) {
      if (quiet_ms >= FLUSH_ms) {
        await this.#writeCursor();
      } else limit_ms = Math.min(limit_ms, FLUSH_ms - quiet_ms);
    }
    if (due_ms !== null) limit_ms = Math.min(limit_ms, due_ms);
    await this.#loop.rest(limit_ms);
  }

  /** Runs one message of the page, or decides that nothing is to run, and moves the cursor past it. */
  async #handle(row: StoredMessage): Promise<void> {
    if (this.#category === ALL_STREAMS && isBookkeeping(row)) {
      this.#cursor = row.globalPosition;
      return;
    }
    const entry: Unresolved = { position: row.globalPosition, retryCount: 0, stream: row.stream, streamPosition: row.position };
    let message: DecodedMessage | null = null;
    let outcome: Outcome | null = null;
    try {
      message = decode(row);
      if (!this.#wanted(message)) {
        await this.#pass(row);
        return;
      }
    } catch (error) {
      outcome = { kind: "deadLetter", error };
    }
    if (message !== null && this.#waitsBehindFailure(message, row)) {
      await this.#ledger.failed({ ...entry, retryCount: -1 }, factsOf(message, row));
      await this.#pass(row);
      return;
    }
    outcome ??= await this.#deliver(message as DecodedMessage, row, 1);
    // Whoever took the lease meanwhile runs it too, and what came of it is his to record: a record of ours would open what he has closed.
    if (this.#loop.lease === null) return;
    switch (outcome.kind) {
      case "done":
      case "expired":
      case "discarded":
        this.#handled += 1;
        // It failed before, and that is or may be on record: without its end it would run once more after the next start (C16).
        if (this.#ledger.isOpen(entry.position)) await this.#ledger.resolved(entry, factsOf(message, row));
        break;
      case "ignored":
        this.#ignored += 1;
        break;
      case "retry":
        this.#noteFailure(outcome.error);
        // Recovery off: a failed message is dropped on purpose, as in the original.
        if (this.#settings.enableRecovery) {
          await this.#ledger.failed(entry, factsOf(message, row, outcome.error));
          this.#due.set(entry.position, this.#clock.monotonic_ms() + (outcome.after_ms ?? this.#wait_ms(0)));
        }
        break;
      case "deadLetter":
        this.#noteFailure(outcome.error);
        await this.#exhaust(entry, message, row, outcome.error);
        break;
    }
    await this.#pass(row);
  }

  async #pass(row: StoredMessage): Promise<void> {
    this.#cursor = row.globalPosition;
    this.#lastMessage_ms = this.#clock.monotonic_ms();
    this.#unwritten += 1;
    if (this.#unwritten >= this.#settings.positionUpdateInterval) await this.#writeCursor();
  }

  async #writeCursor(): Promise<void> {
    try {
      await this.#ledger.write(this.#cursor);
      this.#unwritten = 0;
    } catch (error) {
      // Somebody else wrote: a Python engine beside us, or an owner we don't know of. What they say counts.
      if (error instanceof ExpectedVersionError) this.#loop.beginAgain();
      throw error;
    }
  }

  /** Handled inline already, or of another origin: nothing to run, but the cursor passes it (W6). */
  #wanted(message: DecodedMessage): boolean {
    const { asynchronous, kind, origin_stream } = message.metadata.domain;
    // Without a kind it is nobody's message (metadata `{}`): Python skips it as well.
    if (!asynchronous || kind === null) return false;
    const wanted = this.#settings.originCategory;
    return wanted === null || (origin_stream !== null && categoryOf(origin_stream) === wanted);
  }

  #waitsBehindFailure(message: DecodedMessage, row: StoredMessage): boolean {
    if (message.metadata.domain.kind === "COMMAND" || this.#ledger.unresolved.size === 0) return false;
    if (this.#delivery.accepts(message.type) === "ignored") return false;
    for (const entry of this.#ledger.unresolved.values())
      if (entry.stream === row.stream && entry.position < row.globalPosition) return true;
    return false;
  }

  async #deliver(message: DecodedMessage, row: StoredMessage, attempt: number): Promise<Outcome> {
    const { lease } = this.#loop;
    this.#inFlight = 1;
    try {
      return await this.#delivery.deliver(message, {
        attempt,
        // A Python command's id is its aggregate's: only the position tells two of them apart (rulings 11).
        deliveryKey: message.metadata.domain.kind === "COMMAND" || message.id === null ? `${row.stream}@${row.position}` : message.id,
        workerId: this.#workerId,
        fences: lease === null ? [] : [lease],
        drain: this.#drain.signal,
        stream: this.#category,
      });
    } finally {
      this.#inFlight = 0;
    }
  }

  #noteFailure(error: unknown): void {
    this.#failed += 1;
    this.#loop.noteError(error);
  }

  /** Time before the next retry: soon for the first, then the interval of the recovery pass. */
  #wait_ms(retryCount: number): number {
    return retryCount <= 0
      ? Math.min(this.#settings.retryDelay_ms, this.#settings.recoveryInterval_ms)
      : this.#settings.recoveryInterval_ms;
  }

  /** What may run when its time comes: oldest first, and of one source stream only the first (commands don't wait for each other). */
  #heads(): readonly Unresolved[] {
    const seen = new Set<string>();
    return [...this.#ledger.unresolved.values()]
      .sort((left, right) => left.position - right.position)
      .filter((entry) => {
        if (isCommandCategory(categoryOf(entry.stream))) return true;
        if (seen.has(entry.stream)) return false;
        seen.add(entry.stream);
        return true;
      });
  }

  #nextDue_ms(): number | null {
    let next: number | null = null;
    const now_ms = this.#clock.monotonic_ms();
    for (const { position } of this.#heads()) {
      const due_ms = Math.max(0, (this.#due.get(position) ?? now_ms) - now_ms);
      next = next === null ? due_ms : Math.min(next, due_ms);
    }
    return next;
  }

  /** Runs what is due. Answers whether anything ran; what it freed behind it comes with the next turn. */
  async #recover(): Promise<boolean> {
    if (this.#ledger.unresolved.size === 0) return false;
    const now_ms = this.#clock.monotonic_ms();
    let ran = false;
    for (const entry of this.#heads()) {
      if (!this.#loop.isOwner) break;
      if ((this.#due.get(entry.position) ?? 0) > now_ms) continue;
      ran = true;
      await this.#retry(entry);
    }
    return ran;
  }

  async #retry(entry: Unresolved): Promise<void> {
    const [row] = await this.#store.readStream(entry.stream, entry.streamPosition, 1);
    if (row === undefined || row.position !== entry.streamPosition) {
      this.#log.warning("recovery.message_missing", { position: entry.position, stream: entry.stream });
      await this.#ledger.exhausted(entry, {
        messageType: "unknown",
        messageId: "unknown",
        error: { class: "NotFound", message: "the message is not in the store any more" },
      });
      this.#exhausted += 1;
      return;
    }
    let message: DecodedMessage | null = null;
    let outcome: Outcome;
    try {
      message = decode(row);
      this.#retried += 1;
      outcome = await this.#deliver(message, row, entry.retryCount + 2);
    } catch (error) {
      outcome = { kind: "deadLetter", error };
    }
    if (this.#loop.lease === null) return;
    if (outcome.kind !== "retry" && outcome.kind !== "deadLetter") {
      await this.#ledger.resolved(entry, factsOf(message, row));
      this.#due.delete(entry.position);
      this.#handled += 1;
      return;
    }
    this.#noteFailure(outcome.error);
    const again: Unresolved = { ...entry, retryCount: entry.retryCount + 1 };
    if (outcome.kind === "deadLetter" || again.retryCount >= this.#settings.maxRetries) {
      await this.#exhaust(again, message, row, outcome.error);
      return;
    }
    await this.#ledger.failed(again, factsOf(message, row, outcome.error));
    this.#due.set(entry.position, this.#clock.monotonic_ms() + (outcome.after_ms ?? this.#wait_ms(again.retryCount)));
  }

  async #exhaust(entry: Unresolved, message: DecodedMessage | null, row: StoredMessage, error: unknown): Promise<void> {
    await this.#ledger.exhausted(entry, factsOf(message, row, error));
    this.#due.delete(entry.position);
    this.#exhausted += 1;
    this.#log.error("subscription.exhausted", {
      position: entry.position,
      message_type: row.type,
      retries: Math.max(0, entry.retryCount),
      error: messageOf(error),
    });
    this.#telemetry.trace({
      event: "handler.failed",
      stream: this.#category,
      message_id: message?.id ?? `pos-${entry.position}`,
      message_type: row.type,
      status: "exhausted",
      handler: this.#handler,
      error: `${error instanceof Error ? error.name : "Error"}: ${messageOf(error)}`,
      metadata: { retry_count: Math.max(0, entry.retryCount) },
      worker_id: this.#workerId,
      correlation_id: message?.metadata.domain.correlation_id ?? null,
      causation_id: message?.metadata.domain.causation_id ?? null,
    });
  }
}

function decode(row: StoredMessage): DecodedMessage {
  if (row.metadata === null) throw new DeserializationError("the row has no metadata");
  return decodeRow({
    type: row.type,
    dataText: row.data,
    metadataText: row.metadata,
    stream: row.stream,
    position: row.position,
    globalPosition: row.globalPosition,
    time: row.time,
    id: row.id,
  });
}

function factsOf(message: DecodedMessage | null, row: StoredMessage, error?: unknown): FailureFacts {
  const facts = { messageType: message?.type ?? row.type, messageId: message?.id ?? row.id };
  if (error === undefined) return facts;
  return { ...facts, error: { class: error instanceof Error ? error.name : "Error", message: messageOf(error) } };
}
