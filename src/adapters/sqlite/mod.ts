import type { Broker } from "../../ports/broker.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Database } from "../../ports/database.ts";
import type { EventStore } from "../../ports/event-store.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import { SqliteBroker } from "./broker.ts";
import { SqliteDatabase } from "./database.ts";
import { SqliteEventStore } from "./event-store.ts";
import { SqliteFile } from "./file.ts";
import { SqliteIdempotency } from "./idempotency.ts";
import { SqliteInstances } from "./instances.ts";
import { SqliteLeases } from "./leases.ts";
import { SqliteOutbox } from "./outbox.ts";

/** The three stores of one file; they have one identity, so a unit of work over them is one transaction. */
export interface SqliteStores {
  readonly database: Database;
  readonly eventStore: EventStore;
  readonly broker: Broker;
  /** Closes all three. They can also be closed one by one: the file is closed with the last. */
  close(): Promise<void>;
}

/**
 * Opens a file, or a database in memory that ends with the process. `node:sqlite` is the driver; the file is in WAL mode and can be
 * used by several processes of one host at once. Our own tables are made here; those of aggregates and projections by `database.setup()`.
 *
 * In memory the providers are called `memory` (database, event store) and `inline` (broker).
 * @param options.file path, or `:memory:`
 * @param options.name key under `[databases]` and `[brokers]`; default `default`
 * @throws ConfigurationError when the folder can't be written or can't hold such a file, or the file is of a newer version
 * @throws ConnectionError when another process keeps the file locked for 5 s
 */
export async function openSqlite(options: {
  readonly file: string;
  readonly name?: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Whether a file watcher may look at the folder; default true (see `OpenOptions`). */
  readonly watches?: boolean;
}): Promise<SqliteStores> {
  const file = await SqliteFile.open(options);
  const name = options.name ?? "default";
  const leases = new SqliteLeases(file);
  const idempotency = new SqliteIdempotency(file);
  const open = new Set(["database", "event store", "broker"]);
  const closing = (store: string) => () => {
    if (open.delete(store) && open.size === 0) file.close();
  };
  const outbox = new SqliteOutbox(file);
  const database = new SqliteDatabase(file, { name, leases, outbox, idempotency }, closing("database"));
  const eventStore = new SqliteEventStore(file, leases, closing("event store"));
  const broker = new SqliteBroker(file, { name, leases, idempotency, instances: new SqliteInstances(file) }, closing("broker"));
  const close = async () => {
    await broker.close();
    await eventStore.close();
    await database.close();
  };
  return { database, eventStore, broker, close };
}
