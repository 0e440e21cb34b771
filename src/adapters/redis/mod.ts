/** The Redis adapter: streams, leases, heartbeats and idempotency keys over ioredis. */
import type { RedisOptions } from "ioredis";
import type { Clock } from "../../ports/clock.ts";
import type { Idempotency } from "../../ports/idempotency.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import { silentTelemetry, type Telemetry } from "../../ports/telemetry.ts";
import { parseRedisUrl } from "./address.ts";
import { Availability } from "./availability.ts";
import { RedisBroker } from "./broker.ts";
import { Connection } from "./connection.ts";
import { RedisIdempotency } from "./idempotency.ts";

export { RedisBroker } from "./broker.ts";

export interface RedisTuning {
  /** Milliseconds that a command may take before its connection is thrown away; default 5,000. */
  readonly deadline_ms?: number;
  /** Milliseconds of one blocking read, default and at most 5,000; and what its answer may take beyond, default 2,000. */
  readonly block_ms?: number;
  readonly margin_ms?: number;
  /** Passed on to ioredis: certificates (`tls`), `keepAlive`, `family`, … Address, login and reconnecting are ours. */
  readonly driver?: RedisOptions;
}

export interface RedisSource {
  /** Key under `[brokers]`. */
  readonly name: string;
  /** `redis://[user:password@]host[:port][/database]` or `rediss://`. */
  readonly url: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly telemetry?: Telemetry;
  readonly options?: RedisTuning;
}

const DEADLINE_ms = 5_000;

/**
 * A broker on Redis. Nothing is connected before the first call; `ping` tells whether it can be used. A refused login shows as
 * ConnectionError with a `fix`: waiting won't help there.
 * @throws ConfigurationError when the address can't be read
 */
export function openRedis(source: RedisSource): RedisBroker {
  const address = parseRedisUrl(source.url);
  const connect = connector(source);
  return new RedisBroker({
    name: source.name,
    address: address.shown,
    identity: source.random.hex(12),
    commands: connect("commands"),
    connectWaker: (onReady) => connect("wakeups", onReady),
    clock: source.clock,
    block_ms: source.options?.block_ms,
    margin_ms: source.options?.margin_ms,
  });
}

/** Idempotency keys in a Redis of their own (`[idempotency].redis_url`). @throws ConfigurationError when the address can't be read */
export function openRedisIdempotency(source: Omit<RedisSource, "name"> & { readonly name?: string }): Idempotency {
  const connect = connector({ ...source, name: source.name ?? "idempotency" });
  return new RedisIdempotency(connect("commands"), true);
}

function connector(source: RedisSource): (purpose: string, onReady?: () => void) => Connection {
  const address = parseRedisUrl(source.url);
  const { clock, random, telemetry = silentTelemetry } = source;
  const log = source.log.with({ broker: source.name, address: address.shown });
  const availability = new Availability({ broker: source.name, log, clock, telemetry });
  const deadline_ms = source.options?.deadline_ms ?? DEADLINE_ms;
  const driver = source.options?.driver;
  return (purpose, onReady) => new Connection({ purpose, address, clock, random, availability, deadline_ms, driver, onReady });
}
