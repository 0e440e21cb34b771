/**
 * Elements to and from table rows (wire-format §11): one column per field, value objects flattened to `<field>_<sub>`, child entities in
 * tables of their own with a column `<parent table>_<parent's identity column>`. Column names are the wire names.
 */
import { InvalidDataError, ValidationError } from "../errors.ts";
import type { JsonValue } from "../messages/json.ts";
import { toJsonText } from "../messages/json.ts";
import { underscore } from "../messages/names.ts";
import type { Column, ColumnType, ColumnValue, Condition, Row, RowWrite } from "../ports/database.ts";
import type { ElementMeta, ElementTable } from "./element.ts";
import type { FieldPlan, Reader } from "./field-plan.ts";
import { childrenOf, type LoadedRows, requireNoHiddenFields, stampTimes, startNextBatch, stateOf } from "./instance.ts";
import { Loaded, type Model, metaOf } from "./model.ts";
import { Problems } from "./problems.ts";
import { conditionFor } from "./query.ts";

const tables = new WeakMap<Model, readonly ElementTable[]>();

/** Tables of an aggregate (its own first, then its child entities') or a projection; none for event-sourced aggregates and everything else. */
export function tablesOf(meta: ElementMeta): readonly ElementTable[] {
  const model = meta as Model;
  let known = tables.get(model);
  if (known === undefined) {
    known = hasTable(model) ? collectTables(model, null) : [];
    tables.set(model, known);
  }
  return known;
}

function hasTable(model: Model): boolean {
  return model.kind === "projection" || (model.kind === "aggregate" && !model.eventSourced);
}

export function tableName(model: Model): string {
  return (model.options["schemaName"] as string | undefined) ?? underscore(model.name);
}

function keyColumn(model: Model): string {
  return model.identityPlan?.column ?? "id";
}

function parentColumnOf(parent: Model): string {
  return `${tableName(parent)}_${keyColumn(parent)}`;
}

function collectTables(model: Model, parent: Model | null): ElementTable[] {
  const columns = model.plans.flatMap((plan) => columnsFor(plan, "", true));
  const parentColumn = parent === null ? null : parentColumnOf(parent);
  if (parentColumn !== null) columns.push({ name: parentColumn, type: "text", required: false, unique: false });
  const indexes = model.options["indexes"] as ElementTable["indexes"];
  const table: ElementTable = {
    name: tableName(model),
    element: model.name,
    columns,
    key: keyColumn(model),
    versioned: model.kind === "aggregate",
    meta: model,
    parentColumn,
    ...(indexes === undefined
      ? {}
      : { indexes: indexes.map((index) => ({ ...index, columns: index.columns.map((name) => columnOf(model, name)) })) }),
  };
  return [table, ...model.childPlans.flatMap((plan) => (plan.model === null ? [] : collectTables(plan.model, model)))];
}

function columnOf(model: Model, declared: string): string {
  return model.fields.get(declared)?.column ?? declared;
}

function columnsFor(plan: FieldPlan, prefix: string, required: boolean): Column[] {
  const name = prefix + plan.column;
  if (plan.kind === "hasOne" || plan.kind === "hasMany") return [];
  const isRequired = required && plan.required;
  if (plan.kind === "valueObject" && plan.model !== null) {
    return plan.model.plans.flatMap((part) => columnsFor(part, `${name}_`, isRequired));
  }
  const options = plan.options as { maxLength?: number; precision?: number; scale?: number };
  const base = { name, required: isRequired && !plan.identifier, unique: prefix === "" && plan.unique };
  const type = columnType(plan);
  if (type === "string") return [{ ...base, type, maxLength: options.maxLength ?? 255 }];
  if (type === "decimal") {
    return [
      {
        ...base,
        type,
        ...(options.precision === undefined ? {} : { precision: options.precision }),
        ...(options.scale === undefined ? {} : { scale: options.scale }),
      },
    ];
  }
  return type === "list" && plan.inner !== null ? [{ ...base, type, items: columnType(plan.inner) }] : [{ ...base, type }];
}

function columnType(plan: FieldPlan): ColumnType {
  switch (plan.kind) {
    case "string":
    case "identifier":
    case "auto":
    case "status":
      return "string";
    case "text":
      return plan.options["maxLength"] === undefined ? "text" : "string";
    case "integer":
    case "float":
    case "decimal":
    case "boolean":
    case "date":
    case "datetime":
      return plan.kind;
    case "list": {
      const items = plan.inner === null ? "json" : columnType(plan.inner);
      return items === "json" || items === "list" ? "json" : "list";
    }
    default:
      return "json";
  }
}

// ---------------------------------------------------------------------------------------------------------------- writing

/**
 * A field's value as its column holds it. Not for value objects and children.
 * @throws ValidationError for a bigint beyond the 64 bits of a column
 */
