import { DatabaseError } from "../../errors.ts";
import type { Column, ColumnValue, Condition, Lookup, Table } from "../../ports/database.ts";
import { castOf, columnsOf, isArray, toSql } from "./columns.ts";
import { arrayText, quoted, type Values } from "./sql.ts";

const NOTHING = "false";
const EVERYTHING = "true";
/** Escapes in JSON text that the type `jsonb` has no form for; such text is compared as it stands. */
const NO_JSONB = String.raw`\\u(0000|[dD][89a-fA-F])`;

/**
 * `WHERE` of a condition. A test on a column without value is false, except `isnull` and `exact` with null; so `not` of a test also
 * finds the rows without value (two-valued logic, as a reader of `exclude(…)` expects).
 * @throws DatabaseError for a column that the table doesn't have
 */
export function whereSql(table: Table, condition: Condition | null, values: Values): string {
  return condition === null ? EVERYTHING : sqlOf(table, columnsOf(table), condition, values);
}

function sqlOf(table: Table, columns: ReadonlyMap<string, Column>, condition: Condition, values: Values): string {
  switch (condition.kind) {
    case "and":
    case "or": {
      if (condition.of.length === 0) return condition.kind === "and" ? EVERYTHING : NOTHING;
      const parts = condition.of.map((part) => sqlOf(table, columns, part, values));
      return `(${parts.join(condition.kind === "and" ? " AND " : " OR ")})`;
    }
    case "not":
      return `NOT coalesce(${sqlOf(table, columns, condition.of, values)}, false)`;
    case "test":
      return testSql(columnNamed(table, columns, condition.column), condition.lookup, condition.value, values);
  }
}

export function columnNamed(table: Table, columns: ReadonlyMap<string, Column>, name: string): Column {
  const column = columns.get(name);
  if (column === undefined) throw new DatabaseError(`table ${table.name} has no column "${name}"`);
  return column;
}

function testSql(column: Column, lookup: Lookup, value: ColumnValue, values: Values): string {
  const name = quoted(column.name);
  if (lookup === "isnull") return value ? `${name} IS NULL` : `${name} IS NOT NULL`;
  if (value === null) return lookup === "exact" || lookup === "iexact" ? `${name} IS NULL` : NOTHING;
  const text = column.type === "string" || column.type === "text" ? name : `${name}::text`;
  const given = () => `${values.add(String(value))}::text`;
  switch (lookup) {
    case "exact":
      return equals(column, value, values);
    case "iexact":
      return typeof value === "string" ? `lower(${text}) = lower(${given()})` : equals(column, value, values);
    case "contains":
      return column.type === "list" ? sharesOne(column, [value], values) : `strpos(${text}, ${given()}) > 0`;
    case "icontains":
      return `strpos(lower(${text}), lower(${given()})) > 0`;
    case "startswith":
      return `starts_with(${text}, ${given()})`;
    case "endswith": {
      const place = given();
      return `right(${text}, length(${place})) = ${place}`;
    }
    case "gt":
      return compared(column, ">", value, values);
    case "gte":
      return compared(column, ">=", value, values);
    case "lt":
      return compared(column, "<", value, values);
    case "lte":
      return compared(column, "<=", value, values);
    case "in":
      return inSql(column, itemsOf(value), values);
    case "any":
    case "overlap":
      return column.type === "list" ? sharesOne(column, itemsOf(value), values) : inSql(column, itemsOf(value), values);
  }
}

/** In terms of values: 10 equals 10.0, and JSON its other spellings. */
export function equals(column: Column, value: ColumnValue, values: Values): string {
  const name = quoted(column.name);
  const isJson = column.type === "json" || (column.type === "list" && !isArray(column));
  if (!isJson) return compared(column, "=", value, values);
  const text = toSql(column, value);
  const place = values.add(text);
  if (new RegExp(NO_JSONB).test(text ?? "")) return `${name}::text = ${place}::text`;
  return `CASE WHEN ${name}::text = ${place}::text THEN true WHEN ${name}::text ~ '${NO_JSONB}' THEN false ELSE ${name}::jsonb = ${place}::text::jsonb END`;
}

function compared(column: Column, operator: string, value: ColumnValue, values: Values): string {
  const name = quoted(column.name);
  // A fraction or a number beyond the column's range is still a number to compare with.
  if (column.type === "integer" && !fitsInteger(value)) return `${name} ${operator} ${values.add(String(value))}::numeric`;
  return `${name} ${operator} ${values.add(withoutLimit(column, value))}${castOf(column)}`;
}

function fitsInteger(value: ColumnValue): boolean {
  if (typeof value === "boolean") return true;
  const number = typeof value === "object" ? Number.NaN : Number(value);
  return Number.isInteger(number) ? Math.abs(number) <= 2_147_483_647 : Number.isNaN(number);
}

/** A value to compare with may be longer, or have more digits, than the column keeps: it is then just not there. */
function withoutLimit(column: Column, value: ColumnValue): string | null {
  const { name, type, required, unique, items } = column;
  const free: Column = { name, type: type === "string" ? "text" : type, required, unique };
  return toSql(items === undefined ? free : { ...free, items }, value);
}

function itemsOf(value: ColumnValue): readonly ColumnValue[] {
  return Array.isArray(value) ? value : [value];
}

function inSql(column: Column, items: readonly ColumnValue[], values: Values): string {
  const name = quoted(column.name);
  const present = items.filter((item) => item !== null);
  const orNull = present.length < items.length;
  if (present.length === 0) return orNull ? `${name} IS NULL` : NOTHING;
  const isList = column.type === "json" || column.type === "list";
  const found = isList ? `(${present.map((item) => equals(column, item, values)).join(" OR ")})` : anyOf(column, present, values);
  return orNull ? `(${found} OR ${name} IS NULL)` : found;
}

/** One array for all items, so that lists of every length are one prepared statement. */
function anyOf(column: Column, items: readonly ColumnValue[], values: Values): string {
  const name = quoted(column.name);
  if (column.type === "integer" && !items.every(fitsInteger)) {
    return `${name} = ANY(${values.add(arrayText(items.map(String)))}::text[]::numeric[])`;
  }
  const list: Column = { name: column.name, type: "list", items: column.type, required: false, unique: false };
  return `${name} = ANY(${values.add(toSql(list, items))}${castOf(list)})`;
}

/** True when the list in the column has an item of `items`. */
function sharesOne(column: Column, items: readonly ColumnValue[], values: Values): string {
  const name = quoted(column.name);
  if (isArray(column)) return `${name} && ${values.add(toSql(column, items))}${castOf(column)}`;
  const place = values.add(toSql({ name: column.name, type: "json", required: false, unique: false }, items));
  return `EXISTS (SELECT 1 FROM json_array_elements(${name}) AS held(value) JOIN json_array_elements(${place}::json) AS asked(value) ON held.value::text = asked.value::text)`;
}
