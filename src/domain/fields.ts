/**
 * Declaring fields (`f.string()` …) and what TypeScript infers from them. A declaration is plain data; `field-plan.ts` makes checks,
 * readers and writers from it once the element is known.
 */
import { IncorrectUsageError } from "../errors.ts";
import type { JsonObject, JsonValue } from "../messages/json.ts";
import type { FieldKind } from "./element.ts";

/** Values that a field takes: an array, or an `as const` object whose values count. */
export type Choices<T> = readonly T[] | Readonly<Record<string, T>>;

/** Options that every field takes. */
export interface FieldOptions<T> {
  /** Missing or null is accepted; the value then reads as null. Default: required. */
  readonly optional?: boolean;
  /** Taken when the value is missing or null; a function is called each time. */
  readonly default?: T | (() => T);
  /** The identity of the element; generated when left out. */
  readonly identifier?: boolean;
  /** No two rows may hold the same value; checked when saved. */
  readonly unique?: boolean;
  readonly choices?: Choices<T>;
  readonly description?: string;
  /** Database column. Default: the wire name. */
  readonly referencedAs?: string;
  /** Name on the wire. Default: derived from the declared name by the domain's `wireNames`. */
  readonly wireName?: string;
  /** Older wire names that stored data may still use. */
  readonly renamedFrom?: string | readonly string[];
  /** Shown by `protean check` where the field is used. */
  readonly deprecated?: boolean | string;
  /** Run last and not on null; a refusal is a thrown ValidationError or any Error, whose message counts. */
  readonly validators?: readonly ((value: T) => void)[];
}
export interface StringOptions extends FieldOptions<string> {
  /** In UTF-16 units. */
  readonly minLength?: number;
  /** In UTF-16 units; default 255 for `f.string`, none for `f.text`. */
  readonly maxLength?: number;
}
export interface NumberOptions extends FieldOptions<number> {
  readonly min?: number;
  readonly max?: number;
}
export interface IntegerOptions extends FieldOptions<number> {
  readonly min?: number;
  readonly max?: number;
  readonly bigint?: false;
}
export interface BigintOptions extends FieldOptions<bigint> {
  readonly min?: bigint | number;
  readonly max?: bigint | number;
  /** The value is a `bigint` in code: for integers beyond 2^53. */
  readonly bigint: true;
}
export interface DecimalOptions extends FieldOptions<string> {
  /** Digits in all; also of the database column. */
  readonly precision?: number;
  /** Digits after the point, at most. */
  readonly scale?: number;
  readonly min?: string | number;
  readonly max?: string | number;
}
export interface DateTimeOptions extends FieldOptions<Date> {
  /** Stamped at every save. */
  readonly autoNow?: boolean;
  /** Stamped at the first save. */
  readonly autoNowAdd?: boolean;
  readonly as?: "date";
}
export interface DateTimeTextOptions extends FieldOptions<string> {
  readonly autoNow?: boolean;
  readonly autoNowAdd?: boolean;
  /** ISO text in code: keeps the microseconds that Python writes. */
  readonly as: "string";
}
export interface AutoOptions extends FieldOptions<string> {
  /** Counting identities need the database's help, which this version doesn't have: refused at `init()`. */
  readonly increment?: boolean;
}
export interface CustomOptions<Out> extends FieldOptions<Out> {
  /** Turns the value into JSON; needed when it isn't already. */
  readonly toWire?: (value: Out) => JsonValue;
}

/** Out: type on instances. In: type accepted by the constructor. Opt: may be left out. Id: is the identity. */
export interface Field<Out, In = Out, Opt extends boolean = boolean, Id extends boolean = boolean> {
  readonly kind: FieldKind;
  readonly options: Readonly<Record<string, unknown>>;
  readonly inner?: AnyField | undefined;
  readonly target?: ElementClass | undefined;
  readonly schema?: StandardSchema | undefined;
  readonly "~out"?: Out;
  readonly "~in"?: In;
  readonly "~opt"?: Opt;
  readonly "~id"?: Id;
}
export type AnyField = Field<unknown, unknown>;
export type Fields = Readonly<Record<string, AnyField>>;
export type ElementClass = abstract new (...args: never) => object;

