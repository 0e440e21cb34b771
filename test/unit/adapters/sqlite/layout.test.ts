/** Tables and rows against those that Python made (golden `schema-sqlite.sql`, `tables-sqlite-rows.json`). */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { epochOf_ms, isoOfSqlTime, sqlTime, sqlTimeOf } from "../../../../src/adapters/sqlite/time.ts";
import { ValidationError } from "../../../../src/errors.ts";
import type { CommitSet, Row, Table } from "../../../../src/ports/database.ts";
import { readFixture } from "../../../golden/fixtures.ts";
import { type SqliteUnderTest, sqliteUnderTest } from "../../../support/sqlite.ts";

const EMPTY: CommitSet = { rows: [], appends: [], outbox: [], markers: [], fences: [] };

const ACCOUNT: Table = {
  name: "account",
  element: "Account",
  key: "account_id",
  versioned: true,
  columns: [
    { name: "account_id", type: "string", required: true, unique: true },
    { name: "holder", type: "string", maxLength: 100, required: true, unique: false },
    { name: "balance", type: "float", required: false, unique: false },
    { name: "overdraft", type: "integer", required: false, unique: false },
    { name: "rate", type: "decimal", precision: 10, scale: 4, required: false, unique: false },
    { name: "tier", type: "string", required: false, unique: false },
    { name: "opened_on", type: "date", required: false, unique: false },
    { name: "opened_at", type: "datetime", required: false, unique: false },
    { name: "active", type: "boolean", required: false, unique: false },
    { name: "notes", type: "text", required: false, unique: false },
    { name: "tags", type: "list", items: "string", required: false, unique: false },
    { name: "limits", type: "json", required: false, unique: false },
    { name: "ceiling_amount", type: "float", required: true, unique: false },
    { name: "ceiling_currency", type: "string", maxLength: 3, required: false, unique: false },
  ],
};

