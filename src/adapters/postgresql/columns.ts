import { ValidationError } from "../../errors.ts";
import { isoOfEpoch, parseDateTime } from "../../messages/datetime.ts";
import { parseJson, toJsonText, type WireValue } from "../../messages/json.ts";
import { PyFloat } from "../../messages/python-number.ts";
import type { Column, ColumnType, ColumnValue, Row, Table } from "../../ports/database.ts";
import type { SqlValue, StoredRow } from "./pool.ts";
import { arrayText, quoted } from "./sql.ts";

/** Guards updates of aggregates; beside the declared columns. */
export const VERSION_COLUMN: Column = { name: "_version", type: "integer", required: false, unique: false };

const INTEGER_max = 2_147_483_647n;
const LENGTH_default = 255;

/** Declared columns by name, with `_version` where the table has one. */
export function columnsOf(table: Table): ReadonlyMap<string, Column> {
  const columns = new Map(table.columns.map((column) => [column.name, column]));
  if (table.versioned && !columns.has(VERSION_COLUMN.name)) columns.set(VERSION_COLUMN.name, VERSION_COLUMN);
  return columns;
}

/** Lists of scalars are arrays, lists of anything else JSON (wire-format §11). */
export function isArray(column: Column): boolean {
  return column.type === "list" && column.items !== "json" && column.items !== "list";
}

/** The column's type as Python declares it (wire-format §11). */
export function sqlTypeOf(column: Column): string {
  if (column.type === "list") return isArray(column) ? `${scalarType(column.items ?? "string", null)}[]` : "JSON";
  return scalarType(column.type, column);
}

/** `column` is null for the items of a list, which have no limits of their own. */
function scalarType(type: ColumnType, column: Column | null): string {
  switch (type) {
    case "string":
      return column === null ? "VARCHAR" : `VARCHAR(${column.maxLength ?? LENGTH_default})`;
    case "text":
      return "VARCHAR";
    case "integer":
      return "INTEGER";
    case "float":
      return "FLOAT";
    case "decimal":
      return column?.precision === undefined ? "NUMERIC" : `NUMERIC(${column.precision}, ${column.scale ?? 0})`;
    case "boolean":
      return "BOOLEAN";
    case "date":
      return "DATE";
    case "datetime":
      return "TIMESTAMP WITHOUT TIME ZONE";
    case "list":
    case "json":
      return "JSON";
  }
}

/** Of the declared table, in the form in which Python issues it (golden `schema-postgres.sql`). */
export function createTableSql(schema: string, table: Table): string {
  const lines: string[] = [];
  for (const column of columnsOf(table).values()) {
    const required = column.required && column.name !== table.key ? " NOT NULL" : "";
    lines.push(`${quoted(column.name)} ${sqlTypeOf(column)}${required}`);
  }
  lines.push(`PRIMARY KEY (${quoted(table.key)})`, `UNIQUE (${quoted(table.key)})`);
  for (const column of table.columns) if (column.unique && column.name !== table.key) lines.push(`UNIQUE (${quoted(column.name)})`);
  return `CREATE TABLE ${quoted(schema)}.${quoted(table.name)} (\n\t${lines.join(", \n\t")}\n)`;
}

/**
 * Turns the text of a value (see `toSql`) into the column's type. Times go through the session's time zone, which is how Python's driver
 * binds them and what its rows therefore hold (wire-format §10.4).
 */
export function castOf(column: Column): string {
  const type = column.type === "list" && isArray(column) ? (column.items ?? "string") : column.type;
  const array = isArray(column) ? "[]" : "";
  if (type === "datetime") return `::timestamptz${array}::timestamp${array}`;
  const names: Record<Exclude<ColumnType, "datetime">, string> = {
    string: "varchar",
    text: "varchar",
    integer: "int4",
    float: "float8",
    decimal: "numeric",
    boolean: "bool",
    date: "date",
    list: "json",
    json: "json",
  };
  return `::${names[type]}${array}`;
}

/** The column in a select list, as text that `fromSql` reads. */
export function readSql(column: Column): string {
  const name = quoted(column.name);
  if (isArray(column)) {
    if (column.items === "datetime") return `array_to_json((${name}::timestamptz[])::text[])::text AS ${name}`;
    return column.items === "decimal" || column.items === "integer"
      ? `array_to_json(${name}::text[])::text AS ${name}`
      : `array_to_json(${name})::text AS ${name}`;
  }
  if (column.type === "datetime") return `(${name}::timestamptz AT TIME ZONE 'UTC')::text AS ${name}`;
  return `${name}::text AS ${name}`;
}

/**
 * A value of the wire as text for the column's type.
 * @throws ValidationError naming the column when the value can't be kept unchanged
 */
export function toSql(column: Column, value: ColumnValue | undefined): SqlValue {
  if (value === null || value === undefined) return null;
  if (isArray(column)) {
    if (!Array.isArray(value)) throw invalid(column, `${shown(value)} is not a list`);
    const item: Column = { name: column.name, type: column.items ?? "string", required: false, unique: false };
    return arrayText(value.map((one) => scalarText(item, one as ColumnValue, false)));
  }
  return scalarText(column, value, true);
}

