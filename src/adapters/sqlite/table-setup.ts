import type { DatabaseStep, Table } from "../../ports/database.ts";
import { columnsOf, createTableSql, sqlTypeOf } from "./columns.ts";
import { type Connection, quoted } from "./connection.ts";
import { columnsIn } from "./schema.ts";

/** Something that a declared table lacks in the file, and the statement that makes it. */
export type SetupStep = DatabaseStep;

/** What is missing of the declared tables, in the order in which it has to be made. Nothing that exists is changed. */
export function missingSteps(connection: Connection, tables: readonly Table[]): SetupStep[] {
  const steps: SetupStep[] = [];
  for (const table of tables) {
    const present = new Set(columnsIn(connection, table.name));
    if (present.size === 0) steps.push({ what: `table ${table.name}`, sql: createTableSql(table) });
    else {
      for (const column of columnsOf(table).values()) {
        if (present.has(column.name)) continue;
        // Without NOT NULL and UNIQUE: rows that are there have no value for it, and SQLite takes neither.
        const sql = `ALTER TABLE ${quoted(table.name)} ADD COLUMN ${quoted(column.name)} ${sqlTypeOf(column)}`;
        steps.push({ what: `column ${table.name}.${column.name}`, sql });
        if (column.unique) steps.push(indexStep(connection, table, [column.name], true));
      }
    }
    for (const { columns, unique } of table.indexes ?? []) steps.push(indexStep(connection, table, columns, unique));
  }
  return steps.filter(({ sql }) => sql !== "");
}

/** `sql` is empty when the index exists. */
function indexStep(connection: Connection, table: Table, columns: readonly string[], unique: boolean): SetupStep {
  const name = `${unique ? "uq" : "ix"}_${table.name}_${columns.join("_")}`;
  const exists = connection.get("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?", name) !== undefined;
  const list = columns.map(quoted).join(", ");
  return {
    what: `index ${name}`,
    sql: exists ? "" : `CREATE ${unique ? "UNIQUE " : ""}INDEX ${quoted(name)} ON ${quoted(table.name)} (${list})`,
  };
}

/** Ours whose rows belong to the domain. They stay as tables: the file was laid out with them. */
const EMPTIED = ["outbox", "processed_message", "protean_idempotency"];

/** Statements that empty or remove what the domain keeps in the file, each with the number of rows it will cost. */
export function clearingSteps(connection: Connection, tables: readonly Table[], what: "rows" | "tables"): SetupStep[] {
  const isThere = (name: string) => connection.get("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", name) !== undefined;
  const declared = tables.map(({ name }) => name);
  return [...declared, ...EMPTIED].filter(isThere).map((name) => {
    const count = connection.get<{ n: number }>(`SELECT count(*) AS n FROM ${quoted(name)}`)?.n ?? 0;
    const verb = what === "tables" && declared.includes(name) ? "DROP TABLE" : "DELETE FROM";
    return { what: `table ${name} (${count} ${count === 1 ? "row" : "rows"})`, sql: `${verb} ${quoted(name)}` };
  });
}
