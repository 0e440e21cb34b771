/** The contracts of stores, outbox, leases and keys for PostgreSQL with Message DB in the same database. */
import { openMessageDb } from "../../src/adapters/postgresql/mod.ts";
import { freshDatabase, type PostgresUnderTest, postgresUnderTest, tools } from "../support/postgres.ts";
import { databaseConformance, TABLES } from "./database.ts";
import { eventStoreConformance } from "./event-store.ts";
import { idempotencyConformance } from "./idempotency.ts";
import { leasesConformance } from "./leases.ts";
import { outboxConformance } from "./outbox-store.ts";

/** What every suite needs of a fresh database, for the part that it is about. */
async function parts<P>(part: (stores: Pick<PostgresUnderTest, "database" | "eventStore">) => P) {
  const under = await postgresUnderTest();
  return { under, part: part(under), second: async () => part(await under.second()), elapse: under.elapse, dispose: under.dispose };
}

eventStoreConformance("message_db beside the tables", async () => {
  const { part: store, ...rest } = await parts(({ eventStore }) => eventStore);
  return { store, ...rest };
});

eventStoreConformance("message_db, a database of its own", async () => {
  const fresh = await freshDatabase("message_db");
  const opened: { close(): Promise<void> }[] = [];
  const open = async () => {
    const store = await openMessageDb({ url: fresh.url, ...tools });
    opened.push(store);
    return store;
  };
  const store = await open();
  await store.setup();
  return {
    store,
    second: open,
    dispose: async () => {
      for (const one of opened) await one.close();
      await fresh.drop();
    },
  };
});

databaseConformance("postgresql", async () => {
  const {
    part: database,
    under,
    ...rest
  } = await parts((stores) => {
    stores.database.declare(TABLES);
    return stores.database;
  });
  return { database, eventStore: under.eventStore, integers: "32 bits", ...rest };
});

outboxConformance("postgresql", async () => {
  const { part: outbox, under, ...rest } = await parts(({ database }) => database.outbox);
  const commit = async (rows: Parameters<typeof outbox.insertMissing>[0]) => {
    await under.database.commit({ rows: [], appends: [], outbox: rows, markers: [], fences: [] });
  };
  return { outbox, commit, ...rest };
});

leasesConformance("postgresql", async () => {
  const { part: leases, ...rest } = await parts(({ database }) => database.leases);
  return { leases, ...rest };
});

idempotencyConformance("postgresql", async () => {
  const { part: idempotency, ...rest } = await parts(({ database }) => database.idempotency);
  return { idempotency, ...rest };
});
