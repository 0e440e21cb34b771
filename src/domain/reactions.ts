/** Builders of handlers: they collect methods; validation looks at them when the domain is initialised. */
import { IncorrectUsageError } from "../errors.ts";
import { commandCategory, parseType, subscribedCategory, underscore } from "../messages/names.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { metaOf } from "./model.ts";
import { declarationPlace } from "./place.ts";
import type { ReactionKind, SubscriptionOptions } from "./reaction.ts";
import { invokeReaction } from "./run-reaction.ts";

export interface MethodMeta {
  /** null = `handleAny`; of subscribers and query handlers see there. */
  readonly target: ElementMeta | null;
  /** Stored name, sdk-api §7.2. */
  readonly name: string;
  /** The name was given, not derived. */
  readonly isNamed: boolean;
  /** Called with (message, context); process managers (state, event, context); queries (query); subscribers (payload, context). */
  readonly run: unknown;
  readonly start?: boolean;
  readonly end?: boolean;
  /** Declared names. */
  readonly correlate?: string | Readonly<Record<string, string>>;
  readonly onMissing?: "skip" | "retry";
  readonly declaredAt: string;
}

/** Options of a handler beside those of its subscription. */
export interface ReactionOptions extends SubscriptionOptions {
  readonly idempotent?: boolean;
  /** Command handlers: default deadline of their commands, in milliseconds from sending. */
  readonly expiresAfter_ms?: number;
  readonly onMissing?: "skip" | "retry";
}

export interface ReactionMeta {
  readonly kind: ReactionKind;
  readonly name: string;
  readonly fqn: string;
  readonly domain: Domain;
  readonly options: ReactionOptions;
  /** The definition as given. */
  readonly given: Readonly<Record<string, unknown>>;
  readonly declaredAt: string;
  readonly methods: MethodMeta[];
  onError: ((error: unknown, message: unknown) => unknown) | null;
  /** Categories that it reads; `<category>:command` for command handlers, the stream for subscribers. */
  categories(): string[];
  /** Command, event and query handlers: their aggregate or projection. */
  readonly owner: ElementMeta | null;
  readonly projection?: ElementMeta;
  /** Process managers: description of their state. */
  readonly state?: ElementMeta;
  /** Subscribers: a Standard Schema or an element class, as given. */
  readonly payload?: unknown;
  readonly broker: string;
  readonly stream: string | null;
}

/** Turns an option into a list of element descriptions; what is no element is left to validation. */
export function elementsIn(value: unknown): ElementMeta[] {
  const found: ElementMeta[] = [];
  for (const item of Array.isArray(value) ? (value as unknown[]) : value === undefined ? [] : [value]) {
    if (typeof item === "function") found.push(metaOf(item));
  }
  return found;
}

const categoriesByKind: Readonly<Record<ReactionKind, (meta: ReactionMeta) => string[]>> = {
  commandHandler: ({ owner }) => (owner?.category == null ? [] : [commandCategory(owner.category)]),
  eventHandler: ({ owner, given }) => {
    const category = given["streamCategory"];
    return typeof category === "string" ? [category] : owner?.category == null ? [] : [owner.category];
  },
  projector: ({ given }) => readCategories(given, (name) => name),
  processManager: ({ given, domain }) => readCategories(given, (name) => subscribedCategory(domain.name, name)),
  queryHandler: () => [],
  subscriber: ({ stream }) => (stream === null ? [] : [stream]),
};

function readCategories(given: Readonly<Record<string, unknown>>, full: (name: string) => string): string[] {
  const named = ((given["streamCategories"] as readonly string[] | undefined) ?? []).map(full);
  const own = elementsIn(given["aggregates"]).flatMap(({ category }) => (category === null ? [] : [category]));
  return [...new Set([...named, ...own])];
}

/** Options that the engine and the execution read; everything else of a definition is the model's. */
const SUBSCRIPTION_OPTIONS = [
  "fqn",
  "subscriptionType",
  "subscriptionProfile",
  "subscriptionConfig",
  "sequentialBy",
  "retries",
  "backoff",
  "retryExceptions",
  "concurrency",
  "shared",
  "timeout_ms",
  "deadLetterAtOnce",
  "sourceStream",
  "idempotent",
  "expiresAfter_ms",
  "onMissing",
] as const;

export interface ReactionInput {
  readonly kind: ReactionKind;
  readonly name: string;
  readonly domain: Domain;
  readonly given: Readonly<Record<string, unknown>>;
  readonly declaredAt: string;
  readonly state?: ElementMeta;
}

