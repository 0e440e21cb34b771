import { DatabaseError, ExpectedVersionError, ValidationError } from "../../errors.ts";
import type { Column, ColumnValue, Row, RowWrite, Selection, Table } from "../../ports/database.ts";
import { columnsOf, fromSql, rowFromSql, toSql, VERSION_COLUMN } from "./columns.ts";
import { columnNamed, whereSql } from "./conditions.ts";
import { CONSTRAINT, type Connection, quoted, resultCode, type SqlValue } from "./connection.ts";

/** Reads and writes the rows of one declared table, inside a transaction that somebody else has begun. */
export class RowTable {
  readonly table: Table;
  readonly #columns: ReadonlyMap<string, Column>;
  readonly #key: Column;
  readonly #name: string;
  readonly #list: string;

  constructor(table: Table) {
    this.table = table;
    this.#columns = columnsOf(table);
    this.#key = columnNamed(table, this.#columns, table.key);
    this.#name = quoted(table.name);
    this.#list = [...this.#columns.keys()].map(quoted).join(", ");
  }

  get(connection: Connection, key: ColumnValue): Row | null {
    const [stored] = connection.allWithBigInts(
      `SELECT ${this.#list} FROM ${this.#name} WHERE ${quoted(this.table.key)} = ?`,
      toSql(this.#key, key),
    );
    return stored === undefined ? null : rowFromSql(this.#columns, stored);
  }

  select(connection: Connection, selection: Selection): Row[] {
    const where = whereSql(this.table, selection.where);
    const order = selection.order.map(({ column, descending }) => {
      columnNamed(this.table, this.#columns, column);
      return `${quoted(column)}${descending ? " DESC" : ""}`;
    });
    if (!selection.order.some(({ column }) => column === this.table.key)) order.push(quoted(this.table.key));
    return connection
      .allWithBigInts(
        `SELECT ${this.#list} FROM ${this.#name} WHERE ${where.text} ORDER BY ${order.join(", ")} LIMIT ? OFFSET ?`,
        ...where.values,
        selection.limit ?? -1,
        selection.offset,
      )
      .map((stored) => rowFromSql(this.#columns, stored));
  }

  /** Rows that match, whatever limit and offset say. */
  count(connection: Connection, selection: Selection): number {
    const where = whereSql(this.table, selection.where);
    return connection.get<{ n: number }>(`SELECT count(*) AS n FROM ${this.#name} WHERE ${where.text}`, ...where.values)?.n ?? 0;
  }

  write(connection: Connection, write: RowWrite): void {
    switch (write.kind) {
      case "insert":
        this.#insert(connection, write.row);
        return;
      case "update":
        this.#update(connection, write);
        return;
      case "delete":
        connection.run(`DELETE FROM ${this.#name} WHERE ${quoted(this.table.key)} = ?`, toSql(this.#key, write.key));
        return;
      case "updateWhere": {
        const where = whereSql(this.table, write.where);
        const set = this.#assignments(write.set);
        if (set.names.length === 0) return;
        const values = [...set.values, ...where.values];
        this.#guarded(connection, write.set, () =>
          connection.run(`UPDATE ${this.#name} SET ${set.names.join(", ")} WHERE ${where.text}`, ...values),
        );
        return;
      }
      case "deleteWhere": {
        const where = whereSql(this.table, write.where);
        connection.run(`DELETE FROM ${this.#name} WHERE ${where.text}`, ...where.values);
        return;
      }
    }
  }

  #insert(connection: Connection, row: Row): void {
    for (const name of Object.keys(row)) columnNamed(this.table, this.#columns, name);
    const values: SqlValue[] = [];
    for (const [name, column] of this.#columns) {
      values.push(name === VERSION_COLUMN.name && this.table.versioned ? toSql(column, row[name] ?? 0) : toSql(column, row[name]));
    }
    const places = values.map(() => "?").join(", ");
    this.#guarded(connection, row, () => connection.run(`INSERT INTO ${this.#name} (${this.#list}) VALUES (${places})`, ...values));
  }

  #update(connection: Connection, write: RowWrite & { readonly kind: "update" }): void {
    const { key, version, loaded } = write;
    const set = this.#assignments(write.set, version !== undefined);
    const where = [`${quoted(this.table.key)} = ?`];
    const values = [...set.values, toSql(this.#key, key)];
    if (version !== undefined) {
      set.names.push(`${quoted(VERSION_COLUMN.name)} = ${quoted(VERSION_COLUMN.name)} + 1`);
      where.push(`${quoted(VERSION_COLUMN.name)} = ?`);
      values.push(version);
    }
    if (loaded !== undefined) this.#checkLoaded(connection, key, loaded);
    // Nothing to set is still a check of the row.
    if (set.names.length === 0) set.names.push(`${quoted(this.table.key)} = ${quoted(this.table.key)}`);
    const { changes } = this.#guarded(connection, write.set, () =>
      connection.run(`UPDATE ${this.#name} SET ${set.names.join(", ")} WHERE ${where.join(" AND ")}`, ...values),
    );
    if (changes > 0) return;
    if (version === undefined) throw this.#changed(key);
    throw this.#wrongVersion(connection, key, version);
  }

  /** Compared in the column's own form, so that two spellings of one value (10 and 10.0, JSON with other spaces) are the same. */
  #checkLoaded(connection: Connection, key: ColumnValue, loaded: Row): void {
    const [stored] = connection.allWithBigInts(
      `SELECT ${this.#list} FROM ${this.#name} WHERE ${quoted(this.table.key)} = ?`,
      toSql(this.#key, key),
    );
    if (stored === undefined) throw this.#changed(key);
    for (const [name, value] of Object.entries(loaded)) {
      const column = columnNamed(this.table, this.#columns, name);
      const now = toSql(column, fromSql(column, stored[name]));
      const before = toSql(column, fromSql(column, toSql(column, value)));
      if (now !== before) throw this.#changed(key);
    }
  }

  #assignments(set: Row, versioned = false): { readonly names: string[]; readonly values: SqlValue[] } {
    const names: string[] = [];
    const values: SqlValue[] = [];
    for (const [name, value] of Object.entries(set)) {
      const column = columnNamed(this.table, this.#columns, name);
      if (versioned && name === VERSION_COLUMN.name) continue;
      names.push(`${quoted(name)} = ?`);
      values.push(toSql(column, value));
    }
    return { names, values };
  }

  /** Runs a write; a violated constraint becomes the error that says which value was refused. */
  #guarded<R>(connection: Connection, row: Row, run: () => R): R {
    try {
      return run();
    } catch (error) {
      const code = resultCode(error);
      const columns = violatedColumns(error);
      if (code === CONSTRAINT.notNull) {
        throw new ValidationError(Object.fromEntries(columns.map((name) => [name, ["is required"]])), { cause: error });
      }
      if (code !== CONSTRAINT.unique && code !== CONSTRAINT.primaryKey) throw error;
      if (columns.length === 1 && columns[0] === this.table.key) {
        throw this.#wrongVersion(connection, row[this.table.key] ?? null, -1);
      }
      const values = columns.map((name) => `${name} '${textOf(row[name])}'`).join(", ");
      throw new ValidationError({ [columns[0] ?? this.table.key]: [`Other with ${values} is already present.`] }, { cause: error });
    }
  }

  #wrongVersion(connection: Connection, key: ColumnValue, expected: number): ExpectedVersionError {
    const stored = this.get(connection, key);
    const version = stored === null ? -1 : (stored[VERSION_COLUMN.name] ?? 0);
    return new ExpectedVersionError(
      `Wrong expected version: ${expected} (Aggregate: ${this.table.element}(${textOf(key)}), Version: ${textOf(version)})`,
    );
  }

  #changed(key: ColumnValue): ExpectedVersionError {
    return new ExpectedVersionError(
      `Wrong expected version: ${this.table.element}(${textOf(key)}) was changed or removed since it was loaded`,
    );
  }
}

/** Out of `UNIQUE constraint failed: account.email, account.tenant`. */
function violatedColumns(error: unknown): string[] {
  const message = error instanceof Error ? error.message : "";
  const list = /constraint failed: (.*)$/s.exec(message)?.[1] ?? "";
  return list.split(", ").map((column) => column.slice(column.lastIndexOf(".") + 1));
}

function textOf(value: ColumnValue | undefined): string {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value ?? null);
}

/** Tables by name. */
export class RowTables {
  readonly #tables = new Map<string, RowTable>();

  declare(tables: readonly Table[]): void {
    for (const table of tables) this.#tables.set(table.name, new RowTable(table));
  }

  named(name: string): RowTable {
    const table = this.#tables.get(name);
    if (table === undefined) throw new DatabaseError(`table "${name}" was not declared`);
    return table;
  }

  all(): readonly Table[] {
    return [...this.#tables.values()].map(({ table }) => table);
  }
}