describe("layout of a SQLite file", () => {
  let under: SqliteUnderTest;
  let raw: DatabaseSync;
  beforeEach(async () => {
    under = await sqliteUnderTest("file");
    under.stores.database.declare([ACCOUNT]);
    await under.stores.database.setup();
    raw = new DatabaseSync(under.file);
  });
  afterEach(async () => {
    raw.close();
    await under.dispose();
  });

  const described = (database: DatabaseSync, table: string) =>
    database.prepare('SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?)').all(table);

  test("tables have Python's columns, in its order, with its types", () => {
    const python = new DatabaseSync(":memory:");
    python.exec(readFileSync(new URL("../../../golden/fixtures/schema-sqlite.sql", import.meta.url), "utf8"));
    for (const table of ["account", "processed_message"]) expect(described(raw, table)).toEqual(described(python, table));
    expect(described(raw, "outbox").filter((column) => column["name"] !== "entry_id")).toEqual(described(python, "outbox"));
    const indexes =
      "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name IN ('outbox', 'processed_message') AND sql IS NOT NULL";
    const ours = raw.prepare(indexes).all();
    for (const index of python.prepare(indexes).all()) expect(ours).toContainEqual(index);
    python.close();
  });

  test("rows that Python wrote read as wire values, and are written again value for value", async () => {
    const rows = readFixture<Record<string, Record<string, string | number | null>[]>>("tables-sqlite-rows.json")["account"] ?? [];
    expect(rows.length).toBeGreaterThan(1);
    const names = Object.keys(rows[0] ?? {});
    const insert = raw.prepare(`INSERT INTO account (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`);
    for (const row of rows) insert.run(...names.map((name) => row[name] ?? null));
    const read: Row[] = [];
    for (const row of rows) read.push((await under.stores.database.get("account", row["account_id"] ?? "")) ?? {});
    expect(read[0]).toMatchObject({
      opened_at: "2026-01-31T09:30:00+00:00",
      active: true,
      tags: ["new", "é"],
      limits: { daily: 500, weekly: null },
    });
    expect(read[1]).toMatchObject({ rate: "0.0125", opened_at: null });
    await under.stores.database.commit({
      ...EMPTY,
      rows: [
        { kind: "deleteWhere", table: "account", where: null },
        ...read.map((row) => ({ kind: "insert", table: "account", row }) as const),
      ],
    });
    expect(raw.prepare("SELECT * FROM account").all()).toEqual(rows);
  });

  test("a list of floats is written as Python writes floats", async () => {
    const floats: Table = {
      name: "floats",
      element: "Floats",
      key: "id",
      versioned: false,
      columns: [
        { name: "id", type: "string", required: true, unique: true },
        { name: "values", type: "list", items: "float", required: false, unique: false },
      ],
    };
    under.stores.database.declare([floats]);
    await under.stores.database.setup();
    await under.stores.database.commit({ ...EMPTY, rows: [{ kind: "insert", table: "floats", row: { id: "a", values: [1, 2.5, null] } }] });
    expect(raw.prepare('SELECT "values" FROM floats').get()).toEqual({ values: "[1.0, 2.5, null]" });
  });

  test("a decimal that SQLite can't keep exactly is refused, not rounded", async () => {
    const write = (rate: string) =>
      under.stores.database.commit({
        ...EMPTY,
        rows: [{ kind: "insert", table: "account", row: { account_id: rate, holder: "x", ceiling_amount: 1, rate } }],
      });
    for (const rate of ["-0.0001", "99999999999.9999", "1e3"]) await write(rate);
    expect((await under.stores.database.get("account", "99999999999.9999"))?.["rate"]).toBe("99999999999.9999");
    await expect(write("12345678901234567.1234")).rejects.toBeInstanceOf(ValidationError);
    await expect(write("much")).rejects.toMatchObject({ messages: { rate: ['"much" is not a valid decimal'] } });
  });

  test("an outbox row is what Python's claim would find", async () => {
    await under.stores.database.outbox.insertMissing([
      {
        id: "row",
        messageId: "m",
        streamName: "bank::account-1",
        type: "T",
        data: '{"a": 1}',
        metadata: '{"headers": {}}',
        correlationId: null,
        causationId: null,
        partitionKey: null,
        priority: 0,
        targetBroker: "default",
        maxRetries: 3,
      },
    ]);
    const row = raw.prepare("SELECT * FROM outbox").get();
    expect(row).toMatchObject({
      data: '{"a": 1}',
      last_error: "null",
      status: "pending",
      retry_count: 0,
      max_retries: 3,
      published_at: null,
      locked_until: null,
      _version: 0,
    });
    expect(row?.["created_at"]).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}$/);
    expect(row).toMatchObject({ sequence_number: null, entry_id: null });
    // The dict that Python was seen to accept (golden outbox-pickle-acceptance.json).
    expect(Buffer.from(row?.["metadata_"] as Uint8Array).toString("latin1")).toBe("\x80\x02}(X\x07\x00\x00\x00headers}(uu.");
  });

  test("every tail is found by an index, whatever the size of the store (G45)", () => {
    const unfinished = "status IN ('pending', 'processing', 'failed')";
    const queries = [
      "SELECT * FROM messages WHERE category = 'c' ORDER BY global_position DESC LIMIT 1",
      "SELECT * FROM messages WHERE category = 'c' AND global_position >= 5 ORDER BY global_position LIMIT 10",
      "SELECT * FROM messages WHERE stream_name = 's' ORDER BY position DESC LIMIT 1",
      "SELECT max(position) FROM messages WHERE stream_name = 's'",
      "SELECT * FROM protean_entry WHERE stream_id = 1 AND (ms, seq) > (3, 4) ORDER BY ms, seq LIMIT 3",
      `SELECT rowid, stream_name FROM outbox WHERE target_broker = 'b' AND ${unfinished} AND (priority < 3 OR (priority = 3 AND rowid > 4))
       ORDER BY priority DESC, rowid LIMIT 10`,
      `SELECT rowid FROM outbox WHERE target_broker = 'b' AND stream_name = 's' AND ${unfinished} AND rowid > 1 AND rowid <= 9 ORDER BY rowid LIMIT 3`,
      `SELECT min(priority) FROM outbox WHERE target_broker = 'b' AND ${unfinished}`,
      "SELECT rowid FROM outbox WHERE status IN ('published', 'abandoned') AND status = 'published' AND last_processed_at <= 'x' ORDER BY last_processed_at",
    ];
    for (const query of queries) {
      const plan = raw
        .prepare(`EXPLAIN QUERY PLAN ${query}`)
        .all()
        .map((step) => String(step["detail"]));
      expect({ query, plan: plan.filter((step) => /^SCAN|TEMP B-TREE/.test(step)) }).toEqual({ query, plan: [] });
    }
  });
});

describe("times in SQLite columns", () => {
  test("they are UTC text with microseconds, and read back to the same point in time", () => {
    expect(sqlTime(1_795_308_621_389.027)).toBe("2026-11-22 00:50:21.389027");
    expect(sqlTime(0)).toBe("1970-01-01 00:00:00.000000");
    expect(sqlTimeOf("2026-01-31T10:30:00.000001+02:00")).toBe("2026-01-31 08:30:00.000001");
    expect(sqlTimeOf("2026-01-31T10:30:00")).toBe("2026-01-31 10:30:00.000000");
    expect(sqlTimeOf("soon")).toBeNull();
    expect(isoOfSqlTime("2026-11-22 00:50:21.389027")).toBe("2026-11-22T00:50:21.389027+00:00");
    expect(sqlTime(epochOf_ms("2026-11-22 00:50:21.389027"))).toBe("2026-11-22 00:50:21.389027");
  });
});
