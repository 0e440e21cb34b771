import { ValidationError } from "../../errors.ts";
import { parseJson, toJsonText, type WireValue } from "../../messages/json.ts";
import { PyFloat } from "../../messages/python-number.ts";
import type { Column, ColumnValue, Row, Table } from "../../ports/database.ts";
import { quoted, type SqlValue } from "./connection.ts";
import { isoOfSqlTime, sqlTimeOf } from "./time.ts";

/** Guards updates of aggregates; beside the declared columns. */
export const VERSION_COLUMN: Column = { name: "_version", type: "integer", required: false, unique: false };

/** Declared columns by name, with `_version` where the table has one. */
export function columnsOf(table: Table): ReadonlyMap<string, Column> {
  const columns = new Map(table.columns.map((column) => [column.name, column]));
  if (table.versioned && !columns.has(VERSION_COLUMN.name)) columns.set(VERSION_COLUMN.name, VERSION_COLUMN);
  return columns;
}

/** The column's type as Python declares it (wire-format §11). */
export function sqlTypeOf(column: Column): string {
  switch (column.type) {
    case "string":
      return `VARCHAR(${column.maxLength ?? 255})`;
    case "text":
      return "VARCHAR";
    case "integer":
      return "INTEGER";
    case "float":
      return "FLOAT";
    case "decimal":
      return column.precision === undefined ? "NUMERIC" : `NUMERIC(${column.precision}, ${column.scale ?? 0})`;
    case "boolean":
      return "BOOLEAN";
    case "date":
      return "DATE";
    case "datetime":
      return "DATETIME";
    case "list":
    case "json":
      return "JSON";
  }
}

/** Of the declared table, in the form in which Python issues it (golden `schema-sqlite.sql`). */
export function createTableSql(table: Table): string {
  const lines: string[] = [];
  for (const column of columnsOf(table).values()) {
    const required = column.required && column.name !== table.key ? " NOT NULL" : "";
    lines.push(`${quoted(column.name)} ${sqlTypeOf(column)}${required}`);
  }
  lines.push(`PRIMARY KEY (${quoted(table.key)})`, `UNIQUE (${quoted(table.key)})`);
  for (const column of table.columns) if (column.unique && column.name !== table.key) lines.push(`UNIQUE (${quoted(column.name)})`);
  return `CREATE TABLE ${quoted(table.name)} (\n\t${lines.join(", \n\t")}\n)`;
}

/**
 * A value of the wire as the column keeps it.
 * @throws ValidationError naming the column when the value can't be kept unchanged
 */
export function toSql(column: Column, value: ColumnValue | undefined): SqlValue {
  if (value === null || value === undefined) return null;
  switch (column.type) {
    case "boolean":
      return value ? 1 : 0;
    case "integer":
      return typeof value === "boolean" ? Number(value) : plain(column, value);
    case "float":
      return typeof value === "bigint" ? Number(value) : plain(column, value);
    case "decimal":
      return decimal(column, value);
    case "datetime": {
      const time = typeof value === "string" ? sqlTimeOf(value) : null;
      if (time === null) throw new ValidationError({ [column.name]: [`${JSON.stringify(String(value))} is not a valid datetime`] });
      return time;
    }
    case "list":
      return toJsonText(column.items === "float" && Array.isArray(value) ? value.map(pythonFloatItem) : (value as WireValue));
    case "json":
      return toJsonText(value as WireValue);
    case "string":
    case "text":
    case "date":
      return typeof value === "boolean" ? Number(value) : plain(column, value);
  }
}

/** Python writes the items of `List(Float)` as floats, `[1.0]`. */
function pythonFloatItem(item: ColumnValue): WireValue {
  return typeof item === "number" ? new PyFloat(item) : (item as WireValue);
}

function plain(column: Column, value: ColumnValue): SqlValue {
  if (typeof value === "string" || typeof value === "number" || typeof value === "bigint") return value;
  throw new ValidationError({ [column.name]: [`${JSON.stringify(value)} is not a value of type ${column.type}`] });
}

/**
 * SQLite keeps NUMERIC as an integer or a double, as it does for Python. A value of more digits than a double holds is refused rather
 * than rounded in silence.
 */
function decimal(column: Column, value: ColumnValue): SqlValue {
  if (typeof value === "bigint") return value;
  const number = Number(value);
  if (typeof value === "boolean" || Array.isArray(value) || !Number.isFinite(number)) {
    throw new ValidationError({ [column.name]: [`${JSON.stringify(value)} is not a valid decimal`] });
  }
  if (typeof value === "string" && !sameDecimal(value, number)) {
    throw new ValidationError({ [column.name]: [`${value} has more digits than SQLite keeps exactly`] });
  }
  return number;
}

function sameDecimal(text: string, number: number): boolean {
  const significant = text.trim().toLowerCase().split("e")[0]?.replace(/[-+.]/g, "").replace(/^0+/, "").replace(/0+$/, "") ?? "";
  if (significant.length <= 15) return true;
  return significant === String(number).toLowerCase().split("e")[0]?.replace(/[-+.]/g, "").replace(/^0+/, "").replace(/0+$/, "");
}

/** A value of the column (integers as bigint) as the wire has it. */
export function fromSql(column: Column, value: SqlValue | undefined): ColumnValue {
  if (value === null || value === undefined) return null;
  const plainValue = typeof value === "bigint" ? narrowed(value) : value;
  switch (column.type) {
    case "boolean":
      return typeof plainValue === "string" ? plainValue !== "0" && plainValue !== "" : Boolean(plainValue);
    case "float":
      return Number(plainValue);
    case "decimal":
      return decimalText(column, plainValue as number | bigint | string);
    case "datetime":
      return isoOfSqlTime(String(plainValue));
    case "list":
    case "json":
      // The column's affinity turns a bare number into one; any other text is JSON.
      return typeof plainValue === "string" ? parseJson(plainValue) : (plainValue as number);
    case "integer":
    case "string":
    case "text":
    case "date":
      return plainValue instanceof Uint8Array ? Buffer.from(plainValue).toString() : plainValue;
  }
}

function narrowed(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function decimalText(column: Column, value: number | bigint | string): string {
  if (typeof value === "number" && column.scale !== undefined) return value.toFixed(column.scale);
  if (column.scale !== undefined && column.scale > 0 && typeof value === "bigint") return `${value}.${"0".repeat(column.scale)}`;
  return String(value);
}

/** A stored row (integers as bigint) as the wire has it. */
export function rowFromSql(columns: ReadonlyMap<string, Column>, stored: Readonly<Record<string, SqlValue>>): Row {
  const row: Record<string, ColumnValue> = {};
  for (const [name, column] of columns) row[name] = fromSql(column, stored[name]);
  return row;
}
