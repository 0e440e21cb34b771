import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openSqlite, type SqliteStores } from "../../src/adapters/sqlite/mod.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { ShiftedClock } from "./shifted-clock.ts";

export interface SqliteUnderTest {
  readonly file: string;
  readonly folder: string;
  readonly clock: ShiftedClock;
  readonly stores: SqliteStores;
  /** Another handle on the file, as another process has it; in memory the same one. */
  second(): Promise<SqliteStores>;
  dispose(): Promise<void>;
}

/** A fresh database in a folder of its own, or in memory. */
export async function sqliteUnderTest(kind: "file" | "memory"): Promise<SqliteUnderTest> {
  const folder = mkdtempSync(join(tmpdir(), "protean-sqlite-"));
  const file = kind === "memory" ? ":memory:" : join(folder, "protean.db");
  const clock = new ShiftedClock();
  const opened: SqliteStores[] = [];
  const open = async (): Promise<SqliteStores> => {
    const stores = await openSqlite({ file, clock, random: new SystemRandom(), log: silentLog });
    opened.push(stores);
    return stores;
  };
  const stores = await open();
  return {
    file,
    folder,
    clock,
    stores,
    second: async () => (kind === "memory" ? stores : await open()),
    dispose: async () => {
      for (const one of opened) await one.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
