/** Every table of the twin of Python's bank, as it lies in a SQLite file, against the tables that Python made (golden `schema-sqlite.sql`). */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { domain } from "../interop/bank.ts";
import { MEMORY_CONFIG, openDomain, type RunningDomain } from "../interop/running.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";

const OURS = ["entry_id"];

let folder: TemporaryFolder;
let bank: RunningDomain;
let ours: DatabaseSync;
let python: DatabaseSync;

beforeAll(async () => {
  folder = temporaryFolder();
  bank = await openDomain(domain, { ...MEMORY_CONFIG, databases: { default: { provider: "sqlite", database_uri: folder.at("bank.db") } } });
  ours = new DatabaseSync(folder.at("bank.db"));
  python = new DatabaseSync(":memory:");
  python.exec(readFileSync(new URL("./fixtures/schema-sqlite.sql", import.meta.url), "utf8"));
});
afterAll(async () => {
  ours.close();
  python.close();
  await bank.close();
  folder.remove();
});

const tables = () =>
  python
    .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
    .all()
    .map(({ name }) => String(name));
const columns = (of: DatabaseSync, table: string) =>
  of
    .prepare('SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)')
    .all(table)
    .filter(({ name }) => !OURS.includes(String(name)))
    // Python makes a required field of an optional value object NOT NULL, and then can't save an aggregate without that object (wire-format §16.13).
    .map((column) => (column["name"] === "ceiling_amount" ? { ...column, notnull: "as the object" } : column));
/** Which columns each unique index is over. */
const unique = (of: DatabaseSync, table: string) =>
  of
    .prepare(
      `SELECT (SELECT group_concat(name) FROM pragma_index_info(l.name)) AS columns FROM pragma_index_list(?) AS l WHERE l."unique" ORDER BY 1`,
    )
    .all(table);

test("each has Python's columns, in its order, with its types, and is unique in what Python's is", () => {
  expect(tables()).toEqual(["account", "account_summary", "beneficiary", "card", "customer", "outbox", "processed_message"]);
  for (const table of tables()) {
    expect([table, columns(ours, table)]).toEqual([table, columns(python, table)]);
    expect([table, unique(ours, table)]).toEqual([table, unique(python, table)]);
  }
});

test("what ours adds to a shared table can be left out by whoever inserts", () => {
  const added = ours
    .prepare(`SELECT name, "notnull", dflt_value FROM pragma_table_info('outbox') WHERE name IN (SELECT value FROM json_each(?))`)
    .all(JSON.stringify(OURS));
  expect(added).toEqual([{ name: "entry_id", notnull: 0, dflt_value: null }]);
});
