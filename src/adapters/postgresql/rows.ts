import { DatabaseError, ExpectedVersionError, ValidationError } from "../../errors.ts";
import type { Column, ColumnValue, Row, RowWrite, Selection, Table } from "../../ports/database.ts";
import { castOf, columnsOf, readSql, rowFromSql, toSql, VERSION_COLUMN } from "./columns.ts";
import { columnNamed, equals, whereSql } from "./conditions.ts";
import { STATE, serverError } from "./failures.ts";
import type { Statement, StoredRow } from "./pool.ts";
import { quoted, Values } from "./sql.ts";

/**
 * Statements on the rows of one declared table. A write that finds another version is made to fail inside the server (a division by the
 * number of changed rows), so that a whole unit of work goes in one flight and is still undone.
 */
export class RowTable {
  readonly table: Table;
  readonly #columns: ReadonlyMap<string, Column>;
  readonly #key: Column;
  readonly #name: string;
  readonly #list: string;

  constructor(schema: string, table: Table) {
    this.table = table;
    this.#columns = columnsOf(table);
    this.#key = columnNamed(table, this.#columns, table.key);
    this.#name = `${quoted(schema)}.${quoted(table.name)}`;
    this.#list = [...this.#columns.values()].map(readSql).join(", ");
  }

  rowOf(stored: StoredRow): Row {
    return rowFromSql(this.#columns, stored);
  }

  get(key: ColumnValue): Statement {
    const values = new Values();
    return values.statement(`SELECT ${this.#list} FROM ${this.#name} WHERE ${this.#isKey(key, values)}`);
  }

  select(selection: Selection): Statement {
    const values = new Values();
    const where = whereSql(this.table, selection.where, values);
    const order = selection.order.map(({ column, descending }) => {
      columnNamed(this.table, this.#columns, column);
      return `${this.#name}.${quoted(column)}${descending ? " DESC" : ""}`;
    });
    if (!selection.order.some(({ column }) => column === this.table.key)) order.push(`${this.#name}.${quoted(this.table.key)}`);
    const limit = selection.limit === null ? "" : ` LIMIT ${values.add(String(selection.limit))}::int8`;
    const offset = selection.offset === 0 ? "" : ` OFFSET ${values.add(String(selection.offset))}::int8`;
    return values.statement(`SELECT ${this.#list} FROM ${this.#name} WHERE ${where} ORDER BY ${order.join(", ")}${limit}${offset}`);
  }

  /** Rows that match, whatever limit and offset say. */
  count(selection: Selection): Statement {
    const values = new Values();
    return values.statement(`SELECT count(*) AS n FROM ${this.#name} WHERE ${whereSql(this.table, selection.where, values)}`);
  }

  /** Null when there is nothing to do. @throws ValidationError naming the column of a value that can't be kept */
  write(write: RowWrite): Statement | null {
    const values = new Values();
    switch (write.kind) {
      case "insert":
        return this.#insert(write.row, values);
      case "update":
        return this.#update(write, values);
      case "delete":
        return values.statement(`DELETE FROM ${this.#name} WHERE ${this.#isKey(write.key, values)}`);
      case "updateWhere": {
        const set = this.#assignments(write.set, false, values);
        if (set.length === 0) return null;
        return values.statement(`UPDATE ${this.#name} SET ${set.join(", ")} WHERE ${whereSql(this.table, write.where, values)}`);
      }
      case "deleteWhere":
        return values.statement(`DELETE FROM ${this.#name} WHERE ${whereSql(this.table, write.where, values)}`);
    }
  }

  /** What the failure of a write means. `stored` reads the row that is in its way. */
  async failureOf(write: RowWrite, error: unknown, stored: (key: ColumnValue) => Promise<Row | null>): Promise<unknown> {
    const complaint = serverError(error);
    if (complaint === null) return error;
    if (complaint.code === STATE.divisionByZero && write.kind === "update") {
      if (write.version === undefined) {
        const name = `${this.table.element}(${textOf(write.key)})`;
        return new ExpectedVersionError(`Wrong expected version: ${name} was changed or removed since it was loaded`, { cause: error });
      }
      return await this.#wrongVersion(write.key, write.version, stored, error);
    }
    if (complaint.code === STATE.notNullViolation && complaint.column_name !== undefined) {
      return new ValidationError({ [complaint.column_name]: ["is required"] }, { cause: error });
    }
    if (complaint.code !== STATE.uniqueViolation) return error;
    const row = write.kind === "insert" ? write.row : "set" in write ? write.set : {};
    const columns = violatedColumns(complaint.detail ?? "");
    if (columns.length === 1 && columns[0] === this.table.key)
      return await this.#wrongVersion(row[this.table.key] ?? null, -1, stored, error);
    const values = columns.map((name) => `${name} '${textOf(row[name])}'`).join(", ");
    return new ValidationError({ [columns[0] ?? this.table.key]: [`Other with ${values} is already present.`] }, { cause: error });
  }

  /** True when changing the order of this update and another one can't matter. */
  isIndependent(write: RowWrite & { readonly kind: "update" }): boolean {
    const isUnique = (name: string) =>
      this.#columns.get(name)?.unique === true ||
      (this.table.indexes ?? []).some(({ columns, unique }) => unique && columns.includes(name));
    return !Object.keys(write.set).some(isUnique);
  }

  #insert(row: Row, values: Values): Statement {
    for (const name of Object.keys(row)) columnNamed(this.table, this.#columns, name);
    const names: string[] = [];
    const places: string[] = [];
    for (const [name, column] of this.#columns) {
      const value = name === VERSION_COLUMN.name && this.table.versioned ? (row[name] ?? 0) : row[name];
      names.push(quoted(name));
      places.push(`${values.add(toSql(column, value))}${castOf(column)}`);
    }
    return values.statement(`INSERT INTO ${this.#name} (${names.join(", ")}) VALUES (${places.join(", ")})`);
  }

  #update(write: RowWrite & { readonly kind: "update" }, values: Values): Statement {
    const set = this.#assignments(write.set, write.version !== undefined, values);
    const version = quoted(VERSION_COLUMN.name);
    const where = [this.#isKey(write.key, values)];
    if (write.version !== undefined) {
      set.push(`${version} = ${version} + 1`);
      where.push(`${version} = ${values.add(String(write.version))}::int4`);
    }
    for (const [name, value] of Object.entries(write.loaded ?? {})) {
      const column = columnNamed(this.table, this.#columns, name);
      where.push(value === null ? `${quoted(name)} IS NULL` : `coalesce(${equals(column, value, values)}, false)`);
    }
    // Nothing to set is still a check of the row.
    if (set.length === 0) set.push(`${quoted(this.table.key)} = ${quoted(this.table.key)}`);
    return values.statement(
      `WITH changed AS (UPDATE ${this.#name} SET ${set.join(", ")} WHERE ${where.join(" AND ")} RETURNING 1) SELECT 1 / count(*)::int FROM changed`,
    );
  }

  #isKey(key: ColumnValue, values: Values): string {
    return `${quoted(this.table.key)} = ${values.add(toSql(this.#key, key))}${castOf(this.#key)}`;
  }

  #assignments(set: Row, versioned: boolean, values: Values): string[] {
    const names: string[] = [];
    for (const [name, value] of Object.entries(set)) {
      const column = columnNamed(this.table, this.#columns, name);
      if (versioned && name === VERSION_COLUMN.name) continue;
      names.push(`${quoted(name)} = ${values.add(toSql(column, value))}${castOf(column)}`);
    }
    return names;
  }

  async #wrongVersion(
    key: ColumnValue,
    expected: number,
    stored: (key: ColumnValue) => Promise<Row | null>,
    cause: unknown,
  ): Promise<ExpectedVersionError> {
    const row = await stored(key);
    const version = row === null ? -1 : (row[VERSION_COLUMN.name] ?? 0);
    return new ExpectedVersionError(
      `Wrong expected version: ${expected} (Aggregate: ${this.table.element}(${textOf(key)}), Version: ${textOf(version)})`,
      { cause },
    );
  }
}

/** Out of `Key (email, tenant)=(x@y.z, 1) already exists.` */
function violatedColumns(detail: string): string[] {
  const list = /^Key \((.*?)\)=\(/s.exec(detail)?.[1] ?? "";
  return list === "" ? [] : list.split(", ").map((name) => name.replace(/^"(.*)"$/, "$1").replaceAll('""', '"'));
}

function textOf(value: ColumnValue | undefined): string {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? null);
}

/** Tables by name. */
export class RowTables {
  readonly #schema: string;
  readonly #tables = new Map<string, RowTable>();