export type ChoiceOr<T, O> = O extends { readonly choices: readonly (infer C)[] }
  ? C
  : O extends { readonly choices: Readonly<Record<string, infer C>> }
    ? C
    : T;
export type Nullable<T, O> = O extends { readonly default: unknown }
  ? T
  : O extends { readonly optional: true } | { readonly autoNow: true } | { readonly autoNowAdd: true }
    ? T | null
    : T;
export type IsOptional<O> = O extends
  | { readonly optional: true }
  | { readonly default: unknown }
  | { readonly identifier: true }
  | { readonly autoNow: true }
  | { readonly autoNowAdd: true }
  ? true
  : false;
export type IsIdentity<O> = O extends { readonly identifier: true } ? true : false;
export type Make<T, O> = Field<Nullable<ChoiceOr<T, O>, O>, Nullable<ChoiceOr<T, O>, O>, IsOptional<O>, IsIdentity<O>>;
export type MakeAuto<T, O> = Field<T, T, true, IsIdentity<O>>;
export type MakeList<Out, In, O> = Field<Nullable<readonly Out[], O>, Nullable<readonly In[], O>, true, false>;
export type None = Record<never, never>;
/** Options as given: their literals are kept, arguments of functions among them are typed, and a name that isn't an option is an error. */
export type Given<O, Options> = O & Options & { readonly [K in Exclude<keyof O, keyof Options>]: never };

/** Options of fields that hold other elements. */
export interface TargetOptions {
  readonly optional?: boolean;
  readonly description?: string;
  readonly referencedAs?: string;
  readonly wireName?: string;
  readonly renamedFrom?: string | readonly string[];
  readonly deprecated?: boolean | string;
}
export interface StatusOptions<S extends string> {
  readonly optional?: boolean;
  readonly default?: S;
  /** Allowed next states; a state that is no key is final. Left out: every change is allowed. */
  readonly transitions?: { readonly [K in S]?: readonly S[] };
  readonly description?: string;
  readonly referencedAs?: string;
  readonly wireName?: string;
  readonly renamedFrom?: string | readonly string[];
  readonly deprecated?: boolean | string;
  readonly validators?: readonly ((value: S) => void)[];
}

const FIELD: unique symbol = Symbol.for("protean.field");

/** True for what the functions of `f` return. */
export function isField(value: unknown): value is AnyField {
  return typeof value === "object" && value !== null && FIELD in value;
}

function make(kind: FieldKind, options: object | undefined, extra: Partial<AnyField> = {}): never {
  return Object.freeze({ [FIELD]: true, kind, options: Object.freeze({ ...options }), ...extra }) as never;
}

function dict<V = JsonValue>(
  options: FieldOptions<Readonly<Record<string, V>>> & { readonly optional: true },
): Field<Readonly<Record<string, V>> | null, Readonly<Record<string, V>> | null, true, false>;
function dict<V = JsonValue>(
  options?: FieldOptions<Readonly<Record<string, V>>>,
): Field<Readonly<Record<string, V>>, Readonly<Record<string, V>>, true, false>;
function dict(options?: object): never {
  return make("dict", options);
}

function integer<const O extends BigintOptions>(options: Given<O, BigintOptions>): Make<bigint, O>;
function integer<const O extends IntegerOptions = None>(options?: Given<O, IntegerOptions>): Make<number, O>;
function integer(options?: object): never {
  return make("integer", options);
}

function dateTime<const O extends DateTimeTextOptions>(options: Given<O, DateTimeTextOptions>): Make<string, O>;
function dateTime<const O extends DateTimeOptions = None>(options?: Given<O, DateTimeOptions>): Make<Date, O>;
function dateTime(options?: object): never {
  return make("datetime", options);
}

