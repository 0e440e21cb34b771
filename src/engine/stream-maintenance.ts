import { deadLetterStream } from "../messages/names.ts";
import { type Broker, REPLAY_CONSUMER } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Log } from "../ports/log.ts";
import type { Telemetry } from "../ports/telemetry.ts";
import { nameAndMessage } from "./delivery.ts";
import { instanceOfConsumer } from "./instance-watch.ts";
import type { LeaseClaim, LeaseKeeper } from "./lease-keeper.ts";
import type { Service, ServiceState, ServiceStatus } from "./service.ts";

const TRIM_ms = 3_600_000;

/**
 * Looks after the streams of one broker, one engine at a time.
 *
 * standby      another engine does it
 * waiting      until the next look at the dead letters (every `checkInterval_ms`, if on) or the hourly trim (if on)
 * dead letters removes those older than their retention, warns when a stream of them is as deep as the alarm (engine.md §13)
 * trimming     removes entries that every group has acknowledged and that are old enough (rulings 50); streams which foreign consumers read are left alone
 */
export class StreamMaintenance implements Service {
  readonly name: string;
  readonly #options: MaintenanceOptions;
  readonly #stopping = new AbortController();
  #claim: LeaseClaim | null = null;
  #loop: Promise<void> | null = null;
  #stopped = false;
  #cameRound_ms: number;
  #wait_ms = 0;
  #rounds = 0;
  #failed = 0;
  #lastError: string | null = null;

  constructor(options: MaintenanceOptions) {
    this.name = `stream-maintenance-${options.broker.name}`;
    this.#options = options;
    this.#cameRound_ms = options.clock.monotonic_ms();
  }

  start(): Promise<void> {
    if (this.#loop === null && !this.#stopping.signal.aborted) {
      this.#claim = this.#options.keeper.want(
        this.#options.broker.leases,
        `maintenance:${this.#options.domain}:${this.#options.broker.name}`,
      );
      this.#loop = this.#run();
    }
    return Promise.resolve();
  }

  quiesce(): void {
    this.#stopping.abort();
  }

  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping.abort();
    if (this.#loop !== null && !signal.aborted) {
      await Promise.race([this.#loop, new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }))]);
    }
    await this.#claim?.release().catch(() => {}); // runs out by itself
    this.#stopped = true;
  }

  idleFor_ms(): number {
    return this.#loop === null || this.#stopping.signal.aborted
      ? 0
      : Math.max(0, this.#options.clock.monotonic_ms() - this.#cameRound_ms - this.#wait_ms);
  }

  #state(): ServiceState {
    if (this.#stopped) return "stopped";
    if (this.#stopping.signal.aborted) return "draining";
    if (this.#claim === null) return "starting";
    return this.#claim.lease === null ? "standby" : "running";
  }

  status(): ServiceStatus {
    const state = this.#state();
    return {
      name: this.name,
      kind: "maintenance",
      handler: this.name,
      stream: "*",
      group: null,
      state,
      reason: state === "standby" ? "another engine does it" : this.#lastError,
      handled: this.#rounds,
      failed: this.#failed,
      retried: 0,
      deadLettered: 0,
      ignored: 0,
      inFlight: 0,
      parked: 0,
      lastError: this.#lastError,
      circuit: null,
      slow: null,
    };
  }

  async #run(): Promise<void> {
    const { clock, deadLetters, retention_ms, log } = this.#options;
    const { signal } = this.#stopping;
    let lettersDue_ms = clock.monotonic_ms() + deadLetters.checkInterval_ms;
    let trimDue_ms = clock.monotonic_ms() + TRIM_ms;
    if (deadLetters.enabled) log.info("dlq_maintenance.started", { interval_ms: deadLetters.checkInterval_ms });
    for (;;) {
      const now_ms = clock.monotonic_ms();
      this.#cameRound_ms = now_ms;
      const due_ms = Math.min(
        deadLetters.enabled ? lettersDue_ms : Number.POSITIVE_INFINITY,
        retention_ms === null ? Number.POSITIVE_INFINITY : trimDue_ms,
      );
      this.#wait_ms = Math.min(60_000, Math.max(0, due_ms - now_ms));
      await clock.sleep(this.#wait_ms, signal);
      if (signal.aborted) break;
      const lease = this.#claim?.lease ?? null;
      if (clock.monotonic_ms() < due_ms) continue;
      const lettersNow = deadLetters.enabled && clock.monotonic_ms() >= lettersDue_ms;
      const trimNow = retention_ms !== null && clock.monotonic_ms() >= trimDue_ms;
      if (lettersNow) lettersDue_ms = clock.monotonic_ms() + deadLetters.checkInterval_ms;
      if (trimNow) trimDue_ms = clock.monotonic_ms() + TRIM_ms;
      if (lease === null) continue;
      try {
        if (lettersNow) await this.#lookAfterDeadLetters();
        if (trimNow && retention_ms !== null) await this.#trim(retention_ms);
        this.#rounds += 1;
        this.#lastError = null;
      } catch (error) {
        this.#failed += 1;
        this.#lastError = nameAndMessage(error);
        log.error("dlq_maintenance.cycle_failed", { error: this.#lastError });
      }
    }
  }

  async #lookAfterDeadLetters(): Promise<void> {
    const { broker, deadLetters, log, telemetry } = this.#options;
    for (const stream of await broker.streams(deadLetterStream(""))) {
      const trimmed = await broker.trimOld(stream, deadLetters.retention_ms);
      if (trimmed > 0) telemetry.count("protean_dlq_trimmed_total", { stream }, trimmed);
      const depth = await broker.length(stream);
      if (depth < deadLetters.alertThreshold) continue;
      log.warning("dlq_maintenance.threshold_exceeded", { dlq_stream: stream, depth, threshold: deadLetters.alertThreshold });
      telemetry.count("protean_dlq_alerts_total", { stream });
    }
  }

  async #trim(retention_ms: number): Promise<void> {
    const { broker, log } = this.#options;
    for (const stream of this.#options.streams) {
      if (await this.#isReadByOthers(stream)) continue;
      const removed = await broker.trimAcknowledged(stream, { olderThan_ms: retention_ms });
      if (removed > 0) log.info("retention.trimmed", { stream, removed });
    }
  }

  /** A stream that Python reads too is Python's to trim. */
  async #isReadByOthers(stream: string): Promise<boolean> {
    const { broker } = this.#options;
    for (const group of await broker.groups(stream)) {
      const consumers = await broker.consumers(stream, group.name);
      if (consumers.some((consumer) => consumer.name !== REPLAY_CONSUMER && instanceOfConsumer(consumer.name) === null)) return true;
    }
    return false;
  }
}

export interface MaintenanceOptions {
  readonly broker: Broker;
  readonly domain: string;
  /** Streams that our handlers read; those of subscribers belong to others. */
  readonly streams: readonly string[];
  readonly deadLetters: {
    readonly enabled: boolean;
    readonly retention_ms: number;
    readonly alertThreshold: number;
    readonly checkInterval_ms: number;
  };
  /** null = never trimmed by age. */
  readonly retention_ms: number | null;
  readonly keeper: LeaseKeeper;
  readonly clock: Clock;
  readonly log: Log;
  readonly telemetry: Telemetry;
}
