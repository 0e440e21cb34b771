import { redact } from "../messages/dead-letter.ts";
import type { Clock } from "../ports/clock.ts";
import type { Lease, Leases } from "../ports/leases.ts";
import type { Log, LogFields } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { LeaseClaim, LeaseKeeper } from "./lease-keeper.ts";
import { ReconnectPause } from "./reconnect-pause.ts";
import type { Activity, ServiceState } from "./service.ts";
import { WakeSignal } from "./wake-signal.ts";

/** Taking over is told by the lease keeper; this is the net. */
const STANDBY_ms = 2_000;

/** What a service does while it is the owner. */
export interface LeasedWork {
  /** The lease is ours under a new generation, or what we know of the store was proven wrong: read what it says. */
  begin(): Promise<void>;
  /** One round: works, or finds nothing and rests. Called again at once. */
  turn(): Promise<void>;
  /** The loop has ended in order, with the lease still held: write what must be written. */
  end(): Promise<void>;
}

/**
 * The loop of a service that has one owner in the cluster.
 *
 * standby      somebody else holds the lease, or nobody could be asked yet
 * beginning    the lease is ours: reads what the store says
 * working      round after round; each looks at the lease first
 * leaving      another engine is to take over: the round in hand ends, what must be written is written, then standby
 * unreachable  a round failed: pauses, grows the pauses, tries again; one line of log when it began and one when it ended
 * ended        the round in hand is over, the lease is released
 */
export class LeasedLoop {
  readonly #name: string;
  readonly #work: LeasedWork;
  readonly #keeper: LeaseKeeper;
  readonly #leases: Leases;
  readonly #leaseName: string;
  readonly #clock: Clock;
  readonly #activity: Activity;
  readonly #wake: WakeSignal;
  readonly #pause: ReconnectPause;
  #claim: LeaseClaim | null = null;
  #unsubscribe: () => void = () => {};
  #running: Promise<void> | null = null;
  #stopping = false;
  /** Called with true when the work has ended in order for another engine to take over. */
  #leaving: ((ended: boolean) => void) | null = null;
  #begun = 0;
  #cameRound_ms: number;
  #lastError: string | null = null;
  /** Set by the work to say more than `running`. */
  state: ServiceState = "starting";

  constructor(options: {
    readonly name: string;
    readonly work: LeasedWork;
    readonly keeper: LeaseKeeper;
    readonly leases: Leases;
    readonly leaseName: string;
    readonly clock: Clock;
    readonly random: Random;
    readonly log: Log;
    /** Names store or broker in the lines about an outage. */
    readonly what: LogFields;
    readonly activity: Activity;
  }) {
    this.#name = options.name;
    this.#work = options.work;
    this.#keeper = options.keeper;
    this.#leases = options.leases;
    this.#leaseName = options.leaseName;
    this.#clock = options.clock;
    this.#activity = options.activity;
    this.#wake = new WakeSignal(options.clock);
    this.#pause = new ReconnectPause({ random: options.random, log: options.log, what: options.what, isToldElsewhere: true });
    this.#cameRound_ms = options.clock.monotonic_ms();
  }

  /** The lease while it is safely ours. */
  get lease(): Lease | null {
    return this.#claim?.lease ?? null;
  }

  /** Whether the work in hand may go on: nobody stopped the loop, and the lease is ours. */
  get isOwner(): boolean {
    return !this.#stopping && this.#leaving === null && this.lease !== null;
  }

  get isStopping(): boolean {
    return this.#stopping;
  }

  /** Why the store or broker can't be reached; null while it can. */
  get unreachable(): string | null {
    return this.#pause.reason;
  }

  get lastError(): string | null {
    return this.#lastError;
  }

  noteError(error: unknown): void {
    this.#lastError = messageOf(error);
  }

  idleFor_ms(): number {
    return this.#clock.monotonic_ms() - this.#cameRound_ms;
  }

  /** @param subscribe makes the store call `wake` when there is something new; answers the way to stop it */
  start(subscribe: (wake: () => void) => () => void): void {
    if (this.#running !== null || this.#stopping) return;
    this.#claim = this.#keeper.want(this.#leases, this.#leaseName);
    this.#claim.onChange(() => this.#wake.wake());
    this.#claim.onHandOver(() => {
      if (this.#stopping || this.lease === null) return Promise.resolve(false);
      return new Promise((resolve) => {
        this.#leaving = resolve;
        this.#wake.wake();
      });
    });
    this.#unsubscribe = subscribe(this.#wake.wake);
    this.#running = this.#run();
  }

  /** Ends after the round in hand. */
  quiesce(): void {
    this.#stopping = true;
    this.#wake.wake();
  }

  async stop(): Promise<void> {
    this.quiesce();
    this.#unsubscribe();
    await this.#running;
    await this.#claim?.release().catch(() => {}); // the store is away: the lease runs out by itself
    this.state = "stopped";
  }

  /** Sleeps until woken, at most `limit_ms`; in test mode not longer than the loops may rest there. */
  async rest(limit_ms: number): Promise<void> {
    if (this.#stopping) return;
    await this.#wake.sleep(Math.max(1, Math.min(limit_ms, this.#activity.restMax_ms ?? limit_ms)));
  }

  /** Notes that something could not be reached, and pauses. New work doesn't cut the pause short; stopping does. */
  async pauseAfter(error: unknown): Promise<void> {
    this.state = "unreachable";
    this.noteError(error);
    this.#activity.unknown(this.#name);
    const pause_ms = this.#pause.failed_ms(error);
    const until_ms = this.#clock.monotonic_ms() + pause_ms;
    for (let left_ms = pause_ms; left_ms > 0 && !this.#stopping; left_ms = until_ms - this.#clock.monotonic_ms()) {
      await this.#wake.sleep(left_ms);
    }
  }

  /** The store proved our knowledge of it wrong: the next round begins anew. */
  beginAgain(): void {
    this.#begun = 0;
  }

  async #run(): Promise<void> {
    await this.#claim?.tried;
    while (!this.#stopping) {
      this.#cameRound_ms = this.#clock.monotonic_ms();
      if (this.#leaving !== null) await this.#leave();
      const { lease } = this;
      if (lease === null) {
        this.state = this.unreachable === null ? "standby" : "unreachable";
        this.#activity.empty(this.#name, null);
        await this.rest(STANDBY_ms);
        continue;
      }
      try {
        if (this.#begun !== lease.generation) {
          await this.#work.begin();
          this.#begun = lease.generation;
        }
        this.state = "running";
        await this.#work.turn();
        this.#pause.succeeded();
      } catch (error) {
        await this.pauseAfter(error);
      }
    }
    this.#leaving?.(false);
    if (this.lease !== null && this.#begun !== 0) await this.#work.end();
  }

  async #leave(): Promise<void> {
    let ended = true;
    try {
      if (this.lease !== null && this.#begun !== 0) await this.#work.end();
    } catch (error) {
      this.noteError(error);
      ended = false;
    }
    const leaving = this.#leaving;
    this.#leaving = null;
    this.#begun = 0;
    leaving?.(ended);
    // The keeper gives the lease up before the next look at it.
    await this.#clock.turn();
  }
}

/** What an error says, for records and status; passwords in it are masked. */
export function messageOf(error: unknown): string {
  return redact(error instanceof Error ? error.message : String(error));
}
