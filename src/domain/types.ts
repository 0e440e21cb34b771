/** What users' code sees: instance types, options of declarations, builders, repositories. Types only. */
import type { Metadata } from "../messages/envelope.ts";
import type { JsonObject } from "../messages/json.ts";
import type { HandlerContext } from "./context.ts";
import type { ElementMeta, META } from "./element.ts";
import type { AutoIdInput, FactValues, Fields, Infer, Input, StandardSchema, State } from "./fields.ts";
import type { Q } from "./query.ts";
import type { SubscriptionOptions } from "./reaction.ts";

export type Awaitable<T> = T | Promise<T>;

// ---------------------------------------------------------------------------------------------------------------- instances

export interface AnyMessage {
  readonly $name: string;
  /** Headers, domain facts and extensions; null before the message is raised or processed. */
  readonly $metadata: Metadata | null;
  /** The payload in wire names. */
  toJSON(): JsonObject;
}
export interface AnyEvent extends AnyMessage {
  readonly $kind: "event";
}
export interface AnyCommand extends AnyMessage {
  readonly $kind: "command";
  readonly $partOf: string;
  readonly "~result"?: unknown;
}
export interface AnyQuery {
  readonly $kind: "query";
  readonly $name: string;
  readonly "~result"?: unknown;
}
export interface AnyAggregate {
  readonly $kind: "aggregate";
  readonly $name: string;
  readonly $version: number;
  readonly "~events"?: AnyEvent;
  toJSON(): JsonObject;
}
export interface AnyProjection {
  readonly $kind: "projection";
  readonly $name: string;
  toJSON(): JsonObject;
}
export type ClassOf<T extends object> = (new (init: never) => T) & { readonly [META]: ElementMeta };
export type ResultOf<M> = M extends { readonly "~result"?: infer R } ? R : unknown;
/** Union of the events that an aggregate declares. */
export type EventsOf<A> = A extends { readonly "~events"?: infer E extends AnyEvent } ? E : never;
/** What handlers of an aggregate may be given: its declared events, and its fact event when it has one. */
export type HandledEventsOf<A> = EventsOf<A> | (A extends { readonly "~fact"?: infer E extends AnyEvent } ? E : never);
/** Names of the declared fields of a message or state. */
export type FieldName<M> = Extract<
  {
    [K in keyof M]: K extends `$${string}` | `~${string}` | "toJSON" | "raise" | "equals" | "canTransitionTo" | "markAsComplete"
      ? never
      : M[K] extends (...args: never) => unknown
        ? never
        : K;
  }[keyof M],
  string
>;

export type EventOf<N extends string, F extends Fields> = Readonly<Infer<F>> & {
  readonly $kind: "event";
  readonly $name: N;
  readonly $metadata: Metadata | null;
  toJSON(): JsonObject;
};
export type CommandOf<N extends string, F extends Fields, P extends string, R> = Readonly<Infer<F>> & {
  readonly $kind: "command";
  readonly $name: N;
  readonly $partOf: P;
  readonly $metadata: Metadata | null;
  readonly "~result"?: R;
  toJSON(): JsonObject;
};
export type QueryOf<N extends string, F extends Fields, R> = Readonly<Infer<F>> & {
  readonly $kind: "query";
  readonly $name: N;
  readonly "~result"?: R;
  toJSON(): JsonObject;
};
export type ValueOf<N extends string, F extends Fields> = Readonly<Infer<F>> & {
  readonly $kind: "valueObject";
  readonly $name: N;
  /** True for the same kind of value object with the same values. */
  equals(other: unknown): boolean;
  toJSON(): JsonObject;
};
export type EntityOf<N extends string, F extends Fields> = State<F> & {
  readonly $kind: "entity";
  readonly $name: N;
  /** Raises an event of the aggregate that holds this entity. */
  raise(event: AnyEvent): void;
  /** Whether a status field may go to this state now. */
  canTransitionTo(field: Extract<keyof F, string>, state: string): boolean;
  toJSON(): JsonObject;
};
export type AggregateOf<N extends string, F extends Fields, E extends AnyEvent> = State<F> & {
  readonly $kind: "aggregate";
  readonly $name: N;
  /** -1 before the first save. */
  readonly $version: number;
  /** Raised and not committed yet. */
  readonly $events: readonly E[];
  readonly "~events"?: E;
  /**
   * Raises one of the declared events; event-sourced aggregates apply it at once and take it back when a check fails.
   * @throws ValidationError from invariants, or naming the field of a payload above the limit
   */
  raise(event: E): void;
  canTransitionTo(field: Extract<keyof F, string>, state: string): boolean;
  toJSON(): JsonObject;
};
export type ProjectionOf<N extends string, F extends Fields> = State<F> & {
  readonly $kind: "projection";
  readonly $name: N;
  toJSON(): JsonObject;
};
/** State of a process manager. */
export type ProcessState<F extends Fields> = Infer<F> & { readonly $complete: boolean; markAsComplete(): void };