/** The kinds of fields. Every field is required unless it says `optional: true` or has a `default`. */
export const f = {
  /** Text up to 255 characters, or `maxLength`. A required one isn't empty. */
  string: <const O extends StringOptions = None>(options?: Given<O, StringOptions>): Make<string, O> => make("string", options),
  /** Text of any length. */
  text: <const O extends StringOptions = None>(options?: Given<O, StringOptions>): Make<string, O> => make("text", options),
  /** Identity of this or of another element. On the wire a number is accepted too. */
  identifier: <const O extends FieldOptions<string> = None>(options?: Given<O, FieldOptions<string>>): Make<string, O> =>
    make("identifier", options),
  /** An identifier that is generated when left out. */
  auto: <const O extends AutoOptions = None>(options?: Given<O, AutoOptions>): MakeAuto<string, O> => make("auto", options),
  /** Whole number, safe below 2^53; with `bigint: true` any. */
  integer,
  /** Finite number; always a float on the wire (`10.0`). */
  float: <const O extends NumberOptions = None>(options?: Given<O, NumberOptions>): Make<number, O> => make("float", options),
  /** Exact number as text, in code and on the wire. */
  decimal: <const O extends DecimalOptions = None>(options?: Given<O, DecimalOptions>): Make<string, O> => make("decimal", options),
  boolean: <const O extends FieldOptions<boolean> = None>(options?: Given<O, FieldOptions<boolean>>): Make<boolean, O> =>
    make("boolean", options),
  /** `YYYY-MM-DD`, in code and on the wire. */
  date: <const O extends FieldOptions<string> = None>(options?: Given<O, FieldOptions<string>>): Make<string, O> => make("date", options),
  /** `Date` in code (milliseconds); `as: "string"` gives ISO text with all digits. */
  dateTime,
  /** One of the states, changed along `transitions` only. */
  status: <const S extends readonly string[], const O extends StatusOptions<S[number]> = None>(
    states: S,
    options?: Given<O, StatusOptions<S[number]>>,
  ): Field<Nullable<S[number], O>, Nullable<S[number], O>, IsOptional<O>, false> => make("status", { ...options, choices: states }),
  /** Frozen array; left out it is empty. */
  list: <Out, In, const O extends FieldOptions<readonly In[]> = None>(
    inner: Field<Out, In>,
    options?: Given<O, FieldOptions<readonly In[]>>,
  ): MakeList<Out, In, O> => make("list", options, { inner: inner as AnyField }),
  /** Frozen JSON object; its keys are never renamed. Left out it is empty. */
  dict,
  /** A value object; nested on the wire, one column per field in tables. */
  valueObject: <V extends object, const O extends TargetOptions & { readonly default?: V | (() => V) } = None>(
    target: abstract new (...args: never) => V,
    options?: O,
  ): Field<Nullable<V, O>, Nullable<V, O>, IsOptional<O>, false> => make("valueObject", options, { target }),
  /** One child entity, or null. */
  hasOne: <E extends object>(
    target: abstract new (...args: never) => E,
    options?: TargetOptions,
  ): Field<E | null, E | null, true, false> & { readonly "~child"?: E } => make("hasOne", { optional: true, ...options }, { target }),
  /** Child entities: a readonly array with `add`, `remove`, `get`, `filter`. */
  hasMany: <E extends object>(
    target: abstract new (...args: never) => E,
    options?: Omit<TargetOptions, "optional">,
  ): Field<HasMany<E>, readonly E[], true, false> & { readonly "~child"?: E } => make("hasMany", options, { target }),
  /**
   * Whatever a Standard Schema accepts.
   * @throws IncorrectUsageError when the schema validates asynchronously: constructors are synchronous
   */
  custom: <Out, In = Out, const O extends CustomOptions<Out> = None>(
    schema: StandardSchema<In, Out>,
    options?: Given<O, CustomOptions<Out>>,
  ): Field<Nullable<Out, O>, Nullable<In, O>, IsOptional<O>, false> => {
    let first: unknown;
    try {
      first = schema["~standard"].validate(undefined);
    } catch {
      // A schema that throws on undefined is synchronous, and that is all we ask here.
    }
    if (first instanceof Promise) {
      first.catch(() => undefined);
      throw new IncorrectUsageError(`f.custom: this ${schema["~standard"].vendor} schema validates asynchronously`, {
        fix: "Constructors are synchronous: use a schema without asynchronous checks.",
      });
    }
    return make("custom", options, { schema: schema as StandardSchema });
  },
};

