/**
 * A field, compiled: how its value is checked in code, read from JSON and written to JSON. Made once per declaration, so that reading
 * a message walks an array of plans and nothing else.
 *
 * Three ways a value comes in:
 *   accept   from code (constructor, assignment): types are the compiler's, no coercion, limits checked
 *   read     from JSON: Identifiers take numbers, dates ISO text, integers and floats numeric text; then the same limits
 *   restore  from our own stored state (rows, snapshots): kinds are converted, limits are not checked again
 */
import { IncorrectUsageError, ValidationError } from "../errors.ts";
import { isoOfEpoch, normalisedDateTime, parseDate, parseDateTime } from "../messages/datetime.ts";
import type { JsonObject, JsonValue, WireValue } from "../messages/json.ts";
import { underscore } from "../messages/names.ts";
import { PyFloat } from "../messages/python-number.ts";
import type { ElementMeta, FieldMeta } from "./element.ts";
import type { AnyField, StandardResult, StandardSchema } from "./fields.ts";
import { immutableDate } from "./immutable-date.ts";
import { Loaded, type Model, metaOf } from "./model.ts";
import { Problems } from "./problems.ts";
import { readValues } from "./wire.ts";

/** How JSON is read. One object per message. */
export interface Reader {
  /** `wire`: stored names only. `any`: declared names too (web forms, the command line). */
  readonly names: "wire" | "any";
  /** Unknown keys are dropped instead of refused. */
  readonly lenient: boolean;
  /** External events: numbers become text and the reverse (D29). */
  readonly tolerant: boolean;
  /** Our own stored state: limits and required values are not checked again. */
  readonly restoring: boolean;
  readonly problems: Problems;
}

export interface FieldPlan extends FieldMeta {
  readonly index: number;
  readonly model: Model | null;
  readonly inner: FieldPlan | null;
  readonly renamedFrom: readonly string[];
  readonly hasDefault: boolean;
  readonly isMany: boolean;
  readonly autoNow: boolean;
  readonly autoNowAdd: boolean;
  readonly transitions: Readonly<Record<string, readonly string[]>> | null;
  /** Value when nothing is given: the default, an empty collection, or null. */
  initial(): unknown;
  /** The same for an aggregate to be replayed: defaults that are functions don't count. */
  blank(): unknown;
  accept(value: unknown, problems: Problems, path: string): unknown;
  read(value: JsonValue, reader: Reader, path: string): unknown;
  /** Never called with null. */
  write(value: unknown): WireValue;
  /** As `write`, for people: plain numbers. */
  plain(value: unknown): JsonValue;
}

type Convert = (value: unknown, problems: Problems, path: string) => unknown;
type Read = (value: JsonValue, reader: Reader, path: string) => unknown;

interface Kind {
  readonly accept: Convert;
  readonly read: Read;
  readonly write: (value: unknown) => WireValue;
  readonly plain?: (value: unknown) => JsonValue;
}

/** What a check answers for a refused value; the reason is in the problems. */
const REFUSED: unique symbol = Symbol("refused");

