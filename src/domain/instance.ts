/**
 * What instances of declared classes do: construct, check, change, raise, replay.
 *
 * Messages and value objects are frozen: their fields are own properties. Aggregates, entities, projections and process-manager state
 * keep their values in one hidden record, and accessors on the class's prototype guard every assignment:
 *
 *   outside an atomic change   transition → all pre invariants of the root → field check → set → all post; a failing post takes it back
 *   inside `atomicChange`      field check → set, with a note in the root's journal; pre ran before, transitions and post run at the end,
 *                              and any failure plays the journal backwards
 *   while replaying (`fold`)   set; history is not argued with
 */
import { Buffer } from "node:buffer";
import {
  ConfigurationError,
  IncorrectUsageError,
  InvalidOperationError,
  ObjectNotFoundError,
  TooManyObjectsError,
  ValidationError,
} from "../errors.ts";
import type { Metadata } from "../messages/envelope.ts";
import { type JsonObject, toJsonText } from "../messages/json.ts";
import { eventStream, factStream, stateSequence } from "../messages/names.ts";
import type { Row } from "../ports/database.ts";
import { newChildIdentity } from "./child-identity.ts";
import { type Constructor, type ElementMeta, META } from "./element.ts";
import type { FieldPlan } from "./field-plan.ts";
import type { HasMany, StandardIssue, StandardResult } from "./fields.ts";
import { eventMetadata } from "./message-metadata.ts";
import { Loaded, type Model, metaOf, remember } from "./model.ts";
import { Problems } from "./problems.ts";
import { rowWrites } from "./rows.ts";
import { fromInput, toPlain, toWire } from "./wire.ts";

export { metaOf, rememberExports } from "./model.ts";
export { markSaved } from "./rows.ts";

// ---------------------------------------------------------------------------------------------------------------- state

/** Rows as they were loaded, to tell what changed. */
export interface LoadedRows {
  /** As we would write it. */
  readonly row: Row;
  /** As the database gave it: what an update is guarded by. */
  readonly stored: Row;
  /** By child table, then by key. */
  readonly children: ReadonlyMap<string, ReadonlyMap<string, Row>>;
}

export interface RaisedEvent {
  readonly event: object;
  readonly metadata: Metadata;
}

/** The hidden side of a changeable instance. */
export interface AggregateState {
  /** -1 = never saved; of event-sourced ones the number of the last applied event. */
  version: number;
  /** Raised and not yet committed. */
  events: RaisedEvent[];
  /** Views and temporal reads: assignments and `raise` throw. */
  readOnly: boolean;
  /** null = not in the database yet. */
  loaded: LoadedRows | null;
  /** Last position of the event stream: -1 for new aggregates, null when not known. */
  eventPosition: number | null;
}

const STATE: unique symbol = Symbol.for("protean.state");

class InstanceState implements AggregateState {
  readonly owner: object;
  readonly model: Model;
  values: unknown[];
  version = -1;
  events: RaisedEvent[] = [];
  readOnly = false;
  loaded: LoadedRows | null = null;
  eventPosition: number | null = -1;
  /** Entities: the aggregate or entity that holds them. */
  parent: object | null = null;
  /** Inside an atomic change: how to take each step back, oldest first. */
  journal: (() => void)[] | null = null;
  replaying = false;
  complete = false;
  /** autoNow fields were stamped for the save that is under way. */
  stamped = false;

  constructor(owner: object, model: Model, values: unknown[]) {
    this.owner = owner;
    this.model = model;
    this.values = values;
  }
}

type Stateful = { readonly [STATE]: InstanceState };

function hidden(instance: object): InstanceState {
  const state = (instance as Partial<Stateful>)[STATE];
  if (state === undefined) throw new IncorrectUsageError("this is no aggregate, entity, projection or process-manager state");
  return state;
}

/** The hidden side of an aggregate, projection or process-manager state. */
export function stateOf(instance: object): AggregateState {
  return hidden(instance);
}

export function setVersion(instance: object, version: number): void {
  hidden(instance).version = version;
}

function rootOf(state: InstanceState): InstanceState {
  let root = state;
  while (root.parent !== null) root = hidden(root.parent);
  return root;
}

