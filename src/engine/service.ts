/**
 * Something that runs until stopped. Every loop of the engine is one, and the engine is a list of them;
 * `test/conformance/service.ts` checks them all.
 */
export interface Service {
  readonly name: string;
  /** Begins work; resolves when ready to work. Calling it again while running does nothing. */
  start(): Promise<void>;
  /**
   * Stops taking new work (a drain): what is in hand is finished, what was read but not begun is given back.
   * Safe before start and twice.
   */
  quiesce(): void;
  /** Ends: lets running work end until `signal` aborts, writes what must be written. Safe before start and twice. */
  stop(signal: AbortSignal): Promise<void>;
  /** Milliseconds since the loop last came round. Liveness looks at this, never at a ping. */
  idleFor_ms(): number;
  status(): ServiceStatus;
}

export type ServiceState =
  /** Waiting for its store or broker for the first time. */
  | "starting"
  | "running"
  /** Another engine holds the lease; takes over when that one dies. */
  | "standby"
  /** Too much is parked behind failing messages; reads nothing until some of it is settled (rulings 31). */
  | "held"
  /** The circuit breaker is open. */
  | "open"
  /** Store or broker can't be reached; keeps trying. */
  | "unreachable"
  | "draining"
  | "stopped";

/** One row of `/readyz`, `subscriptions status` and the dashboard. Figures count since start of this process. */
export interface ServiceStatus {
  readonly name: string;
  readonly kind: "stream" | "event_store" | "broker" | "outbox" | "maintenance";
  /** Class name of the handler; for the outbox `<database> -> <broker>`. */
  readonly handler: string;
  readonly stream: string;
  readonly group: string | null;
  readonly state: ServiceState;
  /** Why it isn't `running`, in words. */
  readonly reason: string | null;
  readonly handled: number;
  readonly failed: number;
  readonly retried: number;
  readonly deadLettered: number;
  readonly ignored: number;
  readonly inFlight: number;
  /** Waiting for a retry, or behind one. */
  readonly parked: number;
  readonly lastError: string | null;
  readonly circuit: "closed" | "open" | "half_open" | null;
  /** Name of the message type that has been running longest, when longer than 30 s (D41). */
  readonly slow: { readonly type: string; readonly running_ms: number } | null;
}

/**
 * Tells test mode when everything is quiet (engine.md §4): idle means that every loop has begun an empty turn after the last productive
 * turn of any loop ended, and none holds work that is due within the waiting time.
 */
export interface Activity {
  /** Loops rest no longer than this between two turns; left out outside of test mode. */
  readonly restMax_ms?: number;
  /** A turn found work and finished it. */
  productive(loop: string): void;
  /** A turn began and found nothing. `due_ms`: when this loop has something to do again (a retry), null for nothing. */
  empty(loop: string, due_ms: number | null): void;
  /** Nothing can be said (an error, store away). */
  unknown(loop: string): void;
}

export const noActivity: Activity = { productive() {}, empty() {}, unknown() {} };
