import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, linkSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { backupFile, checkBackup, FILE_IN_USE, restoreFile } from "../../../../src/adapters/sqlite/backup.ts";
import { openSqlite, type SqliteStores } from "../../../../src/adapters/sqlite/mod.ts";
import { ConfigurationError } from "../../../../src/errors.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { STORE_VERSION } from "../../../../src/ports/store-version.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { type TemporaryFolder, temporaryFolder } from "../../../support/folder.ts";
import { executeIn, rowsIn } from "../../../support/sqlite-file.ts";
import { until } from "../../../support/until.ts";

const outside = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };

let folder: TemporaryFolder;
let file: string;
let copy: string;
const opened: SqliteStores[] = [];
beforeEach(() => {
  folder = temporaryFolder();
  file = folder.at("protean.db");
  copy = folder.at("backup.db");
});
afterEach(async () => {
  for (const one of opened.splice(0)) await one.close();
  folder.remove();
});

async function open(path = file): Promise<SqliteStores> {
  const stores = await openSqlite({ file: path, ...outside });
  opened.push(stores);
  return stores;
}

async function closeAll(): Promise<void> {
  for (const one of opened.splice(0)) await one.close();
}

const append = async (stores: SqliteStores, stream: string) => {
  await stores.eventStore.append([{ id: crypto.randomUUID(), stream, type: "T", data: "{}", metadata: null, expectedVersion: null }]);
};
const streams = async (stores: SqliteStores) => (await stores.eventStore.readCategory("$all", 1, 100)).map(({ stream }) => stream);
const backup = (note = "{}") => backupFile({ file: { file, ...outside }, to: copy, note });
const restore = () => restoreFile({ backup: copy, file, ...outside });

