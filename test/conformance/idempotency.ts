/** The contract of `Idempotency` (src/ports/idempotency.ts), run for every adapter. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import type { Idempotency, KeyReservation } from "../../src/ports/idempotency.ts";

export interface IdempotencyUnderTest {
  readonly idempotency: Idempotency;
  /** Another handle on the same data; closed by `dispose`. */
  second(): Promise<Idempotency>;
  /** Lets this much time pass on the store's clock. */
  elapse(ms: number): Promise<void>;
  dispose(): Promise<void>;
}

export function idempotencyConformance(name: string, factory: () => Promise<IdempotencyUnderTest>): void {
  describe(`idempotency contract: ${name}`, () => {
    let under: IdempotencyUnderTest;
    let keys: Idempotency;
    let key: string;
    let ours: KeyReservation;
    let theirs: KeyReservation;
    beforeEach(async () => {
      under = await factory();
      keys = under.idempotency;
      key = randomUUID();
      ours = { key, by: "us" };
      theirs = { key, by: "them" };
    });
    afterEach(() => under.dispose());

    test("a key that nobody used is not known", async () => {
      expect(await keys.get(key)).toBeNull();
    });

    test("of many who reserve a key at once exactly one gets it, the others see it pending", async () => {
      const other = await under.second();
      const entries = await Promise.all(
        Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? keys : other).reserve({ key, by: String(at) }, 5_000)),
      );
      expect(entries.filter(({ state }) => state === "reserved")).toHaveLength(1);
      expect(entries.filter(({ state }) => state === "pending")).toHaveLength(19);
      expect(await other.get(key)).toEqual({ state: "pending" });
    });

    test("a result is kept as JSON and answers every later reservation", async () => {
      await keys.reserve(ours, 5_000);
      const result = { balance: 10.5, tags: ["ä", null], ok: true };
      await keys.succeed(key, result, 5_000);
      expect(await keys.get(key)).toEqual({ state: "success", result });
      expect(await (await under.second()).reserve(theirs, 5_000)).toEqual({ state: "success", result });
    });

    test("a result of nothing is a success with null", async () => {
      await keys.succeed(key, undefined, 5_000);
      expect(await keys.get(key)).toEqual({ state: "success", result: null });
    });

    test("a failure is known until its time is over", async () => {
      await keys.reserve(ours, 5_000);
      await keys.fail(key, 100);
      expect(await keys.reserve(ours, 5_000)).toEqual({ state: "error" });
      await under.elapse(1_100);
      expect(await keys.reserve(ours, 5_000)).toEqual({ state: "reserved" });
    });

    test("a reservation blocks a key only for its time, so that a crash doesn't block it for ever", async () => {
      await keys.reserve(ours, 100);
      await under.elapse(1_100);
      expect(await keys.get(key)).toBeNull();
      expect(await keys.reserve(ours, 5_000)).toEqual({ state: "reserved" });
    });

    test("a released reservation can be made again, a final entry is not released", async () => {
      await keys.reserve(ours, 5_000);
      await keys.release(ours);
      expect(await keys.reserve(ours, 5_000)).toEqual({ state: "reserved" });
      await keys.succeed(key, 1, 5_000);
      await keys.release(ours);
      expect(await keys.get(key)).toEqual({ state: "success", result: 1 });
    });

    test("nobody releases what somebody else has", async () => {
      await keys.reserve(ours, 100);
      await under.elapse(1_100);
      expect(await keys.reserve(theirs, 5_000)).toEqual({ state: "reserved" });
      await keys.release(ours);
      expect(await keys.get(key)).toEqual({ state: "pending" });
      await keys.release(theirs);
      expect(await keys.get(key)).toBeNull();
    });
  });
}