/** Note of a step, played backwards when the atomic change fails. */
function note(root: InstanceState, undo: () => void): void {
  root.journal?.push(undo);
}

/** Identity of an aggregate, entity, projection or process manager, as text. */
export function identityOf(instance: object): string {
  const { model, values } = hidden(instance);
  return model.identityPlan === null ? "" : String(values[model.identityPlan.index] ?? "");
}

// ---------------------------------------------------------------------------------------------------------------- constructing

function valuesFrom(model: Model, input: unknown): unknown[] {
  if (input !== undefined && (typeof input !== "object" || input === null)) {
    throw new ValidationError({ [model.name]: [`needs an object with its fields, not ${input === null ? "null" : typeof input}`] });
  }
  const given = (input ?? {}) as Readonly<Record<string, unknown>>;
  const problems = new Problems();
  const values: unknown[] = new Array(model.plans.length);
  for (const plan of model.plans) {
    let value = Object.hasOwn(given, plan.name) || plan.name in given ? given[plan.name] : undefined;
    if (value === null || value === undefined) {
      value = plan.initial();
      if (value === null && (plan.identifier || plan.kind === "auto") && isGenerated(model))
        value = model.kind === "entity" ? newChildIdentity(model.domain) : model.domain.newIdentity();
    }
    values[plan.index] = plan.accept(value, problems, plan.name);
  }
  for (const key of Object.keys(given)) if (!model.fields.has(key)) problems.add(key, "is not a declared field");
  problems.throwIfFound();
  return values;
}

/** Elements whose identity we make when it is left out; events always say whose they are. */
function isGenerated(model: Model): boolean {
  return model.kind !== "externalEvent";
}

function runStage(instance: object, stage: "pre" | "post", problems: Problems): void {
  const { model, values } = hidden(instance);
  runChecks(instance, model, stage, problems);
  for (const plan of model.childPlans) {
    const value = values[plan.index];
    if (value === null || value === undefined) continue;
    if (plan.isMany) for (const child of value as readonly object[]) runStage(child, stage, problems);
    else runStage(value as object, stage, problems);
  }
}

function runChecks(instance: object, model: Model, stage: "pre" | "post", problems: Problems): void {
  for (const [, check] of model[stage]) {
    try {
      check(instance);
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error;
      problems.addAll(error.messages, "");
    }
  }
}

function requireStage(root: InstanceState, stage: "pre" | "post"): void {
  const problems = new Problems();
  runStage(root.owner, stage, problems);
  problems.throwIfFound();
}

// ---------------------------------------------------------------------------------------------------------------- metadata of messages

/** Root of all frozen classes: keeps the metadata beside the frozen fields. */
class Frozen {
  #metadata: Metadata | null = null;

  static metadataOf(message: object): Metadata | null {
    return #metadata in message ? (message as Frozen).#metadata : null;
  }