function scalarText(column: Column, value: ColumnValue, limited: boolean): string | null {
  if (value === null) return null;
  switch (column.type) {
    case "string":
    case "text":
      return plainText(column, value, limited && column.type === "string" ? (column.maxLength ?? LENGTH_default) : null);
    case "integer":
      return integerText(column, value);
    case "float": {
      const number = typeof value === "boolean" || typeof value === "object" || value === "" ? Number.NaN : Number(value);
      if (Number.isNaN(number)) throw invalid(column, `${shown(value)} is not a number`);
      return Object.is(number, -0) ? "-0" : String(number);
    }
    case "decimal": {
      const text = typeof value === "string" || typeof value === "number" || typeof value === "bigint" ? String(value).trim() : "";
      if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,4})?$/i.test(text)) throw invalid(column, `${shown(value)} is not a valid decimal`);
      const whole = column.precision === undefined ? null : column.precision - (column.scale ?? 0);
      if (whole !== null && Math.abs(Number(text)) >= 10 ** whole)
        throw invalid(column, `${text} has more than ${whole} digits before the point`);
      return text;
    }
    case "boolean":
      return value ? "t" : "f";
    case "datetime": {
      const parts = typeof value === "string" ? parseDateTime(value) : null;
      if (parts === null) throw invalid(column, `${shown(value)} is not a valid datetime`);
      return isoOfEpoch(parts.epoch_ms + (parts.microsecond % 1000) / 1000);
    }
    case "date":
      if (typeof value !== "string" || !/^\d{4}-\d\d-\d\d/.test(value)) throw invalid(column, `${shown(value)} is not a valid date`);
      return value.slice(0, 10);
    case "list":
    case "json":
      return jsonText(column, value);
  }
}

/** Text that PostgreSQL can keep: it has no form for NUL, and none for half a surrogate pair. */
function plainText(column: Column, value: ColumnValue, maxLength: number | null): string {
  if (typeof value === "object") throw invalid(column, `${shown(value)} is not a value of type ${column.type}`);
  const text = String(value);
  if (text.includes("\0")) throw invalid(column, "holds the character U+0000, which PostgreSQL can't keep");
  if (!text.isWellFormed()) throw invalid(column, "holds half a surrogate pair, which PostgreSQL can't keep");
  if (maxLength !== null && text.length > maxLength && [...text].length > maxLength) {
    throw invalid(column, `is longer than ${maxLength} characters`);
  }
  return text;
}

function integerText(column: Column, value: ColumnValue): string {
  const number = typeof value === "boolean" ? Number(value) : value;
  let integer: bigint;
  try {
    integer = BigInt(typeof number === "object" || number === "" ? "?" : number);
  } catch {
    throw invalid(column, `${shown(value)} is not a whole number`);
  }
  if (integer > INTEGER_max || integer < -INTEGER_max - 1n) {
    throw invalid(column, `${integer} is beyond the ${INTEGER_max} that an integer column of PostgreSQL keeps`);
  }
  return integer.toString();
}

/** Of the type `json`, which keeps its text: escapes of NUL and lone surrogates, and numbers of any size, survive. */
function jsonText(column: Column, value: ColumnValue): string {
  return toJsonText(
    column.type === "list" && column.items === "float" && Array.isArray(value) ? value.map(pythonFloat) : (value as WireValue),
  );
}

function pythonFloat(item: ColumnValue): WireValue {
  return typeof item === "number" ? new PyFloat(item) : (item as WireValue);
}

function invalid(column: Column, reason: string): ValidationError {
  return new ValidationError({ [column.name]: [reason] });
}

function shown(value: ColumnValue): string {
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}

/** A column's text, read by `readSql`, as the wire has it. */
export function fromSql(column: Column, text: string | null | undefined): ColumnValue {
  if (text === null || text === undefined) return null;
  if (isArray(column)) return listOf(column.items ?? "string", parseJson(text) as readonly ColumnValue[]);
  switch (column.type) {
    case "integer":
    case "float":
      return Number(text);
    case "boolean":
      return text === "t" || text === "true";
    case "datetime":
      return isoOfSqlTime(text);
    case "list":
    case "json":
      return parseJson(text) as ColumnValue;
    case "string":
    case "text":
    case "decimal":
    case "date":
      return text;
  }
}

function listOf(type: ColumnType, items: readonly ColumnValue[]): readonly ColumnValue[] {
  if (type === "integer") return items.map((item) => (item === null ? null : Number(item)));
  if (type === "datetime") return items.map((item) => (item === null ? null : isoOfSqlTime(String(item))));
  return items;
}

/** A time in UTC as the server prints it, as ISO 8601 with offset; what is no time (infinity) stays as it is. */
export function isoOfSqlTime(text: string): string {
  const parts = parseDateTime(text.replace(/([+-]\d\d)$/, "$1:00"));
  return parts === null ? text : isoOfEpoch(parts.epoch_ms + (parts.microsecond % 1000) / 1000);
}

/** A stored row as the wire has it. */
export function rowFromSql(columns: ReadonlyMap<string, Column>, stored: StoredRow): Row {
  const row: Record<string, ColumnValue> = {};
  for (const [name, column] of columns) row[name] = fromSql(column, stored[name]);
  return row;
}
