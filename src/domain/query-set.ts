/** Queries over aggregates and projections: built step by step, each step a new object, run by `all`, `first`, `count` or iteration. */
import { IncorrectUsageError } from "../errors.ts";
import type { Condition, Row, RowWrite, Selection } from "../ports/database.ts";
import { currentContext, ensureContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { stateOf } from "./instance.ts";
import { readChildren } from "./repository.ts";
import { columnsOf, conditionOf, fromRows, tablesOf } from "./rows.ts";
import { databaseOf, providerOf, runUnitOfWork, type UnitOfWork } from "./unit-of-work.ts";

/** Rows that a query returns unless `limit` says otherwise (the element's `limit` option wins over this). */
export const DEFAULT_LIMIT = 100;
/** Rows that iteration reads at a time. */
const PAGE_ROWS = 500;

/** What `filter` and `exclude` take: `Filter<T>` or what `or`, `and`, `not` return. Typed exactly where users see it. */
export type ConditionInput = Readonly<Record<string, unknown>> | object;

/** A readonly array that knows where in the whole it lies. */
export interface ResultSet<T> extends ReadonlyArray<T> {
  /** Rows that fit, not only those here. */
  readonly total: number;
  /** From 1. */
  readonly page: number;
  /** Rows per page; equal to `total` when there is no limit. */
  readonly pageSize: number;
  readonly totalPages: number;
  readonly hasNext: boolean;
  readonly hasPrev: boolean;
}

interface QueryState {
  readonly where: Condition | null;
  readonly order: Selection["order"];
  readonly limit: number | null;
  readonly offset: number;
  readonly only: readonly string[] | null;
  readonly readOnly: boolean;
  /** `limit` was called; iteration goes over everything otherwise. */
  readonly limited: boolean;
}

function defaultLimit(meta: ElementMeta): number | null {
  const limit = meta.options["limit"];
  return limit === null || typeof limit === "number" ? limit : DEFAULT_LIMIT;
}

export class QuerySet<T extends object> {
  readonly #domain: Domain;
  readonly #meta: ElementMeta;
  readonly #state: QueryState;

  constructor(domain: Domain, meta: ElementMeta, state: Partial<QueryState> = {}) {
    this.#domain = domain;
    this.#meta = meta;
    this.#state = {
      where: null,
      order: defaultOrder(meta),
      limit: defaultLimit(meta),
      offset: 0,
      only: null,
      readOnly: false,
      limited: false,
      ...state,
    };
  }

  #with(state: Partial<QueryState>): QuerySet<T> {
    return new QuerySet<T>(this.#domain, this.#meta, { ...this.#state, ...state });
  }

  #and(condition: Condition): QuerySet<T> {
    const { where } = this.#state;
    return this.#with({ where: where === null ? condition : { kind: "and", of: [where, condition] } });
  }

  /** Only those that fit; several calls must all fit. */
  filter(where: ConditionInput): QuerySet<T> {
    return this.#and(conditionOf(this.#meta, where as never));
  }

  /** Only those that don't fit. */
  exclude(where: ConditionInput): QuerySet<T> {
    return this.#and({ kind: "not", of: conditionOf(this.#meta, where as never) });
  }

  /** Replaces the order; `-` in front means descending. Ties are broken by the identity. */
  orderBy(...fields: readonly string[]): QuerySet<T> {
    return this.#with({ order: fields.map((field) => orderOf(this.#meta, field)) });
  }

  /** At most `count` rows; null for no limit. Default 100. */
  limit(count: number | null): QuerySet<T> {
    if (count !== null && !(Number.isSafeInteger(count) && count >= 0)) throw new IncorrectUsageError(`limit: ${count} is no row count`);
    return this.#with({ limit: count, limited: true });
  }

  /** Skips the first `count` rows. */
  offset(count: number): QuerySet<T> {
    if (!(Number.isSafeInteger(count) && count >= 0)) throw new IncorrectUsageError(`offset: ${count} is no row count`);
    return this.#with({ offset: count });
  }

  /** Read-only records with these fields instead of instances. */
  only<K extends keyof T & string>(...fields: readonly K[]): QuerySet<Readonly<Pick<T, K>>> {
    for (const field of fields) columnNamed(this.#meta, field);
    return new QuerySet<Readonly<Pick<T, K>>>(this.#domain, this.#meta, { ...this.#state, only: fields });
  }

  #unit(doing: string): UnitOfWork | null {
    const context = currentContext();
    requireOpen(context, `${doing} of \`${this.#meta.name}\``);
    return context?.domain === this.#domain ? context.unit : null;
  }

  #table(): string {
    const [table] = tablesOf(this.#meta);
    if (table === undefined) throw new IncorrectUsageError(`\`${this.#meta.name}\` has no table and can't be queried`);
    return table.name;
  }

  #selection(): Selection {
    const { where, order, limit, offset } = this.#state;
    return { table: this.#table(), where, order, limit, offset };
  }

  #pending(unit: UnitOfWork | null): readonly RowWrite[] {
    const provider = providerOf(this.#meta);
    return unit?.hasPending(provider, this.#table()) === true ? unit.pendingWrites(provider) : [];
  }

  async all(): Promise<ResultSet<T>> {
    const unit = this.#unit("a query");
    const selection = this.#selection();
    const pending = this.#pending(unit);
    const database = databaseOf(this.#domain, this.#meta);
    const rows = selection.limit === 0 ? [] : await database.select(selection, pending);
    const items = await this.#instances(rows, unit);
    const { limit, offset } = selection;
    // The last page tells the total by itself.
    const complete = limit === null || (rows.length < limit && (rows.length > 0 || offset === 0));
    const total = complete ? offset + rows.length : await database.count(selection, pending);
    return resultSet(items, { total, limit, offset });
  }

  /** The first that fits, or null. */
  async first(): Promise<T | null> {
    const unit = this.#unit("a query");
    const rows = await databaseOf(this.#domain, this.#meta).select({ ...this.#selection(), limit: 1 }, this.#pending(unit));
    const [item] = await this.#instances(rows, unit);
    return item ?? null;
  }

  /** How many fit, whatever `limit` and `offset` say. */
  async count(): Promise<number> {
    const unit = this.#unit("a count");
    return databaseOf(this.#domain, this.#meta).count({ ...this.#selection(), limit: null, offset: 0 }, this.#pending(unit));
  }

  /**
   * All that fit, up to `limit` when it was called; reads 500 rows at a time. Without an order pages go by identity, so rows that come or go
   * meanwhile shift nothing; with one they may.
   */
  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    const { limited, limit, offset, order, where } = this.#state;
    const [table] = tablesOf(this.#meta);
    if (table === undefined) return;
    const byKey = order.length === 0;
    const max = limited ? limit : null;
    let seen = 0;
    let after: Condition | null = null;
    while (max === null || seen < max) {
      const size = max === null ? PAGE_ROWS : Math.min(PAGE_ROWS, max - seen);
      const unit = this.#unit("a query");
      const page: Selection = {
        table: table.name,
        where: after === null ? where : where === null ? after : { kind: "and", of: [where, after] },
        order,
        limit: size,
        offset: byKey && after !== null ? 0 : offset + seen,
      };
      const rows = await databaseOf(this.#domain, this.#meta).select(page, this.#pending(unit));
      yield* await this.#instances(rows, unit);
      const last = rows.at(-1);
      if (rows.length < size || last === undefined) return;
      seen += rows.length;
      if (byKey) after = { kind: "test", column: table.key, lookup: "gt", value: last[table.key] ?? null };
    }
  }

  /**
   * Sets fields of all rows that fit, in one statement at commit (projections only, D34). Instances loaded before in this unit and not added are
   * forgotten, since they may be stale.
   */
  async update(values: Readonly<Record<string, unknown>>): Promise<void> {
    await this.#change("update", (table, where) => ({ kind: "updateWhere", table, where, set: columnsOf(this.#meta, values) }));
  }

  /** Deletes all rows that fit, in one statement at commit (projections only, D34). */
  async delete(): Promise<void> {
    await this.#change("delete", (table, where) => ({ kind: "deleteWhere", table, where }));
  }

  async #change(what: "update" | "delete", write: (table: string, where: Condition | null) => RowWrite): Promise<void> {
    const meta = this.#meta;
    if (meta.kind !== "projection") {
      throw new IncorrectUsageError(`\`${meta.name}\`: only projections can be changed in sets`, {
        fix: "Load the aggregates, change each and add it: invariants and events depend on that.",
      });
    }
    if (this.#state.readOnly)
      throw new IncorrectUsageError(`\`${meta.name}\`: a view can only be read`, { fix: "Use domain.repositoryFor(…).query." });
    const unit = this.#unit(what);
    if (unit === null) return ensureContext(this.#domain, () => runUnitOfWork(this.#domain, () => this.#change(what, write)));
    unit.write(providerOf(meta), write(this.#table(), this.#state.where));
    unit.forget(meta);
  }

  async #instances(rows: readonly Row[], unit: UnitOfWork | null): Promise<T[]> {
    const meta = this.#meta;
    const tables = tablesOf(meta);
    const [root] = tables;
    if (root === undefined || rows.length === 0) return [];
    const keyOf = (row: Row): string | number | bigint => row[root.key] as string | number | bigint;
    const childRows = tables.length === 1 ? new Map() : await readChildren(this.#domain, meta, tables, rows.map(keyOf), unit);
    const { only, readOnly } = this.#state;
    return rows.map((row) => {
      const known = readOnly ? null : (unit?.find(meta, String(keyOf(row))) ?? null);
      const instance = known ?? fromRows(meta, row, childRows);
      if (only !== null) {
        const record = instance as Record<string, unknown>;
        return Object.freeze(Object.fromEntries(only.map((field) => [field, record[field]]))) as T;
      }
      if (known === null) {
        if (readOnly) stateOf(instance).readOnly = true;
        else unit?.track(meta, String(keyOf(row)), instance);
      }
      return instance as T;
    });
  }
}

function columnNamed(meta: ElementMeta, field: string): string {
  const declared = meta.fields.get(field);
  if (declared !== undefined) return declared.column;
  const [table] = tablesOf(meta);
  // Attributes of value objects have columns of their own: `total.currency` is `total_currency`.
  const flat = field.replaceAll(".", "_");
  const column = table?.columns.find(({ name }) => name === flat);
  if (column !== undefined) return column.name;
  throw new IncorrectUsageError(`\`${meta.name}\` has no field \`${field}\``, {
    fix: `Its fields are: ${[...meta.fields.keys()].join(", ")}.`,
  });
}

function orderOf(meta: ElementMeta, field: string): { readonly column: string; readonly descending: boolean } {
  const descending = field.startsWith("-");
  return { column: columnNamed(meta, descending ? field.slice(1) : field), descending };
}

function defaultOrder(meta: ElementMeta): Selection["order"] {
  const order = meta.options["orderBy"];
  if (typeof order === "string") return [orderOf(meta, order)];
  return Array.isArray(order) ? order.filter((field) => typeof field === "string").map((field) => orderOf(meta, field)) : [];
}

function resultSet<T>(
  items: T[],
  { total, limit, offset }: { readonly total: number; readonly limit: number | null; readonly offset: number },
): ResultSet<T> {
  const pageSize = limit ?? total;
  const page = pageSize === 0 ? 1 : Math.floor(offset / pageSize) + 1;
  const totalPages = pageSize === 0 ? 0 : Math.ceil(total / pageSize);
  const place = { total, page, pageSize, totalPages, hasNext: offset + items.length < total, hasPrev: offset > 0 };
  for (const [name, value] of Object.entries(place)) Object.defineProperty(items, name, { value, enumerable: false });
  return Object.freeze(items) as unknown as ResultSet<T>;
}