export function columnValue(plan: FieldPlan, value: unknown): ColumnValue {
  if (typeof value === "bigint") {
    if (BigInt.asIntN(64, value) !== value)
      throw new ValidationError({ [plan.name]: ["is beyond the 64 bits that a database column holds"] });
    return value;
  }
  return plan.plain(value) as ColumnValue;
}

function putColumns(row: Record<string, ColumnValue>, plan: FieldPlan, value: unknown, prefix: string): void {
  const name = prefix + plan.column;
  if (plan.kind === "hasOne" || plan.kind === "hasMany") return;
  if (plan.kind === "valueObject" && plan.model !== null) {
    for (const part of plan.model.plans) {
      putColumns(row, part, value === null || value === undefined ? null : (value as Record<string, unknown>)[part.name], `${name}_`);
    }
    return;
  }
  row[name] = value === null || value === undefined ? null : columnValue(plan, value);
}

function rowOf(instance: object, model: Model): Record<string, ColumnValue> {
  const row: Record<string, ColumnValue> = {};
  for (const plan of model.plans) putColumns(row, plan, (instance as Record<string, unknown>)[plan.name], "");
  return row;
}

function childRowsOf(instance: object, model: Model, found: Map<string, Map<string, Row>>): Map<string, Map<string, Row>> {
  const parentColumn = parentColumnOf(model);
  const parentKey = (instance as Record<string, unknown>)[model.identity ?? "id"];
  for (const plan of model.childPlans) {
    if (plan.model === null) continue;
    const table = tableName(plan.model);
    let rows = found.get(table);
    if (rows === undefined) {
      rows = new Map();
      found.set(table, rows);
    }
    for (const child of childrenOf(instance, plan)) {
      const row = rowOf(child, plan.model);
      row[parentColumn] = parentKey as ColumnValue;
      rows.set(String(row[keyColumn(plan.model)]), row);
      childRowsOf(child, plan.model, found);
    }
  }
  return found;
}

/** Declared field values as columns, for changing many rows at once. @throws ValidationError for values that a field refuses */
export function columnsOf(meta: ElementMeta, values: Readonly<Record<string, unknown>>): Row {
  const model = meta as Model;
  const row: Record<string, ColumnValue> = {};
  const problems = new Problems();
  for (const [name, value] of Object.entries(values)) {
    const plan = model.fields.get(name);
    if (plan === undefined) problems.add(name, "is not a declared field");
    else if (plan.identifier) problems.add(name, "is the identity, which never changes");
    else putColumns(row, plan, plan.accept(value, problems, name), "");
  }
  problems.throwIfFound();
  return row;
}

function same(left: ColumnValue | undefined, right: ColumnValue | undefined): boolean {
  if (left === right) return true;
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false;
  return toJsonText(left as JsonValue) === toJsonText(right as JsonValue);
}

function changes(now: Row, before: Row): Record<string, ColumnValue> {
  const set: Record<string, ColumnValue> = {};
  for (const [column, value] of Object.entries(now)) if (!same(value, before[column])) set[column] = value;
  return set;
}

/**
 * What must be written so that the database holds this instance; empty when nothing changed and no event was raised. Saved aggregates are
 * guarded by their version, which moves with every save, also of events or children only; projections by the loaded values of what changed.
 * Stamps `autoNow` fields when there is something to save, once per save.
 * @throws IncorrectUsageError when a class field hides a declared one
 */
export function rowWrites(instance: object): readonly RowWrite[] {
  const model = metaOf(instance) as Model;
  if (!hasTable(model)) return [];
  requireNoHiddenFields(instance);
  const writes = compare(instance, model);
  if (writes.length === 0 || !model.hasStamps) return writes;
  stampTimes(instance, model.domain.stores.clock.now_ms());
  return compare(instance, model);
}

function compare(instance: object, model: Model): readonly RowWrite[] {
  const state = stateOf(instance);
  const row = rowOf(instance, model);
  const children = childRowsOf(instance, model, new Map());
  const table = tableName(model);
  const versioned = model.kind === "aggregate";
  if (state.loaded === null) {
    const inserts: RowWrite[] = [{ kind: "insert", table, row: versioned ? { ...row, _version: 0 } : row }];
    for (const [childTable, rows] of children)
      for (const child of rows.values()) inserts.push({ kind: "insert", table: childTable, row: child });
    return inserts;
  }
  const { loaded } = state;
  const set = changes(row, loaded.row);
  const childWrites = compareChildren(model, children, loaded.children);
  const key = row[keyColumn(model)] ?? null;
  const isChanged = Object.keys(set).length > 0;
  if (!isChanged && childWrites.length === 0 && state.events.length === 0) return [];
  if (versioned) return [{ kind: "update", table, key, set, version: state.version }, ...childWrites];
  if (!isChanged) return childWrites;
  const guard: Record<string, ColumnValue> = {};
  for (const column of Object.keys(set)) {
    const stored = loaded.stored[column];
    if (stored !== undefined) guard[column] = stored;
  }
  return [{ kind: "update", table, key, set, loaded: guard }, ...childWrites];
}

