import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import type { RedisBroker, RedisTuning } from "../../../../src/adapters/redis/mod.ts";
import { ConnectionError } from "../../../../src/errors.ts";
import { type RedisService, startRedis } from "../../../support/redis.ts";
import { failureOf, type Line, open, silentProxy, until } from "./opened.ts";

/** Each test does harm to a server of its own. */
describe("Redis goes away", () => {
  let server: RedisService;
  const brokers: RedisBroker[] = [];

  beforeEach(async () => {
    server = await startRedis();
  });
  afterEach(async () => {
    await Promise.all(brokers.splice(0).map((broker) => broker.close()));
    await server.stop();
  });

  const opened = (url = server.url, options: RedisTuning = {}): { readonly broker: RedisBroker; readonly lines: Line[] } => {
    const one = open(url, options);
    brokers.push(one.broker);
    return one;
  };
  const events = (lines: readonly Line[]): string[] => lines.map((line) => `${line.level} ${line.event}`);
  const works = async (broker: RedisBroker) =>
    await broker.ping().then(
      () => true,
      () => false,
    );

  test("killed and started again: calls fail at once meanwhile, then all works, with one line of log each way (A9, B9)", async () => {
    const { broker, lines } = opened();
    await broker.createGroup("orders", "g", "start");
    const woken: string[] = [];
    const wakeups = broker.wakeups((stream) => {
      woken.push(stream);
      wakeups.add(stream);
    });
    wakeups.add("orders");
    await until("the first wake", () => woken.includes("orders"));

    await server.down("SIGKILL");
    await until("the loss is noticed", async () => !(await works(broker)));
    const begun = performance.now();
    expect(await failureOf(broker.publish([{ stream: "orders", fields: { data: "1" } }]))).toBeInstanceOf(ConnectionError);
    expect(await failureOf(broker.read([{ stream: "orders", group: "g", consumer: "c", count: 1 }]))).toBeInstanceOf(ConnectionError);
    expect(await failureOf(broker.acknowledge("orders", "g", ["1-1"]))).toBeInstanceOf(ConnectionError);
    expect(performance.now() - begun).toBeLessThan(500);

    await server.up();
    const back = performance.now();
    await until("it is back", () => works(broker));
    expect(performance.now() - back).toBeLessThan(5_000);
    woken.length = 0;
    await broker.publish([{ stream: "orders", fields: { data: "2" } }]);
    await until("the stream wakes again", () => woken.includes("orders"));
    await until("both connections are back", () => events(lines).includes("info broker.restored"));
    expect(events(lines)).toEqual(["warning broker.lost", "info broker.restored"]);
    expect(lines[1]?.fields["duration_ms"]).toBeGreaterThan(0);
    await wakeups.close();
  }, 30_000);

  test("not there at the start: it keeps trying, and is told once", async () => {
    await server.down();
    const { broker, lines } = opened();
    for (let at = 0; at < 3; at++) {
      const failure = await failureOf(broker.ping());
      expect(failure).toBeInstanceOf(ConnectionError);
      expect(failure.message).toContain("ECONNREFUSED");
    }
    await server.up();
    await until("it is there", () => works(broker));
    expect(events(lines)).toEqual(["warning broker.lost", "info broker.restored"]);
  }, 30_000);

  test("standing still: the deadline passes, a new client is made, late answers disturb nobody (C14)", async () => {
    const { broker } = opened(server.url, { deadline_ms: 300 });
    await broker.publish([{ stream: "orders", fields: { data: "before" } }]);
    server.pause();
    const begun = performance.now();
    const failures = await Promise.all([failureOf(broker.length("orders")), failureOf(broker.range("orders", { count: 10 }))]);
    for (const failure of failures) expect(failure).toBeInstanceOf(ConnectionError);
    expect(failures.map((failure) => failure.message).join()).toContain("within 300 ms");
    expect(performance.now() - begun).toBeLessThan(2_000);
    server.resume();
    await until("it works again", () => works(broker));
    expect(await broker.length("orders")).toBe(1);
    expect((await broker.range("orders", { count: 10 })).map((entry) => new TextDecoder().decode(entry.fields[0]?.[1]))).toEqual([
      "before",
    ]);
  }, 30_000);

  test("a link that is dead on the other side is replaced, for commands and for wakeups (C14)", async () => {
    const proxy = await silentProxy(server.port);
    const { broker } = opened(proxy.url, { deadline_ms: 300, block_ms: 200, margin_ms: 200 });
    const woken: string[] = [];
    const wakeups = broker.wakeups((stream) => {
      woken.push(stream);
      wakeups.add(stream);
    });
    wakeups.add("orders");
    await until("the first wake", () => woken.includes("orders"));
    expect(proxy.silence()).toBe(2);
    expect(await failureOf(broker.ping())).toBeInstanceOf(ConnectionError);
    await until("commands work again", () => works(broker));
    woken.length = 0;
    await server.cli("XADD", "orders", "*", "data", "1");
    await until("wakeups work again", () => woken.includes("orders"));
    await wakeups.close();
    proxy.close();
  }, 30_000);

  test("a read that was given up takes no entries when it reaches the server late (G32)", async () => {
    const proxy = await silentProxy(server.port);
    const { broker } = opened(proxy.url, { deadline_ms: 300 });
    await broker.createGroup("orders", "g", "start");
    await broker.publish([{ stream: "orders", fields: { data: "1" } }]);
    proxy.silence();
    const request = { stream: "orders", group: "g", consumer: "c", count: 10 };
    expect(await failureOf(broker.read([request]))).toBeInstanceOf(ConnectionError);
    await until("commands work again", () => works(broker));
    await proxy.release();
    expect(await broker.pending("orders", "g", { count: 10 })).toEqual([]);
    const [result] = await broker.read([request]);
    expect(result?.kind === "entries" ? result.entries.length : result).toBe(1);
    proxy.close();
  }, 30_000);

  test("a server that lets nobody end connections is worked with all the same", async () => {
    await server.cli("ACL", "SETUSER", "careful", "on", ">word", "~*", "&*", "+@all", "-client|kill", "-client|id");
    const { broker } = opened(server.url.replace("redis://", "redis://careful:word@"), { deadline_ms: 300 });
    await broker.publish([{ stream: "orders", fields: { data: "1" } }]);
    server.pause();
    expect(await failureOf(broker.length("orders"))).toBeInstanceOf(ConnectionError);
    server.resume();
    await until("it works again", () => works(broker));
    expect(await broker.length("orders")).toBe(1);
  }, 30_000);

  test("connections that the server ends come back, and so do scripts that it forgot", async () => {
    const { broker, lines } = opened();
    const woken: string[] = [];
    const wakeups = broker.wakeups((stream) => {
      woken.push(stream);
      wakeups.add(stream);
    });
    wakeups.add("orders");
    await until("the first wake", () => woken.includes("orders"));
    await server.cli("SCRIPT", "FLUSH");
    await server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await until("the loss is noticed", () => lines.length > 0);
    await until("it works again", () => works(broker));
    woken.length = 0;
    await broker.publish([{ stream: "orders", fields: { data: "1" } }]);
    await until("wakeups work again", () => woken.includes("orders"));
    await until("both are back", () => lines.length === 2);
    expect(events(lines)).toEqual(["warning broker.lost", "info broker.restored"]);
    await wakeups.close();
  }, 30_000);

  test("all data gone: reads say that the group is lost, and generations of leases are not used again (B10)", async () => {
    const { broker } = opened();
    await broker.createGroup("orders", "g", "start");
    const before = await broker.leases.acquire("outbox", "a", 60_000);
    await server.cli("FLUSHALL");
    expect(await broker.read([{ stream: "orders", group: "g", consumer: "c", count: 1 }])).toEqual([{ kind: "groupLost" }]);
    const after = await broker.leases.acquire("outbox", "b", 60_000);
    expect(after?.generation).toBeGreaterThan(before?.generation ?? Number.POSITIVE_INFINITY);
    expect(await broker.leases.renew(before === null ? [] : [before], 60_000)).toEqual([]);
  });

  test("out of memory: a batch is refused as a whole, a dead letter leaves its original pending, reading and acknowledging go on", async () => {
    const { broker } = opened();
    await broker.createGroup("orders", "g", "start");
    await broker.publish([{ stream: "orders", fields: { data: "1" } }]);
    const [result] = await broker.read([{ stream: "orders", group: "g", consumer: "c", count: 1 }]);
    const id = result?.kind === "entries" ? (result.entries[0]?.id ?? "") : "";
    await server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction");
    await server.cli("CONFIG", "SET", "maxmemory", "100kb");
    const batch = Array.from({ length: 100 }, () => ({ stream: "orders", fields: { data: "x".repeat(1_000) } }));
    expect((await failureOf(broker.publish(batch))).message).toContain("OOM");
    const letter = { stream: "orders", group: "g", id, deadLetterStream: "orders:dlq", fields: { data: "1" } };
    expect((await failureOf(broker.deadLetter(letter))).name).toBe("ConnectionError");
    expect(await broker.length("orders")).toBe(1);
    expect(await broker.pending("orders", "g", { count: 10 })).toHaveLength(1);
    expect(await broker.acknowledge("orders", "g", [id])).toBe(1);
    await server.cli("CONFIG", "SET", "maxmemory", "0");
    expect(await broker.publish(batch)).toHaveLength(100);
  });

  test("a refused login is told with what to do, without the password", async () => {
    await server.cli("CONFIG", "SET", "requirepass", "right");
    const { broker, lines } = opened(`redis://:hunter2@127.0.0.1:${server.port}`, { deadline_ms: 2_000 });
    const failure = await failureOf(broker.ping());
    expect(failure).toBeInstanceOf(ConnectionError);
    expect(failure.message).toContain("WRONGPASS");
    expect((failure as ConnectionError).about.fix).toContain("password");
    const none = opened();
    expect((await failureOf(none.broker.ping())).message).toContain("NOAUTH");
    for (const told of [failure.stack, JSON.stringify((failure as ConnectionError).about), JSON.stringify(lines), Bun.inspect(failure)]) {
      expect(told).not.toContain("hunter2");
    }
    const good = opened(`redis://:right@127.0.0.1:${server.port}/2`);
    expect(await good.broker.ping()).toMatch(/^\d+\./);
    expect(good.broker.address).toBe(`redis://127.0.0.1:${server.port}/2`);
  });

  test("without permission for CLIENT UNBLOCK streams still wake", async () => {
    await server.cli("ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-client", "+client|id", "+client|setname");
    const { broker } = opened(`redis://app:secret@127.0.0.1:${server.port}`);
    const woken: string[] = [];
    const wakeups = broker.wakeups((stream) => {
      woken.push(stream);
      wakeups.add(stream);
    });
    for (const stream of ["a", "b", "c"]) {
      wakeups.add(stream);
      await until("the first wake", () => woken.includes(stream));
    }
    woken.length = 0;
    await broker.publish([{ stream: "c", fields: { data: "1" } }]);
    await until("c wakes", () => woken.includes("c"));
    await wakeups.close();
  }, 30_000);
});
