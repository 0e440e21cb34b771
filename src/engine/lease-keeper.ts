import { ConnectionError } from "../errors.ts";
import type { Clock } from "../ports/clock.ts";
import type { Lease, Leases } from "../ports/leases.ts";
import type { Log } from "../ports/log.ts";
import { isForOthers, type Standing, surplus } from "./lease-shares.ts";

/**
 * A lease lives this long without renewal. With `TICK_ms` it bounds the takeover from a dead owner to 9 s (rulings 8: 10 s); from one that is known to be
 * dead the lease is taken at once.
 */
const TTL_ms = 7_000;
/** Held leases are renewed and missing ones asked for this often. */
const TICK_ms = 2_000;
/** We stop trusting a lease this long before it runs out at the store, for the way there and for a pause right after looking. */
const MARGIN_ms = 1_000;
/** What we handed over is left to the others for this long. */
const LEFT_ms = 3 * TICK_ms;

/** A place in the queue for one lease. */
export interface LeaseClaim {
  readonly name: string;
  /**
   * The lease while it is safely ours, else null. Looks at the monotonic clock, so a process that was paused sees null on waking; a
   * commit that names the lease is refused by the store even if the pause comes after this look.
   */
  readonly lease: Lease | null;
  /** Resolves when the store answered for the first time, or failed to: until then `lease` being null says nothing. */
  readonly tried: Promise<void>;
  /** Called with true when the lease was taken and with false when it was lost. One listener. */
  onChange(listener: (held: boolean) => void): void;
  /**
   * Lets the lease be handed over to an engine that has fewer. `end` brings the work to an end in order and answers true, or false when it can't be ended
   * now and goes on; after true the lease is given up. Without this it stays where it is.
   */
  onHandOver(end: () => Promise<boolean>): void;
  /** Gives the lease up (if held) and stops asking for it. */
  release(): Promise<void>;
}

interface Claim extends Omit<LeaseClaim, "tried"> {
  tried: Promise<void>;
  readonly leases: Leases;
  held: Lease | null;
  validUntil_ms: number;
  listener: (held: boolean) => void;
  handOver: (() => Promise<boolean>) | null;
  isHandingOver: boolean;
  /** Not asked for before: it was handed over. */
  notBefore_ms: number;
  /** It was free at the last look, and left to others then. */
  wasLeft: boolean;
}

/** An engine that is alive. `leases`: those it would take. */
export interface OtherEngine {
  readonly id: string;
  readonly leases: readonly string[];
}

/**
 * Keeps all leases of one engine: renews what is held in one round trip per store, takes what is missing and free.
 *
 * waiting   the lease is somebody else's, or the store is away; looked at every `TICK_ms`, and taken from an owner whose process has ended
 * held      renewed every `TICK_ms`; ends when a renewal answers without it or `TTL_ms − MARGIN_ms` passed since the last good one
 * leaving   we have more than our share and another engine less: the work is brought to an end in order, then the lease is given up, and left to the
 *           others for a while; waiting then
 * released  given up; never asked for again
 */
export class LeaseKeeper {
  readonly #owner: string;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #gone: () => Promise<ReadonlySet<string>>;
  readonly #others: () => Promise<readonly OtherEngine[]>;
  readonly #claims = new Set<Claim>();
  #cancelTick: (() => void) | null = null;
  #ticking: Promise<void> | null = null;
  #looking = false;
  #stopped = false;

  /**
   * @param options.gone owners that surely ended (InstanceWatch); default: nobody is known to have
   * @param options.others the other engines that are alive and take work; default: there are none
   */
  constructor(options: {
    readonly owner: string;
    readonly clock: Clock;
    readonly log: Log;
    readonly gone?: () => Promise<ReadonlySet<string>>;
    readonly others?: () => Promise<readonly OtherEngine[]>;
  }) {
    this.#owner = options.owner;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#gone = options.gone ?? (() => Promise.resolve(new Set<string>()));
    this.#others = options.others ?? (() => Promise.resolve([]));
  }

