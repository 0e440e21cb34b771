/** Files of other versions, and of Python, opened by this one (rulings 51, docs/adr/0006-sqlite-shared-with-python.md). */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { SqliteFile } from "../../../../src/adapters/sqlite/file.ts";
import { MIGRATIONS, type Migration } from "../../../../src/adapters/sqlite/migrations.ts";
import { openSqlite, type SqliteStores } from "../../../../src/adapters/sqlite/mod.ts";
import { ConfigurationError } from "../../../../src/errors.ts";
import { decodeMessage } from "../../../../src/messages/envelope.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { STORE_VERSION } from "../../../../src/ports/store-version.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { benchMessage } from "../../../bench/envelope.ts";
import { type TemporaryFolder, temporaryFolder } from "../../../support/folder.ts";
import { HurriedClock } from "../../../support/hurried-clock.ts";
import { pythonFile } from "../../../support/python-file.ts";
import { rowsIn } from "../../../support/sqlite-file.ts";
import { until } from "../../../support/until.ts";

const outside = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
const next = (version: number, usableFrom: number): Migration => ({
  version,
  name: `test ${version}`,
  usableFrom,
  sql: `ALTER TABLE protean_stream ADD COLUMN note_${version} TEXT`,
});

let folder: TemporaryFolder;
let file: string;
const opened: (SqliteFile | SqliteStores)[] = [];
beforeEach(() => {
  folder = temporaryFolder();
  file = folder.at("protean.db");
});
afterEach(async () => {
  for (const one of opened.splice(0)) await one.close();
  folder.remove();
});

async function open(options: Partial<Parameters<typeof openSqlite>[0]> = {}): Promise<SqliteStores> {
  const stores = await openSqlite({ file, ...outside, ...options });
  opened.push(stores);
  return stores;
}

async function openFile(migrations?: readonly Migration[]): Promise<SqliteFile> {
  const one = await SqliteFile.open({ file, ...outside, ...(migrations === undefined ? {} : { migrations }) });
  opened.push(one);
  return one;
}

/** A file that the first version wrote: events, outbox rows in every state, entries with a group. */
function versionOne(more = ""): void {
  const database = new DatabaseSync(file);
  database.exec(readFileSync(new URL("./version-1.sql", import.meta.url), "utf8"));
  database.exec(`PRAGMA journal_mode = WAL; ${more}`);
  database.close();
}

const addRow = (connection: { run(sql: string): unknown }) => connection.run("UPDATE protean_signal SET n = n + 1");

