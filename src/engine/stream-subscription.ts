import { isPromise, type Reaction } from "../domain/reaction.ts";
import { ConnectionError, ProteanError } from "../errors.ts";
import { isoOfEpoch } from "../messages/datetime.ts";
import { categoryOf, replayStream } from "../messages/names.ts";
import type { Broker, StreamEntry } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Lease } from "../ports/leases.ts";
import type { Log } from "../ports/log.ts";
import type { Labels, Telemetry } from "../ports/telemetry.ts";
import type { Circuit } from "./circuit-breaker.ts";
import { CircuitBreaker } from "./circuit-breaker.ts";
import type { Outcome, Run } from "./delivery.ts";
import { Delivery, nameAndMessage } from "./delivery.ts";
import { HeldEntries } from "./held-entries.ts";
import type { InstanceWatch } from "./instance-watch.ts";
import type { LeaseClaim, LeaseKeeper } from "./lease-keeper.ts";
import type { ReconnectPause } from "./reconnect-pause.ts";
import { RetrySchedule } from "./retry-schedule.ts";
import type { Activity, Service, ServiceState, ServiceStatus } from "./service.ts";
import type { StreamSettings } from "./settings.ts";
import { Settlement } from "./settlement.ts";
import { SourceQueue } from "./source-queue.ts";
import type { StoreOutage } from "./store-outage.ts";
import { HeldEntry, stageOf } from "./stream-entry.ts";
import type { ReadSource, StreamReader } from "./stream-reader.ts";
import { Suspects } from "./suspects.ts";
import type { TakenEntry } from "./take-over.ts";
import { TakeOvers } from "./take-overs.ts";

/** Parked entries may be this many batches, then reading stops (rulings 31). */
const PARKED_BATCHES = 10;
/** Longest pause between two refreshes of what we hold. */
const REFRESH_ms = 5_000;
/** Without a pause for other work the loop goes on for this long at most (G40). */
const TURN_ms = 2;
/** The next batch is read in advance only when this one is expected to be done within this time; else others may be free to take it. */
const PREFETCH_ms = 100;
const WRITE_RETRY_ms = 500;
/** Before another engine takes over, what runs has this long to end; a longer run keeps its subscription here. */
const LEAVE_ms = 5_000;
/**
 * What was in hand when a process died runs alone, for this long at most: with one attempt left; after several deaths; after one, which nearly always was
 * somebody else's doing, and of which a hundred may have to be taken over quickly.
 */
const LAST_CHANCE_ms = 5_000;
const SUSPECT_ms = 500;
const HARDLY_SUSPECT_ms = 50;
/** After running work was aborted it has this long to end. */
const ABORT_ms = 250;
/** Pause after an error that is no lost connection. */
const OWN_TROUBLE_ms = 2_000;

export interface StreamSubscriptionOptions {
  readonly name: string;
  /** Class name for people. */
  readonly handler: string;
  readonly kind: "stream" | "broker";
  readonly reactions: readonly Reaction[];
  readonly broker: Broker;
  readonly reader: StreamReader;
  readonly instances: InstanceWatch;
  readonly keeper: LeaseKeeper;
  readonly pause: ReconnectPause;
  /** Shared by all subscriptions of the process. */
  readonly suspects?: Suspects;
  /** What tells handlers whose store went away from handlers that fail. */
  readonly outage?: StoreOutage;
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  readonly settings: StreamSettings;
  /** The broker's leases lie in the database the handlers commit to, so that commits can depend on them. */
  readonly fenced: boolean;
  readonly clock: Clock;
  readonly log: Log;
  readonly telemetry: Telemetry;
  readonly activity: Activity;
}

/**
 * Hands the entries of one stream to one handler (or to all command handlers of a category), as one consumer of their group.
 *
 * starting     makes the group, takes over what dead consumers left, then reads; tries again for as long as the broker is away
 * standby      `shared = false` and another engine holds the lease: reads nothing; takes over when the lease is ours
 * leaving      another engine is to take over: as draining, then standby; when what runs doesn't end in time, running again
 * running      the reader brings batches. An entry leaves by
 *                ignored      no method for its type: acknowledged before it is decoded
 *                undecodable  one dead letter at once, without a run
 *                done         acknowledged in the turn in which the handler ended
 *                failed       waits for its retry, its source stream with it; counted at the broker right before it runs again
 *                given up     attempts used up, or told so: dead letter and acknowledgement in one step; while the dead-letter
 *                             stream can't take it, it stays pending and is tried again
 *                lost         somebody else owns it now (we were stalled): dropped, nothing is written
 * held         too much is parked behind failing messages: reads nothing until some is settled
 * open         the circuit breaker is open: begins and reads nothing; then one probe
 * unreachable  the broker is away; what is in hand goes on, writes are repeated
 * draining     reads nothing, what was not begun is handed back with its exact attempts, what runs ends
 * stopped      the end; also when the group vanished and `on_group_lost = "stop"`
 *
 * Order: entries of one source stream (`headers.stream`) run one after another in stream order, also over failures and with `concurrency` above
 * 1; between different source streams there is none. Across engines this holds with `shared = false` only.
 */