  /** Names of the leases that may be handed over, for our heartbeat: others give us of these when they have more. */
  get wanted(): readonly string[] {
    return [...this.#claims].filter((claim) => claim.handOver !== null).map((claim) => claim.name);
  }

  /** Asks for a lease now and keeps asking; `lease` of the answer is null until it is ours. */
  want(leases: Leases, name: string): LeaseClaim {
    const keeper = this;
    const claim: Claim = {
      name,
      leases,
      held: null,
      validUntil_ms: 0,
      listener: () => {},
      handOver: null,
      isHandingOver: false,
      notBefore_ms: 0,
      wasLeft: false,
      tried: Promise.resolve(),
      get lease() {
        return this.held !== null && keeper.#clock.monotonic_ms() < this.validUntil_ms ? this.held : null;
      },
      onChange(listener) {
        this.listener = listener;
      },
      onHandOver(end) {
        this.handOver = end;
      },
      async release() {
        if (!keeper.#claims.delete(claim)) return;
        const { held } = claim;
        claim.held = null;
        if (held !== null) await leases.release([held]);
      },
    };
    this.#claims.add(claim);
    claim.tried = this.#acquire(claim);
    this.#schedule();
    return claim;
  }

  /** Releases everything, so that others take over at once. A store that is away is left to the leases' running out. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancelTick?.();
    this.#cancelTick = null;
    await this.#ticking;
    await Promise.allSettled([...this.#claims].map((claim) => claim.release()));
  }

  #schedule(): void {
    if (this.#stopped || this.#cancelTick !== null) return;
    this.#cancelTick = this.#clock.timer(TICK_ms, () => {
      this.#cancelTick = null;
      this.#ticking = this.#tick().finally(() => {
        this.#ticking = null;
        if (this.#claims.size > 0) this.#schedule();
      });
    });
  }

  async #tick(): Promise<void> {
    const byStore = new Map<Leases, Claim[]>();
    for (const claim of this.#claims) {
      const claims = byStore.get(claim.leases);
      if (claims === undefined) byStore.set(claim.leases, [claim]);
      else claims.push(claim);
    }
    await Promise.all([...byStore].map(([leases, claims]) => this.#renew(leases, claims)));
    const others = await this.#others().catch(() => []); // whoever knows them is away: nothing is shared meanwhile
    const holders = new Map<string, string>();
    const away = new Set<Leases>();
    await Promise.all(
      [...byStore].map(async ([leases, claims]) => {
        if (others.length === 0 && claims.every((claim) => claim.held !== null)) return;
        try {
          for (const { name, owner } of await leases.holders("")) holders.set(name, owner);
        } catch {
          away.add(leases); // its own service reports that, and the next tick looks again
        }
      }),
    );
    const wanted = new Map(others.map(({ id, leases }) => [id, new Set(leases)]));
    const standing = { own: this.#owner, wanted: wanted.set(this.#owner, new Set(this.wanted)), holders };
    for (const claim of [...this.#claims]) {
      if (claim.held === null && !away.has(claim.leases) && (await this.#takeIfFree(claim, standing))) holders.set(claim.name, this.#owner);
    }
    if (others.length > 0 && away.size === 0) this.#share(standing);
  }

  /** Answers whether it is ours now. */
  async #takeIfFree(claim: Claim, standing: Standing): Promise<boolean> {
    const holder = standing.holders.get(claim.name);
    if (holder !== undefined && holder !== this.#owner) {
      claim.wasLeft = false;
      this.#takeFromGone();
      return false;
    }
    if (this.#clock.monotonic_ms() < claim.notBefore_ms) return false;
    // Once only: the others may be unable to take it.
    if (!claim.wasLeft && isForOthers(standing, claim.name)) {
      claim.wasLeft = true;
      return false;
    }
    claim.wasLeft = false;
    if (this.#claims.has(claim)) await this.#acquire(claim);
    return claim.held !== null;
  }

  #share(standing: Standing): void {
    if ([...this.#claims].some((claim) => claim.isHandingOver)) return;
    const names = new Set(surplus(standing));
    for (const claim of this.#claims) if (names.has(claim.name) && claim.held !== null) void this.#handOver(claim);
  }

  async #handOver(claim: Claim): Promise<void> {
    const { held, handOver } = claim;
    if (held === null || handOver === null) return;
    claim.isHandingOver = true;
    try {
      if (!(await handOver()) || claim.held !== held) return;
      claim.held = null;
      claim.notBefore_ms = this.#clock.monotonic_ms() + LEFT_ms;
      this.#log.info("lease.handed_over", { lease: claim.name });
      await claim.leases.release([held]);
    } catch {
      // The store is away: the lease runs out by itself.
    } finally {
      claim.isHandingOver = false;
    }
  }

  async #renew(leases: Leases, claims: readonly Claim[]): Promise<void> {
    const held = claims.filter((claim) => claim.held !== null);
    if (held.length === 0) return;
    const asked_ms = this.#clock.monotonic_ms();
    try {
      const kept = await leases.renew(
        held.flatMap((claim) => (claim.held === null ? [] : [claim.held])),
        TTL_ms,
      );
      const names = new Set(kept.map((lease) => lease.name));
      for (const claim of held) {
        if (names.has(claim.name)) claim.validUntil_ms = asked_ms + TTL_ms - MARGIN_ms;
        // Handed over while it was asked for.
        else if (claim.held !== null) this.#lost(claim, "somebody else took it");
      }
    } catch (error) {
      // The store is away: nobody else can take the lease there either, but it may run out before the store is back.
      for (const claim of held)
        if (this.#clock.monotonic_ms() >= claim.validUntil_ms) this.#lost(claim, String(error), error instanceof ConnectionError);
    }
  }

  async #acquire(claim: Claim): Promise<void> {
    const asked_ms = this.#clock.monotonic_ms();
    let lease: Lease | null;
    try {
      lease = await claim.leases.acquire(claim.name, this.#owner, TTL_ms);
    } catch {
      return; // the store is away; its own service reports that, and the next tick asks again
    }
    if (lease === null) {
      this.#takeFromGone();
      return;
    }
    if (!this.#claims.has(claim)) {
      await claim.leases.release([lease]).catch(() => {}); // given up meanwhile; else it runs out by itself
      return;
    }
    if (claim.held !== null) return;
    claim.held = lease;
    claim.validUntil_ms = asked_ms + TTL_ms - MARGIN_ms;
    this.#log.debug("lease.acquired", { lease: claim.name, generation: lease.generation });
    claim.listener(true);
  }

  /** Not a part of the tick: whoever knows the dead may be away, and no renewal must wait for that. */
  #takeFromGone(): void {
    if (this.#looking || this.#stopped) return;
    this.#looking = true;
    this.#releaseGone()
      .catch(() => {}) // a store is away: the leases run out by themselves
      .finally(() => {
        this.#looking = false;
      });
  }

  async #releaseGone(): Promise<void> {
    const gone = await this.#gone();
    if (gone.size === 0) return;
    for (const claim of this.#claims) {
      if (claim.held !== null) continue;
      const { leases, name } = claim;
      const left = (await leases.holders(name)).filter((lease) => lease.name === name && gone.has(lease.owner));
      if (left.length === 0) continue;
      this.#log.info("lease.owner_gone", { lease: name, owner: left[0]?.owner });
      await leases.release(left);
      await this.#acquire(claim);
    }
  }

  /** @param isAway the store's outage is told already */
  #lost(claim: Claim, reason: string, isAway = false): void {
    claim.held = null;
    this.#log[isAway ? "debug" : "warning"]("lease.lost", { lease: claim.name, reason });
    claim.listener(false);
  }
}
