/** Every contract but the broker's (see broker.sqlite.test.ts), for a file and for memory: they are one implementation (docs/adr/0005-memory-is-sqlite.md). */
import type { SqliteStores } from "../../src/adapters/sqlite/mod.ts";
import { type SqliteUnderTest, sqliteUnderTest } from "../support/sqlite.ts";
import { databaseConformance, TABLES } from "./database.ts";
import { eventStoreConformance } from "./event-store.ts";
import { idempotencyConformance } from "./idempotency.ts";
import { instancesConformance } from "./instances.ts";
import { leasesConformance } from "./leases.ts";
import { outboxConformance } from "./outbox-store.ts";

/** What every suite needs of a fresh database, for the part that it is about. */
async function parts<P>(kind: "file" | "memory", part: (stores: SqliteStores) => P) {
  const under: SqliteUnderTest = await sqliteUnderTest(kind);
  return {
    under,
    part: part(under.stores),
    second: async () => part(await under.second()),
    elapse: async (ms: number) => {
      under.clock.ahead_ms += ms;
    },
    dispose: under.dispose,
  };
}

for (const kind of ["file", "memory"] as const) {
  const name = `sqlite, ${kind}`;

  eventStoreConformance(name, async () => {
    const { part: store, ...rest } = await parts(kind, ({ eventStore }) => eventStore);
    return { store, ...rest };
  });

  databaseConformance(name, async () => {
    const {
      part: database,
      under,
      ...rest
    } = await parts(kind, (stores) => {
      stores.database.declare(TABLES);
      return stores.database;
    });
    return { database, eventStore: under.stores.eventStore, ...rest };
  });

  outboxConformance(name, async () => {
    const { part: outbox, under, ...rest } = await parts(kind, ({ database }) => database.outbox);
    const commit = async (rows: Parameters<typeof outbox.insertMissing>[0]) => {
      await under.stores.database.commit({ rows: [], appends: [], outbox: rows, markers: [], fences: [] });
    };
    return { outbox, commit, ...rest };
  });

  leasesConformance(name, async () => {
    const { part: leases, ...rest } = await parts(kind, ({ database }) => database.leases);
    return { leases, ...rest };
  });

  instancesConformance(name, async () => {
    const { part: instances, ...rest } = await parts(kind, ({ broker }) => broker.instances);
    return { instances, ...rest };
  });

  idempotencyConformance(name, async () => {
    const { part: idempotency, ...rest } = await parts(kind, ({ database }) => database.idempotency);
    return { idempotency, ...rest };
  });
}
