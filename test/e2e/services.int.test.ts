import { afterAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { spawnChild } from "../../src/runtime/child.ts";
import { isProcessRunning } from "../../src/runtime/host.ts";
import { type RedisService, sharedRedis, startRedis, uniqueName } from "../support/redis.ts";
import { until } from "../support/until.ts";

const started: RedisService[] = [];
afterAll(async () => {
  await Promise.all(started.map((service) => service.stop()));
});
const start = async () => {
  const service = await startRedis();
  started.push(service);
  return service;
};

test("a killed server comes back on its port with its data", async () => {
  const redis = await start();
  const [url, pid] = [redis.url, redis.pid];
  expect(await redis.cli("set", "key", "value")).toBe("OK");
  await redis.restart("SIGKILL");
  expect(redis.url).toBe(url);
  expect(redis.pid).not.toBe(pid);
  expect(await redis.cli("get", "key")).toBe("value");
});

test("a paused server answers again after it is resumed, and a stopped one leaves nothing", async () => {
  const redis = await start();
  redis.pause();
  const answer = redis.cli("ping");
  redis.resume();
  expect(await answer).toBe("PONG");
  redis.pause();
  await redis.stop();
  await redis.stop();
  expect(isProcessRunning(redis.pid)).toBe(false);
  expect(existsSync(redis.dir)).toBe(false);
});

test("the shared server is one for the whole run", async () => {
  expect(await sharedRedis()).toBe(await sharedRedis());
  expect(uniqueName("orders")).not.toBe(uniqueName("orders"));
});

test("a server ends with its data when the process that started it is killed", async () => {
  const script = join(import.meta.dir, "..", "..", "scripts", "services.ts");
  const code = `const { startRedis } = await import(${JSON.stringify(script)}); const r = await startRedis(); console.log(JSON.stringify([r.pid, r.dir])); setInterval(() => {}, 1000);`;
  const line = Promise.withResolvers<string>();
  const child = await spawnChild(process.execPath, ["-e", code], {
    output: "pipe",
    onLine: (text, from) => from === "stdout" && line.resolve(text),
  });
  const [pid, dir] = JSON.parse(await line.promise) as [number, string];
  expect(isProcessRunning(pid)).toBe(true);
  child.kill("SIGKILL");
  await child.ended;
  // The guard deletes the folder right after it has killed the server.
  await until("the folder of the killed test is gone", () => !existsSync(dir));
});
