/** Leases, heartbeats and idempotency keys on a real Redis. */
import { afterAll } from "bun:test";
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import { openRedis, openRedisIdempotency, type RedisBroker } from "../../src/adapters/redis/mod.ts";
import type { Idempotency } from "../../src/ports/idempotency.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { startRedis } from "../support/redis.ts";
import { idempotencyConformance } from "./idempotency.ts";
import { instancesConformance } from "./instances.ts";
import { leasesConformance } from "./leases.ts";

const server = startRedis({ durable: false });
const client = server.then(({ host, port }) => new Redis(port, host));
afterAll(async () => {
  (await client).disconnect();
  await (await server).stop();
});

/** Redis' own clock can't be moved: the server itself lets the time pass and answers then. */
async function elapse(ms: number): Promise<void> {
  await (await client).blpop(`nobody-writes-here:${randomUUID()}`, ms / 1000);
}

async function handles<T extends { close(): Promise<void> }>(open: (url: string) => T) {
  const { url } = await server;
  const opened: T[] = [];
  const one = (): T => {
    const handle = open(url);
    opened.push(handle);
    return handle;
  };
  return { one, dispose: async () => void (await Promise.all(opened.map((handle) => handle.close()))) };
}

const tools = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
const broker = (url: string): RedisBroker => openRedis({ name: "default", url, ...tools });

leasesConformance("redis", async () => {
  const { one, dispose } = await handles(broker);
  return { leases: one().leases, second: async () => one().leases, elapse, dispose };
});

instancesConformance("redis", async () => {
  await (await client).flushall();
  const { one, dispose } = await handles(broker);
  return { instances: one().instances, second: async () => one().instances, elapse, dispose };
});

idempotencyConformance("redis", async () => {
  const { one, dispose } = await handles((url): Idempotency => openRedisIdempotency({ url, ...tools }));
  return { idempotency: one(), second: async () => one(), elapse, dispose };
});
