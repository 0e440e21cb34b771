/** The contract of `Leases` (src/ports/leases.ts), run for every adapter. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import type { Leases } from "../../src/ports/leases.ts";

export interface LeasesUnderTest {
  readonly leases: Leases;
  /** Another handle on the same data; closed by `dispose`. */
  second(): Promise<Leases>;
  /** Lets this much time pass on the store's clock. */
  elapse(ms: number): Promise<void>;
  dispose(): Promise<void>;
}

/** Short, because a real server's clock has to be waited for; long enough that no test meets its end by being slow. */
const TTL_ms = 2_000;

export function leasesConformance(name: string, factory: () => Promise<LeasesUnderTest>): void {
  describe(`leases contract: ${name}`, () => {
    let under: LeasesUnderTest;
    let leases: Leases;
    let key: string;
    beforeEach(async () => {
      under = await factory();
      leases = under.leases;
      key = `subscription:${randomUUID()}`;
    });
    afterEach(() => under.dispose());

    test("a free lease is taken, and nobody else gets it", async () => {
      const lease = await leases.acquire(key, "a", TTL_ms);
      expect(lease).toMatchObject({ name: key, owner: "a" });
      expect(lease?.generation).toBeGreaterThan(0);
      expect(await leases.acquire(key, "b", TTL_ms)).toBeNull();
      expect(await (await under.second()).acquire(key, "b", TTL_ms)).toBeNull();
    });

    test("its owner asking again keeps the generation and renews", async () => {
      const first = await leases.acquire(key, "a", 300);
      expect(await leases.acquire(key, "a", TTL_ms)).toEqual(first);
      await under.elapse(350);
      expect(await leases.acquire(key, "b", TTL_ms)).toBeNull();
    });

    test("a lease that ran out can be taken by another, with a higher generation", async () => {
      const first = await leases.acquire(key, "a", 100);
      await under.elapse(150);
      const second = await leases.acquire(key, "b", TTL_ms);
      expect(second?.owner).toBe("b");
      expect(second?.generation).toBeGreaterThan(first?.generation ?? 0);
    });

    test("the old owner of a lease that ran out gets a new generation too", async () => {
      const first = await leases.acquire(key, "a", 100);
      await under.elapse(150);
      const again = await leases.acquire(key, "a", TTL_ms);
      expect(again?.generation).toBeGreaterThan(first?.generation ?? 0);
    });

    test("a generation is never used twice, whatever happens between", async () => {
      const seen = new Set<number>();
      for (const owner of ["a", "b", "a", "c"]) {
        const lease = await leases.acquire(key, owner, TTL_ms);
        expect(seen.has(lease?.generation ?? 0)).toBe(false);
        seen.add(lease?.generation ?? 0);
        if (lease !== null) await leases.release([lease]);
      }
    });

    test("renewing extends what is held and leaves out what was lost", async () => {
      const held = await leases.acquire(key, "a", 300);
      const lost = await leases.acquire(`${key}:lost`, "a", 50);
      if (held === null || lost === null) throw new Error("both were free");
      await under.elapse(100);
      await leases.acquire(`${key}:lost`, "b", TTL_ms);
      expect(await leases.renew([lost, held], TTL_ms)).toEqual([held]);
      await under.elapse(300);
      expect(await leases.acquire(key, "b", TTL_ms)).toBeNull();
      expect(await leases.renew([], TTL_ms)).toEqual([]);
    });

    test("a lease that ran out can't be renewed, also when nobody took it", async () => {
      const lease = await leases.acquire(key, "a", 50);
      await under.elapse(100);
      expect(await leases.renew(lease === null ? [] : [lease], TTL_ms)).toEqual([]);
      expect((await leases.acquire(key, "b", TTL_ms))?.owner).toBe("b");
    });

    test("renewing with an old generation fails", async () => {
      const lease = await leases.acquire(key, "a", TTL_ms);
      if (lease === null) throw new Error("it was free");
      expect(await leases.renew([{ ...lease, generation: lease.generation - 1 }], TTL_ms)).toEqual([]);
      expect(await leases.renew([{ ...lease, owner: "b" }], TTL_ms)).toEqual([]);
    });

    test("a released lease can be taken at once; releasing what isn't held does nothing", async () => {
      const lease = await leases.acquire(key, "a", TTL_ms);
      if (lease === null) throw new Error("it was free");
      await leases.release([{ ...lease, owner: "b" }]);
      expect(await leases.acquire(key, "b", TTL_ms)).toBeNull();
      await leases.release([lease]);
      expect((await leases.acquire(key, "b", TTL_ms))?.owner).toBe("b");
      await leases.release([lease]);
      expect(await leases.acquire(key, "c", TTL_ms)).toBeNull();
    });

    test("of many who ask at once exactly one gets it", async () => {
      const other = await under.second();
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? leases : other).acquire(key, `owner-${at}`, TTL_ms)),
      );
      expect(results.filter((lease) => lease !== null)).toHaveLength(1);
    });

    test("holders are listed by prefix, without those that ran out", async () => {
      await leases.acquire(`${key}:b`, "two", TTL_ms);
      await leases.acquire(`${key}:a`, "one", TTL_ms);
      await leases.acquire(`${key}:gone`, "three", 20);
      await leases.acquire(`other:${key}`, "four", TTL_ms);
      await under.elapse(50);
      const holders = await leases.holders(key);
      expect(holders.map(({ name: held, owner }) => [held, owner]).sort()).toEqual([
        [`${key}:a`, "one"],
        [`${key}:b`, "two"],
      ]);
      for (const { expiresIn_ms } of holders) {
        expect(expiresIn_ms).toBeGreaterThan(0);
        expect(expiresIn_ms).toBeLessThanOrEqual(TTL_ms);
      }
    });
  });
}
