import type { Clock } from "../ports/clock.ts";
import type { InstanceRecord, Instances } from "../ports/instances.ts";

/** The list of living instances is asked for at most this often, however many subscriptions want it. */
const FRESH_ms = 500;

interface Known {
  readonly alive: ReadonlySet<string>;
  readonly others: readonly InstanceRecord[];
  readonly gone: ReadonlySet<string>;
}

/** `{Class}-{host}-{pid}-{12 hex}`; the last part is the instance. */
export function consumerName(className: string, instance: { readonly host: string; readonly pid: number; readonly id: string }): string {
  return `${className}-${instance.host}-${instance.pid}-${instance.id}`;
}

/** The instance in a consumer's name, or null when the name isn't one of ours (Python's end in 6 hex digits). */
export function instanceOfConsumer(consumer: string): string | null {
  return /-([0-9a-f]{12})$/.exec(consumer)?.[1] ?? null;
}

/**
 * Knows which engines are alive, by their heartbeat records alone; of those in our own process namespace also by whether the process exists, so
 * that a restart after a kill need not wait for the record to run out (rulings 7, 62).
 */
export class InstanceWatch {
  readonly #instances: Instances;
  readonly #clock: Clock;
  readonly #own: InstanceRecord;
  readonly #processExists: (pid: number) => boolean;
  #asked: { readonly at_ms: number; readonly answer: Promise<Known> } | null = null;

  constructor(options: {
    readonly instances: Instances;
    readonly clock: Clock;
    readonly own: InstanceRecord;
    readonly processExists: (pid: number) => boolean;
  }) {
    this.#instances = options.instances;
    this.#clock = options.clock;
    this.#own = options.own;
    this.#processExists = options.processExists;
  }

  get ownId(): string {
    return this.#own.id;
  }

  /**
   * Ids of the living, ours among them.
   * @param since_ms the answer is younger than this moment of the monotonic clock: who isn't in an older one may have begun since
   */
  async alive(since_ms = Number.NEGATIVE_INFINITY): Promise<ReadonlySet<string>> {
    if (this.#asked !== null && this.#asked.at_ms <= since_ms) this.#asked = null;
    return (await this.#known()).alive;
  }

  /** The others that are alive. */
  async others(): Promise<readonly InstanceRecord[]> {
    return (await this.#known()).others;
  }

  /** Ids of those that surely ended: their record is still there, their process isn't. */
  async gone(): Promise<ReadonlySet<string>> {
    return (await this.#known()).gone;
  }

  #known(): Promise<Known> {
    const now_ms = this.#clock.monotonic_ms();
    if (this.#asked !== null && now_ms - this.#asked.at_ms < FRESH_ms) return this.#asked.answer;
    const answer = this.#ask();
    this.#asked = { at_ms: now_ms, answer };
    answer.catch(() => {
      this.#asked = null;
    });
    return answer;
  }

  async #ask(): Promise<Known> {
    const alive = new Set([this.#own.id]);
    const gone = new Set<string>();
    const others: InstanceRecord[] = [];
    for (const record of await this.#instances.alive()) {
      if (this.#isGone(record)) gone.add(record.id);
      else {
        alive.add(record.id);
        if (record.id !== this.#own.id) others.push(record);
      }
    }
    return { alive, others, gone };
  }

  #isGone(record: InstanceRecord): boolean {
    const own = this.#own;
    if (own.bootId === "" || own.pidNamespace === "") return false;
    if (record.host !== own.host || record.bootId !== own.bootId || record.pidNamespace !== own.pidNamespace) return false;
    // The same pid is either us or a process that we replaced.
    return record.pid === own.pid ? record.id !== own.id && record.startedAt_ms < own.startedAt_ms : !this.#processExists(record.pid);
  }
}
