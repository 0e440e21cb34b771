/** A key that somebody has until the outcome is known. `by` names him: one name for each submission, never used again. */
export interface KeyReservation {
  readonly key: string;
  readonly by: string;
}

/** What is known of an idempotency key. `handled` is false for an async command that was only accepted so far. */
export type IdempotencyEntry =
  | { readonly state: "reserved" }
  | { readonly state: "pending" }
  | { readonly state: "success"; readonly result: unknown }
  | { readonly state: "error" };

/**
 * Keys of commands (wire-format §13, rulings 14).
 *
 * - `reserve` is atomic: of n callers at once exactly one gets `reserved`; the others see `pending` or the final entry. A
 *   reservation runs out after `ttl_ms`, so that a crash between reserving and committing blocks the key only that long.
 * - A reservation is told from another one of the same key by who made it: nobody releases what somebody else has meanwhile, and a commit
 *   (`CommitSet.keys`) that names one and comes when it isn't there any more changes nothing.
 * - Success entries are JSON `{"status": "success", "result": …}`, errors `{"status": "error", "error": "handler_failed"}`, as Python
 *   writes and reads them.
 */
export interface Idempotency {
  reserve(reservation: KeyReservation, ttl_ms: number): Promise<IdempotencyEntry>;
  get(key: string): Promise<IdempotencyEntry | null>;
  succeed(key: string, result: unknown, ttl_ms: number): Promise<void>;
  fail(key: string, ttl_ms: number): Promise<void>;
  /** Removes a reservation that came to nothing. */
  release(reservation: KeyReservation): Promise<void>;
  close(): Promise<void>;
}
