import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { openSqlite, type SqliteStores } from "../../src/adapters/sqlite/mod.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { brokerConformance } from "./broker.ts";

const open = (file: string): Promise<SqliteStores> =>
  openSqlite({ file, clock: new SystemClock(), random: new SystemRandom(), log: silentLog });

brokerConformance("sqlite, a file", async () => {
  const folder = mkdtempSync(join(tmpdir(), "protean-sqlite-"));
  const file = join(folder, "protean.db");
  const opened = [await open(file)];
  return {
    broker: (opened[0] as SqliteStores).broker,
    second: async () => {
      const stores = await open(file);
      opened.push(stores);
      return stores.broker;
    },
    spoil: async (stream) => {
      const database = new DatabaseSync(file);
      database.exec(`CREATE TRIGGER spoil BEFORE INSERT ON protean_entry
        WHEN (SELECT name FROM protean_stream WHERE id = new.stream_id) = '${stream.replaceAll("'", "''")}'
        BEGIN SELECT RAISE(ABORT, 'spoilt'); END`);
      database.close();
    },
    dispose: async () => {
      for (const stores of opened) await stores.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
});

brokerConformance("inline, in memory", async () => {
  const stores = await open(":memory:");
  return { broker: stores.broker, second: async () => stores.broker, dispose: () => stores.close() };
});