const DECIMAL = /^[+-]?(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?$/;

function refuse(problems: Problems, path: string, reason: string): typeof REFUSED {
  problems.add(path, reason);
  return REFUSED;
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return `an object (${(value as object).constructor?.name ?? "no class"})`;
  return typeof value === "string"
    ? `text ${JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value)}`
    : `${typeof value} ${String(value)}`;
}

// ---------------------------------------------------------------------------------------------------------------- kinds

function textKind(field: AnyField): Kind {
  const options = field.options as { minLength?: number; maxLength?: number };
  const maxLength = options.maxLength ?? (field.kind === "string" ? 255 : Number.POSITIVE_INFINITY);
  const minLength = options.minLength ?? 0;
  const isIdentifier = field.kind === "identifier" || field.kind === "auto";
  const limits: Convert = (value, problems, path) => {
    const { length } = value as string;
    if (length > maxLength) return refuse(problems, path, `is longer than ${maxLength} characters`);
    if (length < minLength) return refuse(problems, path, `is shorter than ${minLength} characters`);
    return value;
  };
  return {
    accept: (value, problems, path) =>
      typeof value === "string" ? limits(value, problems, path) : refuse(problems, path, `must be text, not ${describe(value)}`),
    read: (value, reader, path) => {
      let text = value;
      if ((isIdentifier || reader.tolerant) && (typeof value === "number" || typeof value === "bigint")) text = String(value);
      if (reader.tolerant && typeof value === "boolean") text = String(value);
      if (typeof text !== "string") return refuse(reader.problems, path, `must be text, not ${describe(value)}`);
      return reader.restoring ? text : limits(text, reader.problems, path);
    },
    write: (value) => value as string,
  };
}

function rangeOf(options: { min?: number | bigint; max?: number | bigint }): Convert {
  const { min, max } = options;
  return (value, problems, path) => {
    const number = value as number | bigint;
    if (min !== undefined && number < min) return refuse(problems, path, `is less than ${min}`);
    if (max !== undefined && number > max) return refuse(problems, path, `is greater than ${max}`);
    return value;
  };
}

function integerKind(field: AnyField): Kind {
  const limits = rangeOf(field.options as { min?: number; max?: number });
  if (field.options["bigint"] === true) {
    return {
      accept: (value, problems, path) =>
        typeof value === "bigint" ? limits(value, problems, path) : refuse(problems, path, `must be a bigint, not ${describe(value)}`),
      read: (value, reader, path) => {
        let whole: bigint;
        if (typeof value === "bigint") whole = value;
        else if (typeof value === "number" && Number.isSafeInteger(value)) whole = BigInt(value);
        else if (typeof value === "string" && /^[+-]?\d{1,1000}$/.test(value)) whole = BigInt(value);
        else return refuse(reader.problems, path, `must be a whole number, not ${describe(value)}`);
        return reader.restoring ? whole : limits(whole, reader.problems, path);
      },
      write: (value) => value as bigint,
      plain: (value) => {
        const whole = value as bigint;
        return whole >= BigInt(Number.MIN_SAFE_INTEGER) && whole <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(whole) : String(whole);
      },
    };
  }
  return {
    accept: (value, problems, path) =>
      Number.isSafeInteger(value)
        ? limits(value, problems, path)
        : refuse(problems, path, `must be a whole number, not ${describe(value)}`),
    read: (value, reader, path) => {
      const whole = typeof value === "string" && /^[+-]?\d+(?:\.0*)?$/.test(value) ? Number(value) : value;
      if (typeof whole === "bigint" || (typeof whole === "number" && Number.isInteger(whole) && !Number.isSafeInteger(whole))) {
        return refuse(reader.problems, path, "is beyond 2^53; declare the field with { bigint: true }");
      }
      if (!Number.isSafeInteger(whole)) return refuse(reader.problems, path, `must be a whole number, not ${describe(value)}`);
      return reader.restoring ? whole : limits(whole, reader.problems, path);
    },
    // -0 would print as a float.
    write: (value) => (value as number) + 0,
  };
}

function floatKind(field: AnyField): Kind {
  const limits = rangeOf(field.options as { min?: number; max?: number });
  return {
    accept: (value, problems, path) =>
      Number.isFinite(value) ? limits(value, problems, path) : refuse(problems, path, `must be a finite number, not ${describe(value)}`),
    read: (value, reader, path) => {
      let number: unknown = value;
      if (typeof value === "string" && value.trim() !== "") number = Number(value);
      else if (typeof value === "bigint") number = Number(value);
      if (!Number.isFinite(number)) return refuse(reader.problems, path, `must be a finite number, not ${describe(value)}`);
      return reader.restoring ? number : limits(number, reader.problems, path);
    },
    write: (value) => new PyFloat(value as number),
    plain: (value) => value as number,
  };
}

/** Digits before and after the point, without sign and needless zeros at the front. */
function digitsOf(text: string): { readonly whole: string; readonly fraction: string } {
  const match = DECIMAL.exec(text);
  const [whole = "", fraction = ""] = (match?.[1] ?? "").split(".");
  const exponent = Number(match?.[2] ?? 0);
  if (exponent === 0 || Math.abs(exponent) > 1000) return { whole: whole.replace(/^0+/, ""), fraction };
  const all = whole + fraction;
  const point = whole.length + exponent;
  const left = point <= 0 ? "" : all.slice(0, point).padEnd(point, "0");
  const right = point <= 0 ? "0".repeat(-point) + all : all.slice(point);
  return { whole: left.replace(/^0+/, ""), fraction: right };
}

/** Exact comparison of decimal texts: negative, 0 or positive. */
export function compareDecimals(left: string, right: string): number {
  const scaled = (text: string, scale: number): bigint => {
    const { whole, fraction } = digitsOf(text);
    const size = BigInt(`${whole}${fraction.padEnd(scale, "0")}` || "0");
    return text.startsWith("-") ? -size : size;
  };
  const scale = Math.max(digitsOf(left).fraction.length, digitsOf(right).fraction.length);
  const difference = scaled(left, scale) - scaled(right, scale);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

function decimalKind(field: AnyField): Kind {
  const options = field.options as { precision?: number; scale?: number; min?: string | number; max?: string | number };
  const limits: Convert = (value, problems, path) => {
    const text = value as string;
    if (!DECIMAL.test(text)) return refuse(problems, path, `must be a decimal number as text, not ${describe(value)}`);
    const { whole, fraction } = digitsOf(text);
    const significant = fraction.replace(/0+$/, "");
    if (options.scale !== undefined && significant.length > options.scale) {
      return refuse(problems, path, `has more than ${options.scale} digits after the point`);
    }
    if (options.precision !== undefined && whole.length > options.precision - (options.scale ?? significant.length)) {
      return refuse(problems, path, `has more than ${options.precision} digits`);
    }
    if (options.min !== undefined && compareDecimals(text, String(options.min)) < 0)
      return refuse(problems, path, `is less than ${options.min}`);
    if (options.max !== undefined && compareDecimals(text, String(options.max)) > 0)
      return refuse(problems, path, `is greater than ${options.max}`);
    return text;
  };
  return {
    accept: (value, problems, path) =>
      typeof value === "string"
        ? limits(value, problems, path)
        : refuse(problems, path, `must be a decimal number as text, not ${describe(value)}`),
    read: (value, reader, path) => {
      const text = typeof value === "number" || typeof value === "bigint" ? String(value) : value;
      if (typeof text !== "string" || !DECIMAL.test(text))
        return refuse(reader.problems, path, `must be a decimal number, not ${describe(value)}`);
      return reader.restoring ? text : limits(text, reader.problems, path);
    },
    write: (value) => value as string,
  };
}

function booleanKind(): Kind {
  return {
    accept: (value, problems, path) =>
      typeof value === "boolean" ? value : refuse(problems, path, `must be true or false, not ${describe(value)}`),
    read: (value, reader, path) => {
      if (typeof value === "boolean") return value;
      // SQLite keeps truth as 0 and 1.
      if ((reader.restoring || reader.tolerant) && (value === 0 || value === 1)) return value === 1;
      if (reader.tolerant && (value === "true" || value === "false")) return value === "true";
      return refuse(reader.problems, path, `must be true or false, not ${describe(value)}`);
    },
    write: (value) => value as boolean,
  };
}

function dateKind(): Kind {
  const convert: Convert = (value, problems, path) => {
    const text = typeof value === "string" ? parseDate(value) : null;
    return text ?? refuse(problems, path, `must be a date as YYYY-MM-DD, not ${describe(value)}`);
  };
  return { accept: convert, read: (value, reader, path) => convert(value, reader.problems, path), write: (value) => value as string };
}

function dateTimeKind(field: AnyField): Kind {
  if (field.options["as"] === "string") {
    const convert: Convert = (value, problems, path) => {
      const text = typeof value === "string" || typeof value === "number" ? normalisedDateTime(value) : null;
      return text ?? refuse(problems, path, `must be an ISO date and time, not ${describe(value)}`);
    };
    return {
      accept: (value, problems, path) =>
        convert(value instanceof Date && !Number.isNaN(value.getTime()) ? isoOfEpoch(value.getTime()) : value, problems, path),
      read: (value, reader, path) => convert(value, reader.problems, path),
      write: (value) => value as string,
    };
  }
  const accept: Convert = (value, problems, path) =>
    value instanceof Date && !Number.isNaN(value.getTime())
      ? immutableDate(value)
      : refuse(problems, path, `must be a valid Date, not ${describe(value)}`);
  return {
    accept,
    read: (value, reader, path) => {
      if ((value as unknown) instanceof Date) return accept(value, reader.problems, path);
      const parts = typeof value === "string" || typeof value === "number" ? parseDateTime(value) : null;
      if (parts === null) return refuse(reader.problems, path, `must be an ISO date and time, not ${describe(value)}`);
      return immutableDate(new Date(parts.epoch_ms));
    },
    write: (value) => isoOfEpoch((value as Date).getTime()),
  };
}

function statusKind(): Kind {
  const text: Convert = (value, problems, path) =>
    typeof value === "string" ? value : refuse(problems, path, `must be text, not ${describe(value)}`);
  return { accept: text, read: (value, reader, path) => text(value, reader.problems, path), write: (value) => value as string };
}

function listKind(inner: FieldPlan): Kind {
  return {
    accept: (value, problems, path) => {
      if (!Array.isArray(value)) return refuse(problems, path, `must be a list, not ${describe(value)}`);
      const items = value.map((item: unknown, index) => inner.accept(item, problems, `${path}[${index}]`));
      return Object.freeze(items);
    },
    read: (value, reader, path) => {
      if (!Array.isArray(value)) return refuse(reader.problems, path, `must be a list, not ${describe(value)}`);
      const items = (value as readonly JsonValue[]).map((item, index) => inner.read(item, reader, `${path}[${index}]`));
      return Object.freeze(items);
    },
    write: (value) => (value as readonly unknown[]).map((item) => (item === null ? null : inner.write(item))),
    plain: (value) => (value as readonly unknown[]).map((item) => (item === null ? null : inner.plain(item))),
  };
}

/** A deep, frozen copy of JSON; frozen values are taken as they are when `trusted`. */
function frozenJson(value: unknown, problems: Problems, path: string, trusted: boolean): unknown {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "bigint") return value;
  if (typeof value === "number") return Number.isFinite(value) ? value : refuse(problems, path, `holds ${value}, which is no JSON value`);
  if (typeof value !== "object") return refuse(problems, path, `holds a ${typeof value}, which is no JSON value`);
  if (trusted && Object.isFrozen(value)) return value;
  if (Array.isArray(value))
    return Object.freeze(value.map((item: unknown, index) => frozenJson(item, problems, `${path}[${index}]`, trusted)));
  if (typeof (value as { toJSON?: unknown }).toJSON === "function") {
    return frozenJson((value as { toJSON(): unknown }).toJSON(), problems, path, trusted);
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && prototype !== Object.prototype)
    return refuse(problems, path, `holds ${describe(value)}, which is no JSON value`);
  // Without a prototype a key "__proto__" is a key like any other (known-traps C9).
  const copy = Object.create(null) as Record<string, unknown>;
  for (const [key, item] of Object.entries(value))
    if (item !== undefined) copy[key] = frozenJson(item, problems, `${path}.${key}`, trusted);
  return Object.freeze(copy);
}

function dictKind(): Kind {
  const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;
  return {
    accept: (value, problems, path) =>
      isObject(value) ? frozenJson(value, problems, path, false) : refuse(problems, path, `must be an object, not ${describe(value)}`),
    read: (value, reader, path) =>
      isObject(value)
        ? frozenJson(value, reader.problems, path, reader.names === "wire")
        : refuse(reader.problems, path, `must be an object, not ${describe(value)}`),
    write: (value) => value as WireValue,
    plain: (value) => value as JsonValue,
  };
}

/** Value objects, and the entities of fact events, where they are plain data. */
function nestedKind(model: Model, asData: boolean): Kind {
  return {
    accept: (value, problems, path) => {
      if (asData) {
        if (typeof value !== "object" || value === null) return refuse(problems, path, `must be an object, not ${describe(value)}`);
        const copy: Record<string, unknown> = {};
        for (const plan of model.plans) copy[plan.name] = (value as Record<string, unknown>)[plan.name] ?? null;
        return Object.freeze(copy);
      }
      return isInstance(value, model) ? value : refuse(problems, path, `must be a ${model.name}, not ${describe(value)}`);
    },
    read: (value, reader, path) => {
      if (isInstance(value, model)) return value;
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        return refuse(reader.problems, path, `must be an object (${model.name}), not ${describe(value)}`);
      }
      const problems = new Problems();
      const values = readValues(model, value as JsonObject, { ...reader, problems }, "");
      if (problems.found) {
        reader.problems.addAll(problems.messages, `${path}.`);
        return REFUSED;
      }
      if (asData) {
        const copy: Record<string, unknown> = {};
        for (const plan of model.plans) copy[plan.name] = values[plan.index];
        return Object.freeze(copy);
      }
      try {
        return model.instantiate(new Loaded(values, !reader.restoring));
      } catch (error) {
        if (!(error instanceof ValidationError)) throw error;
        reader.problems.addAll(error.messages, `${path}.`);
        return REFUSED;
      }
    },
    write: (value) => writeFields(model, value as Record<string, unknown>),
    plain: (value) => plainFields(model, value as Record<string, unknown>),
  };
}

