import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Redis } from "ioredis";
import { openRedisIdempotency, type RedisBroker } from "../../../../src/adapters/redis/mod.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { type RedisService, startRedis } from "../../../support/redis.ts";
import { open, until } from "./opened.ts";

describe("on a Redis that works", () => {
  let server: RedisService;
  let plain: Redis;
  let broker: RedisBroker;

  beforeAll(async () => {
    server = await startRedis({ durable: false });
    plain = new Redis(server.port, server.host);
    broker = open(server.url).broker;
  });
  afterAll(async () => {
    plain.disconnect();
    await broker.close();
    await server.stop();
  });

  const connections = async () => (await server.cli("CLIENT", "LIST")).split("\n").filter((line) => line.includes("name=protean-")).length;

  test("200 watched streams and 200 groups read need two connections, and one entry wakes one stream (D14)", async () => {
    const own = open(server.url).broker;
    const streams = Array.from({ length: 200 }, (_, at) => `many-${at}`);
    for (const stream of streams) await own.createGroup(stream, "g", "start");
    const before = await connections();
    const woken: string[] = [];
    const wakeups = own.wakeups((stream) => {
      woken.push(stream);
      wakeups.add(stream);
    });
    for (const stream of streams) wakeups.add(stream);
    await until("all streams woke once for nothing", () => new Set(woken).size >= 200);
    await own.read(streams.map((stream) => ({ stream, group: "g", consumer: "c", count: 10 })));
    // Adding a stream again may wake it once for nothing: what counts is how it is once that has settled.
    await until("one entry wakes one stream", async () => {
      woken.length = 0;
      await own.publish([{ stream: "many-117", fields: { data: "1" } }]);
      await until("the stream wakes", () => woken.includes("many-117"));
      return new Set(woken).size === 1;
    });
    expect((await connections()) - before).toBe(1);
    await wakeups.close();
    await until("the blocking connection is gone", async () => (await connections()) === before);
    await own.close();
  }, 30_000);

  test("a busy stream wakes once and is watched again when a read found nothing: payloads don't travel twice (rulings 22)", async () => {
    const own = open(server.url).broker;
    await own.createGroup("busy", "g", "start");
    let woken = 0;
    let told = 0;
    const wakeups = own.wakeups((stream) => {
      if (stream === "busy") woken += 1;
      else told += 1;
    });
    const read = async () => await own.read([{ stream: "busy", group: "g", consumer: "c", count: 100 }]);
    wakeups.add("busy");
    await until("the wake for nothing", () => woken === 1);
    await read();
    await own.publish([{ stream: "busy", fields: { data: "1" } }]);
    await until("it wakes", () => woken === 2);
    // Notices on the control stream show that the waker has come round while the stream grew.
    for (let at = 0; at < 5; at++) {
      const before = told;
      await own.publish([{ stream: "busy", fields: { data: "2" } }]);
      await plain.xadd("protean:control", "*", "event", "released");
      await until("the notice came", () => told > before);
    }
    expect(woken).toBe(2);
    await read();
    await read();
    await own.publish([{ stream: "busy", fields: { data: "3" } }]);
    await until("it wakes again", () => woken > 2);
    await wakeups.close();
    await own.close();
  });

  test("an idle waker asks rarely: a block is seconds, not a poll", async () => {
    const own = open(server.url).broker;
    let woken = 0;
    const wakeups = own.wakeups(() => {
      woken += 1;
    });
    await until("it waits", () => woken > 0);
    const reads = async () => Number(/cmdstat_xread:calls=(\d+)/.exec(await plain.info("commandstats"))?.[1] ?? "0");
    await until("it is blocked", async () => (await server.cli("CLIENT", "LIST")).includes("flags=b"));
    const before = await reads();
    for (let at = 0; at < 50; at++) await own.ping();
    expect((await reads()) - before).toBeLessThanOrEqual(1);
    await wakeups.close();
    await own.close();
  });

  test("a stream whose ids begin anew after DEL wakes again, once a block ran out", async () => {
    const own = open(server.url, { block_ms: 50 }).broker;
    await plain.xadd("reborn", "9999999999999-0", "data", "1");
    let woken = 0;
    const wakeups = own.wakeups((stream) => {
      if (stream !== "reborn") return;
      woken += 1;
      wakeups.add(stream);
    });
    wakeups.add("reborn");
    await until("the first wake", () => woken === 1);
    await plain.del("reborn");
    await plain.xadd("reborn", "5-0", "data", "1");
    await until("it wakes", () => woken > 1);
    await wakeups.close();
    await own.close();
  });

  test("acknowledgements of one turn of the loop are one command", async () => {
    await broker.createGroup("turn", "g", "start");
    await broker.publish(Array.from({ length: 100 }, (_, at) => ({ stream: "turn", fields: { data: String(at) } })));
    const [result] = await broker.read([{ stream: "turn", group: "g", consumer: "c", count: 100 }]);
    const entries = result?.kind === "entries" ? result.entries : [];
    await broker.acknowledge("turn", "g", [entries[0]?.id ?? ""]);
    const calls = async () => Number(/cmdstat_evalsha:calls=(\d+)/.exec(await plain.info("commandstats"))?.[1] ?? "0");
    const before = await calls();
    await Promise.all(entries.slice(1).map((entry) => broker.acknowledge("turn", "g", [entry.id])));
    expect((await calls()) - before).toBe(1);
  });

  test("an entry of Python's is read as it is", async () => {
    await broker.createGroup("python", "g", "start");
    await plain.xadd("python", "*", "data", '{"data": {"name": "caf\\u00e9"}}');
    const [result] = await broker.read([{ stream: "python", group: "g", consumer: "c", count: 1 }]);
    const entry = result?.kind === "entries" ? result.entries[0] : undefined;
    expect(new TextDecoder().decode(entry?.fields[0]?.[1])).toBe('{"data": {"name": "caf\\u00e9"}}');
  });

  test("traces are written as the original writes them, kept for their days, and published only while somebody listens", async () => {
    const event = {
      event: "handler.completed",
      stream: "s",
      message_id: "m",
      message_type: "T",
      status: "ok",
      timestamp: "2026-11-22T00:41:31.893479+00:00",
    };
    await plain.xadd("protean:traces", "1000-0", "data", "{}");
    await broker.writeTraces("Corner Bank", [{ ...event, handler: "H", duration_ms: 1.364 }], 7);
    const [, fields] = (await plain.xrevrange("protean:traces", "+", "-", "COUNT", 1))[0] ?? [];
    expect(fields).toEqual([
      "data",
      '{"event": "handler.completed", "domain": "Corner Bank", "stream": "s", "message_id": "m", "message_type": "T", "status": "ok", "handler": "H", "duration_ms": 1.36, "error": null, "metadata": {}, "payload": null, "worker_id": null, "correlation_id": null, "causation_id": null, "timestamp": "2026-11-22T00:41:31.893479+00:00"}',
    ]);

    const listener = new Redis(server.port, server.host);
    const heard: string[] = [];
    listener.on("message", (_channel, message) => heard.push(message));
    await listener.subscribe("protean:trace");
    const fresh = open(server.url).broker;
    const length = await plain.xlen("protean:traces");
    await fresh.writeTraces("Corner Bank", [event], 0);
    await until("the listener hears it", () => heard.length === 1);
    expect(await plain.xlen("protean:traces")).toBe(length);
    listener.disconnect();
    await fresh.close();
  });

  test("a lease has one owner until it runs out by the server's clock, and each change of owner is a new generation (rulings 25)", async () => {
    const { leases } = broker;
    const asked = await Promise.all(["a", "b", "c"].map((owner) => leases.acquire("outbox/x", owner, 60_000)));
    const won = asked.filter((lease) => lease !== null);
    expect(won).toHaveLength(1);
    const first = won[0] ?? { name: "", owner: "", generation: 0 };
    expect(await leases.acquire("outbox/x", first.owner, 60_000)).toEqual(first);
    expect(await plain.get("protean:lease:outbox/x")).toBe(`${first.owner}:${first.generation}`);
    expect(await leases.renew([first, { ...first, generation: first.generation - 1 }, { ...first, name: "unknown" }], 60_000)).toEqual([
      first,
    ]);
    expect((await leases.holders("outbox/")).map((lease) => [lease.name, lease.owner])).toEqual([["outbox/x", first.owner]]);
    expect(await leases.holders("other/")).toEqual([]);

    await leases.renew([first], 20);
    await until("it ran out", async () => (await plain.exists("protean:lease:outbox/x")) === 0);
    expect(await leases.renew([first], 60_000)).toEqual([]);
    expect(await leases.holders("outbox/")).toEqual([]);
    const again = await leases.acquire("outbox/x", first.owner, 60_000);
    expect(again?.generation).toBeGreaterThan(first.generation);

    await leases.release([first]);
    expect(await leases.acquire("outbox/x", "thief", 60_000)).toBeNull();
    await leases.release(again === null ? [] : [again]);
    expect((await leases.acquire("outbox/x", "next:with:colons", 60_000))?.owner).toBe("next:with:colons");
    expect((await leases.holders("outbox/"))[0]?.owner).toBe("next:with:colons");
  });

  test("heartbeats are JSON under protean:engine:<id> and expire by themselves", async () => {
    const record = {
      id: "0123456789ab",
      domain: "fidelis",
      host: "h",
      pid: 1,
      bootId: "b",
      pidNamespace: "p",
      startedAt_ms: 1,
      version: "0.1.0",
      http: null,
      subscriptions: ["A"],
      state: "running" as const,
    };
    await broker.instances.beat(record, 10_000);
    expect(JSON.parse((await plain.get("protean:engine:0123456789ab")) ?? "")).toEqual(record);
    expect(await plain.pttl("protean:engine:0123456789ab")).toBeGreaterThan(9_000);
    await plain.set("protean:engine:other", "not JSON");
    await plain.zadd("protean:engines", Date.now() + 60_000, "other");
    expect(await broker.instances.alive()).toEqual([record]);
    await broker.instances.remove(record.id);
    expect(await broker.instances.alive()).toEqual([]);
  });

  test("idempotency keys are read and written as Python does; what can't be read counts as nothing", async () => {
    const odd = { key: "odd", by: "us" };
    const keys = openRedisIdempotency({ url: server.url, clock: new SystemClock(), random: new SystemRandom(), log: silentLog });
    await keys.succeed("done", { id: 1, text: "é" }, 60_000);
    expect(await plain.get("idempotency:done")).toBe('{"status": "success", "result": {"id":1,"text":"é"}}');
    await keys.fail("broke", 60_000);
    expect(await plain.get("idempotency:broke")).toBe('{"status": "error", "error": "handler_failed"}');
    await plain.set("idempotency:python", '{"status": "success", "result": 3}');
    expect(await keys.reserve({ key: "python", by: "us" }, 1_000)).toEqual({ state: "success", result: 3 });
    await plain.set("idempotency:odd", "\u0000 not JSON");
    expect(await keys.get("odd")).toBeNull();
    expect(await keys.reserve(odd, 1_000)).toEqual({ state: "reserved" });
    expect(await keys.reserve(odd, 1_000)).toEqual({ state: "pending" });
    await broker.idempotency.release({ key: "odd", by: "them" });
    expect(await keys.get("odd")).toEqual({ state: "pending" });
    await keys.release(odd);
    expect(await keys.get("odd")).toBeNull();
    await keys.close();
  });
});
