import { DatabaseError } from "../../errors.ts";
import { toJsonText, type WireValue } from "../../messages/json.ts";
import type { Column, ColumnValue, Condition, Lookup, Table } from "../../ports/database.ts";
import { columnsOf, toSql } from "./columns.ts";
import { quoted, type SqlValue } from "./connection.ts";

export interface Sql {
  readonly text: string;
  readonly values: readonly SqlValue[];
}

const NOTHING: Sql = { text: "0", values: [] };
const EVERYTHING: Sql = { text: "1", values: [] };

/**
 * `WHERE` of a condition. A test on a column without value is false, except `isnull` and `exact` with null; so `not` of a test also
 * finds the rows without value (two-valued logic, as a reader of `exclude(…)` expects).
 * @throws DatabaseError for a column that the table doesn't have
 */
export function whereSql(table: Table, condition: Condition | null): Sql {
  return condition === null ? EVERYTHING : sqlOf(table, columnsOf(table), condition);
}

function sqlOf(table: Table, columns: ReadonlyMap<string, Column>, condition: Condition): Sql {
  switch (condition.kind) {
    case "and":
    case "or": {
      if (condition.of.length === 0) return condition.kind === "and" ? EVERYTHING : NOTHING;
      const parts = condition.of.map((part) => sqlOf(table, columns, part));
      return {
        text: `(${parts.map(({ text }) => text).join(condition.kind === "and" ? " AND " : " OR ")})`,
        values: parts.flatMap(({ values }) => values),
      };
    }
    case "not": {
      const { text, values } = sqlOf(table, columns, condition.of);
      return { text: `NOT coalesce(${text}, 0)`, values };
    }
    case "test":
      return testSql(columnNamed(table, columns, condition.column), condition.lookup, condition.value);
  }
}

export function columnNamed(table: Table, columns: ReadonlyMap<string, Column>, name: string): Column {
  const column = columns.get(name);
  if (column === undefined) throw new DatabaseError(`table ${table.name} has no column "${name}"`);
  return column;
}

function testSql(column: Column, lookup: Lookup, value: ColumnValue): Sql {
  const name = quoted(column.name);
  if (lookup === "isnull") return { text: value ? `${name} IS NULL` : `${name} IS NOT NULL`, values: [] };
  if (value === null) return lookup === "exact" || lookup === "iexact" ? { text: `${name} IS NULL`, values: [] } : NOTHING;
  const isList = column.type === "list";
  switch (lookup) {
    case "exact":
      return column.type === "json" || isList
        ? { text: `json(${name}) = json(?)`, values: [toSql(column, value)] }
        : { text: `${name} = ?`, values: [toSql(column, value)] };
    case "iexact":
      return typeof value === "string"
        ? { text: `protean_lower(${name}) = ?`, values: [value.toLowerCase()] }
        : testSql(column, "exact", value);
    case "contains":
      return isList ? sharesOne(name, [value]) : { text: `instr(${name}, ?) > 0`, values: [String(value)] };
    case "icontains":
      return { text: `instr(protean_lower(${name}), ?) > 0`, values: [String(value).toLowerCase()] };
    case "startswith":
      return { text: `substr(${name}, 1, length(?)) = ?`, values: [String(value), String(value)] };
    case "endswith":
      // `substr(x, -0)` would be the whole text.
      return value === ""
        ? { text: `${name} IS NOT NULL`, values: [] }
        : { text: `substr(${name}, -length(?)) = ?`, values: [String(value), String(value)] };
    case "gt":
      return { text: `${name} > ?`, values: [toSql(column, value)] };
    case "gte":
      return { text: `${name} >= ?`, values: [toSql(column, value)] };
    case "lt":
      return { text: `${name} < ?`, values: [toSql(column, value)] };
    case "lte":
      return { text: `${name} <= ?`, values: [toSql(column, value)] };
    case "in":
      return inSql(column, itemsOf(value));
    case "any":
      return isList ? sharesOne(name, itemsOf(value)) : inSql(column, itemsOf(value));
    case "overlap":
      return isList ? sharesOne(name, itemsOf(value)) : inSql(column, itemsOf(value));
  }
}

function itemsOf(value: ColumnValue): readonly ColumnValue[] {
  return Array.isArray(value) ? value : [value];
}

function inSql(column: Column, items: readonly ColumnValue[]): Sql {
  const name = quoted(column.name);
  const present = items.filter((item) => item !== null);
  const orNull = present.length < items.length ? ` OR ${name} IS NULL` : "";
  if (present.length === 0) return orNull === "" ? NOTHING : { text: `${name} IS NULL`, values: [] };
  const places = present.map(() => "?").join(", ");
  return { text: `(${name} IN (${places})${orNull})`, values: present.map((item) => toSql(column, item)) };
}

/** True when the JSON list in the column has an item of `items`. */
function sharesOne(name: string, items: readonly ColumnValue[]): Sql {
  return {
    text: `EXISTS (SELECT 1 FROM json_each(${name}) AS held JOIN json_each(?) AS asked ON held.value = asked.value)`,
    values: [toJsonText(items as WireValue)],
  };
}