/** Child entities of aggregates: instances. */
function childKind(model: Model, isMany: boolean): Kind {
  const one: Convert = (value, problems, path) =>
    isInstance(value, model) ? value : refuse(problems, path, `must be a ${model.name}, not ${describe(value)}`);
  const nested = nestedKind(model, false);
  if (!isMany) return { ...nested, accept: one };
  return {
    accept: (value, problems, path) =>
      Array.isArray(value)
        ? value.map((item: unknown, index) => one(item, problems, `${path}[${index}]`))
        : refuse(problems, path, `must be a list of ${model.name}, not ${describe(value)}`),
    read: (value, reader, path) =>
      Array.isArray(value)
        ? (value as readonly JsonValue[]).map((item, index) => nested.read(item, reader, `${path}[${index}]`))
        : refuse(reader.problems, path, `must be a list of ${model.name}, not ${describe(value)}`),
    write: (value) => (value as readonly unknown[]).map((item) => nested.write(item)),
    plain: (value) => (value as readonly unknown[]).map((item) => nested.plain?.(item) ?? null),
  };
}

function isInstance(value: unknown, model: Model): boolean {
  return typeof value === "object" && value !== null && metaOfOrNull(value) === model;
}

function metaOfOrNull(value: object): ElementMeta | null {
  try {
    return metaOf(value);
  } catch {
    return null;
  }
}

