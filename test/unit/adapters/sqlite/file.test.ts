import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { SqliteFile } from "../../../../src/adapters/sqlite/file.ts";
import { MIGRATIONS } from "../../../../src/adapters/sqlite/migrations.ts";
import { openSqlite } from "../../../../src/adapters/sqlite/mod.ts";
import { ConfigurationError, ConnectionError } from "../../../../src/errors.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { type TemporaryFolder, temporaryFolder } from "../../../support/folder.ts";

const outside = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
const newest = Math.max(...MIGRATIONS.map(({ version }) => version));

describe("opening a SQLite file", () => {
  let folder: TemporaryFolder;
  beforeEach(() => {
    folder = temporaryFolder({ "a-file": "text\n" });
  });
  afterEach(() => folder.remove());

  /** What is in the file, seen by somebody else. */
  const pragma = (file: string, name: string) => {
    const database = new DatabaseSync(file);
    const value = Object.values(database.prepare(`PRAGMA ${name}`).get() ?? {})[0];
    database.close();
    return value;
  };

  test("the folder is made, the file is in WAL mode and carries our version", async () => {
    const file = folder.at("deep", "er", "protean.db");
    const stores = await openSqlite({ file, ...outside });
    expect(stores.database.identity).toBe(`sqlite:${file}`);
    expect(stores.eventStore.identity).toBe(stores.database.identity);
    expect(stores.broker.identity).toBe(stores.database.identity);
    await stores.close();
    expect(pragma(file, "journal_mode")).toBe("wal");
    expect(pragma(file, "user_version")).toBe(newest);
  });

  test("each memory is one of its own", async () => {
    const [one, two] = await Promise.all([1, 2].map(() => openSqlite({ file: ":memory:", ...outside })));
    expect(one?.database.identity).not.toBe(two?.database.identity);
    expect([one?.database.provider, one?.eventStore.provider, one?.broker.provider]).toEqual(["memory", "memory", "inline"]);
    await Promise.all([one?.close(), two?.close()]);
  });

  test("many handles may open a fresh file at once", async () => {
    const file = folder.at("protean.db");
    const handles = await Promise.all(Array.from({ length: 5 }, () => openSqlite({ file, ...outside })));
    for (const { database } of handles) await database.ping();
    for (const handle of handles) await handle.close();
  });

  test("a place that can't hold the file is one ConfigurationError with the way out", async () => {
    const attempt = openSqlite({ file: folder.at("a-file", "protean.db"), ...outside });
    await expect(attempt).rejects.toBeInstanceOf(ConfigurationError);
    await expect(attempt).rejects.toMatchObject({ about: { fix: expect.stringContaining("PROTEAN_DATA") } });
    await expect(openSqlite({ file: "/proc/protean/protean.db", ...outside })).rejects.toBeInstanceOf(ConfigurationError);
    await expect(openSqlite({ file: folder.path, ...outside })).rejects.toBeInstanceOf(ConfigurationError);
  });

  test("a file that is no database is refused and left alone", async () => {
    folder.write({ "notes.db": "these are notes, ".repeat(100) });
    await expect(openSqlite({ file: folder.at("notes.db"), ...outside })).rejects.toBeInstanceOf(ConfigurationError);
    expect(readFileSync(folder.at("notes.db"), "utf8")).toStartWith("these are notes");
  });

  test("a migration that fails leaves the file as it was", async () => {
    const file = folder.at("protean.db");
    await (await openSqlite({ file, ...outside })).close();
    const broken = { version: newest + 1, name: "broken", usableFrom: 1, sql: "CREATE TABLE fine (x); CREATE TABLE messages (x);" };
    await expect(SqliteFile.open({ file, ...outside, migrations: [...MIGRATIONS, broken] })).rejects.toThrow("messages");
    expect(pragma(file, "user_version")).toBe(newest);
    const database = new DatabaseSync(file);
    expect(database.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'fine'").get()).toBeUndefined();
    database.close();
  });

  test("a file with somebody else's tables of our names is refused, other tables are no matter", async () => {
    const file = folder.at("theirs.db");
    const theirs = new DatabaseSync(file);
    theirs.exec("CREATE TABLE customer (id)");
    theirs.close();
    await (await openSqlite({ file, ...outside })).close();
    const other = folder.at("other.db");
    const database = new DatabaseSync(other);
    database.exec("CREATE TABLE messages (id)");
    database.close();
    await expect(openSqlite({ file: other, ...outside })).rejects.toThrow('table "messages"');
    expect(existsSync(`${other}.bak`)).toBe(false);
  });

  test("closed one by one, the file is closed with the last; calls after that fail", async () => {
    const { database, eventStore, broker } = await openSqlite({ file: folder.at("protean.db"), ...outside });
    await broker.close();
    await eventStore.close();
    await database.ping();
    await database.close();
    await expect(database.ping()).rejects.toBeInstanceOf(ConnectionError);
    await expect(broker.publish([{ stream: "s", fields: { data: "x" } }])).rejects.toBeInstanceOf(ConnectionError);
  });
});