export function reactionMeta(input: ReactionInput): ReactionMeta {
  const { kind, name, domain, given } = input;
  const options: Record<string, unknown> = {};
  for (const key of SUBSCRIPTION_OPTIONS) if (given[key] !== undefined) options[key] = given[key];
  const [owner = null] = elementsIn(given["partOf"]);
  const [projection] = elementsIn(given["projectorFor"]);
  return {
    kind,
    name,
    fqn: typeof given["fqn"] === "string" ? given["fqn"] : `${domain.normalisedName}.${name}`,
    domain,
    options,
    given,
    declaredAt: input.declaredAt,
    methods: [],
    onError: null,
    categories() {
      return categoriesByKind[kind](this);
    },
    owner,
    ...(projection === undefined ? {} : { projection }),
    ...(input.state === undefined ? {} : { state: input.state }),
    payload: given["payload"],
    broker: typeof given["broker"] === "string" ? given["broker"] : "default",
    stream: kind === "subscriber" && typeof given["stream"] === "string" ? given["stream"] : null,
  };
}

/** `on_deposit_made`, `handle_open_account`; external events carry their context: `on_inventory_stock_reserved` (rulings 41). */
export function methodName(kind: ReactionKind, target: ElementMeta): string {
  const verb = kind === "commandHandler" ? "handle" : kind === "queryHandler" ? "read" : "on";
  const parts = target.kind === "externalEvent" ? parseType(target.type) : null;
  const name = parts === null ? target.name : `${parts.domain}_${parts.name}`;
  return `${verb}_${underscore(name.replaceAll(/[^A-Za-z0-9]+/g, "_"))}`;
}

interface GivenMethod {
  readonly name?: string;
  readonly start?: boolean;
  readonly end?: boolean;
  readonly correlate?: string | Readonly<Record<string, string>>;
  readonly onMissing?: "skip" | "retry";
}

/** The chain that `domain.commandHandler(...)` and its sisters return. One class at run time; its type says what may be called. */
export class ReactionBuilder {
  readonly #meta: ReactionMeta;

  constructor(meta: ReactionMeta) {
    this.#meta = meta;
  }

  /** Description of the handler, for the framework. */
  static metaOf(builder: object): ReactionMeta | null {
    return builder instanceof ReactionBuilder ? builder.#meta : null;
  }

  handle(first: unknown, second?: unknown, third?: unknown): this {
    const meta = this.#meta;
    if (meta.kind === "subscriber") {
      this.#add({ target: null, name: "handle", isNamed: true, run: first, declaredAt: declarationPlace() });
      return this;
    }
    return this.#method(first, second, third);
  }

  on(first: unknown, second?: unknown, third?: unknown): this {
    return this.#method(first, second, third);
  }

  read(first: unknown, second?: unknown, third?: unknown): this {
    return this.#method(first, second, third);
  }

  handleAny(run: unknown): this {
    this.#add({ target: null, name: "on_any", isNamed: true, run, declaredAt: declarationPlace() });
    return this;
  }

  onError(run: (error: unknown, message: unknown) => unknown): this {
    this.#meta.domain.requireDeclaring(`${this.#meta.kind} \`${this.#meta.name}\``, declarationPlace());
    this.#meta.onError = run;
    return this;
  }

  invoke(message: unknown): Promise<unknown> {
    return invokeReaction(this.#meta.domain, this.#meta, message);
  }

  #method(target: unknown, second: unknown, third: unknown): this {
    const meta = this.#meta;
    const declaredAt = declarationPlace();
    if (typeof target !== "function") {
      throw new IncorrectUsageError(`${meta.kind} \`${meta.name}\`: the first argument of a method is a message class`, { at: declaredAt });
    }
    const element = metaOf(target);
    const given = (typeof second === "function" ? {} : (second ?? {})) as GivenMethod;
    const run = typeof second === "function" ? second : third;
    if (typeof run !== "function") {
      throw new IncorrectUsageError(`${meta.kind} \`${meta.name}\`: the method for \`${element.name}\` is no function`, { at: declaredAt });
    }
    this.#add({
      target: element,
      name: given.name ?? methodName(meta.kind, element),
      isNamed: given.name !== undefined,
      run,
      ...(given.start === undefined ? {} : { start: given.start }),
      ...(given.end === undefined ? {} : { end: given.end }),
      ...(given.correlate === undefined ? {} : { correlate: given.correlate }),
      ...(given.onMissing === undefined ? {} : { onMissing: given.onMissing }),
      declaredAt,
    });
    return this;
  }

  #add(method: MethodMeta): void {
    this.#meta.domain.requireDeclaring(`a method of \`${this.#meta.name}\``, method.declaredAt);
    this.#meta.methods.push(method);
  }
}
