/** The PostgreSQL adapter: rows, outbox, leases and idempotency keys, and Message DB as event store, over postgres.js. */
import { ConfigurationError } from "../../errors.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import { parsePostgresUrl } from "./address.ts";
import { PostgresDatabase } from "./database.ts";
import { EVENT_STORE_SCHEMA, MessageDbEventStore } from "./event-store.ts";
import { PostgresLeases } from "./leases.ts";
import { MESSAGE_DB_OLD } from "./message-db.ts";
import { Server } from "./server.ts";
import { requireUsableTables } from "./table-setup.ts";

export { PostgresDatabase } from "./database.ts";
export { MessageDbEventStore } from "./event-store.ts";

/** Waiting for somebody's lock ends after this long (Database port: 5 s). */
const LOCK_ms = 5_000;
const STATEMENT_ms = 30_000;
const WAIT_ms = 10_000;
const POOL_max = 15;
const EVENT_STORE_POOL_max = 5;

export interface PostgresSource {
  /** `postgresql://[user[:password]@]host[:port]/database[?sslmode=…]`. */
  readonly url: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Most connections at once, beside one that listens while somebody wants to be woken; default 15 (event store of its own: 5). */
  readonly poolMax?: number;
  /** Age at which an idle connection is replaced; default null = never. */
  readonly poolRecycle_ms?: number | null;
  /** After this many milliseconds the server cancels a statement; default 30,000. */
  readonly statementTimeout_ms?: number;
  /** How many milliseconds a server that can't be reached is waited for at start; default 10,000. */
  readonly wait_ms?: number;
}

/**
 * Opens a database. Connects at once, to learn which database it is; tables are made by `database.setup()`.
 * @param source.name key under `[databases]`; default `default`
 * @param source.schema where tables lie and are made; default `public`
 * @throws ConfigurationError for a bad URL, a refused login, a database that doesn't exist, tables of a newer version
 * @throws ConnectionError when the server isn't reached within `wait_ms`
 */
export async function openPostgres(
  source: PostgresSource & { readonly name?: string; readonly schema?: string },
): Promise<PostgresDatabase> {
  const server = await connect(source, source.schema ?? "public", source.poolMax ?? POOL_max);
  try {
    await requireUsableTables((text, values) => server.query(text, values), server.schema, server.address);
  } catch (error) {
    server.close();
    throw error;
  }
  const name = source.name ?? "default";
  let users = 0;
  const use = () => {
    users += 1;
    let used = true;
    return () => {
      if (!used) return;
      used = false;
      users -= 1;
      if (users === 0) server.close();
    };
  };
  const database = new PostgresDatabase(server, name, use());
  SHARED.set(database, { server, use });
  return database;
}

/**
 * Opens Message DB. If one of `databases` is the same database of the same server, and its role may use Message DB there, the event store uses that
 * one's connections and leases and has its identity: units of work over both are one transaction (D7). Otherwise it is a database of its own, with
 * its own connections, and its leases in the schema `message_store`.
 * @throws ConfigurationError for a bad URL, a refused login, a missing database, an old Message DB
 * @throws ConnectionError when the server isn't reached within `wait_ms`
 */
export async function openMessageDb(source: PostgresSource & { readonly databases?: readonly object[] }): Promise<MessageDbEventStore> {
  const server = await connect(source, "public", source.poolMax ?? EVENT_STORE_POOL_max);
  for (const database of source.databases ?? []) {
    const shared = SHARED.get(database);
    if (!(database instanceof PostgresDatabase) || shared === undefined || shared.server.identity !== server.identity) continue;
    if (!(await mayUseMessageDb(shared.server))) {
      source.log.warning("postgresql.two_roles", {
        address: server.address,
        database: database.name,
        role: shared.server.username,
        fix: `GRANT message_store TO ${shared.server.username}; until then state and events are committed apart, and reconciled`,
      });
      continue;
    }
    server.close();
    const parts = { leases: database.leases, leaseSchema: shared.server.schema, identity: shared.server.identity };
    return await verified(new MessageDbEventStore(shared.server, parts, shared.use()));
  }
  // Equal to the identity of a database whose role may not write here: then they are two, whatever the server says.
  const alone = (source.databases ?? []).some((database) => SHARED.get(database)?.server.identity === server.identity);
  const identity = alone ? `${server.identity}#${server.username}` : server.identity;
  const leases = new PostgresLeases(server, EVENT_STORE_SCHEMA);
  return await verified(new MessageDbEventStore(server, { leases, leaseSchema: EVENT_STORE_SCHEMA, identity }, () => server.close()));
}

interface Shared {
  readonly server: Server;
  /** Counts one more user; the answer takes it back, and closes the connections with the last. */
  readonly use: () => () => void;
}

const SHARED = new WeakMap<object, Shared>();

async function connect(source: PostgresSource, schema: string, poolMax: number): Promise<Server> {
  const { clock, random, log } = source;
  return await Server.connect(
    {
      address: parsePostgresUrl(source.url),
      schema,
      poolMax,
      poolRecycle_ms: source.poolRecycle_ms ?? null,
      statement_ms: source.statementTimeout_ms ?? STATEMENT_ms,
      lock_ms: LOCK_ms,
      clock,
      random,
      log,
    },
    source.wait_ms ?? WAIT_ms,
  );
}

/** True also where Message DB isn't installed yet: the role that installs it may use it. */
async function mayUseMessageDb(server: Server): Promise<boolean> {
  const { rows } = await server.query(
    `SELECT coalesce((SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'message_store'), true)
       AND coalesce((SELECT has_table_privilege(to_regclass('message_store.messages'), 'INSERT')), true) AS may`,
  );
  return rows[0]?.["may"] === "t";
}

/** An old Message DB ends the start. What `setup` or a GRANT repairs doesn't: the one needs an open store, and who only reads needs no grant. */
async function verified(store: MessageDbEventStore): Promise<MessageDbEventStore> {
  try {
    await store.verify();
  } catch (error) {
    if (!(error instanceof ConfigurationError) || error.code === MESSAGE_DB_OLD) {
      await store.close();
      throw error;
    }
  }
  return store;
}