  constructor(schema: string) {
    this.#schema = schema;
  }

  declare(tables: readonly Table[]): void {
    for (const table of tables) this.#tables.set(table.name, new RowTable(this.#schema, table));
  }

  named(name: string): RowTable {
    const table = this.#tables.get(name);
    if (table === undefined) throw new DatabaseError(`table "${name}" was not declared`);
    return table;
  }

  all(): readonly Table[] {
    return [...this.#tables.values()].map(({ table }) => table);
  }

  /**
   * The writes in the order in which they are sent. Runs of updates of single rows are sorted by key, so that two units of work that
   * change the same rows lock them in the same order; everything else stays where it is.
   */
  inLockOrder(writes: readonly RowWrite[]): readonly RowWrite[] {
    const sorted: RowWrite[] = [];
    let run: (RowWrite & { readonly kind: "update" })[] = [];
    const flush = () => {
      if (run.length > 1 && new Set(run.map(placeOf)).size === run.length) run.sort((a, b) => (placeOf(a) < placeOf(b) ? -1 : 1));
      sorted.push(...run);
      run = [];
    };
    for (const write of writes) {
      if (write.kind === "update" && this.named(write.table).isIndependent(write)) run.push(write);
      else {
        flush();
        sorted.push(write);
      }
    }
    flush();
    return sorted;
  }
}

function placeOf(write: RowWrite & { readonly kind: "update" }): string {
  return `${write.table}\n${textOf(write.key)}`;
}
