/** Conditions of queries: `filter({ balance: { gte: 100 } })`, combined with `or`, `and`, `not`. */
import { IncorrectUsageError } from "../errors.ts";
import type { ColumnValue, Condition, Lookup } from "../ports/database.ts";
import type { FieldPlan } from "./field-plan.ts";
import type { Model } from "./model.ts";
import { didYouMean } from "./nearest.ts";
import { columnValue } from "./rows.ts";
import type { Filter } from "./types.ts";

/** A combination of conditions. `T` is what they are about. */
export class Q<T = unknown> {
  readonly kind: "and" | "or" | "not";
  readonly of: readonly (Filter<T> | Q<T>)[];
  constructor(kind: "and" | "or" | "not", of: readonly (Filter<T> | Q<T>)[]) {
    this.kind = kind;
    this.of = of;
  }
}

/** At least one of the conditions holds. */
export function or<T>(...conditions: readonly (Filter<T> | Q<T>)[]): Q<T> {
  return new Q("or", conditions);
}

/** All of the conditions hold. */
export function and<T>(...conditions: readonly (Filter<T> | Q<T>)[]): Q<T> {
  return new Q("and", conditions);
}

/** The condition doesn't hold. */
export function not<T>(condition: Filter<T> | Q<T>): Q<T> {
  return new Q("not", [condition]);
}

const LOOKUPS = new Set<string>([
  "exact",
  "iexact",
  "contains",
  "icontains",
  "startswith",
  "endswith",
  "gt",
  "gte",
  "lt",
  "lte",
  "in",
  "any",
  "overlap",
  "isnull",
]);

/** Translates declared field names and values into columns. @throws IncorrectUsageError for unknown fields and lookups */
export function conditionFor(model: Model, where: object): Condition {
  if (where instanceof Q) {
    const parts = where.of.map((part) => conditionFor(model, part));
    const [first] = parts;
    if (where.kind === "not") return { kind: "not", of: first ?? { kind: "and", of: [] } };
    return { kind: where.kind, of: parts };
  }
  const tests = testsOf(model, where as Readonly<Record<string, unknown>>, "", "");
  const [first] = tests;
  return tests.length === 1 && first !== undefined ? first : { kind: "and", of: tests };
}

function testsOf(model: Model, where: Readonly<Record<string, unknown>>, columnPrefix: string, path: string): Condition[] {
  const tests: Condition[] = [];
  for (const [name, wanted] of Object.entries(where)) {
    if (wanted === undefined) continue;
    const plan = model.fields.get(name);
    if (plan === undefined) {
      throw new IncorrectUsageError(`\`${model.name}\` has no field \`${path}${name}\`${didYouMean(name, model.fields.keys())}`);
    }
    if (plan.kind === "hasOne" || plan.kind === "hasMany") {
      throw new IncorrectUsageError(`\`${model.name}.${path}${name}\` holds child entities; queries can't look into them`);
    }
    const column = columnPrefix + plan.column;
    if (plan.kind === "valueObject" && plan.model !== null) {
      tests.push(...valueObjectTests(plan, plan.model, wanted, column, `${path}${name}.`));
    } else if (isLookups(plan, wanted)) {
      for (const [lookup, value] of Object.entries(wanted)) tests.push(test(plan, column, lookup, value, `${path}${name}`));
    } else tests.push(test(plan, column, "exact", wanted, `${path}${name}`));
  }
  return tests;
}

/** Columns of a value object, those of value objects in it among them. */
function columnsUnder(model: Model, column: string): string[] {
  return model.plans.flatMap((part) => {
    const name = `${column}_${part.column}`;
    return part.kind === "valueObject" && part.model !== null ? columnsUnder(part.model, name) : [name];
  });
}

function valueObjectTests(plan: FieldPlan, model: Model, wanted: unknown, column: string, path: string): Condition[] {
  const isNull = (value: boolean): Condition => ({
    kind: value ? "and" : "or",
    of: columnsUnder(model, column).map((name) => ({ kind: "test" as const, column: name, lookup: "isnull" as const, value })),
  });
  if (wanted === null) return [isNull(true)];
  if (typeof wanted !== "object") throw new IncorrectUsageError(`filter: \`${plan.name}\` is a ${model.name}; give its fields`);
  const lookups = Object.entries(wanted).filter(([name]) => LOOKUPS.has(name) && !model.fields.has(name));
  if (lookups.length > 0 && lookups.length === Object.keys(wanted).length) {
    return lookups.flatMap(([lookup, value]): Condition[] => {
      if (lookup === "isnull") return [isNull(value === true)];
      if (lookup === "exact") return valueObjectTests(plan, model, value, column, path);
      if (lookup !== "in" || !Array.isArray(value)) throw new IncorrectUsageError(`filter: \`${plan.name}\` has no lookup \`${lookup}\``);
      return [{ kind: "or", of: value.map((one) => ({ kind: "and", of: valueObjectTests(plan, model, one, column, path) })) }];
    });
  }
  return testsOf(model, wanted as Readonly<Record<string, unknown>>, `${column}_`, path);
}

function isLookups(plan: FieldPlan, wanted: unknown): wanted is Readonly<Record<string, unknown>> {
  if (typeof wanted !== "object" || wanted === null || Array.isArray(wanted) || wanted instanceof Date) return false;
  const keys = Object.keys(wanted);
  return plan.kind === "dict" ? keys.length > 0 && keys.every((key) => LOOKUPS.has(key)) : true;
}

function test(plan: FieldPlan, column: string, lookup: string, value: unknown, path: string): Condition {
  if (!LOOKUPS.has(lookup)) throw new IncorrectUsageError(`filter: \`${path}\` has no lookup \`${lookup}\`${didYouMean(lookup, LOOKUPS)}`);
  if (lookup === "isnull") return { kind: "test", column, lookup, value: value === true };
  if (lookup === "exact" && value === null) return { kind: "test", column, lookup: "isnull", value: true };
  return { kind: "test", column, lookup: lookup as Lookup, value: lookupValue(plan, lookup, value, path) };
}

function lookupValue(plan: FieldPlan, lookup: string, value: unknown, path: string): ColumnValue {
  if (lookup === "in" || lookup === "any" || lookup === "overlap") {
    const items = Array.isArray(value) ? (value as readonly unknown[]) : lookup === "any" ? [value] : null;
    if (items === null) throw new IncorrectUsageError(`filter: \`${path}\` ${lookup} takes a list`);
    const item = plan.kind === "list" && plan.inner !== null ? plan.inner : plan;
    return items.map((one) => scalar(item, one));
  }
  if (plan.kind === "list" && lookup === "contains" && !Array.isArray(value) && plan.inner !== null) return scalar(plan.inner, value);
  return scalar(plan, value);
}

function scalar(plan: FieldPlan, value: unknown): ColumnValue {
  return value === null || value === undefined ? null : columnValue(plan, value);
}
