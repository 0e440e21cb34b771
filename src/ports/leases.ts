/**
 * Everything with one owner in the cluster is owned by a lease (rulings 25, 27, 61): event-store subscriptions, outbox publishers,
 * ordered stream subscriptions, reconciliation, dead-letter maintenance.
 *
 * Contract, checked by `test/conformance/leases.ts`:
 * - at any moment at most one owner holds a name, by the clock of the store, not by ours;
 * - `generation` grows by at least one with every change of owner, and is never used twice for one name;
 * - a lease that ran out can be taken by anybody, its old owner included (who then gets a new generation);
 * - `renew` of a lease that was lost or ran out fails, whoever holds it now;
 * - a commit that names a lease (`CommitSet.fences`) and isn't its holder any more changes nothing and throws LeaseLostError.
 */
export interface Lease {
  readonly name: string;
  readonly owner: string;
  readonly generation: number;
}

export interface Leases {
  /** Takes the lease if it is free or ran out; null when somebody else holds it. The same owner asking again renews and keeps the generation. */
  acquire(name: string, owner: string, ttl_ms: number): Promise<Lease | null>;
  /** Extends those that are still held, in one round trip, and answers with them. */
  renew(leases: readonly Lease[], ttl_ms: number): Promise<readonly Lease[]>;
  /** Gives up what is still held; others can take it at once. */
  release(leases: readonly Lease[]): Promise<void>;
  /** Who holds what, for status displays. Names that start with `prefix`. */
  holders(prefix: string): Promise<readonly (Lease & { readonly expiresIn_ms: number })[]>;
}