/**
 * Child entities of an aggregate or entity. Changes go through `add` and `remove`, so that invariants see them. Loaded from a table they come in the
 * order of their identities; generated identities ascend in the order in which the entities were made.
 */
export interface HasMany<E> extends ReadonlyArray<E> {
  /** Adds a child, or replaces the one with the same identity. */
  add(item: E): void;
  /** @throws ValidationError when it isn't in the collection */
  remove(item: E): void;
  /** @throws ObjectNotFoundError, TooManyObjectsError unless exactly one child has these values */
  get(where: Partial<E>): E;
  filter<S extends E>(predicate: (value: E, index: number, array: readonly E[]) => value is S, thisArg?: unknown): S[];
  filter(predicate: (value: E, index: number, array: readonly E[]) => unknown, thisArg?: unknown): E[];
  filter(where: Partial<E>): E[];
}

/** Standard Schema v1, the part that is used here. */
export interface StandardSchema<In = unknown, Out = In> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<Out> | Promise<StandardResult<Out>>;
    readonly types?: { readonly input: In; readonly output: Out } | undefined;
  };
}
export type StandardResult<Out> =
  | { readonly value: Out; readonly issues?: undefined }
  | { readonly issues: readonly StandardIssue[]; readonly value?: undefined };
export interface StandardIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

export type { JsonObject, JsonValue };

export type OutOf<X> = X extends Field<infer Out, infer _In> ? Out : never;
export type InOf<X> = X extends Field<infer _Out, infer In> ? In : never;
export type OptionalKeys<F> = {
  [K in keyof F]: F[K] extends Field<infer _O, infer _I, infer P> ? (true extends P ? K : never) : never;
}[keyof F];
export type IdentityKeys<F> = {
  [K in keyof F]: F[K] extends Field<infer _O, infer _I, infer _P, infer D> ? (true extends D ? K : never) : never;
}[keyof F];
export type Show<T> = { [K in keyof T]: T[K] } & {};

/** What instances hold. */
export type Infer<F extends Fields> = { -readonly [K in keyof F]: OutOf<F[K]> };
/** What `new X({...})` accepts. */
export type Input<F extends Fields> = Show<
  { readonly [K in Exclude<keyof F, OptionalKeys<F>>]: InOf<F[K]> } & { readonly [K in OptionalKeys<F>]?: InOf<F[K]> | null | undefined }
>;
/** Adds `id` when no field was declared as the identity. */
export type AutoId<F extends Fields> = [IdentityKeys<F>] extends [never] ? { readonly id: string } : unknown;
export type AutoIdInput<F extends Fields> = [IdentityKeys<F>] extends [never] ? { readonly id?: string } : unknown;
/** Mutable state; the identity stays read-only. */
export type State<F extends Fields> = Show<
  { readonly [K in IdentityKeys<F>]: OutOf<F[K]> } & { -readonly [K in Exclude<keyof F, IdentityKeys<F>>]: Assigned<F[K]> } & AutoId<F>
>;
/** `hasMany` reads as a collection. */
export type Assigned<X> = OutOf<X>;
export type NeedsIdentifier<F extends Fields> = [IdentityKeys<F>] extends [never]
  ? { readonly "~error": "a projection needs one field declared with { identifier: true }" }
  : unknown;
/** Field values of an entity inside a fact event: data only. */
export type ChildFacts<E> = Readonly<{
  [K in keyof E as K extends `$${string}` | `~${string}` | "toJSON" | "raise"
    ? never
    : E[K] extends (...args: never) => unknown
      ? never
      : K]: E[K];
}>;
/** Fields of a fact event: those of the aggregate, child entities as data. */
export type FactOut<X> = X extends { readonly "~child"?: infer E }
  ? X extends Field<HasMany<infer _E>, infer _In>
    ? readonly ChildFacts<NonNullable<E>>[]
    : ChildFacts<NonNullable<E>> | null
  : OutOf<X>;
export type FactValues<F extends Fields> = Readonly<{ [K in keyof F]: FactOut<F[K]> }> & AutoId<F>;
