import { openRedis, openRedisIdempotency } from "../adapters/redis/mod.ts";
import { openSqlite } from "../adapters/sqlite/mod.ts";
import type { BrokerConfig, Config } from "../config/config.ts";
import { configFromObject, loadConfig } from "../config/load.ts";
import { requireProvider } from "../config/not-yet.ts";
import type { Connector, DomainStores } from "../domain/stores.ts";
import { Counters } from "../engine/counters.ts";
import { TraceWriter } from "../engine/trace-writer.ts";
import { standardLog } from "../observatory/standard-log.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import type { EventStore } from "../ports/event-store.ts";
import type { Idempotency } from "../ports/idempotency.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { Telemetry } from "../ports/telemetry.ts";
import { SystemClock } from "../runtime/clock.ts";
import { configFiles } from "../runtime/config-files.ts";
import { environmentVariables, workingDirectory } from "../runtime/environment.ts";
import { watchesWithoutOpening } from "../runtime/files.ts";
import { SystemRandom } from "../runtime/random.ts";
import { requireRecovered } from "./restored.ts";
import { domainSettings } from "./settings.ts";

/** What every part gets from outside, made once for a process. */
export interface Tools {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface ConnectedStores extends DomainStores {
  readonly config: Config;
  readonly counters: Counters;
}

/** One open file serves as database, event store and broker at once; two names for one file share it. */
type SqliteStores = Awaited<ReturnType<typeof openSqlite>>;

export function systemTools(log: Log): Tools {
  return { clock: new SystemClock(), random: new SystemRandom(), log };
}

/**
 * Opens everything that the configuration names. SQLite files are opened and laid out at once; Redis is connected with the first call, so an
 * unreachable one fails nothing here (D21).
 * @param uses databases that elements are kept in: the predefined `memory` is only made when it is among them
 * @param options.wait_ms how long a PostgreSQL that can't be reached is waited for; default 10,000
 * @throws ConfigurationError for a provider that is not in this version, an unwritable folder, a file of a newer version, and for what a person
 *   must repair in PostgreSQL; ConnectionError when it can't be reached
 */
export async function openStores(
  config: Config,
  domainName: string,
  tools: Tools,
  uses: ReadonlySet<string> = new Set(),
  options: { readonly wait_ms?: number } = {},
): Promise<ConnectedStores> {
  const { clock, random, log } = tools;
  const ofSqlite = { clock, random, log, watches: watchesWithoutOpening };
  const counters = new Counters();
  const opened = new Map<string, Promise<SqliteStores>>();
  const closers: (() => Promise<void>)[] = [];
  const sqlite = (file: string): Promise<SqliteStores> => {
    let stores = opened.get(file);
    if (stores === undefined) {
      stores = openSqlite({ file, name: "default", ...ofSqlite });
      opened.set(file, stores);
      closers.push(async () => await (await stores)?.close());
    }
    return stores;
  };
  /** All of memory is one database, as in the original, where a memory event store joins the memory provider's session. */
  const fileOf = (part: { readonly provider: string; readonly file?: string }): string =>
    part.provider === "sqlite" ? (part.file ?? ":memory:") : ":memory:";

  try {
    const databases = new Map<string, Database>();
    for (const database of Object.values(config.databases)) {
      const predefined = database.name === "memory" && config.origins.get("databases.memory.provider") === undefined;
      if (predefined && !uses.has(database.name)) continue;
      requireProvider("database", database.provider);
      if (database.provider === "postgresql") {
        const { openPostgres } = await import("../adapters/postgresql/mod.ts");
        const { name, uri, schema, poolMax, poolRecycle_ms } = database;
        const postgres = await openPostgres({ name, url: uri, schema, poolMax, poolRecycle_ms, clock, random, log, ...options });
        closers.push(() => postgres.close());
        databases.set(name, postgres);
        continue;
      }
      const file = fileOf(database);
      const shared = await sqlite(file);
      if (database.name === "default") databases.set(database.name, shared.database);
      else {
        // A further name is a database of its own, also when both are in memory: their outboxes and tables are apart.
        const own = await openSqlite({ file, name: database.name, ...ofSqlite });
        closers.push(() => own.close());
        databases.set(database.name, own.database);
      }
    }
    requireProvider("event store", config.eventStore.provider);
    const eventStore = await openEventStore(
      config,
      databases,
      { ...tools, ...options },
      async (part) => (await sqlite(fileOf(part))).eventStore,
      closers,
    );
    const brokers = new Map<string, Broker>();
    for (const broker of Object.values(config.brokers)) {
      if (broker.provider === "redis") {
        const redis = openRedis({ name: broker.name, url: broker.uri, clock, random, log, ...redisTuning(broker) });
        closers.push(() => redis.close());
        brokers.set(broker.name, redis);
      } else {
        requireProvider("broker", broker.provider);
        if (broker.name === "default") brokers.set(broker.name, (await sqlite(fileOf(broker))).broker);
        else {
          const own = await openSqlite({ file: fileOf(broker), name: broker.name, ...ofSqlite });
          closers.push(() => own.close());
          brokers.set(broker.name, own.broker);
        }
      }
    }
    const defaultBroker = brokers.get("default");
    const telemetry: Telemetry & { close(): Promise<void> } = new TraceWriter({
      broker: defaultBroker ?? null,
      domain: domainName,
      retention_days: config.observatory.traceRetention_days ?? 0,
      counters,
      clock,
      log,
    });
    const idempotency = openIdempotency(config, databases, tools, closers);
    let closed = false;
    const stores: ConnectedStores = {
      config,
      counters,
      settings: domainSettings(config),
      databases,
      eventStore,
      brokers,
      idempotency,
      clock,
      random,
      log,
      telemetry,
      async close() {
        if (closed) return;
        closed = true;
        await telemetry.close();
        for (const result of await Promise.allSettled(closers.map((close) => close()))) {
          if (result.status === "rejected") log.warning("stores.close_failed", { error: String(result.reason) });
        }
      },
    };
    return await armed(stores);
  } catch (error) {
    await Promise.allSettled(closers.map((close) => close()));
    throw error;
  }
}

/** For crash tests only: with PROTEAN_CRASH_AT the process dies at the point it names. */
async function armed(stores: ConnectedStores): Promise<ConnectedStores> {
  const point = environmentVariables()["PROTEAN_CRASH_AT"];
  if (point === undefined || point === "") return stores;
  const [{ parseCrashPoint, withCrashPoints }, { endAsKilled }] = await Promise.all([
    import("./crash-points.ts"),
    import("../runtime/crash.ts"),
  ]);
  stores.log.warning("crash_point.armed", { point });
  return withCrashPoints(stores, parseCrashPoint(point, endAsKilled));
}

/** Message DB beside tables of the same PostgreSQL database shares their connections, so that a unit of work is one transaction (D7). */
async function openEventStore(
  { eventStore }: Config,
  databases: ReadonlyMap<string, Database>,
  tools: Tools & { readonly wait_ms?: number },
  embedded: (part: { readonly provider: string; readonly file?: string }) => Promise<EventStore>,
  closers: (() => Promise<void>)[],
): Promise<EventStore> {
  if (eventStore.provider !== "message_db") return await embedded(eventStore);
  const { openMessageDb } = await import("../adapters/postgresql/mod.ts");
  const pool = eventStore.maxConnections === null ? {} : { poolMax: eventStore.maxConnections };
  const store = await openMessageDb({ url: eventStore.uri, databases: [...databases.values()], ...tools, ...pool });
  closers.push(() => store.close());
  return store;
}

function redisTuning(broker: Extract<BrokerConfig, { provider: "redis" }>): { readonly options?: { readonly deadline_ms: number } } {
  return broker.socketTimeout_ms === null ? {} : { options: { deadline_ms: broker.socketTimeout_ms } };
}

/** Keys live in the Redis that domain.toml names, else in the default database, where that can keep them (rulings 14). */
function openIdempotency(
  config: Config,
  databases: ReadonlyMap<string, Database>,
  { clock, random, log }: Tools,
  closers: (() => Promise<void>)[],
): Idempotency | null {
  if (config.idempotency.redisUrl === null) return databases.get("default")?.idempotency ?? null;
  const keys = openRedisIdempotency({ url: config.idempotency.redisUrl, clock, random, log });
  closers.push(() => keys.close());
  return keys;
}

/** The connector of a library user: domain.toml upward from the working directory, or what `new Domain(name, { config })` gave. */
export const libraryConnector: Connector = async (request) => {
  const environment = environmentVariables();
  const config =
    typeof request.config === "object"
      ? await configFromObject(request.config, { directory: workingDirectory(), environment })
      : await loadConfig({
          start: workingDirectory(),
          ...(request.config === undefined ? {} : { file: request.config }),
          environment,
          read: configFiles,
        });
  const stores = await openStores(config, request.domainName, systemTools(standardLog(config.logging)), request.databases);
  try {
    await requireRecovered(stores);
    return stores;
  } catch (error) {
    await stores.close();
    throw error;
  }
};
