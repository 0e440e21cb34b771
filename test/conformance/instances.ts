/** The contract of `Instances` (src/ports/instances.ts), run for every adapter. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import type { InstanceRecord, Instances } from "../../src/ports/instances.ts";

export interface InstancesUnderTest {
  readonly instances: Instances;
  /** Another handle on the same data; closed by `dispose`. */
  second(): Promise<Instances>;
  /** Lets this much time pass on the store's clock. */
  elapse(ms: number): Promise<void>;
  dispose(): Promise<void>;
}

const record = (more: Partial<InstanceRecord> = {}): InstanceRecord => ({
  id: randomBytes(6).toString("hex"),
  domain: "Fidelis",
  host: "somewhere",
  pid: 4711,
  bootId: "boot",
  pidNamespace: "pid:[1]",
  startedAt_ms: 1_795_308_621_389,
  version: "0.1.0",
  http: "http://127.0.0.1:8080",
  subscriptions: ["Ledger-Ülkü", "Summary"],
  state: "running",
  ...more,
});

export function instancesConformance(name: string, factory: () => Promise<InstancesUnderTest>): void {
  describe(`instances contract: ${name}`, () => {
    let under: InstancesUnderTest;
    beforeEach(async () => {
      under = await factory();
    });
    afterEach(() => under.dispose());
    const find = async (id: string) => (await (await under.second()).alive()).find((one) => one.id === id);

    test("a record is seen by everybody as it was written", async () => {
      const one = record();
      await under.instances.beat(one, 2_000);
      expect(await find(one.id)).toEqual(one);
      const bare = record({ http: null, subscriptions: [] });
      await under.instances.beat(bare, 2_000);
      expect(await find(bare.id)).toEqual(bare);
      expect(await find(one.id)).toEqual(one);
    });

    test("a beat replaces the record and keeps it alive", async () => {
      const one = record();
      await under.instances.beat(one, 300);
      await under.elapse(200);
      await under.instances.beat({ ...one, state: "draining" }, 2_000);
      await under.elapse(200);
      expect((await find(one.id))?.state).toBe("draining");
    });

    test("a record vanishes after its time", async () => {
      const one = record();
      await under.instances.beat(one, 50);
      await under.elapse(100);
      expect(await find(one.id)).toBeUndefined();
      await under.instances.beat(record(), 2_000);
      expect(await find(one.id)).toBeUndefined();
    });

    test("a removed record is gone at once, removing it again does nothing", async () => {
      const one = record();
      await under.instances.beat(one, 2_000);
      await under.instances.remove(one.id);
      expect(await find(one.id)).toBeUndefined();
      await under.instances.remove(one.id);
    });
  });
}
