import type { Clock } from "../ports/clock.ts";

export type Circuit = "closed" | "open" | "half_open";

/**
 * Stops a subscription whose handler fails again and again, so that it doesn't burn through attempts while what it depends on is away.
 *
 * closed      counts failed runs in a row; any success, of whatever source stream, begins anew (rulings 68): one poison aggregate among healthy
 *             ones never opens it. `threshold` in a row: open
 * open        nothing is begun for `reset_ms`, then half_open
 * half_open   one run as a probe; success: closed, failure: open again
 */
export class CircuitBreaker {
  readonly #clock: Clock;
  readonly #threshold: number;
  readonly #reset_ms: number;
  readonly #changed: (circuit: Circuit) => void;
  #circuit: Circuit = "closed";
  #failures = 0;
  #probing = false;
  #reason: string | null = null;
  #cancelReset: (() => void) | null = null;

  /** @param options.threshold failed runs in a row; 0 or less = never opens */
  constructor(options: {
    readonly clock: Clock;
    readonly threshold: number;
    readonly reset_ms: number;
    readonly changed: (circuit: Circuit) => void;
  }) {
    this.#clock = options.clock;
    this.#threshold = options.threshold;
    this.#reset_ms = options.reset_ms;
    this.#changed = options.changed;
  }

  get circuit(): Circuit {
    return this.#circuit;
  }

  get failures(): number {
    return this.#failures;
  }

  /** The failure that opened it; null while closed. */
  get reason(): string | null {
    return this.#circuit === "closed" ? null : this.#reason;
  }

  /** How many runs may begin now: none while open, one probe while half open, else any number. */
  allowance(): number {
    if (this.#circuit === "closed") return Number.POSITIVE_INFINITY;
    return this.#circuit === "half_open" && !this.#probing ? 1 : 0;
  }

  began(): void {
    if (this.#circuit === "half_open") this.#probing = true;
  }

  /** A run ended that says nothing about the handler's health (undecodable, given back). */
  neutral(): void {
    this.#probing = false;
  }

  succeeded(): void {
    this.#probing = false;
    this.#failures = 0;
    if (this.#circuit === "half_open") this.#become("closed");
  }

  /** @param reason error and source stream, for people */
  failed(reason: string): void {
    this.#probing = false;
    this.#failures += 1;
    this.#reason = reason;
    if (this.#circuit === "half_open" || (this.#circuit === "closed" && this.#threshold > 0 && this.#failures >= this.#threshold)) {
      this.#cancelReset = this.#clock.timer(this.#reset_ms, () => {
        this.#cancelReset = null;
        this.#become("half_open");
      });
      this.#become("open");
    }
  }

  stop(): void {
    this.#cancelReset?.();
    this.#cancelReset = null;
  }

  #become(circuit: Circuit): void {
    this.#circuit = circuit;
    this.#changed(circuit);
  }
}