// ---------------------------------------------------------------------------------------------------------------- classes

/** The static side that `class X extends domain.event(...) {}` inherits. */
export interface Static {
  readonly [META]: ElementMeta;
}
export type MessageBase<I, T extends object> = {
  new (init: I): T;
  /** From JSON in wire names (declared names are taken too). @throws ValidationError with every mistake */
  fromWire<C extends object>(this: new (init: never) => C, json: JsonObject): C;
} & Static &
  StandardSchema<I, T>;
export type AggregateBase<I, T extends object> = { new (init: I): T } & Static & StandardSchema<I, T>;
export type EventSourcedBase<I, T extends object> = AggregateBase<I, T> & {
  /** Starts a new aggregate: identity only, the rest comes from the creation event. */
  createNew<C extends object>(this: new (init: never) => C, identity?: { readonly id?: string }): C;
};
/** Instances of aggregates with `factEvents: true`. */
export type StatesFacts<N extends string, F extends Fields> = { readonly "~fact"?: FactEventOf<N, F> };
/** Static side of aggregates with `factEvents: true`. */
export type WithFactEvent<N extends string, F extends Fields> = {
  readonly FactEvent: (new (init: FactValues<F>) => FactEventOf<N, F>) & Static;
};
export type FactEventOf<N extends string, F extends Fields> = FactValues<F> & {
  readonly $kind: "event";
  readonly $name: `${N}FactEvent`;
  readonly $metadata: Metadata | null;
  toJSON(): JsonObject;
};

// ---------------------------------------------------------------------------------------------------------------- options

/** Named checks; each throws a ValidationError to refuse. All of a stage run, and their messages are put together. */
export interface Invariants<S> {
  /** Before every change. */
  readonly pre?: Readonly<Record<string, (self: S) => void>>;
  /** After every change and after construction; a failure takes the change back. */
  readonly post?: Readonly<Record<string, (self: S) => void>>;
}
export type EventClasses = readonly ClassOf<AnyEvent>[];
export type Ev<Es extends EventClasses> = InstanceType<Es[number]>;
/** One fold per declared event: a missing or misspelt key is a compile error. */
export type ApplyMap<S, E extends AnyEvent> = {
  readonly [K in E["$name"]]: (state: S, event: Extract<E, { readonly $name: K }>) => void;
};
export type WithFields<F extends Fields> = { readonly fields: F };

export interface IndexOption {
  /** Declared field names. */
  readonly columns: readonly string[];
  readonly unique: boolean;
}
export interface AggregateOptions {
  /** Raises `<Name>FactEvent` with the whole state at every save. Default false. */
  readonly factEvents?: boolean;
  /** Last part of the stream category; default the name in snake case. */
  readonly streamCategory?: string;
  /** Key under `[databases]`; default `default`. */
  readonly provider?: string;
  /** Table name; default the name in snake case. */
  readonly schemaName?: string;
  /** Adds an `id` when no field is the identity. Default true. */
  readonly autoAddIdField?: boolean;
  /** Rows of a query that sets no limit; null for none. Default 100. */
  readonly limit?: number | null;
  readonly indexes?: readonly IndexOption[];
  /** Retired field names: never declared again, ignored in stored data. */
  readonly reserved?: readonly string[];
}
export interface StateBasedDefinition<F extends Fields, Es extends EventClasses> extends AggregateOptions {
  readonly fields: F;
  readonly events?: Es;
  readonly eventSourced?: false;
  readonly invariants?: Invariants<State<F>>;
}
export interface EventSourcedDefinition<F extends Fields, Es extends EventClasses> extends AggregateOptions {
  readonly fields: F;
  readonly events: Es;
  readonly eventSourced: true;
  readonly apply: ApplyMap<State<F>, Ev<Es>>;
  readonly invariants?: Invariants<State<F>>;
}
export interface EventOptions {
  /** Of the payload's shape; from 1, default 1. */
  readonly version?: number;
  /** Also goes to the external brokers. Default false. */
  readonly published?: boolean;
  readonly deprecated?: boolean | string;
  readonly supersededBy?: string;
  /** Unknown fields are dropped when read. */
  readonly lenient?: boolean;
}
export interface CommandOptions {
  readonly version?: number;
  readonly deprecated?: boolean | string;
  readonly supersededBy?: string;
  readonly lenient?: boolean;
}
export interface EntityOptions {
  readonly schemaName?: string;
  readonly provider?: string;
  readonly autoAddIdField?: boolean;
}
export interface ProjectionOptions {
  readonly provider?: string;
  readonly schemaName?: string;
  readonly limit?: number | null;
  readonly indexes?: readonly IndexOption[];
}
/** Type-only token: what a command or query resolves to. */
export interface Returns<R> {
  readonly "~result"?: R;
}

