/**
 * One PostgreSQL for a whole test run. scripts/test.ts starts it and names it in PROTEAN_TEST_POSTGRES_URL; a test run by hand starts its own,
 * which ends with the run. Tests share the server, so each makes a database of its own: `freshDatabase`.
 */
import { randomBytes } from "node:crypto";
import postgres from "postgres";
import { type PostgresService, startPostgres } from "../../scripts/services.ts";
import { MESSAGE_DB_SQL } from "../../src/adapters/postgresql/message-db-sql.ts";
import { type MessageDbEventStore, openMessageDb, openPostgres, type PostgresDatabase } from "../../src/adapters/postgresql/mod.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";

export { type PostgresService, startPostgres } from "../../scripts/services.ts";

export const clock = new SystemClock();
export const random = new SystemRandom();
export const tools = { clock, random, log: silentLog };

type Sql = ReturnType<typeof postgres>;

let own: Promise<PostgresService> | undefined;
let template: Promise<string> | undefined;
/** Databases with Message DB that a test has given back, empty: making one takes longer than emptying it. */
const returned: string[] = [];

/** Address of the shared server's database `postgres`, as superuser. Never stop it or change its settings: start one for that. */
export async function sharedPostgres(): Promise<string> {
  const given = process.env["PROTEAN_TEST_POSTGRES_URL"];
  if (given) return given;
  own ??= startPostgres();
  return (await own).url;
}

export function atDatabase(url: string, database: string): string {
  const other = new URL(url);
  other.pathname = `/${database}`;
  return other.href;
}

export interface FreshDatabase {
  readonly url: string;
  readonly name: string;
  /** A client of the test's own, as superuser. */
  readonly sql: Sql;
  drop(): Promise<void>;
}

/**
 * A database that no other test has.
 * @param kind `empty`, or one with Message DB in it
 */
export async function freshDatabase(kind: "empty" | "message_db", locale?: string): Promise<FreshDatabase> {
  const server = await sharedPostgres();
  const again = kind === "message_db" && locale === undefined ? returned.pop() : undefined;
  const name = again ?? `t_${randomBytes(6).toString("hex")}`;
  const admin = postgres(server, { max: 1, onnotice: () => {} });
  template ??= makeTemplate(server, admin);
  if (again === undefined) {
    const from = kind === "message_db" ? await template : "template0";
    await admin.unsafe(`CREATE DATABASE ${name} TEMPLATE ${from}${locale === undefined ? "" : ` LOCALE '${locale}'`}`);
  }
  const url = atDatabase(server, name);
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  return {
    url,
    name,
    sql,
    drop: async () => {
      if (kind === "message_db" && locale === undefined) {
        await sql.unsafe(
          "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC; DROP TABLE IF EXISTS message_store.protean_lease; TRUNCATE message_store.messages RESTART IDENTITY",
        );
        await sql.end({ timeout: 1 });
        await admin.end({ timeout: 1 });
        returned.push(name);
        return;
      }
      await sql.end({ timeout: 1 });
      await admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end({ timeout: 1 });
    },
  };
}

async function makeTemplate(server: string, admin: Sql): Promise<string> {
  const name = `m_${randomBytes(6).toString("hex")}`;
  await admin.unsafe(`CREATE DATABASE ${name} TEMPLATE template0`);
  await admin.unsafe("DO $$ BEGIN CREATE ROLE message_store WITH LOGIN; EXCEPTION WHEN duplicate_object THEN END $$");
  const sql = postgres(atDatabase(server, name), { max: 1, onnotice: () => {} });
  for (const { sql: text } of MESSAGE_DB_SQL) await sql.unsafe(text);
  await sql.end();
  return name;
}

export interface PostgresUnderTest extends FreshDatabase {
  readonly database: PostgresDatabase;
  readonly eventStore: MessageDbEventStore;
  /** Another pair of handles, as another process has them. */
  second(): Promise<{ readonly database: PostgresDatabase; readonly eventStore: MessageDbEventStore }>;
  /** Dates everything back that the database compares with its clock. */
  elapse(ms: number): Promise<void>;
  dispose(): Promise<void>;
}

/** Database and event store in one fresh PostgreSQL database, both set up. */
export async function postgresUnderTest(): Promise<PostgresUnderTest> {
  const fresh = await freshDatabase("message_db");
  const closing: { close(): Promise<void> }[] = [];
  const open = async () => {
    const database = await openPostgres({ url: fresh.url, ...tools });
    const eventStore = await openMessageDb({ url: fresh.url, databases: [database], ...tools });
    closing.push(database, eventStore);
    return { database, eventStore };
  };
  const first = await open();
  await first.database.setup();
  await first.eventStore.setup();
  return {
    ...fresh,
    ...first,
    second: open,
    elapse: async (ms) => {
      const by = `interval '${ms} milliseconds'`;
      await fresh.sql.unsafe(`
        UPDATE protean_lease SET expires_at = expires_at - ${by};
        UPDATE protean_idempotency SET expires_at = expires_at - ${by};
        UPDATE processed_message SET processed_at = processed_at - ${by};
        UPDATE outbox SET created_at = created_at - ${by}, published_at = published_at - ${by}, last_processed_at = last_processed_at - ${by},
          next_retry_at = next_retry_at - ${by}, locked_until = locked_until - ${by}`);
    },
    dispose: async () => {
      for (const one of closing) await one.close();
      await fresh.drop();
    },
  };
}