export class StreamSubscription implements Service {
  readonly name: string;
  readonly #options: StreamSubscriptionOptions;
  readonly #settings: StreamSettings;
  readonly #broker: Broker;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #telemetry: Telemetry;
  readonly #delivery: Delivery;
  readonly #breaker: CircuitBreaker;
  readonly #suspects: Suspects;
  readonly #queue = new SourceQueue<HeldEntry>();
  readonly #delayed: RetrySchedule<HeldEntry>;
  readonly #held: HeldEntries;
  readonly #settlement: Settlement;
  readonly #takeOvers: TakeOvers;
  readonly #batch: number;
  readonly #maxRuns: number;
  readonly #replayStream: string;
  readonly #mainSource: ReadSource;
  readonly #replaySource: ReadSource;
  readonly #drain = new AbortController();
  readonly #labels: Labels;

  #phase: "new" | "starting" | "standby" | "running" | "leaving" | "draining" | "stopped" | "groupLost" = "new";
  #started: Promise<void> | null = null;
  #claim: LeaseClaim | null = null;
  #cancelTick: (() => void) | null = null;
  #ticking = false;
  #stopControl: () => void = () => {};
  #replayOpen = false;
  #workers = 0;
  #running = 0;
  #turnedAt_ms = 0;
  #cameRound_ms: number;
  #average_ms = 0;
  #ignoredEntries: HeldEntry[] = [];
  #quiet: (() => void)[] = [];
  #roomWaiters: ((room: boolean) => void)[] = [];
  #settledAtTrim = 0;
  #trimming = false;

  #handled = 0;
  #failed = 0;
  #retried = 0;
  #ignored = 0;
  #interrupted = 0;
  #lastError: string | null = null;
  #readError: string | null = null;