// ---------------------------------------------------------------------------------------------------------------- reactions

/** Options of every handler; what they mean together with domain.toml is the precedence table of the configuration. */
export type HandlerOptions = Omit<SubscriptionOptions, "sourceStream">;

export type HandlerFunction<M, R = void> = (message: M, context: HandlerContext) => Awaitable<R>;

export interface MethodOptions {
  /** Stored name of the method (idempotency markers); default `handle_<command>` or `on_<event>`. */
  readonly name?: string;
}
export interface Reacting {
  readonly [REACTION]: true;
}
export declare const REACTION: unique symbol;

export interface CommandHandler<P extends string> {
  handle<C extends AnyCommand & { readonly $partOf: P }>(command: ClassOf<C>, run: HandlerFunction<C, ResultOf<C>>): this;
  handle<C extends AnyCommand & { readonly $partOf: P }>(
    command: ClassOf<C>,
    options: MethodOptions,
    run: HandlerFunction<C, ResultOf<C>>,
  ): this;
  /** After a failed attempt; its own errors are logged. */
  onError(run: (error: unknown, message: unknown) => Awaitable<void>): this;
  /** Runs the method for this command in a unit of work, for tests. */
  invoke<C extends AnyCommand & { readonly $partOf: P }>(command: C): Promise<ResultOf<C>>;
}
export interface EventHandler<Allowed extends AnyEvent> {
  handle<E extends Allowed>(event: ClassOf<E>, run: HandlerFunction<E>): this;
  handle<E extends Allowed>(event: ClassOf<E>, options: MethodOptions, run: HandlerFunction<E>): this;
  /** Events without a method of their own; types that this domain doesn't know come as a generic event. */
  handleAny(run: HandlerFunction<AnyEvent>): this;
  onError(run: (error: unknown, message: unknown) => Awaitable<void>): this;
  invoke<E extends Allowed>(event: E): Promise<void>;
}
export interface Projector<Allowed extends AnyEvent> {
  on<E extends Allowed>(event: ClassOf<E>, run: HandlerFunction<E>): this;
  on<E extends Allowed>(event: ClassOf<E>, options: MethodOptions, run: HandlerFunction<E>): this;
  onError(run: (error: unknown, message: unknown) => Awaitable<void>): this;
  invoke<E extends Allowed>(event: E): Promise<void>;
}
/** Field that both sides have, or one pair `{ stateField: "eventField" }`. */
export type Correlate<F extends Fields, E> =
  | (FieldName<E> & Extract<keyof F, string>)
  | { readonly [K in Extract<keyof F, string>]?: FieldName<E> };
export interface ProcessMethodOptions<F extends Fields, E> extends MethodOptions {
  /** This event may begin an instance. */
  readonly start?: boolean;
  /** The instance is complete after it. */
  readonly end?: boolean;
  readonly correlate: Correlate<F, E>;
  /** What to do with an event that is no start when there is no instance. Default `skip` (counted and logged). */
  readonly onMissing?: "skip" | "retry";
}
export interface ProcessManager<F extends Fields, Allowed extends AnyEvent> {
  readonly "~state"?: ProcessState<F>;
  handle<E extends Allowed>(
    event: ClassOf<E>,
    options: ProcessMethodOptions<F, E>,
    run: (state: ProcessState<F>, event: E, context: HandlerContext) => Awaitable<void>,
  ): this;
  onError(run: (error: unknown, message: unknown) => Awaitable<void>): this;
  invoke<E extends Allowed>(event: E): Promise<void>;
}
export interface QueryHandler {
  read<Query extends AnyQuery>(query: ClassOf<Query>, run: (query: Query) => Awaitable<ResultOf<Query>>): this;
  invoke<Query extends AnyQuery>(query: Query): Promise<ResultOf<Query>>;
}
export interface Subscriber<T> {
  handle(run: (payload: T, context: HandlerContext) => Awaitable<void>): this;
  /** Gets payloads that failed, also those that the schema refused. */
  onError(run: (error: unknown, payload: JsonObject) => Awaitable<void>): this;
  invoke(payload: T): Promise<void>;
}

// ---------------------------------------------------------------------------------------------------------------- queries