  static setMetadata(message: object, metadata: Metadata): void {
    if (!(#metadata in message)) throw new IncorrectUsageError("only events, commands and queries carry metadata");
    (message as Frozen).#metadata = metadata;
  }
}

/** Metadata of an event or command; null before it is raised or processed. */
export function metadataOf(message: object): Metadata | null {
  return Frozen.metadataOf(message);
}

export function setMetadata(message: object, metadata: Metadata): void {
  Frozen.setMetadata(message, metadata);
}

// ---------------------------------------------------------------------------------------------------------------- classes

/** Members that every element class has, static and not. */
function decorate(base: Constructor, model: Model): void {
  const prototype = base.prototype as object;
  const define = (name: PropertyKey, get: (this: object) => unknown): void => {
    Object.defineProperty(prototype, name, { get, configurable: true });
  };
  const method = (target: object, name: PropertyKey, value: unknown): void => {
    Object.defineProperty(target, name, { value, writable: true, configurable: true });
  };
  Object.defineProperty(base, "name", { value: model.name, configurable: true });
  method(base, META, model);
  method(prototype, META, model);
  method(base, Symbol.hasInstance, (value: unknown) => {
    return typeof value === "object" && value !== null && (value as { readonly [META]?: unknown })[META] === model && !isPrototype(value);
  });
  method(base, "fromWire", function fromWire(this: Constructor, json: JsonObject): object {
    remember(model, this);
    return fromInput(model, json);
  });
  Object.defineProperty(base, "~standard", {
    configurable: true,
    get(this: Constructor) {
      remember(model, this);
      return { version: 1, vendor: "protean", validate: (value: unknown) => validateStandard(model, value) };
    },
  });
  define("$kind", () => model.kind);
  define("$name", () => model.name);
  method(prototype, "toJSON", function toJSON(this: object): JsonObject {
    return toPlain(this);
  });
  method(prototype, Symbol.for("nodejs.util.inspect.custom"), function inspect(this: object): unknown {
    return isPrototype(this) ? `[${model.name}]` : { $name: model.name, ...fieldValues(this, model) };
  });
}

function isPrototype(value: object): boolean {
  return Object.hasOwn(value, "constructor");
}

function fieldValues(instance: object, model: Model): Record<string, unknown> {
  return Object.fromEntries(model.plans.map((plan) => [plan.name, (instance as Record<string, unknown>)[plan.name]]));
}

function validateStandard(model: Model, value: unknown): StandardResult<object> {
  if (typeof value === "object" && value !== null && (value as { readonly [META]?: unknown })[META] === model) return { value };
  try {
    return { value: fromInput(model, value) };
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error;
    const issues: StandardIssue[] = [];
    for (const [path, reasons] of Object.entries(error.messages)) {
      for (const message of reasons) issues.push({ message, path: path.split(/[.[\]]+/).filter((part) => part !== "") });
    }
    return { issues };
  }
}

/** Base class of events, commands, queries and value objects. */
export function frozenClass(model: Model): Constructor {
  const { plans } = model;
  class Base extends Frozen {
    constructor(input: unknown) {
      super();
      remember(model, new.target as unknown as Constructor);
      const loaded = input instanceof Loaded ? input : null;
      const values = loaded === null ? valuesFrom(model, input) : loaded.values;
      const self = this as unknown as Record<string, unknown>;
      for (let index = 0; index < plans.length; index += 1) self[(plans[index] as FieldPlan).name] = values[index];
      Object.freeze(this);
      if (model.post.length > 0 && (loaded === null || loaded.checkInvariants)) {
        const problems = new Problems();
        runChecks(this, model, "post", problems);
        problems.throwIfFound();
      }
    }
  }
  const base = Base as unknown as Constructor;
  model.construct = base;
  decorate(base, model);
  const prototype = Base.prototype as object;
  Object.defineProperty(prototype, "$metadata", {
    get(this: object) {
      return Frozen.metadataOf(this);
    },
  });
  Object.defineProperty(prototype, "$partOf", { get: () => model.owner?.name ?? null });
  if (model.kind === "valueObject") {
    Object.defineProperty(prototype, "equals", {
      value(this: object, other: unknown): boolean {
        return other instanceof base && toJsonText(toWire(this)) === toJsonText(toWire(other as object));
      },
    });
  }
  return base;
}

/** Base class of aggregates, entities, projections and process-manager state. */
export function changeableClass(model: Model): Constructor {
  class Base {
    constructor(input: unknown) {
      remember(model, new.target as unknown as Constructor);
      const loaded = input instanceof Loaded ? input : null;
      const values = loaded === null ? valuesFrom(model, input) : loaded.values;
      const state = new InstanceState(this, model, values);
      Object.defineProperty(this, STATE, { value: state });
      for (const plan of model.childPlans) values[plan.index] = adopt(state, plan, values[plan.index]);
      if (loaded === null || loaded.checkInvariants) requireStage(state, "post");
    }
  }
  const base = Base as unknown as Constructor;
  model.construct = base;
  decorate(base, model);
  const prototype = Base.prototype as object;
  for (const plan of model.plans) {
    Object.defineProperty(prototype, plan.name, {
      enumerable: true,
      get(this: Stateful): unknown {
        return hidden(this).values[plan.index];
      },
      set(this: Stateful, value: unknown) {
        assign(hidden(this), plan, value);
      },
    });
  }
  const getter = (name: string, get: (state: InstanceState) => unknown): void => {
    Object.defineProperty(prototype, name, {
      get(this: Stateful) {
        return get(hidden(this));
      },
    });
  };
  const method = (name: string, value: unknown): void => {
    Object.defineProperty(prototype, name, { value });
  };
  method("canTransitionTo", function canTransitionTo(this: Stateful, field: string, value: string): boolean {
    const plan = model.fields.get(field);
    if (plan === undefined) throw new IncorrectUsageError(`${model.name} has no field \`${field}\``);
    return transitionProblem(plan, hidden(this).values[plan.index], value) === null;
  });
  if (model.kind === "aggregate" || model.kind === "entity") {
    method("raise", function raise(this: Stateful, event: object): void {
      raiseOn(rootOf(hidden(this)), event);
    });
    getter("$version", (state) => state.version);
    getter("$events", (state) => state.events.map(({ event }) => event));
  }
  if (model.kind === "aggregate" && model.eventSourced) {
    Object.defineProperty(base, "createNew", {
      value(this: Constructor, identity?: Readonly<Record<string, string>>): object {
        remember(model, this);
        const given = identity === undefined ? undefined : (identity["id"] ?? identity[model.identity ?? "id"]);
        return blank(model, given ?? model.domain.newIdentity());
      },
    });
  }
  if (model.kind === "processManager") {
    getter("$complete", (state) => state.complete);
    method("markAsComplete", function markAsComplete(this: Stateful): void {
      hidden(this).complete = true;
    });
  }
  return base;
}

// ---------------------------------------------------------------------------------------------------------------- changing

function assign(state: InstanceState, plan: FieldPlan, value: unknown): void {
  const root = rootOf(state);
  if (root.replaying) {
    if (plan.identifier && state.values[plan.index] !== null) return;
    const converted = plan.accept(value, new Problems(), plan.name);
    state.values[plan.index] = adopt(state, plan, converted);
    return;
  }
  if (root.readOnly) {
    throw new IncorrectUsageError(`this ${root.model.name} is for reading only: it comes from a view or from the past`, {
      fix: "Load it with domain.repositoryFor(...).get(id) to change it.",
    });
  }
  const current = state.values[plan.index];
  if (plan.identifier && current !== null && value !== current) {
    throw new InvalidOperationError(`${state.model.name}: identifiers cannot be changed once set`);
  }
  if (root.journal !== null) {
    set(root, state, plan, checked(plan, value));
    return;
  }
  const refused = transitionProblem(plan, current, value);
  if (refused !== null) throw new ValidationError({ [plan.name]: [refused] });
  requireStage(root, "pre");
  const accepted = checked(plan, value);
  inJournal(root, () => {
    set(root, state, plan, accepted);
    requireStage(root, "post");
  });
}

function checked(plan: FieldPlan, value: unknown): unknown {
  const problems = new Problems();
  const accepted = plan.accept(
    value ?? (plan.kind === "list" || plan.kind === "dict" || plan.isMany ? plan.initial() : null),
    problems,
    plan.name,
  );
  problems.throwIfFound();
  return accepted;
}

function set(root: InstanceState, state: InstanceState, plan: FieldPlan, value: unknown): void {
  const { index } = plan;
  const old = state.values[index];
  note(root, () => {
    state.values[index] = old;
  });
  for (const child of childrenIn(plan, old)) setParent(root, child, null);
  state.values[index] = adopt(state, plan, value);
}

/** Runs steps that note how to take them back, and takes them back when they fail. */
function inJournal<T>(root: InstanceState, steps: () => T): T {
  const journal: (() => void)[] = [];
  root.journal = journal;
  try {
    return steps();
  } catch (error) {
    for (const undo of journal.reverse()) undo();
    throw error;
  } finally {
    root.journal = null;
  }
}

function transitionProblem(plan: FieldPlan, from: unknown, to: unknown): string | null {
  if (plan.transitions === null || from === null || from === undefined || to === null || to === undefined) return null;
  const allowed = plan.transitions[String(from)] ?? [];
  if (allowed.includes(String(to))) return null;
  if (from === to && plan.transitions[String(from)] === undefined) return `'${String(from)}' is a final state: it can't be entered again`;
  if (from === to) return `is '${String(from)}' already, which isn't among its own next states`;
  if (allowed.length === 0)
    return `Invalid status transition from '${String(from)}' to '${String(to)}': '${String(from)}' is a final state`;
  return `Invalid status transition from '${String(from)}' to '${String(to)}'. Allowed transitions: ${allowed.join(", ")}`;
}

/** Start values of all states in the tree, for comparing them with those at the end. */
function statuses(state: InstanceState, found: Map<InstanceState, unknown[]> = new Map()): Map<InstanceState, unknown[]> {
  if (state.model.statusPlans.length > 0) found.set(state, [...state.values]);
  for (const plan of state.model.childPlans) for (const child of childrenIn(plan, state.values[plan.index])) statuses(hidden(child), found);
  return found;
}

/**
 * Changes an aggregate in several steps with one check: pre invariants, `change`, status transitions from start to end, post invariants.
 * A failure of any of them, or of `change` itself, restores fields, children and raised events.
 * @throws ValidationError when a check refuses the result; whatever `change` throws
 */
export function atomicChange<A extends object>(aggregate: A, change: (aggregate: A) => void): void {
  const root = rootOf(hidden(aggregate));
  if (root.journal !== null || root.replaying) {
    change(aggregate);
    return;
  }
  requireStage(root, "pre");
  const before = statuses(root);
  inJournal(root, () => {
    const result: unknown = change(aggregate);
    if (result instanceof Promise) {
      result.catch(() => undefined);
      throw new IncorrectUsageError("atomicChange takes a synchronous function", { fix: "Await first, then change the aggregate." });
    }
    finish(root, before);
  });
}

function finish(root: InstanceState, before: Map<InstanceState, unknown[]>): void {
  const problems = new Problems();
  for (const [state, values] of before) {
    for (const plan of state.model.statusPlans) {
      const from = values[plan.index];
      const to = state.values[plan.index];
      const refused = from === to ? null : transitionProblem(plan, from, to);
      if (refused !== null) problems.add(plan.name, refused);
    }
  }
  problems.throwIfFound();
  requireStage(root, "post");
}

// ---------------------------------------------------------------------------------------------------------------- children

function childrenIn(plan: FieldPlan, value: unknown): readonly object[] {
  if (value === null || value === undefined) return [];
  if (plan.isMany) return value as readonly object[];
  return plan.kind === "hasOne" ? [value as object] : [];
}

/** The children of one field: none, one, or many. */
export function childrenOf(instance: object, plan: FieldPlan): readonly object[] {
  return childrenIn(plan, hidden(instance).values[plan.index]);
}

function setParent(root: InstanceState | null, child: object, parent: object | null): void {
  const state = hidden(child);
  const old = state.parent;
  if (root !== null && root.journal !== null) {
    // What is taken out of the tree is no longer in its journal, so all of it is kept.
    const kept = parent === null ? valuesIn(state, []) : [];
    note(root, () => {
      state.parent = old;
      for (const [part, values] of kept) part.values = values;
    });
  }
  state.parent = parent;
}

function valuesIn(state: InstanceState, found: [InstanceState, unknown[]][]): readonly (readonly [InstanceState, unknown[]])[] {
  found.push([state, [...state.values]]);
  for (const plan of state.model.childPlans) for (const child of childrenIn(plan, state.values[plan.index])) valuesIn(hidden(child), found);
  return found;
}

/** Makes children belong to their owner, and a plain list of them a collection. */
function adopt(owner: InstanceState, plan: FieldPlan, value: unknown): unknown {
  if (value === null || value === undefined || (plan.kind !== "hasOne" && plan.kind !== "hasMany")) return value ?? null;
  const root = rootOf(owner);
  for (const child of childrenIn(plan, value)) claim(root, owner, plan, child);
  return plan.isMany ? ChildList.holding(owner, plan, value as readonly object[]) : value;
}

function claim(root: InstanceState, owner: InstanceState, plan: FieldPlan, child: object): void {
  const state = hidden(child);
  if (state.parent !== null && state.parent !== owner.owner) {
    throw new IncorrectUsageError(`${plan.name}: this ${state.model.name} belongs to another ${hidden(state.parent).model.name} already`, {
      fix: "Remove it there first, or make a new one.",
    });
  }
  setParent(root, child, owner.owner);
}

/** A real array whose changing methods refuse; `add` and `remove` go through the root's checks. */
class ChildList extends Array<object> {
  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  static holding(owner: InstanceState, plan: FieldPlan, items: readonly object[]): ChildList {
    const list = new ChildList();
    for (const item of items) Array.prototype.push.call(list, item);
    // Not enumerable, so that a collection compares equal to an array of the same children.
    Object.defineProperty(list, LIST, { value: { owner, plan } });
    return list;
  }
}

const LIST: unique symbol = Symbol("protean.list");

interface ListOwner {
  readonly owner: InstanceState;
  readonly plan: FieldPlan;
}

function ownerOf(list: object): ListOwner {
  return (list as { readonly [LIST]: ListOwner })[LIST];
}

/** Replaces what the list holds, as one step of the root. */
function changeList(list: ChildList, change: (root: InstanceState) => object[]): void {
  const { owner } = ownerOf(list);
  const root = rootOf(owner);
  const replace = (items: readonly object[]): void => {
    list.length = 0;
    for (const item of items) Array.prototype.push.call(list, item);
  };
  if (root.readOnly) throw new IncorrectUsageError(`this ${root.model.name} is for reading only: it comes from a view or from the past`);
  const step = (): void => {
    const old = Array.from(list);
    note(root, () => replace(old));
    replace(change(root));
  };
  if (root.journal !== null || root.replaying) {
    step();
    return;
  }
  requireStage(root, "pre");
  inJournal(root, () => {
    step();
    requireStage(root, "post");
  });
}

function matches(item: object, where: Readonly<Record<string, unknown>>): boolean {
  return Object.entries(where).every(([name, wanted]) => {
    const value = (item as Record<string, unknown>)[name];
    if (value instanceof Date && wanted instanceof Date) return value.getTime() === wanted.getTime();
    const equals = (value as { equals?: (other: unknown) => boolean } | null)?.equals;
    return value === wanted || (typeof equals === "function" && equals.call(value, wanted));
  });
}

const listMethods: Pick<HasMany<object>, "add" | "remove" | "get"> & { filter: unknown } = {
  add(this: ChildList, item: object): void {
    const { owner, plan } = ownerOf(this);
    const problems = new Problems();
    plan.accept([item], problems, plan.name);
    problems.throwIfFound();
    changeList(this, (root) => {
      claim(root, owner, plan, item);
      const id = identityOf(item);
      const index = this.findIndex((other) => identityOf(other) === id);
      const items = Array.from(this);
      if (index === -1) items.push(item);
      else items[index] = item;
      return items;
    });
  },
  remove(this: ChildList, item: object): void {
    const { plan } = ownerOf(this);
    const id = identityOf(item);
    const found = this.find((other) => other === item || identityOf(other) === id);
    if (found === undefined)
      throw new ValidationError({ [plan.name]: [`${plan.target?.name ?? "entity"} ${id} is not in the collection`] });
    changeList(this, (root) => {
      setParent(root, found, null);
      return Array.from(this).filter((other) => other !== found);
    });
  },
  get(this: ChildList, where: Readonly<Record<string, unknown>>): object {
    const { plan } = ownerOf(this);
    const found = Array.from(this).filter((item) => matches(item, where));
    const [first] = found;
    if (first === undefined)
      throw new ObjectNotFoundError(`${plan.name}: no ${plan.target?.name ?? "entity"} with ${JSON.stringify(where)}`);
    if (found.length > 1)
      throw new TooManyObjectsError(`${plan.name}: ${found.length} of ${plan.target?.name ?? "entity"} with ${JSON.stringify(where)}`);
    return first;
  },
  filter(this: ChildList, where: unknown, thisArg?: unknown): object[] {
    const items = Array.from(this);
    if (typeof where === "function") return items.filter(where as (item: object) => boolean, thisArg);
    return items.filter((item) => matches(item, where as Readonly<Record<string, unknown>>));
  },
};

for (const [name, value] of Object.entries(listMethods)) Object.defineProperty(ChildList.prototype, name, { value });
for (const name of ["push", "pop", "shift", "unshift", "splice", "sort", "reverse", "fill", "copyWithin"]) {
  Object.defineProperty(ChildList.prototype, name, {
    value: () => {
      throw new IncorrectUsageError(`child entities are changed with add and remove, not with ${name}`);
    },
  });
}

// ---------------------------------------------------------------------------------------------------------------- raising

function raiseOn(root: InstanceState, given: object): void {
  const { model, owner } = root;
  if (root.readOnly) {
    throw new IncorrectUsageError(`this ${model.name} is for reading only: it can't raise events`, {
      fix: "Load it with domain.repositoryFor(...).get(id) first.",
    });
  }
  if (root.replaying) throw new IncorrectUsageError(`${model.name}: a fold must not raise events`);
  const meta = metaOf(given);
  if (meta.owner !== model || (meta.kind !== "event" && meta.kind !== "externalEvent")) {
    throw new ConfigurationError(
      `Event \`${meta.name}\` is not associated with aggregate \`${model.name}\`. Add it to ${model.name}'s \`events\``,
      {
        at: meta.declaredAt,
      },
    );
  }
  requireNoHiddenFields(owner);
  // An event may be raised once; raising the same object again raises its copy, as each has its own id.
  const event = metadataOf(given) === null ? given : copyOf(given);
  requireMessageSize(event, model.domain.maxMessage_bytes);
  const raise = (): void => {
    const events = root.events;
    const { version } = root;
    note(root, () => {
      root.events = events;
      root.version = version;
    });
    const stream = eventStream(model.category ?? "", identityOf(owner));
    if (model.eventSourced) {
      root.version = version + 1;
      const metadata = metadataFor(owner, event, stream, String(version + 1), version);
      applyFold(root, event);
      root.events = [...events, { event, metadata }];
    } else {
      const raised = events.filter((earlier) => metaOf(earlier.event) !== model.factEvent).length;
      const expected = root.eventPosition === null ? null : root.eventPosition + raised;
      const metadata = metadataFor(owner, event, stream, stateSequence(version + 1, raised + 1), expected);
      root.events = [...events, { event, metadata }];
    }
  };
  if (model.eventSourced) atomicChange(owner, raise);
  else raise();
}

function metadataFor(aggregate: object, event: object, stream: string, sequenceId: string, expectedVersion: number | null): Metadata {
  const metadata = eventMetadata(aggregate, event, { id: `${stream}-${sequenceId}`, stream, sequenceId, expectedVersion });
  setMetadata(event, metadata);
  return metadata;
}

function copyOf(message: object): object {
  const model = metaOf(message) as Model;
  return model.instantiate(
    new Loaded(
      model.plans.map((plan) => (message as Record<string, unknown>)[plan.name]),
      false,
    ),
  );
}

function applyFold(root: InstanceState, event: object): void {
  const { name } = metaOf(event);
  const apply = root.model.foldOf(name);
  if (apply === null)
    throw new IncorrectUsageError(`aggregate \`${root.model.name}\`: \`apply\` lacks \`${name}\``, { at: root.model.declaredAt });
  apply(root.owner, event);
}

/**
 * Puts the aggregate's fact event into its raised events, in the place of one raised earlier for the same save. Does nothing when
 * `factEvents` is off or nothing is to be saved.
 */
export function raiseFactEvent(aggregate: object): void {
  const root = hidden(aggregate);
  const { model } = root;
  const fact = model.factEvent;
  if (fact === null || root.readOnly) return;
  const others = root.events.filter(({ event }) => metaOf(event) !== fact);
  if (others.length === 0 && rowWrites(aggregate).length === 0) return;
  const problems = new Problems();
  const values = fact.plans.map((plan) => plan.accept((aggregate as Record<string, unknown>)[plan.name], problems, plan.name));
  const event = fact.instantiate(new Loaded(values, false));
  const stream = factStream(model.category ?? "", identityOf(aggregate));
  const sequence = model.eventSourced ? String(root.version) : stateSequence(root.version + 1, others.length + 1);
  requireMessageSize(event, model.domain.maxMessage_bytes);
  const metadata = metadataFor(aggregate, event, stream, sequence, null);
  root.events = [...others, { event, metadata }];
}

/**
 * Refuses messages whose payload is above the limit, naming the largest field.
 * @param max_bytes of the payload's JSON text in UTF-8
 * @throws ValidationError
 */
export function requireMessageSize(message: object, max_bytes: number): void {
  const model = metaOf(message) as Model;
  const source = message as Record<string, unknown>;
  let bound = 0;
  for (const plan of model.plans) bound += sizeBound(source[plan.name]) + plan.wireName.length + 8;
  if (bound <= max_bytes) return;
  let total = 0;
  let largest = { name: "", size: -1 };
  for (const plan of model.plans) {
    const value = source[plan.name];
    const size = value === null || value === undefined ? 4 : Buffer.byteLength(toJsonText(plan.write(value)));
    total += size + plan.wireName.length + 6;
    if (size > largest.size) largest = { name: plan.name, size };
  }
  if (total <= max_bytes) return;
  throw new ValidationError(
    { [largest.name]: [`has ${largest.size} bytes; ${model.name} has ${total} bytes, more than the ${max_bytes} that a message may have`] },
    { fix: "Keep large content elsewhere (object storage, a table) and put its address into the message." },
  );
}

/** Never less than the bytes of the value's JSON text. */
function sizeBound(value: unknown): number {
  if (typeof value === "string") return value.length * 6 + 2;
  if (typeof value !== "object" || value === null) return typeof value === "bigint" ? String(value).length : 25;
  if (value instanceof Date) return 34;
  let bound = 4;
  for (const [key, item] of Object.entries(value)) bound += key.length * 6 + 6 + sizeBound(item);
  // Child entities keep their values hidden: their fields are accessors.
  const state = (value as Partial<Stateful>)[STATE];
  if (state !== undefined) for (const plan of state.model.plans) bound += plan.wireName.length + 8 + sizeBound(state.values[plan.index]);
  return bound;
}

/**
 * A class field with the name of a schema field would hide it: what is assigned never reaches the stored state.
 * @throws IncorrectUsageError naming the field
 */
export function requireNoHiddenFields(instance: object): void {
  const { model } = hidden(instance);
  for (const plan of model.plans) {
    if (Object.hasOwn(instance, plan.name)) {
      throw new IncorrectUsageError(`class ${model.name}: the class field \`${plan.name}\` hides the declared field of that name`, {
        at: model.declaredAt,
        fix: "Remove the class field; the declaration under `fields` is enough.",
      });
    }
  }
  for (const plan of model.childPlans) for (const child of childrenOf(instance, plan)) requireNoHiddenFields(child);
}

// ---------------------------------------------------------------------------------------------------------------- replaying

/** An aggregate without history: identity and constant defaults only. */
export function blank(meta: ElementMeta, identity: string): object {
  const model = meta as Model;
  const values = model.plans.map((plan) => (plan.identifier ? identity : plan.blank()));
  return model.instantiate(new Loaded(values, false));
}

/**
 * Replays one event without checks; version + 1.
 * @throws IncorrectUsageError when the aggregate has no fold for it
 */
export function fold(aggregate: object, event: object): void {
  const root = hidden(aggregate);
  root.replaying = true;
  try {
    applyFold(root, event);
  } finally {
    root.replaying = false;
  }
  root.version += 1;
}

/** New process-manager state: defaults, and the correlation value as its identity. */
export function startState(meta: ElementMeta, correlation: string): object {
  return blank(meta, correlation);
}

export function isComplete(processManager: object): boolean {
  return hidden(processManager).complete;
}

export function setComplete(processManager: object): void {
  hidden(processManager).complete = true;
}

/** Stamps `autoNow` fields, and `autoNowAdd` ones that are empty; once per save. */
export function stampTimes(instance: object, now_ms: number): void {
  const state = hidden(instance);
  if (state.stamped) return;
  stampTree(state, now_ms);
  state.stamped = true;
}

function stampTree(state: InstanceState, now_ms: number): void {
  for (const plan of state.model.plans) {
    if (!plan.autoNow && !(plan.autoNowAdd && state.values[plan.index] === null)) continue;
    const problems = new Problems();
    state.values[plan.index] = plan.accept(new Date(Math.floor(now_ms)), problems, plan.name);
  }
  for (const plan of state.model.childPlans)
    for (const child of childrenIn(plan, state.values[plan.index])) stampTree(hidden(child), now_ms);
}

/** After a commit: the next save is a new batch. */
export function startNextBatch(instance: object, loaded: LoadedRows | null): void {
  const state = hidden(instance);
  const { model } = state;
  const raised = state.events.filter(({ event }) => metaOf(event) !== model.factEvent).length;
  if (!model.eventSourced && state.eventPosition !== null) state.eventPosition += raised;
  state.events = [];
  state.stamped = false;
  state.loaded = loaded;
}
