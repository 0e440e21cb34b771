import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { type ImportReport, importPythonFile } from "../../../../src/adapters/sqlite/python-import.ts";
import { ConfigurationError, ConnectionError } from "../../../../src/errors.ts";
import type { Clock } from "../../../../src/ports/clock.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { domain } from "../../../interop/bank.ts";
import { type TemporaryFolder, temporaryFolder } from "../../../support/folder.ts";
import { HurriedClock } from "../../../support/hurried-clock.ts";
import { pythonFile } from "../../../support/python-file.ts";
import { executeIn, rowsIn } from "../../../support/sqlite-file.ts";

let folder: TemporaryFolder;
let source: string;
let file: string;
beforeEach(() => {
  folder = temporaryFolder();
  source = folder.at("python.db");
  file = folder.at("protean.db");
  pythonFile(source);
  executeIn(
    source,
    `INSERT INTO customer VALUES ('c-1', 'Ada', 1, 3);
     INSERT INTO account_summary VALUES ('a6f5ba27-cbd4-4c31-acfc-f0ac7f2fe09d', 'Holder 0', 1, 25.5);
     INSERT INTO processed_message VALUES ('m-1', 'bank.AccountSummaries.opened', '2026-11-22 00:35:27.872338', 'p-1', 0)`,
  );
});
afterEach(() => folder.remove());

const TABLES = domain.tablesIn("default");

async function imported(
  options: { dryRun?: boolean; force?: boolean; tables?: typeof TABLES; clock?: Clock; into?: string } = {},
): Promise<ImportReport> {
  return await importPythonFile({
    source,
    target: { file: options.into ?? file, clock: options.clock ?? new SystemClock(), random: new SystemRandom(), log: silentLog },
    tables: options.tables ?? TABLES,
    dryRun: options.dryRun ?? false,
    force: options.force ?? false,
  });
}

const added = (report: ImportReport) => Object.fromEntries(report.tables.map(({ table, added: n }) => [table, n]));
const told = (report: ImportReport) => report.concerns.map(({ kind, message }) => `${kind}: ${message}`);