function compareChildren(
  root: Model,
  now: ReadonlyMap<string, ReadonlyMap<string, Row>>,
  before: ReadonlyMap<string, ReadonlyMap<string, Row>>,
): RowWrite[] {
  const writes: RowWrite[] = [];
  for (const table of tablesOf(root).slice(1)) {
    const rows = now.get(table.name) ?? new Map<string, Row>();
    const old = before.get(table.name) ?? new Map<string, Row>();
    for (const [key, row] of old) if (!rows.has(key)) writes.push({ kind: "delete", table: table.name, key: row[table.key] ?? key });
    for (const [key, row] of rows) {
      const earlier = old.get(key);
      if (earlier === undefined) {
        writes.push({ kind: "insert", table: table.name, row });
        continue;
      }
      const set = changes(row, earlier);
      if (Object.keys(set).length > 0) writes.push({ kind: "update", table: table.name, key: row[table.key] ?? key, set });
    }
  }
  return writes;
}

/** After the commit: this is what the database holds now. */
export function markSaved(instance: object): void {
  const model = metaOf(instance) as Model;
  if (!hasTable(model)) {
    startNextBatch(instance, null);
    return;
  }
  const state = stateOf(instance);
  const hadWrites = compare(instance, model).length > 0;
  if (hadWrites) state.version += 1;
  const row = rowOf(instance, model);
  startNextBatch(instance, { row, stored: row, children: childRowsOf(instance, model, new Map()) });
}

// ---------------------------------------------------------------------------------------------------------------- reading

/**
 * An instance from its row and the rows of its child tables (by table name; rows of other parents in them are passed over).
 * @throws InvalidDataError naming table, key and field when the stored values don't fit the class
 */
export function fromRows(meta: ElementMeta, row: Row, childRows: ReadonlyMap<string, readonly Row[]>): object {
  const model = meta as Model;
  const instance = restore(model, row, childRows);
  const state = stateOf(instance);
  const version = row["_version"];
  state.version = typeof version === "number" ? version : 0;
  state.eventPosition = null;
  const loaded: LoadedRows = { row: rowOf(instance, model), stored: row, children: childRowsOf(instance, model, new Map()) };
  state.loaded = loaded;
  return instance;
}

function restore(model: Model, row: Row, childRows: ReadonlyMap<string, readonly Row[]>): object {
  const problems = new Problems();
  const reader: Reader = { names: "wire", lenient: true, tolerant: false, restoring: true, problems };
  const values = model.plans.map((plan) => restoreField(plan, row, "", reader, childRows, model));
  if (problems.found) {
    const key = String(row[keyColumn(model)]);
    const reasons = Object.entries(problems.messages).map(([path, messages]) => `\`${path}\` ${messages.join("; ")}`);
    throw new InvalidDataError(`table ${tableName(model)}, row ${key}: ${reasons.join(", ")}`, { at: model.declaredAt });
  }
  return model.instantiate(new Loaded(values, false));
}

function restoreField(
  plan: FieldPlan,
  row: Row,
  prefix: string,
  reader: Reader,
  childRows: ReadonlyMap<string, readonly Row[]>,
  model: Model,
): unknown {
  const name = prefix + plan.column;
  if (plan.model !== null && (plan.kind === "hasOne" || plan.kind === "hasMany")) {
    const child = plan.model;
    const parentColumn = parentColumnOf(model);
    const key = String(row[keyColumn(model)]);
    const children = (childRows.get(tableName(child)) ?? [])
      .filter((candidate) => String(candidate[parentColumn]) === key)
      .map((candidate) => restore(child, candidate, childRows));
    return plan.isMany ? children : (children[0] ?? null);
  }
  if (plan.kind === "valueObject" && plan.model !== null) {
    const part = plan.model;
    // Present is what has a column that isn't null, whatever the values are (known-traps A26).
    if (!part.plans.some((inner) => isPresent(inner, row, `${name}_`))) return null;
    return part.instantiate(
      new Loaded(
        part.plans.map((inner) => restoreField(inner, row, `${name}_`, reader, childRows, part)),
        false,
      ),
    );
  }
  const value = row[name];
  if (value === undefined || value === null) return plan.kind === "list" || plan.kind === "dict" ? plan.initial() : null;
  return plan.read(value as JsonValue, reader, prefix + plan.name);
}

function isPresent(plan: FieldPlan, row: Row, prefix: string): boolean {
  const name = prefix + plan.column;
  if (plan.kind === "valueObject" && plan.model !== null) return plan.model.plans.some((inner) => isPresent(inner, row, `${name}_`));
  return row[name] !== null && row[name] !== undefined;
}

/** Conditions in declared names, lookups, `or`/`and`/`not`, as the database understands them. */
export function conditionOf(meta: ElementMeta, where: object): Condition {
  return conditionFor(meta as Model, where);
}
