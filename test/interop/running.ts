/** A domain on stores of its own with an engine over them, put together as the binary does it. */

import { type ConnectedStores, openStores, systemTools } from "../../src/compose/connect.ts";
import { composeEngine, type EngineFlags } from "../../src/compose/engine.ts";
import { configFromObject } from "../../src/config/load.ts";
import type { Domain } from "../../src/domain/domain.ts";
import type { Engine, TestModeReport } from "../../src/engine/engine.ts";
import type { Broker } from "../../src/ports/broker.ts";
import { silentLog } from "../../src/ports/log.ts";

type Table = { readonly [key: string]: string | number | boolean | readonly string[] | Table };

/** `python-app/domain.toml`, with everything in memory. */
export const MEMORY_CONFIG = {
  event_processing: "async",
  command_processing: "async",
  message_processing: "async",
  snapshot_threshold: 5,
  databases: { default: { provider: "memory" } },
  event_store: { provider: "memory" },
  brokers: { default: { provider: "inline" }, partners: { provider: "inline" } },
  outbox: { broker: "default", external_brokers: ["partners"] },
  server: {
    default_subscription_type: "stream",
    messages_per_tick: 10,
    stream_subscription: { blocking_timeout_ms: 100, max_retries: 3, retry_delay_seconds: 0, enable_dlq: true },
    event_store_subscription: { position_update_interval: 1, max_retries: 2, retry_delay_seconds: 0, recovery_interval_seconds: 0 },
    broker_subscription: { max_retries: 2, retry_delay_seconds: 0 },
    subscriptions: { AccountCommands: { subscription_type: "event_store" } },
  },
} as const satisfies Table;

export interface RunningDomain {
  readonly stores: ConnectedStores;
  readonly broker: Broker;
  /** Handles what is there, then ends. `only`: names of handlers. */
  settle(options?: { readonly only?: readonly string[] }): Promise<TestModeReport>;
  /** An engine that runs until it is stopped, at the latest by `close`. */
  start(options?: { readonly only?: readonly string[] }): Promise<Engine>;
  /** An entry as somebody else would put it there. */
  put(stream: string, ...data: readonly string[]): Promise<readonly string[]>;
  deadLetters(stream: string): Promise<readonly Readonly<Record<string, string>>[]>;
  close(): Promise<void>;
}

export async function openDomain(domain: Domain, config: Table = MEMORY_CONFIG): Promise<RunningDomain> {
  const built = configFromObject(config, { directory: import.meta.dir, environment: {} });
  const stores = await openStores(built, domain.name, systemTools(silentLog));
  for (const database of stores.databases.values()) await database.setup();
  domain.useStores(stores);
  for (const database of stores.databases.values()) await database.setup();
  await stores.eventStore.setup();
  for (const one of stores.brokers.values()) await one.setup();
  const broker = stores.brokers.get("default");
  if (broker === undefined) throw new Error("no broker");
  const engines: Engine[] = [];
  const compose = (flags: EngineFlags) => composeEngine({ domain, stores, version: "test", flags });
  return {
    stores,
    broker,
    async settle(options = {}) {
      const { engine, close } = compose({ ...options, testMode: true });
      try {
        return await engine.runUntilQuiet({ maxWait_ms: 10_000 });
      } finally {
        close();
      }
    },
    async start(options = {}) {
      const { engine } = compose(options);
      engines.push(engine);
      await engine.start();
      return engine;
    },
    async put(stream, ...data) {
      return await broker.publish(data.map((text) => ({ stream, fields: { data: text } })));
    },
    async deadLetters(stream) {
      const entries = await broker.range(`${stream}:dlq`, { count: 1_000 });
      return entries.map(({ fields }) => Object.fromEntries(fields.map(([name, value]) => [name, new TextDecoder().decode(value)])));
    },
    async close() {
      for (const engine of engines) await engine.stop("test");
      await domain.close();
    },
  };
}