describe("importing Python's SQLite file", () => {
  test("takes every row over, value for value, with its pickle and in its order", async () => {
    const before = readFileSync(source);
    const report = await imported();
    expect(report.refused).toEqual([]);
    expect(report.concerns).toEqual([]);
    for (const table of ["account", "beneficiary", "card", "customer", "account_summary", "processed_message", "outbox"]) {
      const theirs = rowsIn(source, `SELECT * FROM ${table} ORDER BY rowid`);
      expect([table, report.tables.find((one) => one.table === table)]).toEqual([
        table,
        { table, rows: theirs.length, added: theirs.length, present: 0 },
      ]);
      const ours = rowsIn(file, `SELECT * FROM ${table} ORDER BY rowid`);
      expect([table, ours]).toEqual([table, theirs.map((row) => (table === "outbox" ? { ...row, entry_id: null } : row))]);
    }
    expect(readFileSync(source).equals(before)).toBe(true);
  });

  test("counted only, nothing is written and no file is made", async () => {
    const report = await imported({ dryRun: true, into: ":memory:" });
    expect(added(report)).toMatchObject({ account: 2, outbox: 4, customer: 1 });
    expect(existsSync(file)).toBe(false);
    await imported({ tables: [] });
    const again = await imported({ dryRun: true });
    expect(added(again)).toMatchObject({ account: 2, outbox: 0 });
    expect(rowsIn(file, "SELECT name FROM sqlite_schema WHERE name = 'account'")).toEqual([]);
  });

  test("run again it adds nothing, and what became of rows here stays", async () => {
    executeIn(source, "UPDATE outbox SET status = 'pending', published_at = NULL");
    await imported();
    executeIn(file, "UPDATE outbox SET status = 'published', entry_id = '1-1'");
    const again = await imported();
    expect(Object.values(added(again)).every((n) => n === 0)).toBe(true);
    expect(again.tables.find(({ table }) => table === "account")).toMatchObject({ rows: 2, present: 2 });
    expect(rowsIn(file, "SELECT DISTINCT status FROM outbox")).toEqual([{ status: "published" }]);
  });

  test("rows that wait to be published come as they are, those of a dead engine without its lock", async () => {
    executeIn(
      source,
      "UPDATE outbox SET status = 'processing', locked_by = 'outbox-processor-default-to-default', locked_until = '2026-11-22 00:40:27.523644'",
    );
    executeIn(source, "UPDATE outbox SET retry_count = 2, next_retry_at = '2026-11-22 00:40:27.523644' WHERE rowid = 1");
    executeIn(source, "UPDATE outbox SET status = 'abandoned' WHERE rowid = 2");
    const report = await imported();
    expect(report.outbox).toEqual({ failed: 1, abandoned: 1, pending: 2 });
    expect([...report.unpublished.values()].reduce((sum, n) => sum + n, 0)).toBe(3);
    expect(rowsIn(file, "SELECT status, locked_by, locked_until, retry_count FROM outbox ORDER BY rowid LIMIT 2")).toEqual([
      { status: "failed", locked_by: null, locked_until: null, retry_count: 2 },
      { status: "abandoned", locked_by: null, locked_until: null, retry_count: 0 },
    ]);
  });

  test("a lock that still holds says that Python runs: refused, unless told otherwise", async () => {
    executeIn(
      source,
      "UPDATE outbox SET status = 'processing', locked_by = 'outbox-processor', locked_until = '2999-01-01 00:00:00.000000' WHERE rowid = 1",
    );
    const report = await imported();
    expect(report.refused.map(({ kind }) => kind)).toEqual(["locked"]);
    expect(report.refused[0]?.message).toContain("1 row locked by outbox-processor until 2999-01-01T00:00:00+00:00");
    expect(rowsIn(file, "SELECT count(*) AS n FROM outbox")).toEqual([{ n: 0 }]);
    expect((await imported({ force: true })).outbox).toMatchObject({ pending: 1 });
  });

  test("tables that aren't declared stay behind and are named; a column with values is refused, unless told otherwise", async () => {
    const fewer = TABLES.filter(({ name }) => name !== "customer").map((table) =>
      table.name === "account" ? { ...table, columns: table.columns.filter(({ name }) => name !== "holder" && name !== "rate") } : table,
    );
    const report = await imported({ tables: fewer });
    expect(told(report)).toEqual([
      "undeclaredColumn: table account: column holder has 2 values and is not declared here",
      "undeclaredColumn: table account: column rate has 1 value and is not declared here",
      "undeclaredTable: table customer (1 row) is not declared here and stays behind",
    ]);
    expect(report.refused).toHaveLength(2);
    expect(rowsIn(file, "SELECT name FROM sqlite_schema WHERE name = 'account'")).toEqual([]);
    // Python declares it NOT NULL, ours without the field doesn't know it.
    expect(added(await imported({ tables: fewer, force: true }))).toMatchObject({ account: 2 });
  });

  test("a required column that Python lacks, JSON that is none, and rows that both have changed are refused whatever is said", async () => {
    executeIn(source, "UPDATE account SET tags = '[half' WHERE holder = 'Types'");
    const more = TABLES.map((table) =>
      table.name === "customer"
        ? { ...table, columns: [...table.columns, { name: "city", type: "string", required: true, unique: false } as const] }
        : table,
    );
    const report = await imported({ tables: more, force: true });
    expect(report.refused.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^table account: column tags of row 07194c0a-\S+ is no JSON$/),
      "table customer: there is no column city, which every row must have here",
    ]);
    executeIn(source, "UPDATE account SET tags = '[]' WHERE holder = 'Types'");
    await imported();
    executeIn(file, "UPDATE account SET holder = 'Grace' WHERE holder = 'Types'");
    expect((await imported({ force: true })).refused.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^table account: 1 row are here already with other content, such as 07194c0a/),
    ]);
  });

  test("rows whose pickle isn't metadata are counted, and come along", async () => {
    executeIn(source, "UPDATE outbox SET metadata_ = x'8004635f5f6d61696e5f5f0a58580a2e', status = 'pending' WHERE rowid = 1");
    const report = await imported();
    expect(told(report)).toEqual([
      expect.stringContaining("unreadableMetadata: outbox: metadata of 1 row can't be read (the pickle uses opcode 0x63"),
    ]);
    expect(added(report)["outbox"]).toBe(4);
  });

  test("what a killed Python left half done in its journal is undone", async () => {
    const child = Bun.spawn([process.execPath, new URL("./half-done-process.ts", import.meta.url).pathname, source]);
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    expect(existsSync(`${source}-journal`)).toBe(true);
    await imported();
    expect(rowsIn(file, "SELECT holder FROM account ORDER BY rowid")).toEqual([{ holder: "Holder 0" }, { holder: "Types" }]);
  });

  test("a file that another process has locked is waited for, then named", async () => {
    const holder = new DatabaseSync(source);
    holder.exec("BEGIN EXCLUSIVE");
    const attempt = imported({ clock: new HurriedClock() });
    await expect(attempt).rejects.toBeInstanceOf(ConnectionError);
    await expect(attempt).rejects.toThrow(`${source}: another process kept the database locked`);
    holder.close();
  });

  test("what is no file of Python's is refused by name", async () => {
    folder.write({ "python.db": "no database at all, only text. ".repeat(50) });
    await expect(imported()).rejects.toThrow(`${source} is no SQLite database`);
    folder.write({ "python.db": "" });
    await expect(imported()).rejects.toThrow("holds no table of this domain: it is empty");
    executeIn(source, "CREATE TABLE shoes (size INTEGER)");
    await expect(imported()).rejects.toThrow("it has shoes");
    executeIn(source, "CREATE TABLE account (account_id); CREATE TABLE protean_migration (version)");
    await expect(imported()).rejects.toBeInstanceOf(ConfigurationError);
  });
});
