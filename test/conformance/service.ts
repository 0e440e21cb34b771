/** What every service of the engine must do (src/engine/service.ts), whatever it does besides. */
import { describe, expect, test } from "bun:test";
import type { Service } from "../../src/engine/service.ts";

export interface ServiceUnderTest {
  readonly service: Service;
  /** Lets timers and calls that are due run. */
  readonly settle: () => Promise<void>;
  readonly close: () => Promise<void>;
}

/** Resolves when `work` does, letting time pass meanwhile. */
async function finish(work: Promise<unknown>, settle: () => Promise<void>): Promise<void> {
  let done = false;
  const watched = work.then(() => {
    done = true;
  });
  for (let round = 0; round < 200 && !done; round += 1) await settle();
  expect(done).toBe(true);
  await watched;
}

export function serviceConformance(name: string, make: () => Promise<ServiceUnderTest>): void {
  const never = () => new AbortController().signal;
  describe(`${name} as a service`, () => {
    test("starts once, however often it is told", async () => {
      const { service, settle, close } = await make();
      await finish(Promise.all([service.start(), service.start()]), settle);
      await finish(service.start(), settle);
      expect(service.status().name).toBe(service.name);
      expect(["running", "standby"]).toContain(service.status().state);
      await finish(service.stop(never()), settle);
      await close();
    });

    test("stops and quiesces before it was started, and then doesn't start", async () => {
      const { service, settle, close } = await make();
      service.quiesce();
      await finish(service.stop(never()), settle);
      await finish(service.start(), settle);
      expect(service.status().state).toBe("stopped");
      await close();
    });

    test("quiesces and stops twice", async () => {
      const { service, settle, close } = await make();
      await finish(service.start(), settle);
      service.quiesce();
      service.quiesce();
      await finish(service.stop(never()), settle);
      await finish(service.stop(never()), settle);
      expect(service.status().state).toBe("stopped");
      await close();
    });

    test("stops at once when told that time is up", async () => {
      const { service, settle, close } = await make();
      await finish(service.start(), settle);
      await finish(service.stop(AbortSignal.abort()), settle);
      expect(service.status().state).toBe("stopped");
      await close();
    });

    test("comes round while it runs, and nobody worries once it has stopped", async () => {
      const { service, settle, close } = await make();
      await finish(service.start(), settle);
      expect(service.idleFor_ms()).toBeLessThan(30_000);
      await finish(service.stop(never()), settle);
      await close();
    });
  });
}
