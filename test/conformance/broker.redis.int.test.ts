import { afterAll } from "bun:test";
import { openRedis, type RedisBroker } from "../../src/adapters/redis/mod.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { startRedis } from "../support/redis.ts";
import { brokerConformance } from "./broker.ts";

const server = startRedis({ durable: false });
afterAll(async () => await (await server).stop());

brokerConformance("redis", async () => {
  const service = await server;
  const open: RedisBroker[] = [];
  const one = () => {
    const broker = openRedis({ name: "default", url: service.url, clock: new SystemClock(), random: new SystemRandom(), log: silentLog });
    open.push(broker);
    return broker;
  };
  return {
    broker: one(),
    second: async () => one(),
    spoil: async (stream) => {
      await service.cli("SET", stream, "a string, not a stream");
    },
    dispose: async () => {
      await Promise.all(open.map((broker) => broker.close()));
    },
  };
});
