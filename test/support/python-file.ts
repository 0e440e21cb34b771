import { readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { readFixture } from "../golden/fixtures.ts";

type RecordedValue = string | number | null | { readonly bytes_base64: string };

/** A SQLite file as Protean for Python left it: its schema and its rows as they were recorded, in a rollback journal. */
export function pythonFile(path: string): void {
  const database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode = DELETE");
  database.exec(readFileSync(new URL("../golden/fixtures/schema-sqlite.sql", import.meta.url), "utf8"));
  for (const [table, rows] of Object.entries(readFixture<Record<string, Record<string, RecordedValue>[]>>("tables-sqlite-rows.json"))) {
    for (const row of rows) {
      const names = Object.keys(row);
      database.prepare(`INSERT INTO ${table} (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`).run(
        ...names.map((name) => {
          const value = row[name] ?? null;
          return value !== null && typeof value === "object" ? Buffer.from(value.bytes_base64, "base64") : value;
        }),
      );
    }
  }
  database.close();
}
