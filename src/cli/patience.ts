import { ReconnectPause } from "../engine/reconnect-pause.ts";
import { ConnectionError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import { type Log, silentLog } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { Values } from "./arguments.ts";

/** How long commands wait for a store unless `--timeout` says otherwise. */
const TIMEOUT_ms = 10_000;

export interface PatienceOptions {
  /** From the first try; Infinity = until `signal`. */
  readonly limit_ms: number;
  /** Ends the waiting. */
  readonly signal?: AbortSignal;
  /** One line when a store is away, one when it is back. Default: silence, the error at the end says it. */
  readonly log?: Log;
  /** Told at every failed try why it failed, and null when all could be reached. */
  readonly waiting?: (reason: string | null) => void;
}

/** Somebody asked us to end while we waited for a store. */
export class StoppedWaiting extends Error {
  override readonly name: string = "StoppedWaiting";
}

/** Waiting for stores that can't be reached (D21): a server waits as long as it takes, a command as long as its `--timeout`. */
export class Patience {
  readonly #options: PatienceOptions;
  #began_ms: number | null = null;

  constructor(options: PatienceOptions) {
    this.#options = options;
  }

  /** As long as `--timeout` says. */
  static of(values: Values): Patience {
    return new Patience({ limit_ms: values.duration_ms("timeout") ?? TIMEOUT_ms });
  }

  /**
   * Repeats `work` while it ends in a ConnectionError, after pauses of 50 ms … 2 s. Any other error is a person's to repair, and passes.
   * @throws the last ConnectionError when the time is over, StoppedWaiting when `signal` aborts
   */
  async reach<Result>(tools: { readonly clock: Clock; readonly random: Random }, work: () => Promise<Result>): Promise<Result> {
    const { limit_ms, signal, log, waiting } = this.#options;
    this.#began_ms ??= tools.clock.monotonic_ms();
    const pause = new ReconnectPause({ random: tools.random, log: log ?? silentLog, what: { service: "start" } });
    for (;;) {
      if (signal?.aborted) throw new StoppedWaiting("stopped while waiting for a store");
      try {
        const result = await work();
        pause.succeeded();
        waiting?.(null);
        return result;
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error;
        const pause_ms = pause.failed_ms(error);
        waiting?.(error.message);
        if (tools.clock.monotonic_ms() + pause_ms - this.#began_ms >= limit_ms) throw error;
        await tools.clock.sleep(pause_ms, signal);
      }
    }
  }
}