  constructor(options: StreamSubscriptionOptions) {
    this.name = options.name;
    this.#options = options;
    this.#settings = options.settings;
    this.#broker = options.broker;
    this.#clock = options.clock;
    this.#log = options.log.with({ subscription: options.name });
    this.#telemetry = options.telemetry;
    this.#suspects = options.suspects ?? new Suspects(options.clock);
    this.#batch = Math.max(1, options.settings.messagesPerTick);
    this.#maxRuns = Math.max(1, options.settings.maxRetries);
    this.#replayStream = replayStream(options.stream, options.group);
    this.#labels = { handler: options.handler, stream: options.stream };
    this.#cameRound_ms = options.clock.monotonic_ms();
    const { broker, clock, telemetry, handler, stream, group, consumer, settings } = options;
    const parts = { broker, clock, log: this.#log, telemetry, labels: this.#labels, handler, stream, group, consumer };
    this.#held = new HeldEntries({ ...parts, claimIdle_ms: settings.claimIdle_ms });
    this.#settlement = new Settlement({
      ...parts,
      held: this.#held,
      enableDeadLetters: settings.enableDeadLetters,
      maxRuns: this.#maxRuns,
      leavesTraces: options.kind === "stream",
      subscription: {
        mayWrite: () => !this.#claimedAway(),
        release: (entry) => this.#queue.release(entry),
        releaseAndGoOn: (entry) => {
          this.#queue.release(entry);
          options.activity.productive(this.name);
          this.#pump();
        },
        later: (entry) => this.#wait(entry, settings.retryDelay_ms),
        written: () => this.#settledSomething(),
        trouble: (error) => this.#trouble(error),
      },
    });
    this.#takeOvers = new TakeOvers({
      ...parts,
      instances: options.instances,
      pause: options.pause,
      settings,
      heir: {
        isRunning: () => this.#phase === "running",
        holds: (from, id) => this.#held.has(from, id),
        room: () => this.#roomForBatch(),
        take: (from, entries) => this.#take(from, entries),
        replays: () => this.#openReplay(),
        pauseAfter: (error) => this.#pauseAfter(error),
        trouble: (error) => this.#trouble(error),
        looked: () => this.#pump(),
      },
    });
    this.#delivery = new Delivery({
      reactions: options.reactions,
      name: options.handler,
      clock: options.clock,
      log: this.#log,
      telemetry: options.telemetry,
      timeout_ms: options.settings.timeout_ms,
      deadLetterAtOnce: options.settings.deadLetterAtOnce,
      outage: options.outage,
    });
    this.#breaker = new CircuitBreaker({
      clock: options.clock,
      // The original has none for subscribers (subscriptions.md §4).
      threshold: options.kind === "stream" ? options.settings.breakerThreshold : 0,
      reset_ms: options.settings.breakerReset_ms,
      changed: (circuit) => this.#circuitChanged(circuit),
    });
    this.#delayed = new RetrySchedule(options.clock, (entries) => {
      for (const entry of entries) {
        if (entry.letter !== null) void this.#settlement.sendDeadLetter(entry, null);
        else this.#queue.again(entry);
      }
      this.#pump();
    });
    this.#mainSource = this.#sourceOf(options.stream);
    this.#replaySource = this.#sourceOf(this.#replayStream);
  }

  // ------------------------------------------------------------------------------------------------------------ lifecycle

  start(): Promise<void> {
    this.#started ??= this.#begin();
    return this.#started;
  }

  async #begin(): Promise<void> {
    if (this.#phase !== "new") return;
    this.#phase = "starting";
    const { broker, stream, group, pause, reader } = this.#options;
    for (;;) {
      try {
        if ((await broker.createGroup(stream, group, this.#settings.startFrom === "now" ? "end" : "start")) === "created") {
          const entries = await broker.length(stream);
          // rulings 52: a handler that was renamed begins again from the stream's start; that must not go unnoticed.
          if (entries > 0) this.#log.info("subscription.new_group", { stream, group, entries, from: this.#settings.startFrom });
        }
        pause.succeeded();
        this.#readError = null;
        break;
      } catch (error) {
        await this.#pauseAfter(error);
      }
      if (this.#isEnding()) return;
    }
    if (this.#isEnding()) return;
    this.#stopControl = reader.onControl(() => this.#lookAround());
    this.#scheduleTick();
    if (this.#settings.shared) {
      this.#phase = "running";
      await this.#enter();
      return;
    }
    this.#phase = "standby";
    const claim = this.#options.keeper.want(broker.leases, `${group}:${stream}`);
    this.#claim = claim;
    claim.onChange((held) => {
      if (this.#isEnding() || this.#phase === "groupLost") return;
      if (!held) this.#lose();
      else if (this.#phase === "standby") {
        this.#phase = "running";
        void this.#enter();
      }
    });
    claim.onHandOver(() => this.#leave());
  }

  /** The broker is away: one pause and one log line for all of its subscriptions. Anything else is this stream's own trouble. */
  async #pauseAfter(error: unknown): Promise<void> {
    this.#options.activity.unknown(this.name);
    if (error instanceof ConnectionError) {
      await this.#clock.sleep(this.#options.pause.failed_ms(error), this.#drain.signal);
      return;
    }
    this.#noteReadError(error);
    await this.#clock.sleep(OWN_TROUBLE_ms, this.#drain.signal);
  }

  /** What status shows; whoever met it tries again. */
  #trouble(error: unknown): void {
    this.#lastError = nameAndMessage(error);
  }

  #noteReadError(error: unknown): void {
    const text = nameAndMessage(error);
    if (this.#readError !== text) this.#log.error("subscription.read_failed", { stream: this.#options.stream, error: text });
    this.#readError = text;
    this.#lastError = text;
  }

  /** Dead consumers' entries first, then new ones (rulings 8). */
  async #enter(): Promise<void> {
    this.#held.trust();
    await this.#takeOvers.look(true);
    if (this.#phase !== "running") return;
    this.#options.reader.add(this.#mainSource);
    this.#log.debug("subscription.started", { stream: this.#options.stream, group: this.#options.group, consumer: this.#options.consumer });
  }

  /** What a lost answer brought is ours, and older than whatever the next read brings (G32). */
  async #readAgain(): Promise<void> {
    if (this.#phase !== "running") return;
    this.#options.reader.remove(this.#mainSource);
    await this.#takeOvers.look(true);
    if (this.#phase === "running") this.#options.reader.add(this.#mainSource);
  }

  /** The lease is lost: the next owner takes all that we hold, so we may write nothing about it. */
  #lose(): void {
    this.#phase = "standby";
    this.#options.reader.remove(this.#mainSource);
    this.#closeReplay();
    for (const entry of this.#held) entry.lost = true;
    for (const entry of this.#queue.drain()) this.#held.forget(entry);
    for (const entry of this.#delayed.clear()) {
      this.#held.forget(entry);
      // Should the lease come back, its source stream must not wait for it.
      this.#queue.release(entry);
    }
    this.#wakeRoomWaiters();
  }

  /** Ends in order for another engine to take over; false when that can't be now, and everything goes on here. */
  async #leave(): Promise<boolean> {
    if (this.#phase !== "running") return false;
    this.#phase = "leaving";
    this.#takeNoMore();
    // What a read under way brings would be behind what the next owner reads.
    const known = await this.#options.reader.settled();
    const late = new AbortController();
    const cancel = this.#clock.timer(LEAVE_ms, () => late.abort());
    await this.#whenQuiet(late.signal);
    cancel();
    if (this.#phase !== "leaving") return false;
    if (known && this.#isQuiet() && this.#held.size === 0) {
      this.#phase = "standby";
      return true;
    }
    this.#phase = "running";
    void this.#enter();
    return false;
  }

  /** What was not begun goes back to the group. */
  #takeNoMore(): void {
    this.#options.reader.remove(this.#mainSource);
    this.#closeReplay();
    this.#wakeRoomWaiters();
    const waiting = this.#delayed.clear();
    const unbegun = [...this.#queue.drain(), ...waiting];
    for (const entry of waiting) this.#queue.release(entry);
    if (unbegun.length > 0) this.#settlement.handBack(unbegun);
  }

  quiesce(): void {
    if (this.#isEnding()) return;
    this.#phase = "draining";
    this.#cancelTick?.();
    this.#cancelTick = null;
    this.#stopControl();
    this.#breaker.stop();
    this.#takeNoMore();
    this.#keepRefreshing();
  }

  async stop(signal: AbortSignal): Promise<void> {
    if (this.#phase === "stopped") return;
    this.quiesce();
    if (!this.#isQuiet()) await this.#whenQuiet(signal);
    this.#drain.abort();
    if (!this.#isQuiet()) {
      const late = new AbortController();
      const cancel = this.#clock.timer(ABORT_ms, () => late.abort());
      await this.#whenQuiet(late.signal);
      cancel();
    }
    const left = [...this.#held].filter((entry) => !entry.acknowledging && !entry.lost);
    if (left.length > 0) {
      // Their runs were counted: whoever takes them over begins with the next attempt. The runs still going on decide about nothing any more.
      this.#interrupted += this.#running;
      if (this.#running > 0) this.#log.warning("subscription.interrupted", { running: this.#running });
      this.#settlement.handBack(left);
      for (const entry of left) entry.lost = true;
      const late = new AbortController();
      const cancel = this.#clock.timer(ABORT_ms, () => late.abort());
      await this.#whenWritten(late.signal);
      cancel();
    }
    this.#phase = "stopped";
    this.#settlement.close();
    this.#cancelTick?.();
    this.#cancelTick = null;
    await this.#claim?.release().catch(() => {}); // the broker is away: the lease runs out by itself
    if (this.#started !== null) {
      const { broker, stream, group, consumer } = this.#options;
      // What still is pending for us keeps the consumer in being; whoever takes it over removes us.
      if (this.#options.reader.unreachable === null) await broker.removeConsumer(stream, group, consumer).catch(() => false);
    }
    this.#log.debug("subscription.shutdown", { handled: this.#handled });
  }

  idleFor_ms(): number {
    if (this.#phase === "new" || this.#phase === "stopped") return 0;
    return Math.max(0, this.#clock.monotonic_ms() - this.#cameRound_ms - REFRESH_ms);
  }

  /** Runs that a stop did not wait for. */
  get interrupted(): number {
    return this.#interrupted;
  }

  status(): ServiceStatus {
    const [state, reason] = this.#state();
    return {
      name: this.name,
      kind: this.#options.kind,
      handler: this.#options.handler,
      stream: this.#options.stream,
      group: this.#options.group,
      state,
      reason,
      handled: this.#handled,
      failed: this.#failed,
      retried: this.#retried,
      deadLettered: this.#settlement.deadLettered,
      ignored: this.#ignored,
      inFlight: this.#running,
      parked: this.#parked(),
      lastError: this.#lastError,
      circuit: this.#options.kind === "stream" ? this.#breaker.circuit : null,
      slow: this.#delivery.slow(),
    };
  }

  #state(): readonly [ServiceState, string | null] {
    const unreachable = this.#options.pause.reason ?? this.#options.reader.unreachable;
    switch (this.#phase) {
      case "new":
      case "starting": {
        const reason = unreachable ?? this.#readError;
        return reason === null ? ["starting", null] : ["unreachable", reason];
      }
      case "leaving":
      case "draining":
        return ["draining", null];
      case "stopped":
        return ["stopped", null];
      case "groupLost":
        return ["stopped", "the consumer group vanished and on_group_lost is stop"];
      case "standby":
        return unreachable === null ? ["standby", "another engine reads this subscription"] : ["unreachable", unreachable];
      case "running":
        if (unreachable !== null) return ["unreachable", unreachable];
        if (this.#readError !== null) return ["unreachable", this.#readError];
        if (this.#breaker.circuit !== "closed") return ["open", this.#breaker.reason];
        if (this.#isHeld()) return ["held", `${this.#parked()} entries wait for retries: ${this.#lastError ?? "failing messages"}`];
        return ["running", null];
    }
  }

  #isEnding(): boolean {
    return this.#phase === "draining" || this.#phase === "stopped";
  }

  #isQuiet(): boolean {
    return this.#running === 0 && this.#settlement.writes === 0;
  }

  #whenQuiet(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#isQuiet(), signal);
  }

  #whenWritten(signal: AbortSignal): Promise<void> {
    return this.#until(() => this.#settlement.writes === 0, signal);
  }

  async #until(condition: () => boolean, signal: AbortSignal): Promise<void> {
    while (!condition() && !signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#quiet.push(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }

  #settledSomething(): void {
    if (this.#quiet.length === 0) return;
    const waiting = this.#quiet;
    this.#quiet = [];
    for (const resolve of waiting) resolve();
  }

  // ------------------------------------------------------------------------------------------------------------ reading

  #sourceOf(stream: string): ReadSource {
    const isMain = stream === this.#options.stream;
    return {
      stream,
      group: this.#options.group,
      consumer: this.#options.consumer,
      room: () => this.#room(),
      entries: (entries) => this.#receive(stream, entries),
      empty: () => {
        this.#cameRound_ms = this.#clock.monotonic_ms();
        this.#readError = null;
        if (!isMain) this.#closeReplay();
        else this.#reportEmpty();
      },
      groupLost: () => {
        if (isMain) void this.#groupLost();
        else this.#closeReplay();
      },
      interrupted: () => {
        if (isMain) void this.#readAgain();
      },
      readFailed: (error) => {
        this.#noteReadError(error);
        this.#options.activity.unknown(this.name);
      },
    };
  }

  #room(): number {
    if (this.#phase !== "running" || this.#claimedAway()) return 0;
    if (this.#breaker.circuit !== "closed") {
      return this.#breaker.allowance() > 0 && this.#queue.size + this.#delayed.size + this.#running === 0 ? 1 : 0;
    }
    if (this.#isHeld()) return 0;
    const { unstarted } = this.#queue;
    if (unstarted === 0) return this.#batch;
    // One batch in advance, asked for while this one is handled.
    return unstarted > this.#batch || unstarted * this.#average_ms > PREFETCH_ms * this.#concurrency ? 0 : this.#batch;
  }

  get #concurrency(): number {
    return Math.max(1, this.#settings.concurrency);
  }

  #parked(): number {
    return this.#queue.parked + this.#delayed.size;
  }

  #isHeld(): boolean {
    return this.#parked() >= PARKED_BATCHES * this.#batch;
  }

  /** Our lease isn't safely ours at this moment, whatever was said about it last. */
  #claimedAway(): boolean {
    return this.#claim !== null && this.#claim.lease === null;
  }

  #receive(stream: string, entries: readonly StreamEntry[]): void {
    const now_ms = this.#clock.monotonic_ms();
    this.#cameRound_ms = now_ms;
    this.#readError = null;
    const fresh: HeldEntry[] = [];
    for (const entry of entries) {
      if (this.#held.has(stream, entry.id)) continue;
      fresh.push(this.#hold(stream, entry, { used: 0, counted: false, now_ms }));
    }
    if (this.#phase !== "running") {
      // The read was under way when we stopped reading. With a lost lease the next owner takes them by himself.
      this.#decline(fresh);
      return;
    }
    this.#queue.add(fresh);
    this.#pump();
  }

  #decline(entries: readonly HeldEntry[]): void {
    if (this.#isEnding() || this.#phase === "leaving") this.#settlement.handBack(entries);
    else for (const entry of entries) this.#held.forget(entry);
  }

  #hold(
    stream: string,
    entry: StreamEntry,
    state: { readonly used: number; readonly counted: boolean; readonly now_ms: number },
  ): HeldEntry {
    const held = new HeldEntry({
      entry,
      stream,
      isPayload: this.#options.kind === "broker",
      used: state.used,
      counted: state.counted,
      ownedAt_ms: state.now_ms,
    });
    this.#held.add(held);
    return held;
  }

  #reportEmpty(): void {
    if (this.#queue.size === 0 && this.#isQuiet() && !this.#takeOvers.isLooking)
      this.#options.activity.empty(this.name, this.#delayed.nextIn_ms());
  }

  async #groupLost(): Promise<void> {
    const { stream, group, broker, reader } = this.#options;
    const policy = this.#settings.onGroupLost;
    // What we hold is perhaps all that is left of it.
    for (const entry of this.#held) entry.orphan = true;
    this.#log.error("subscription.group_lost", { stream, group, policy });
    this.#telemetry.count("protean_subscription_group_lost_total", this.#labels);
    if (policy === "stop") {
      reader.remove(this.#mainSource);
      this.#phase = "groupLost";
      this.#wakeRoomWaiters();
      await this.#claim?.release().catch(() => {}); // runs out by itself
      return;
    }
    reader.remove(this.#mainSource);
    while (this.#phase === "running") {
      try {
        await broker.createGroup(stream, group, policy === "tail" ? "end" : "start");
        this.#options.pause.succeeded();
        if (this.#phase === "running") reader.add(this.#mainSource);
        return;
      } catch (error) {
        await this.#pauseAfter(error);
      }
    }
  }

  // ------------------------------------------------------------------------------------------------------------ running

  /** Begins as many runs as may begin. */
  #pump(): void {
    while (this.#workers < this.#concurrency) {
      const entry = this.#next();
      if (entry === null) break;
      this.#workers += 1;
      void this.#work(entry);
    }
    if (this.#queue.unstarted <= this.#batch) {
      this.#options.reader.poke(this.#mainSource);
      if (this.#replayOpen) this.#options.reader.poke(this.#replaySource);
      this.#wakeRoomWaiters();
    }
  }

  /** One of `concurrency` places: runs entry after entry until there is none. */
  async #work(first: HeldEntry): Promise<void> {
    // The reader, who may have called us with a batch, asks for the next one first: the broker works on that while we work on this.
    await Promise.resolve();
    for (let entry: HeldEntry | null = first; entry !== null; entry = this.#next()) {
      // Handlers that wait for nothing run one after another without a promise between them.
      const running = this.#process(entry);
      if (running !== null) await running;
      const now_ms = this.#clock.monotonic_ms();
      if (now_ms - this.#turnedAt_ms > TURN_ms) {
        await this.#clock.turn();
        this.#turnedAt_ms = this.#clock.monotonic_ms();
      }
      if (this.#queue.unstarted <= this.#batch) this.#options.reader.poke(this.#mainSource);
    }
    this.#workers -= 1;
    this.#options.activity.productive(this.name);
    this.#trimByLength();
    this.#pump();
  }

  /** The next entry whose handler is to run. What needs no run is dealt with on the way. */
  #next(): HeldEntry | null {
    let found: HeldEntry | null = null;
    while (this.#phase === "running" && this.#breaker.allowance() > 0 && !this.#claimedAway()) {
      const entry = this.#queue.take(this.#isIgnored);
      if (entry === null) break;
      if (entry.lost) {
        this.#queue.release(entry);
        continue;
      }
      const { content } = entry;
      if (content.kind === "undecodable") {
        this.#failed += 1;
        this.#noteFailure(entry, content.error);
        this.#settlement.giveUp(entry, content.error, null);
        continue;
      }
      if (content.kind === "message" && !this.#isOfOrigin(content.message.metadata.domain.origin_stream)) {
        this.#ignored += 1;
        this.#settlement.acknowledge(entry);
        this.#queue.release(entry);
        continue;
      }
      if (this.#deaths(entry) >= this.#maxDeaths) {
        // Taken over, and every run of it ended with its process.
        this.#settlement.giveUp(entry, new ProteanError("PROCESS_DIED", `the process handling it died ${entry.used} times`), null);
        continue;
      }
      const now_ms = this.#clock.monotonic_ms();
      if (!this.#held.isSurelyOurs(entry, now_ms)) {
        this.#queue.putBack(entry);
        void this.#refresh();
        break;
      }
      this.#breaker.began();
      found = entry;
      break;
    }
    this.#acknowledgeIgnored();
    return found;
  }

  readonly #isIgnored = (entry: HeldEntry): boolean => {
    if (this.#options.kind === "broker" || entry.lost) return false;
    const type = entry.peekType();
    if (type === null || this.#delivery.accepts(type) !== "ignored") return false;
    this.#ignored += 1;
    this.#telemetry.count("protean_subscription_messages_ignored_total", this.#labels);
    this.#ignoredEntries.push(entry);
    return true;
  };

  #acknowledgeIgnored(): void {
    if (this.#ignoredEntries.length === 0) return;
    const entries = this.#ignoredEntries;
    this.#ignoredEntries = [];
    this.#settlement.acknowledgeNow(entries);
  }

  #isOfOrigin(originStream: string | null): boolean {
    const wanted = this.#settings.originCategory;
    return wanted === null || (originStream !== null && categoryOf(originStream) === wanted);
  }

  /** Runs that ended with their process, as far as it can be known; what failed before it was taken over counts too. */
  #deaths(entry: HeldEntry): number {
    return entry.counted && entry.failures.length === 0 ? entry.used : 0;
  }

  /** With one attempt allowed the count of 1 may come from being read only (rulings 6). */
  get #maxDeaths(): number {
    return Math.max(2, this.#maxRuns);
  }

  /** Runs it and settles what came of it; null when that needed no waiting. */
  #process(entry: HeldEntry): Promise<void> | null {
    if (!entry.counted) {
      this.#running += 1;
      return this.#run(entry);
    }
    const deaths = this.#deaths(entry);
    return deaths === 0 ? this.#runCounted(entry) : this.#runAlone(entry, deaths);
  }

  /** It was in hand at so many deaths of a process: nothing else of that kind is counted and begun beside it. */
  async #runAlone(entry: HeldEntry, deaths: number): Promise<void> {
    const leave = await this.#suspects.enter(deaths >= this.#maxDeaths - 1 ? LAST_CHANCE_ms : deaths > 1 ? SUSPECT_ms : HARDLY_SUSPECT_ms);
    try {
      if (this.#phase === "running" && !entry.lost) {
        await this.#runCounted(entry);
        // Until the broker has it the next one's death would be this one's too.
        await this.#until(() => !entry.acknowledging || !this.#held.includes(entry), this.#drain.signal);
      } else {
        this.#breaker.neutral();
        this.#wait(entry, 0);
      }
    } finally {
      leave();
    }
  }

  async #runCounted(entry: HeldEntry): Promise<void> {
    this.#running += 1;
    const counted = [{ id: entry.id, attempt: entry.used + 1 }];
    try {
      await this.#broker.setAttempts(entry.stream, this.#options.group, this.#options.consumer, counted);
    } catch (error) {
      // Not counted, so not run: else a message that kills its process would never reach its limit.
      this.#running -= 1;
      this.#breaker.neutral();
      this.#trouble(error);
      this.#wait(entry, WRITE_RETRY_ms);
      this.#settledSomething();
      return;
    }
    await this.#run(entry);
  }

  #run(entry: HeldEntry): Promise<void> | null {
    entry.used += 1;
    const started_ms = this.#clock.monotonic_ms();
    const lease = this.#claim?.lease ?? null;
    const run: Run = {
      attempt: entry.used,
      deliveryKey: this.#deliveryKeyOf(entry),
      workerId: this.#options.consumer,
      fences: lease === null || !this.#options.fenced ? NO_FENCES : [lease],
      drain: this.#drain.signal,
      stream: this.#options.stream,
    };
    const { content } = entry;
    const outcome =
      content.kind === "message"
        ? this.#delivery.deliver(content.message, run)
        : this.#delivery.deliverPayload(
            content.kind === "payload" ? content.payload : null,
            { id: entry.id, stream: this.#options.stream },
            run,
          );
    if (isPromise(outcome)) return outcome.then((ended) => this.#ended(entry, ended, started_ms));
    this.#ended(entry, outcome, started_ms);
    return null;
  }

  #ended(entry: HeldEntry, outcome: Outcome, started_ms: number): void {
    this.#running -= 1;
    const ended_ms = this.#clock.monotonic_ms();
    this.#cameRound_ms = ended_ms;
    this.#average_ms += (ended_ms - started_ms - this.#average_ms) / 8;
    this.#settle(entry, outcome);
    this.#settledSomething();
  }

  /** Python's commands have no id of their own (rulings 11): their place in store or stream stands for it. */
  #deliveryKeyOf(entry: HeldEntry): string {
    const { content } = entry;
    if (content.kind === "message") {
      const { metadata, id } = content.message;
      if (id !== null && !(metadata.domain.kind === "COMMAND" && metadata.domain.stream_category === null)) return id;
      if (metadata.event_store !== null) return `position:${metadata.event_store.global_position}`;
    }
    return `${entry.stream}:${entry.id}`;
  }

  #settle(entry: HeldEntry, outcome: Outcome): void {
    switch (outcome.kind) {
      case "done":
      case "discarded":
      case "expired":
      case "ignored":
        if (outcome.kind === "done") this.#breaker.succeeded();
        else this.#breaker.neutral();
        this.#handled += 1;
        this.#telemetry.count("protean_subscription_messages_processed_total", this.#labels);
        this.#settlement.acknowledge(entry);
        this.#queue.release(entry);
        return;
      case "deadLetter":
        this.#failed += 1;
        this.#noteFailure(entry, outcome.error);
        this.#breakerFailed(entry, outcome.error);
        this.#settlement.giveUp(entry, outcome.error, null);
        return;
      case "retry": {
        this.#failed += 1;
        this.#noteFailure(entry, outcome.error);
        this.#breakerFailed(entry, outcome.error);
        if (entry.used >= this.#maxRuns) {
          this.#settlement.giveUp(entry, outcome.error, outcome.settled);
          return;
        }
        this.#retried += 1;
        this.#telemetry.count("protean_subscription_retries_total", this.#labels);
        this.#telemetry.trace({
          ...stageOf(entry, this.#options.handler, this.#options.consumer),
          event: "message.nacked",
          status: "retry",
          error: nameAndMessage(outcome.error),
          metadata: { retry_count: entry.used, max_retries: this.#maxRuns },
        });
        entry.counted = true;
        const delay_ms = outcome.after_ms ?? this.#settings.retryDelay_ms;
        if (outcome.settled === null) this.#wait(entry, delay_ms);
        else {
          // The run still goes on: nothing of its source stream may begin before it ends (rulings 9).
          const since_ms = this.#clock.monotonic_ms();
          void outcome.settled.then(() => this.#wait(entry, Math.max(0, delay_ms - (this.#clock.monotonic_ms() - since_ms))));
        }
      }
    }
  }

  /** Puts a failed entry aside until it may run again; while draining it goes back to the group. */
  #wait(entry: HeldEntry, delay_ms: number): void {
    if (entry.lost) {
      this.#held.forget(entry);
      this.#queue.release(entry);
    } else if (this.#isEnding() || this.#phase === "leaving") {
      this.#settlement.handBack([entry]);
      this.#queue.release(entry);
    } else this.#delayed.add(entry, delay_ms);
  }

  #noteFailure(entry: HeldEntry, error: unknown): void {
    const text = nameAndMessage(error);
    this.#lastError = text;
    entry.failures.push({ time: isoOfEpoch(this.#clock.now_ms()), worker: this.#options.consumer, error: text });
    if (entry.failures.length > 20) entry.failures.shift();
  }

  #breakerFailed(entry: HeldEntry, error: unknown): void {
    // A connection that the server ended says nothing about the handler, and an open circuit would outlast it by far.
    if (this.#options.outage?.concerns(error)) {
      this.#breaker.neutral();
      return;
    }
    const source = entry.sourceStream();
    this.#breaker.failed(`${nameAndMessage(error)}${source === null ? "" : ` (stream ${source})`}`);
  }

  #circuitChanged(circuit: Circuit): void {
    const word = circuit === "open" ? "opened" : circuit;
    const { consumer, stream, handler } = this.#options;
    this.#telemetry.count("protean_subscription_circuit_breaker_transitions_total", { handler, state: word });
    this.#telemetry.trace({
      event: `subscription.circuit_breaker.${word}`,
      stream,
      message_id: consumer,
      message_type: "circuit_breaker",
      status: word,
      handler,
      worker_id: consumer,
      error: this.#breaker.reason,
      metadata: { consecutive_handler_failures: this.#breaker.failures, circuit_breaker_threshold: this.#settings.breakerThreshold },
    });
    const fields = { circuit: word, failures: this.#breaker.failures, reason: this.#breaker.reason };
    if (circuit === "open") this.#log.error("subscription.circuit_breaker", fields);
    else this.#log.info("subscription.circuit_breaker", fields);
    if (circuit !== "open") this.#pump();
  }

  // ------------------------------------------------------------------------------------------------------------ keeping and taking

  #scheduleTick(): void {
    if (this.#cancelTick !== null || this.#isEnding()) return;
    this.#cancelTick = this.#clock.timer(Math.min(REFRESH_ms, Math.max(100, this.#settings.claimIdle_ms / 3)), () => {
      this.#cancelTick = null;
      if (!this.#ticking) {
        this.#ticking = true;
        void this.#tick().finally(() => {
          this.#ticking = false;
        });
      }
      this.#scheduleTick();
    });
  }

  /** While draining, what runs must stay ours. */
  #keepRefreshing(): void {
    if (this.#cancelTick !== null || this.#phase !== "draining" || this.#held.size === 0) return;
    this.#cancelTick = this.#clock.timer(Math.min(REFRESH_ms, Math.max(100, this.#settings.claimIdle_ms / 3)), () => {
      this.#cancelTick = null;
      void this.#refresh().finally(() => this.#keepRefreshing());
    });
  }

  async #tick(): Promise<void> {
    this.#cameRound_ms = this.#clock.monotonic_ms();
    if (this.#phase === "standby") this.#options.activity.empty(this.name, null);
    // Without the lease another engine may be reading: whatever we took would be taken from it.
    if (this.#phase !== "running" || this.#claimedAway()) return;
    if (this.#held.size > 0) await this.#refresh();
    if (this.#takeOvers.isDue) await this.#takeOvers.look(false);
    else this.#pump();
  }

  /** Tells the broker that we are alive with all that we hold, and drops what isn't ours any more. */
  async #refresh(): Promise<void> {
    try {
      const lost = await this.#held.refresh();
      if (lost === null) return;
      if (lost > 0) this.#dropLost(lost);
    } catch (error) {
      this.#trouble(error);
      this.#clock.timer(WRITE_RETRY_ms, () => this.#pump());
      return;
    }
    this.#pump();
  }

  #dropLost(count: number): void {
    this.#log.warning("subscription.entries_lost", { count, stream: this.#options.stream });
    this.#telemetry.count("protean_subscription_lost_claims_total", this.#labels, count);
    for (const entry of this.#queue.removeWhere((candidate) => candidate.lost)) this.#held.forget(entry);
    for (const entry of this.#delayed.removeWhere((candidate) => candidate.lost)) {
      this.#held.forget(entry);
      this.#queue.release(entry);
    }
  }

  /** A notice came: somebody drained or died, or something is to be replayed. */
  #lookAround(): void {
    if (this.#phase === "running" && !this.#claimedAway()) void this.#takeOvers.look(false);
  }

  #take(stream: string, taken: readonly TakenEntry[]): void {
    const now_ms = this.#clock.monotonic_ms();
    const fresh: HeldEntry[] = [];
    for (const { entry, used } of taken) {
      if (this.#held.has(stream, entry.id)) continue;
      fresh.push(this.#hold(stream, entry, { used, counted: true, now_ms }));
    }
    this.#log.info("subscription.taken_over", { stream, count: fresh.length });
    this.#telemetry.count("protean_subscription_taken_over_total", this.#labels, fresh.length);
    if (this.#phase !== "running") {
      this.#decline(fresh);
      return;
    }
    this.#queue.add(fresh);
    this.#pump();
  }

  #roomForBatch(): Promise<boolean> {
    if (this.#phase !== "running" || this.#claimedAway()) return Promise.resolve(false);
    if (this.#queue.unstarted <= this.#batch && !this.#isHeld()) return Promise.resolve(true);
    return new Promise((resolve) => this.#roomWaiters.push(resolve));
  }

  #wakeRoomWaiters(): void {
    if (this.#roomWaiters.length === 0 || (this.#phase === "running" && this.#isHeld())) return;
    const waiting = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const resolve of waiting) resolve(this.#phase === "running" && !this.#claimedAway());
  }

  async #openReplay(): Promise<void> {
    if (this.#replayOpen) return;
    this.#replayOpen = true;
    await this.#broker.createGroup(this.#replayStream, this.#options.group, "start");
    await this.#takeOvers.takeOver(this.#replayStream, false);
    if (this.#phase === "running" && this.#replayOpen) this.#options.reader.add(this.#replaySource);
  }

  #closeReplay(): void {
    if (!this.#replayOpen) return;
    this.#replayOpen = false;
    this.#options.reader.remove(this.#replaySource);
  }

  /** After batches, when `retention_maxlen` is set: what all groups have acknowledged goes, down to that length. */
  #trimByLength(): void {
    const maxLength = this.#settings.retentionMaxLength;
    if (maxLength === null || maxLength <= 0 || this.#trimming || this.#phase !== "running") return;
    const { settled } = this.#settlement;
    if (settled - this.#settledAtTrim < this.#batch) return;
    this.#settledAtTrim = settled;
    this.#trimming = true;
    this.#broker
      .trimAcknowledged(this.#options.stream, { olderThan_ms: 0, maxLength })
      .catch((error: unknown) => {
        this.#log.warning("subscription.trim_failed", { stream: this.#options.stream, error: nameAndMessage(error) });
      })
      .finally(() => {
        this.#trimming = false;
      });
  }
}

const NO_FENCES: readonly Lease[] = [];