describe("a backup", () => {
  test("of a database that is written to all the time holds whole units of work, in one sound file", async () => {
    const writer = Bun.spawn([process.execPath, new URL("./writer-process.ts", import.meta.url).pathname, "commit", file], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    const reader = writer.stdout.getReader();
    await reader.read();
    void (async () => {
      while (!(await reader.read()).done);
    })();
    const stores = await open();
    const units = async () => (await stores.database.outbox.counts()).pending;
    await until("units are committed", async () => (await units()) > 20);
    const facts = await backup('{"some": "note"}');
    const goesOn = await units();
    await until("the writer goes on", async () => (await units()) > goesOn);
    writer.kill("SIGKILL");
    await writer.exited;

    expect(facts).toMatchObject({ version: STORE_VERSION, messages: 2 * facts.outboxRows, size_bytes: statSync(copy).size });
    expect(facts.outboxRows).toBeGreaterThan(20);
    expect(readdirSync(folder.path).filter((name) => name.startsWith("backup.db"))).toEqual(["backup.db"]);
    expect(rowsIn(copy, "PRAGMA journal_mode")).toEqual([{ journal_mode: "delete" }]);
    const [units1, units2, markers] = [
      "messages WHERE stream_name = 'acc-1'",
      "messages WHERE stream_name = 'acc-2'",
      "processed_message",
    ].map((from) => rowsIn(copy, `SELECT count(*) AS n FROM ${from}`)[0]?.["n"]);
    expect([units1, units2, markers]).toEqual([facts.outboxRows, facts.outboxRows, facts.outboxRows]);
    expect(rowsIn(copy, "SELECT note, restored_at FROM protean_backup")).toEqual([{ note: '{"some": "note"}', restored_at: null }]);
    expect(await stores.database.restored()).toBeNull();
  });

  test("that can't be written leaves nothing, and what an interrupted one left is replaced", async () => {
    await open();
    await expect(backupFile({ file: { file, ...outside }, to: folder.at("nowhere", "b.db"), note: "{}" })).rejects.toBeInstanceOf(Error);
    writeFileSync(`${copy}.part`, "half a copy");
    await backup();
    expect(existsSync(`${copy}.part`)).toBe(false);
    expect(checkBackup(copy).takenAt).toMatch(/^\d{4}-\d\d-\d\dT.*\+00:00$/);
  });
});

describe("restoring", () => {
  test("puts the copy in place, keeps what it replaced, and says that it was put back until that is settled", async () => {
    const stores = await open();
    await append(stores, "before-1");
    const lease = await stores.database.leases.acquire("outbox:default:default", "engine", 60_000);
    await stores.broker.instances.beat({ id: "engine" } as never, 60_000);
    await backup('{"brokers": []}');
    await append(stores, "after-1");
    await closeAll();

    const { replaced } = await restore();
    expect(replaced).toMatch(/protean\.db\.replaced-\d{8}T\d{6}Z$/);
    const again = await open();
    expect(await streams(again)).toEqual(["before-1"]);
    expect(await again.database.restored()).toMatchObject({
      note: '{"brokers": []}',
      takenAt: expect.any(String),
      restoredAt: expect.any(String),
    });
    // Their time is over, and no generation comes twice.
    expect(await again.broker.instances.alive()).toEqual([]);
    expect((await again.database.leases.acquire("outbox:default:default", "other", 1_000))?.generation).toBe((lease?.generation ?? 0) + 1);
    await again.database.settleRestored();
    expect(await again.database.restored()).toBeNull();
    const old = await open(replaced ?? "");
    expect(await streams(old)).toEqual(["before-1", "after-1"]);
    expect(existsSync(copy)).toBe(true);
  });

  test("is refused while anybody has the database open, and changes nothing then", async () => {
    const stores = await open();
    await backup();
    await append(stores, "after-1");
    const attempt = restore();
    await expect(attempt).rejects.toMatchObject({ code: FILE_IN_USE, about: { fix: expect.stringContaining("Stop every program") } });
    expect(await streams(stores)).toEqual(["after-1"]);
    expect(readdirSync(folder.path).filter((name) => name.includes("replaced"))).toEqual([]);
    await closeAll();
    await restore();
    expect(await streams(await open())).toEqual([]);
  });

  test("after a kill between two steps is done by running it again, and no second name of the database is left", async () => {
    await append(await open(), "before-1");
    await backup();
    await closeAll();
    const inode = statSync(file).ino;
    writeFileSync(`${file}.restoring`, "half a copy");
    linkSync(file, `${file}.replaced-20260101T000000Z`);
    await restore();
    const left = readdirSync(folder.path).filter((name) => name.startsWith("protean.db."));
    expect(left).toHaveLength(1);
    expect(left[0]).not.toContain("20260101");
    expect(statSync(folder.at(left[0] ?? "")).ino).toBe(inode);
    expect(statSync(folder.at(left[0] ?? "")).nlink).toBe(1);
  });

  test("replaces a damaged database too, and its log isn't taken for the new one's", async () => {
    const stores = await open();
    await append(stores, "before-1");
    await backup();
    await closeAll();
    writeFileSync(file, "no database any more ".repeat(300));
    writeFileSync(`${file}-wal`, "whatever the log was");
    const { replaced } = await restore();
    expect(readFileSync(replaced ?? "", "utf8")).toStartWith("no database any more");
    expect(readFileSync(`${replaced}-wal`, "utf8")).toBe("whatever the log was");
    expect(await streams(await open())).toEqual(["before-1"]);
  });

  test("begins a database where there is none", async () => {
    await append(await open(), "before-1");
    await backup();
    await closeAll();
    const elsewhere = folder.at("elsewhere.db");
    expect(await restoreFile({ backup: copy, file: elsewhere, ...outside })).toEqual({ replaced: null });
    expect(await streams(await open(elsewhere))).toEqual(["before-1"]);
  });

  test("takes the copy of a migration too; the database is then migrated when it is opened", async () => {
    executeIn(copy, readFileSync(new URL("./version-1.sql", import.meta.url), "utf8"));
    await restore();
    expect(rowsIn(file, "PRAGMA user_version")).toEqual([{ user_version: 1 }]);
    const stores = await open();
    expect(await stores.database.restored()).toMatchObject({ takenAt: null, note: null });
    expect((await stores.database.outbox.list({ limit: 10 })).length).toBe(7);
  });

  test("refuses what is missing, damaged, newer, or none of ours, and changes nothing", async () => {
    await append(await open(), "stays-1");
    await backup();
    await closeAll();
    const whole = readFileSync(copy);
    const refused = async (contents: Uint8Array | string, message: string | RegExp) => {
      writeFileSync(copy, contents);
      const attempt = restore();
      await expect(attempt).rejects.toBeInstanceOf(ConfigurationError);
      await expect(attempt).rejects.toThrow(message);
    };
    await refused("a letter, not a database. ".repeat(100), "is no SQLite database, or a damaged one");
    const torn = Buffer.from(whole);
    torn.fill(0xaa, 4096 * 3, 4096 * 6);
    await refused(torn, /is damaged|a damaged one/);
    writeFileSync(copy, whole);
    executeIn(copy, "PRAGMA user_version = 99");
    await expect(restore()).rejects.toThrow(`has schema version 99, this version of protean knows up to ${STORE_VERSION}`);
    await refused("", "is no database of this program");
    await expect(restoreFile({ backup: folder.at("nowhere.db"), file, ...outside })).rejects.toThrow("there is no file");
    expect(await streams(await open())).toEqual(["stays-1"]);
    expect(existsSync(`${file}.restoring`)).toBe(false);
  });
});
