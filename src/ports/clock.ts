/**
 * Time comes in from outside, so that the engine runs on a virtual clock in simulation. Durations are measured on the monotonic
 * clock; the wall clock is only read to stamp messages and to compare deadlines (rulings 58).
 */
export interface Clock {
  /** Milliseconds since 1970 by the wall clock; may have a fraction (microseconds). Can jump. */
  now_ms(): number;
  /** Milliseconds since some fixed moment; never goes back. */
  monotonic_ms(): number;
  /** Resolves after `delay_ms`, or at once when `signal` aborts; never rejects. */
  sleep(delay_ms: number, signal?: AbortSignal): Promise<void>;
  /** Calls `run` once after `delay_ms` unless the returned function is called before. Doesn't keep the process alive by itself. */
  timer(delay_ms: number, run: () => void): () => void;
  /** Lets everything else that is ready run first (one turn of the event loop). */
  turn(): Promise<void>;
}