function customKind(field: AnyField): Kind {
  const schema = field.schema as StandardSchema;
  const toWire = field.options["toWire"] as ((value: unknown) => JsonValue) | undefined;
  const validate = (value: unknown, problems: Problems, path: string): unknown => {
    const result = schema["~standard"].validate(value);
    if (result instanceof Promise) {
      throw new IncorrectUsageError(`field \`${path}\`: the schema validates asynchronously, which constructors can't wait for`);
    }
    const checked: StandardResult<unknown> = result;
    if (checked.issues === undefined) return checked.value;
    for (const issue of checked.issues) {
      const inner = (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join(".");
      problems.add(inner === "" ? path : `${path}.${inner}`, issue.message);
    }
    return REFUSED;
  };
  const write = (value: unknown): JsonValue =>
    frozenJson(toWire === undefined ? value : toWire(value), new Problems(), "", false) as JsonValue;
  return {
    accept: validate,
    read: (value, reader, path) => validate(value, reader.problems, path),
    write: write as (value: unknown) => WireValue,
    plain: write,
  };
}

function kindOf(field: AnyField, inner: FieldPlan | null, model: Model | null, asData: boolean): Kind {
  switch (field.kind) {
    case "string":
    case "text":
    case "identifier":
    case "auto":
      return textKind(field);
    case "integer":
      return integerKind(field);
    case "float":
      return floatKind(field);
    case "decimal":
      return decimalKind(field);
    case "boolean":
      return booleanKind();
    case "date":
      return dateKind();
    case "datetime":
      return dateTimeKind(field);
    case "status":
      return statusKind();
    case "dict":
      return dictKind();
    case "custom":
      return customKind(field);
    case "list":
      if (inner === null) throw new IncorrectUsageError("f.list needs the field of its items: f.list(f.string())");
      return listKind(inner);
    case "valueObject":
    case "hasOne":
    case "hasMany": {
      if (model === null) throw new IncorrectUsageError(`f.${field.kind} needs an element class`);
      if (field.kind === "valueObject") return nestedKind(model, false);
      return asData ? nestedKind(model, true) : childKind(model, field.kind === "hasMany");
    }
  }
}

/** Allowed values, from an array or an `as const` object. */
export function choicesOf(options: Readonly<Record<string, unknown>>): readonly unknown[] | null {
  const { choices } = options;
  if (choices === undefined || choices === null) return null;
  return Array.isArray(choices) ? choices : Object.values(choices);
}

export interface PlanPlace {
  readonly name: string;
  readonly index: number;
  readonly wireNames: "snake_case" | "as_declared";
  /** Fact events hold child entities as data. */
  readonly asData: boolean;
}

/**
 * Compiles a declared field.
 * @throws IncorrectUsageError when it holds an element of the wrong kind or no element at all
 */
export function compileField(field: AnyField, place: PlanPlace): FieldPlan {
  const { options } = field;
  const isMany = field.kind === "hasMany";
  const model = field.target === undefined ? null : (metaOf(field.target) as Model);
  let inner = field.inner === undefined ? null : compileField(field.inner, { ...place, name: `${place.name}[]`, index: 0 });
  let kind = kindOf(field, inner, model, place.asData);
  if (place.asData && isMany && model !== null) {
    inner = compileField({ kind: "hasOne", options: {}, target: field.target }, { ...place, name: `${place.name}[]`, index: 0 });
    kind = listKind(inner);
  }
  const wireName = (options["wireName"] as string | undefined) ?? (place.wireNames === "snake_case" ? underscore(place.name) : place.name);
  const hasDefault = options["default"] !== undefined;
  const fallback = options["default"];
  const autoNow = options["autoNow"] === true;
  const autoNowAdd = options["autoNowAdd"] === true;
  const isOptional = options["optional"] === true;
  const startsEmpty = !isOptional && (field.kind === "list" || field.kind === "dict" || isMany);
  const required = !isOptional && !hasDefault && !autoNow && !autoNowAdd && field.kind !== "hasOne" && !startsEmpty;
  const choices = choicesOf(options);
  const allowed = choices === null ? null : new Set(choices);
  const validators = (options["validators"] as readonly ((value: unknown) => void)[] | undefined) ?? [];
  const renamed = options["renamedFrom"] as string | readonly string[] | undefined;
  const isText = field.kind === "string" || field.kind === "text" || field.kind === "identifier" || field.kind === "auto";

  const check = (value: unknown, problems: Problems, path: string): unknown => {
    if (value === REFUSED) return null;
    if (isText && required && value === "") return refuse(problems, path, "is required");
    if (allowed !== null && !allowed.has(value)) return refuse(problems, path, `must be one of ${(choices ?? []).map(String).join(", ")}`);
    for (const validator of validators) {
      try {
        validator(value);
      } catch (error) {
        problems.addThrown(path, error);
      }
    }
    return value;
  };
  const defaultValue = (): unknown => {
    const value = typeof fallback === "function" ? (fallback as () => unknown)() : fallback;
    if (value === null || value === undefined) return null;
    const problems = new Problems();
    const accepted = kind.accept(value, problems, place.name);
    problems.throwIfFound();
    return accepted;
  };
  const empty = startsEmpty ? (field.kind === "dict" ? Object.freeze({}) : Object.freeze([])) : null;
  return {
    kind: field.kind,
    name: place.name,
    index: place.index,
    wireName,
    column: (options["referencedAs"] as string | undefined) ?? wireName,
    required,
    identifier: options["identifier"] === true,
    unique: options["unique"] === true || options["identifier"] === true,
    options,
    inner,
    model,
    target: model,
    renamedFrom: renamed === undefined ? [] : typeof renamed === "string" ? [renamed] : renamed,
    hasDefault,
    isMany,
    autoNow,
    autoNowAdd,
    transitions: (options["transitions"] as Readonly<Record<string, readonly string[]>> | undefined) ?? null,
    initial: () => (hasDefault ? defaultValue() : empty),
    blank: () => (hasDefault && typeof fallback !== "function" ? defaultValue() : empty),
    accept: (value, problems, path) => {
      if (value === null || value === undefined) {
        if (required) problems.add(path, "is required");
        return null;
      }
      return check(kind.accept(value, problems, path), problems, path);
    },
    read: (value, reader, path) => {
      if (value === null) {
        if (required && !reader.restoring) reader.problems.add(path, "is required");
        return null;
      }
      const converted = kind.read(value, reader, path);
      return reader.restoring ? (converted === REFUSED ? null : converted) : check(converted, reader.problems, path);
    },
    write: kind.write,
    plain: kind.plain ?? (kind.write as (value: unknown) => JsonValue),
  };
}

/** The fields of an instance (or of a fact event's child data) in wire names. */
export function writeFields(model: Model, source: Record<string, unknown>): { readonly [key: string]: WireValue } {
  const result: Record<string, WireValue> = {};
  for (const plan of model.wirePlans) {
    const value = source[plan.name];
    result[plan.wireName] = value === null || value === undefined ? null : plan.write(value);
  }
  return result;
}

/** The same as plain JSON for people. */
export function plainFields(model: Model, source: Record<string, unknown>): JsonObject {
  const result: Record<string, JsonValue> = {};
  for (const plan of model.wirePlans) {
    const value = source[plan.name];
    result[plan.wireName] = value === null || value === undefined ? null : plan.plain(value);
  }
  return result;
}