describe("a file of the first version", () => {
  test("is copied and migrated, with all that was in it", async () => {
    versionOne();
    const { database, eventStore, broker } = await open();
    const kept = await database.outbox.list({ limit: 10 });
    expect(kept.map(({ id, status }) => `${id} ${status}`)).toEqual([
      "row-0-default published",
      "row-1-default failed",
      "row-2-default abandoned",
      "row-0-partners pending",
      "row-3-default pending",
      "row-4-default pending",
      "row-5-default pending",
    ]);
    const message = decodeMessage(benchMessage(3));
    expect(JSON.parse(kept[4]?.metadata ?? "")).toEqual(JSON.parse(JSON.stringify(message.metadata)));
    expect(kept[1]).toMatchObject({ retryCount: 1, lastError: "no route" });
    expect(await database.isProcessed([{ messageId: "m-1", handler: "bench.Bench.credited" }])).toEqual([true]);
    expect(await eventStore.readCategory("$all", 1, 10)).toHaveLength(3);
    expect((await broker.groups("bench::account"))[0]).toMatchObject({ name: "bench.Bench", pending: 1, lag: 1 });
    // The failed row was due long ago; the priority moves stream 4 forward.
    const claimed = await database.outbox.claim({ broker: "default", limit: 10, owner: "a", lock_ms: 1000 });
    expect(claimed.map(({ id }) => id)).toEqual(["row-4-default", "row-1-default", "row-3-default", "row-5-default"]);

    expect(rowsIn(file, "SELECT entry_id FROM outbox WHERE id = 'row-0-default'")).toEqual([{ entry_id: "1795308621389-0" }]);
    expect(rowsIn(file, "SELECT count(*) AS n FROM outbox WHERE sequence_number IS NOT NULL")).toEqual([{ n: 0 }]);
    expect(rowsIn(file, "SELECT version, usable_from FROM protean_migration ORDER BY version")).toEqual([
      { version: 1, usable_from: null },
      { version: 2, usable_from: 2 },
    ]);
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: STORE_VERSION }]);
    expect(rowsIn(`${file}.bak`, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    expect(rowsIn(`${file}.bak`, "SELECT count(*) AS n FROM outbox WHERE sequence_number IS NOT NULL")).toEqual([{ n: 7 }]);
  });

  test("has afterwards the layout of a fresh one", async () => {
    versionOne();
    await open();
    const layout = (path: string) =>
      rowsIn(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name")
        // Here the column was added later, there it was there from the start.
        .filter(({ name }) => name !== "protean_migration")
        .map(({ sql, ...rest }) => ({ ...rest, sql: String(sql).replace(/"/g, "").replace(/\s+/g, " ") }));
    const fresh = folder.at("fresh.db");
    await open({ file: fresh });
    expect(layout(file)).toEqual(layout(fresh));
  });

  test("a server of that version on it is waited for, as long as its lease may live", async () => {
    versionOne(`UPDATE protean_lease SET owner = 'old-engine', expires_ms = ${Date.now() + 6_000}`);
    const { database } = await open({ clock: new HurriedClock() });
    expect((await database.outbox.counts()).pending).toBe(4);
  });

  test("and one that goes on living is named, and the file left as it is", async () => {
    const record = { id: "0123456789ab", host: "box", pid: 4711, version: "0.0.9", domain: "shop" };
    versionOne(`INSERT INTO protean_instance VALUES ('0123456789ab', '${JSON.stringify(record)}', ${Date.now() + 3_600_000})`);
    const attempt = openSqlite({ file, ...outside, clock: new HurriedClock() });
    await expect(attempt).rejects.toBeInstanceOf(ConfigurationError);
    await expect(attempt).rejects.toThrow("schema version 1, and a server that can't use version 2 runs on it (box, process 4711");
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    expect(existsSync(`${file}.bak`)).toBe(false);
  });

  test("killed in the middle of the migration, it is as it was, and the next start migrates it", async () => {
    versionOne();
    const child = Bun.spawn([process.execPath, new URL("./migrating-process.ts", import.meta.url).pathname, file], { stderr: "inherit" });
    // The copy comes right before the first change.
    await until("the copy is made", () => existsSync(`${file}.bak`));
    child.kill("SIGKILL");
    await child.exited;
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    expect(rowsIn(file, "SELECT name FROM sqlite_schema WHERE name IN ('half_done', 'protean_outbox_1')")).toEqual([]);
    const { database } = await open();
    expect(await database.outbox.list({ limit: 10 })).toHaveLength(7);
    expect(rowsIn(`${file}.bak`, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    expect(existsSync(`${file}.bak.part`)).toBe(false);
  });

  test("what a kill left of a copy is made anew", async () => {
    versionOne();
    folder.write({ "protean.db.bak.part": "half a copy" });
    await open();
    expect(rowsIn(`${file}.bak`, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    expect(existsSync(`${file}.bak.part`)).toBe(false);
  });
});

describe("a file of a newer version", () => {
  test("is refused in one line that names both versions", async () => {
    await (await openFile()).close();
    rowsIn(file, "PRAGMA user_version = 99");
    const attempt = openFile();
    await expect(attempt).rejects.toBeInstanceOf(ConfigurationError);
    await expect(attempt).rejects.toThrow(new RegExp(`schema version 99, .* up to ${STORE_VERSION}$`));
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: 99 }]);
  });

  test("the version before it keeps running and can be started again, where the newer one says so", async () => {
    const old = await openFile();
    const newer = await openFile([...MIGRATIONS, next(3, 2)]);
    await newer.writeDurably(addRow);
    await old.writeDurably(addRow);
    const restarted = await openFile();
    await restarted.writeQuickly(addRow);
    expect(rowsIn(file, "SELECT n FROM protean_signal")).toEqual([{ n: 3 }]);
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: 3 }]);
  });

  test("two versions on, the old one is refused, also when it was running", async () => {
    const old = await openFile();
    await openFile([...MIGRATIONS, next(3, 2), next(4, 3)]);
    for (const write of [() => old.writeDurably(addRow), () => old.writeQuickly(addRow), () => openFile()]) {
      await expect(write()).rejects.toThrow(/schema version 4, .* up to 2$/);
    }
    expect(rowsIn(file, "SELECT n FROM protean_signal")).toEqual([{ n: 0 }]);
    await openFile([...MIGRATIONS, next(3, 2)]);
  });

  test("a later step that is easy to live with doesn't hide an earlier one that isn't", async () => {
    await openFile([...MIGRATIONS, next(3, 3), next(4, 1)]);
    await expect(openFile()).rejects.toThrow(/schema version 4/);
  });
});

describe("a file that Python made", () => {
  beforeEach(() => pythonFile(file));

  test("is copied, gets our tables, and both programs can go on with what is theirs", async () => {
    const before = rowsIn(file, "SELECT * FROM outbox ORDER BY rowid");
    expect(before.length).toBeGreaterThan(3);
    const { database, eventStore } = await open();
    expect(rowsIn(file, "SELECT * FROM outbox ORDER BY rowid")).toEqual(before.map((row) => ({ ...row, entry_id: null })));
    const listed = await database.outbox.list({ limit: 1_000 });
    expect(listed).toHaveLength(before.length);
    for (const { messageId, metadata } of listed) expect(JSON.parse(metadata).headers.id).toBe(messageId);
    expect(await eventStore.lastOfCategory("$all")).toBeNull();
    expect(rowsIn(file, "SELECT count(*) AS n FROM account")).toEqual(rowsIn(`${file}.bak`, "SELECT count(*) AS n FROM account"));
    expect(rowsIn(`${file}.bak`, "SELECT * FROM outbox ORDER BY rowid")).toEqual(before);
    expect(rowsIn(`${file}.bak`, "PRAGMA user_version")).toEqual([{ user_version: 0 }]);
  });

  test("rows that Python adds later are published in their turn", async () => {
    const { database } = await open();
    let wakes = 0;
    const stop = database.outbox.onInsert(() => {
      wakes += 1;
    });
    const names = rowsIn(file, "SELECT name FROM pragma_table_info('outbox') WHERE name <> 'entry_id'").map(({ name }) => String(name));
    const python = new DatabaseSync(file);
    for (const [id, priority] of [
      ["first", 0],
      ["second", 0],
    ] as const) {
      const values = names.map((name) =>
        name === "id" || name === "message_id" ? `'${id}'` : name === "status" ? "'pending'" : name === "priority" ? priority : name,
      );
      python.exec(`INSERT INTO outbox (${names.join(", ")}) SELECT ${values.join(", ")} FROM outbox ORDER BY rowid LIMIT 1`);
    }
    python.close();
    await until("the rows wake the publisher", () => wakes > 0);
    stop();
    const claimed = await database.outbox.claim({ broker: "default", limit: 10, owner: "a", lock_ms: 1000 });
    expect(claimed.map(({ id }) => id)).toEqual(["first", "second"]);
  });

  test("a table of that name that isn't Python's is refused, and nothing is changed", async () => {
    const database = new DatabaseSync(file);
    database.exec("ALTER TABLE outbox ADD COLUMN colour TEXT");
    database.close();
    await expect(openFile()).rejects.toThrow('table "outbox" that was made neither by protean nor by Protean for Python');
    expect(existsSync(`${file}.bak`)).toBe(false);
    expect(rowsIn(file, "SELECT count(*) AS n FROM sqlite_schema WHERE name LIKE 'protean%'")).toEqual([{ n: 0 }]);
  });
});