export type Scalar = string | number | bigint | Date;
/** A value, or lookups that fit its type. */
export type LookupOf<V> =
  | V
  | { readonly exact?: V; readonly in?: readonly V[]; readonly isnull?: boolean }
  | (NonNullable<V> extends Scalar ? { readonly gt?: V; readonly gte?: V; readonly lt?: V; readonly lte?: V } : never)
  | (NonNullable<V> extends string
      ? {
          readonly contains?: string;
          readonly icontains?: string;
          readonly startswith?: string;
          readonly endswith?: string;
          readonly iexact?: string;
        }
      : never)
  | (NonNullable<V> extends readonly (infer I)[]
      ? { readonly contains?: I | readonly I[]; readonly any?: I | readonly I[]; readonly overlap?: readonly I[] }
      : never)
  | (NonNullable<V> extends { readonly $kind: "valueObject" } ? Filter<NonNullable<V>> : never);
/** Conditions that must all hold. */
export type Filter<T> = { readonly [K in FieldName<T>]?: LookupOf<T[K & keyof T]> };
export type Where<T> = Filter<T> | Q<T>;

/** A readonly array that knows where in the whole it lies. */
export interface ResultSet<T> extends ReadonlyArray<T> {
  /** Rows that fit, not only those here. */
  readonly total: number;
  /** From 1. */
  readonly page: number;
  readonly pageSize: number;
  readonly totalPages: number;
  readonly hasNext: boolean;
  readonly hasPrev: boolean;
}
export interface QuerySet<T> extends AsyncIterable<T> {
  filter(where: Where<T>): QuerySet<T>;
  exclude(where: Where<T>): QuerySet<T>;
  /** Replaces the order; `-` in front means descending. */
  orderBy(...keys: readonly (FieldName<T> | `-${FieldName<T>}`)[]): QuerySet<T>;
  /** Default 100; null for all. */
  limit(count: number | null): QuerySet<T>;
  offset(count: number): QuerySet<T>;
  only<K extends FieldName<T>>(...fields: readonly K[]): QuerySet<Readonly<Pick<T, K & keyof T>>>;
  all(): Promise<ResultSet<T>>;
  first(): Promise<T | null>;
  count(): Promise<number>;
}
/** Query sets of projections can also change and delete all rows that fit. */
export interface ProjectionQuerySet<T> extends QuerySet<T> {
  filter(where: Where<T>): ProjectionQuerySet<T>;
  exclude(where: Where<T>): ProjectionQuerySet<T>;
  /** Changes all rows that fit, when the unit of work commits. */
  update(values: { readonly [K in FieldName<T>]?: T[K & keyof T] }): Promise<void>;
  delete(): Promise<void>;
}
/** A moment in an event-sourced aggregate's life. */
export type Moment = { readonly atVersion: number } | { readonly asOf: Date | string };

/** Repository of an event-sourced aggregate: no queries, since there is no table. */
export interface EventSourcedRepository<A> {
  /** @throws ObjectNotFoundError */
  get(id: string): Promise<A>;
  /** As it was then; it can't be changed. */
  get(id: string, at: Moment): Promise<Readonly<A>>;
  getOrNull(id: string): Promise<A | null>;
  getOrNull(id: string, at: Moment): Promise<Readonly<A> | null>;
  /** Saves when the unit of work commits; outside of one at once. @throws ExpectedVersionError when another writer was faster */
  add(aggregate: A): Promise<A>;
}
export interface Repository<A> {
  /** @throws ObjectNotFoundError */
  get(id: string): Promise<A>;
  getOrNull(id: string): Promise<A | null>;
  add(item: A): Promise<A>;
  /** @throws ObjectNotFoundError, TooManyObjectsError */
  findBy(where: Where<A>): Promise<A>;
  readonly query: QuerySet<A>;
}
export interface ProjectionRepository<P> {
  get(id: string): Promise<P>;
  getOrNull(id: string): Promise<P | null>;
  add(row: P): Promise<P>;
  findBy(where: Where<P>): Promise<P>;
  readonly query: ProjectionQuerySet<P>;
  remove(row: P): Promise<void>;
  /** Changes the row, or creates it when there is none; safe under retries. */
  upsert(id: string, create: () => Awaitable<P>, change: (row: P) => Awaitable<void>): Promise<P>;
}
export type RepositoryOf<T> = T extends { readonly "~eventSourced"?: true }
  ? EventSourcedRepository<T>
  : T extends { readonly $kind: "projection" }
    ? ProjectionRepository<T>
    : Repository<T>;
/** Marks event-sourced aggregates in types. */
export interface EventSourced {
  readonly "~eventSourced"?: true;
}
export interface ReadView<P> {
  get(id: string): Promise<Readonly<P>>;
  getOrNull(id: string): Promise<Readonly<P> | null>;
  findBy(where: Where<P>): Promise<Readonly<P>>;
  exists(id: string): Promise<boolean>;
  count(): Promise<number>;
  readonly query: QuerySet<Readonly<P>>;
}

export type { AutoIdInput, Input };
