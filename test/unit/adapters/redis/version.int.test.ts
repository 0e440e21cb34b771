/** A Redis whose keys another version of the program wrote (rulings 51). */
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "bun:test";
import type { RedisBroker } from "../../../../src/adapters/redis/mod.ts";
import { ConfigurationError } from "../../../../src/errors.ts";
import type { InstanceRecord } from "../../../../src/ports/instances.ts";
import { STORE_VERSION } from "../../../../src/ports/store-version.ts";
import { type RedisService, startRedis } from "../../../support/redis.ts";
import { failureOf, type Line, open, until } from "./opened.ts";

const KEY = "protean:schema";
const record: InstanceRecord = {
  id: "0123456789ab",
  domain: "shop",
  host: "box",
  pid: 1,
  bootId: "",
  pidNamespace: "",
  startedAt_ms: 0,
  version: "test",
  http: null,
  subscriptions: [],
  state: "running",
};

let server: RedisService;
const opened: RedisBroker[] = [];
beforeAll(async () => {
  server = await startRedis({ durable: false });
});
afterAll(() => server.stop());
beforeEach(() => server.cli("FLUSHALL"));
afterEach(async () => {
  for (const broker of opened.splice(0)) await broker.close();
});

function opening(): { readonly broker: RedisBroker; readonly lines: Line[] } {
  const one = open(server.url);
  opened.push(one.broker);
  return one;
}

const says = (version: number, usableFrom: number) => server.cli("SET", KEY, `{"version": ${version}, "usable_from": ${usableFrom}}`);

test("whoever looks writes nothing; a running engine says its version, again after everything was lost", async () => {
  const { broker } = opening();
  await broker.ping();
  await broker.groups("orders");
  expect((await server.cli("KEYS", "*")).trim()).toBe("");
  await broker.instances.beat(record, 1_000);
  expect(JSON.parse(await server.cli("GET", KEY))).toEqual({ version: STORE_VERSION, usable_from: 1 });
  await server.cli("FLUSHALL");
  await broker.instances.beat(record, 1_000);
  expect(JSON.parse(await server.cli("GET", KEY))).toMatchObject({ version: STORE_VERSION });
});

test("a newer one is refused in one line with both versions, for every call", async () => {
  await says(99, 98);
  const { broker } = opening();
  for (const call of [() => broker.ping(), () => broker.publish([{ stream: "s", fields: { data: "1" } }])]) {
    const error = await failureOf(call());
    expect(error).toBeInstanceOf(ConfigurationError);
    expect(error.message).toMatch(new RegExp(`^Redis at redis://\\S+ has schema version 99, .* up to ${STORE_VERSION}$`));
  }
  expect((await server.cli("KEYS", "*")).trim()).toBe(KEY);
});

test("one version on, this program runs beside the newer one and doesn't take its number away", async () => {
  await says(STORE_VERSION + 1, STORE_VERSION);
  const { broker } = opening();
  await broker.instances.beat(record, 1_000);
  await broker.publish([{ stream: "s", fields: { data: "1" } }]);
  expect(JSON.parse(await server.cli("GET", KEY))).toMatchObject({ version: STORE_VERSION + 1 });
});

test("a program that is running when the change comes stops with its next heartbeat, and goes on when it is taken back", async () => {
  const { broker, lines } = opening();
  await broker.instances.beat(record, 1_000);
  await says(STORE_VERSION + 2, STORE_VERSION + 1);
  await broker.instances.beat(record, 1_000);
  await until(
    "it looked at the server anew",
    async () =>
      (await broker.ping().then(
        () => null,
        (error: unknown) => error,
      )) instanceof ConfigurationError,
  );
  expect(lines.filter(({ event }) => event === "broker.lost")).toHaveLength(1);
  await server.cli("DEL", KEY);
  await until("the server may be used", async () => (await broker.ping().catch(() => "")) !== "");
});
