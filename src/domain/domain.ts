/**
 * A domain: where elements are declared, and the door to running them.
 *
 * declaring   elements and handlers register themselves; mistakes are collected, not thrown, so that all are reported together
 * frozen      `init` has begun: validation has run, declaring throws and names both places
 * running     stores are connected
 * closed      `close` has run; `init` may be called again
 */
import { IncorrectUsageError, NotSupportedError, ProteanError } from "../errors.ts";
import type { JsonObject } from "../messages/json.ts";
import { MESSAGE_MAX_BYTES } from "../messages/limits.ts";
import { camelCaseDomainName, factEventName, normalisedDomainName, streamCategory, typeString, underscore } from "../messages/names.ts";
import type { Clock } from "../ports/clock.ts";
import type { Table } from "../ports/database.ts";
import type { Random } from "../ports/random.ts";
import { type G, type MiddlewareContext, middleware, withContext } from "./context.ts";
import { type CorrelationTrace, correlationTrace } from "./correlation-trace.ts";
import { dispatchQuery } from "./dispatch-query.ts";
import type { ElementKind, ElementMeta } from "./element.ts";
import {
  type AutoIdInput,
  type Fields,
  f,
  type Infer,
  type Input,
  type JsonValue,
  type NeedsIdentifier,
  type StandardSchema,
  type State,
} from "./fields.ts";
import { changeableClass, frozenClass } from "./instance.ts";
import { Model, metaOf } from "./model.ts";
import { at, declarationPlace, shortPlace } from "./place.ts";
import { type CommandReceipt, type ProcessOptions, processCommand } from "./process-command.ts";
import { type Brokers, publisher } from "./publish.ts";
import type { Reaction, ReactionKind } from "./reaction.ts";
import { ReactionBuilder, type ReactionMeta, reactionMeta } from "./reactions.ts";
import { rebuildProjection } from "./rebuild.ts";
import { repositoryClass, repositoryFor } from "./repository.ts";
import { tablesOf } from "./rows.ts";
import { buildReactions } from "./run-reaction.ts";
import { createAllSnapshots, createSnapshot, createSnapshots } from "./snapshots.ts";
import { currentConnector, type DomainStores } from "./stores.ts";
import type {
  AggregateBase,
  AggregateOf,
  AnyAggregate,
  AnyCommand,
  AnyEvent,
  AnyProjection,
  AnyQuery,
  Awaitable,
  ClassOf,
  CommandHandler,
  CommandOf,
  CommandOptions,
  EntityOf,
  EntityOptions,
  Ev,
  EventClasses,
  EventHandler,
  EventOf,
  EventOptions,
  EventSourced,
  EventSourcedBase,
  EventSourcedDefinition,
  HandledEventsOf,
  HandlerOptions,
  Invariants,
  MessageBase,
  ProcessManager,
  ProjectionOf,
  ProjectionOptions,
  Projector,
  QueryHandler,
  QueryOf,
  ReadView,
  RepositoryOf,
  ResultOf,
  Returns,
  StateBasedDefinition,
  StatesFacts,
  Subscriber,
  ValueOf,
  WithFactEvent,
  WithFields,
} from "./types.ts";
import { runUnitOfWork } from "./unit-of-work.ts";
import { buildUpcasters, type Upcaster, type UpcasterMeta, type Upcasters } from "./upcasters.ts";
import { checkDomain, checkOptions, type Diagnostic, validateDomain } from "./validate.ts";
import { viewFor } from "./view.ts";

export interface DomainOptions {
  /** Names on the wire and of columns: snake case of the declared ones (default), or exactly those. */
  readonly wireNames?: "snake_case" | "as_declared";
  /** A path of a domain.toml, or its content as an object. Left out: domain.toml is searched upward from the working directory. */
  readonly config?: string | Readonly<Record<string, unknown>>;
  /** Makes identities; default a random UUID. */
  readonly identity?: () => string;
  readonly clock?: Clock;
}

/** Type-only token: what a command or query resolves to. */
export function returns<R>(): Returns<R> {
  return {};
}

/** An index for `indexes`: field names, `-` in front is accepted and means nothing to equality. */
export function index(...fields: readonly (string | { readonly unique?: boolean })[]): {
  readonly columns: readonly string[];
  readonly unique: boolean;
} {
  const names = fields.filter((field): field is string => typeof field === "string").map((name) => name.replace(/^-/, ""));
  const options = fields.find((field): field is { readonly unique?: boolean } => typeof field === "object");
  return { columns: names, unique: options?.unique === true };
}

const domains: Domain[] = [];

/** Where identities come from before `init`, so that value objects and aggregates can be made in plain unit tests. */
let beforeInit: Random | null = null;

/** Called once by the composition root. */
export function provideRandom(random: Random): void {
  beforeInit = random;
}

/** All domains made in this process, oldest first. */
export function knownDomains(): readonly Domain[] {
  return domains;
}

export class Domain {
  readonly name: string;
  readonly normalisedName: string;
  readonly camelCaseName: string;
  readonly wireNames: "snake_case" | "as_declared";
  readonly options: DomainOptions;
  readonly declaredAt: string;
  /** By name; external events by their full type string. */
  readonly elements = new Map<string, ElementMeta>();
  readonly reactionMetas: ReactionMeta[] = [];
  readonly upcasterMetas: UpcasterMeta[] = [];
  readonly eventEnrichers: ((event: AnyEvent, aggregate: AnyAggregate) => Readonly<Record<string, unknown>>)[] = [];
  readonly commandEnrichers: ((command: AnyCommand) => Readonly<Record<string, unknown>>)[] = [];
  readonly aggregateEnrichers: ((aggregate: AnyAggregate) => void)[] = [];
  readonly #mistakes: Error[] = [];
  readonly #byType = new Map<string, ElementMeta>();
  #frozenAt: string | null = null;
  #upcasters: Upcasters | null = null;
  #stores: DomainStores | null = null;
  #reactions: readonly Reaction[] | null = null;
  #connecting: Promise<this> | null = null;

  constructor(name: string, options: DomainOptions = {}) {
    this.name = name;
    this.normalisedName = normalisedDomainName(name);
    this.camelCaseName = camelCaseDomainName(name);
    this.wireNames = options.wireNames ?? "snake_case";
    this.options = options;
    this.declaredAt = declarationPlace();
    checkOptions(this, "domain", name, options, this.declaredAt);
    domains.push(this);
  }

  // -------------------------------------------------------------------------------------------------------------- declaring

  /** Notes a mistake; `init` reports all of them. */
  mistake(error: Error): void {
    this.#mistakes.push(error);
  }

  get mistakes(): readonly Error[] {
    return this.#mistakes;
  }

  /** @throws IncorrectUsageError after `init`, naming both places */
  requireDeclaring(what: string, place: string): void {
    if (this.#frozenAt === null) return;
    throw new IncorrectUsageError(`${what} is declared after domain "${this.name}" was initialised (${this.#frozenAt})`, {
      at: place,
      fix: "Import the module that declares it before domain.init().",
    });
  }

  #declare(kind: ElementKind, name: string, definition: object, extra: { type?: string; asData?: boolean; fields?: Fields } = {}): Model {
    const declaredAt = declarationPlace();
    this.requireDeclaring(`${kind} \`${name}\``, declaredAt);
    const options = Object.freeze({ ...definition }) as Readonly<Record<string, unknown>>;
    const given = (extra.fields ?? options["fields"] ?? {}) as Fields;
    const versionGiven = options["version"];
    const version = typeof versionGiven === "number" ? versionGiven : 1;
    const isMessage = kind === "event" || kind === "command";
    const ownName = typeof options["streamCategory"] === "string" ? options["streamCategory"] : underscore(name);
    const model = new Model({
      kind,
      name,
      domain: this,
      fields: withIdentity(kind, options, given),
      options,
      type: extra.type ?? (isMessage ? typeString(this.name, name, version) : kind === "query" ? `${this.camelCaseName}.${name}` : name),
      fqn: `${this.normalisedName}.${name}`,
      version,
      category: kind === "aggregate" || kind === "processManager" ? streamCategory(this.name, ownName) : null,
      declaredAt,
      asData: extra.asData === true,
    });
    if (extra.asData !== true && kind !== "processManager") checkOptions(this, kind, name, options, declaredAt);
    this.#register(model);
    return model;
  }

  #register(model: Model): void {
    const known = this.elements.get(model.name);
    if (known !== undefined) {
      this.mistake(
        new IncorrectUsageError(
          `\`${model.name}\` is declared twice in domain "${this.name}": ${shortPlace(known.declaredAt)}, ${shortPlace(model.declaredAt)}`,
          at(model.declaredAt, "Give one of them another name; one file loaded by two paths shows up here too."),
        ),
      );
      return;
    }
    this.elements.set(model.name, model);
    if (["event", "command", "externalEvent", "query"].includes(model.kind)) this.#byType.set(model.type, model);
  }

  event<const N extends string, F extends Fields>(name: N, definition: WithFields<F> & EventOptions): MessageBase<Input<F>, EventOf<N, F>> {
    return frozenClass(this.#declare("event", name, definition)) as never;
  }

  command<const N extends string, F extends Fields, const P extends string, R = unknown>(
    name: N,
    definition: WithFields<F> &
      CommandOptions & { readonly partOf: ClassOf<AnyAggregate & { readonly $name: P }>; readonly returns?: Returns<R> },
  ): MessageBase<Input<F>, CommandOf<N, F, P, R>> {
    const model = this.#declare("command", name, definition);
    this.#own(model, definition.partOf, "aggregate");
    return frozenClass(model) as never;
  }

  query<const N extends string, F extends Fields, R = unknown>(
    name: N,
    definition: WithFields<F> & { readonly partOf: ClassOf<AnyProjection>; readonly returns?: Returns<R> },
  ): MessageBase<Input<F>, QueryOf<N, F, R>> {
    const model = this.#declare("query", name, definition);
    this.#own(model, definition.partOf, "projection");
    return frozenClass(model) as never;
  }

  #own(model: Model, target: unknown, kind: ElementKind): void {
    const owner = typeof target === "function" ? metaOf(target) : null;
    if (owner?.kind === kind) model.owner = owner;
    else {
      this.mistake(
        new IncorrectUsageError(`${model.kind} \`${model.name}\` needs \`partOf\`: the ${kind} that it belongs to`, at(model.declaredAt)),
      );
    }
  }

  /**
   * Another domain's published event, by its full type string (`Inventory.StockReserved.v1`), which is also its `$name`. A tolerant reader: unknown
   * fields are dropped, a declared subset is enough, text and numbers are converted (D29).
   */
  externalEvent<const T extends string, F extends Fields>(type: T, definition: WithFields<F>): MessageBase<Input<F>, EventOf<T, F>> {
    return frozenClass(this.#declare("externalEvent", type, definition, { type })) as never;
  }

  valueObject<const N extends string, F extends Fields>(
    name: N,
    definition: WithFields<F> & { readonly invariants?: Invariants<Readonly<Infer<F>>> },
  ): MessageBase<Input<F>, ValueOf<N, F>> {
    return frozenClass(this.#declare("valueObject", name, definition)) as never;
  }

  entity<const N extends string, F extends Fields>(
    name: N,
    definition: WithFields<F> & EntityOptions & { readonly invariants?: Invariants<State<F>> },
  ): AggregateBase<Input<F> & AutoIdInput<F>, EntityOf<N, F>> {
    return changeableClass(this.#declare("entity", name, definition)) as never;
  }

  projection<const N extends string, F extends Fields>(
    name: N,
    definition: WithFields<F> & ProjectionOptions & NeedsIdentifier<F>,
  ): AggregateBase<Input<F>, ProjectionOf<N, F>> {
    return changeableClass(this.#declare("projection", name, definition)) as never;
  }

  aggregate<const N extends string, F extends Fields, const Es extends EventClasses>(
    name: N,
    definition: EventSourcedDefinition<F, Es> & { readonly factEvents: true },
  ): EventSourcedBase<Input<F> & AutoIdInput<F>, AggregateOf<N, F, Ev<Es>> & StatesFacts<N, F> & EventSourced> & WithFactEvent<N, F>;
  aggregate<const N extends string, F extends Fields, const Es extends EventClasses>(
    name: N,
    definition: EventSourcedDefinition<F, Es>,
  ): EventSourcedBase<Input<F> & AutoIdInput<F>, AggregateOf<N, F, Ev<Es>> & EventSourced>;
  aggregate<const N extends string, F extends Fields, const Es extends EventClasses = readonly []>(
    name: N,
    definition: StateBasedDefinition<F, Es> & { readonly factEvents: true },
  ): AggregateBase<Input<F> & AutoIdInput<F>, AggregateOf<N, F, Ev<Es>> & StatesFacts<N, F>> & WithFactEvent<N, F>;
  aggregate<const N extends string, F extends Fields, const Es extends EventClasses = readonly []>(
    name: N,
    definition: StateBasedDefinition<F, Es>,
  ): AggregateBase<Input<F> & AutoIdInput<F>, AggregateOf<N, F, Ev<Es>>>;
  aggregate(name: string, definition: { readonly fields: Fields; readonly events?: EventClasses; readonly factEvents?: boolean }): never {
    const model = this.#declare("aggregate", name, definition);
    const base = changeableClass(model);
    for (const event of definition.events ?? []) this.#claimEvent(model, event);
    if (definition.factEvents === true) {
      const fact = this.#declare("event", factEventName(name), {}, { asData: true, fields: model.declaredFields });
      fact.owner = model;
      model.factEvent = fact;
      Object.defineProperty(base, "FactEvent", { value: frozenClass(fact) });
    }
    return base as never;
  }

  #claimEvent(model: Model, event: object): void {
    const claimed = metaOf(event);
    if (claimed.kind !== "event") {
      this.mistake(
        new IncorrectUsageError(
          `aggregate \`${model.name}\`: \`${claimed.name}\` in \`events\` is no event of this domain`,
          at(model.declaredAt),
        ),
      );
    } else if (claimed.owner !== null && claimed.owner !== model) {
      this.mistake(
        new IncorrectUsageError(
          `event \`${claimed.name}\` belongs to \`${claimed.owner.name}\` already (${shortPlace(claimed.owner.declaredAt)}), listed again by \`${model.name}\` (${shortPlace(model.declaredAt)})`,
          at(model.declaredAt, "An event has one aggregate: take it out of the other's `events`."),
        ),
      );
    } else claimed.owner = model;
  }

  /** Turns the stored payload of an older version (wire names) into the next one's. Events only; applied at every read. */
  upcaster(
    definition: { readonly eventType: ClassOf<AnyEvent>; readonly fromVersion: number; readonly toVersion: number },
    upcast: (data: Record<string, JsonValue>) => Readonly<Record<string, JsonValue>>,
  ): void {
    const declaredAt = declarationPlace();
    this.requireDeclaring("an upcaster", declaredAt);
    checkOptions(this, "upcaster", "upcaster", definition, declaredAt);
    this.upcasterMetas.push({
      event: metaOf(definition.eventType),
      fromVersion: definition.fromVersion,
      toVersion: definition.toVersion,
      run: upcast as Upcaster,
      declaredAt,
    });
  }

  commandHandler<const P extends string>(
    name: string,
    options: { readonly partOf: ClassOf<AnyAggregate & { readonly $name: P }>; readonly expiresAfter_ms?: number } & HandlerOptions,
  ): CommandHandler<P> {
    return this.#react("commandHandler", name, options) as never;
  }

  eventHandler<A extends AnyAggregate>(
    name: string,
    options: { readonly partOf: ClassOf<A>; readonly streamCategory?: undefined; readonly sourceStream?: string } & HandlerOptions,
  ): EventHandler<HandledEventsOf<A>>;
  eventHandler(
    name: string,
    options: { readonly streamCategory: string; readonly partOf?: ClassOf<AnyAggregate>; readonly sourceStream?: string } & HandlerOptions,
  ): EventHandler<AnyEvent>;
  eventHandler(name: string, options: object): never {
    return this.#react("eventHandler", name, options) as never;
  }

  projector<const As extends readonly ClassOf<AnyAggregate>[]>(
    name: string,
    options: {
      readonly projectorFor: ClassOf<AnyProjection>;
      readonly aggregates: As;
      readonly streamCategories?: undefined;
      readonly idempotent?: boolean;
    } & HandlerOptions,
  ): Projector<HandledEventsOf<InstanceType<As[number]>>>;
  projector(
    name: string,
    options: {
      readonly projectorFor: ClassOf<AnyProjection>;
      readonly streamCategories: readonly string[];
      readonly aggregates?: readonly ClassOf<AnyAggregate>[];
      readonly idempotent?: boolean;
    } & HandlerOptions,
  ): Projector<AnyEvent>;
  projector(name: string, options: object): never {
    return this.#react("projector", name, options) as never;
  }

  processManager<F extends Fields, const As extends readonly ClassOf<AnyAggregate>[]>(
    name: string,
    options: WithFields<F> & {
      readonly aggregates: As;
      readonly streamCategories?: undefined;
      readonly streamCategory?: string;
    } & HandlerOptions,
  ): ProcessManager<F, HandledEventsOf<InstanceType<As[number]>>>;
  processManager<F extends Fields>(
    name: string,
    options: WithFields<F> & {
      readonly streamCategories: readonly string[];
      readonly aggregates?: readonly ClassOf<AnyAggregate>[];
      readonly streamCategory?: string;
    } & HandlerOptions,
  ): ProcessManager<F, AnyEvent>;
  processManager(name: string, options: { readonly fields: Fields }): never {
    const state = this.#declare("processManager", name, options);
    changeableClass(state);
    return this.#react("processManager", name, options, state) as never;
  }

  queryHandler(name: string, options: { readonly partOf: ClassOf<AnyProjection> }): QueryHandler {
    return this.#react("queryHandler", name, options) as never;
  }

  subscriber<T extends object>(
    name: string,
    options: { readonly stream: string; readonly broker?: string; readonly payload: ClassOf<T> } & HandlerOptions,
  ): Subscriber<T>;
  subscriber<T = JsonObject>(
    name: string,
    options: { readonly stream: string; readonly broker?: string; readonly payload?: StandardSchema<unknown, T> } & HandlerOptions,
  ): Subscriber<T>;
  subscriber(name: string, options: object): never {
    return this.#react("subscriber", name, options) as never;
  }

  #react(kind: ReactionKind, name: string, options: object, state?: Model): ReactionBuilder {
    const declaredAt = declarationPlace();
    this.requireDeclaring(`${kind} \`${name}\``, declaredAt);
    checkOptions(this, kind, name, options, declaredAt);
    const given = Object.freeze({ ...options }) as Readonly<Record<string, unknown>>;
    const meta = reactionMeta({ kind, name, domain: this, given, declaredAt, ...(state === undefined ? {} : { state }) });
    const known = this.reactionMetas.find((reaction) => reaction.name === name);
    const element = this.elements.get(name);
    const other = known?.declaredAt ?? (element !== undefined && element !== state ? element.declaredAt : null);
    if (other !== null && known !== undefined) {
      this.mistake(
        new IncorrectUsageError(
          `\`${name}\` is declared twice in domain "${this.name}": ${shortPlace(other)}, ${shortPlace(declaredAt)}`,
          at(declaredAt, "Give one of them another name; one file loaded by two paths shows up here too."),
        ),
      );
    } else if (other !== null) {
      this.mistake(
        new IncorrectUsageError(
          `\`${name}\` is declared twice in domain "${this.name}": ${shortPlace(other)}, ${shortPlace(declaredAt)}`,
          at(declaredAt, "Give the handler another name than the element."),
        ),
      );
    }
    this.reactionMetas.push(meta);
    return new ReactionBuilder(meta);
  }

  /**
   * Base class for a repository with methods of its own: `class R extends domain.repository(A) {}`. `repositoryFor(A)` and `repositoryFor(R)` then
   * give the same object.
   */
  repository<A extends object>(target: ClassOf<A>): new () => RepositoryOf<A> {
    const declaredAt = declarationPlace();
    this.requireDeclaring("a repository", declaredAt);
    return repositoryClass(this, metaOf(target)) as never;
  }

  /** Adds keys to the extensions of every event raised; later enrichers win per key. */
  eventEnricher(enrich: (event: AnyEvent, aggregate: AnyAggregate) => Readonly<Record<string, unknown>>): void {
    this.requireDeclaring("an event enricher", declarationPlace());
    this.eventEnrichers.push(enrich);
  }

  commandEnricher(enrich: (command: AnyCommand) => Readonly<Record<string, unknown>>): void {
    this.requireDeclaring("a command enricher", declarationPlace());
    this.commandEnrichers.push(enrich);
  }

  /** Runs before each save of an aggregate, for instance to stamp audit fields. */
  aggregateEnricher(enrich: (aggregate: AnyAggregate) => void): void {
    this.requireDeclaring("an aggregate enricher", declarationPlace());
    this.aggregateEnrichers.push(enrich);
  }

  // -------------------------------------------------------------------------------------------------------------- looking up

  messageByType(type: string): ElementMeta | null {
    return this.#byType.get(type) ?? null;
  }

  /** What a payload of this type string becomes, by the upcasters; null when none leads from it. `data` may be changed. */
  upcast(type: string, data: Record<string, JsonValue>): { readonly meta: ElementMeta; readonly data: JsonObject } | null {
    return this.#chains().upcast(type, data);
  }

  /** The current event that the upcasters lead to from this older type string. */
  upcastTarget(type: string): ElementMeta | null {
    return this.#chains().target(type);
  }

  #chains(): Upcasters {
    this.#upcasters ??= buildUpcasters(this);
    return this.#upcasters;
  }

  /** Limit of a message's payload. */
  get maxMessage_bytes(): number {
    return this.#stores?.settings.maxMessage_bytes ?? MESSAGE_MAX_BYTES;
  }

  /** A fresh identity for an aggregate, entity or command. */
  newIdentity(): string {
    if (this.options.identity !== undefined) return this.options.identity();
    return (this.#stores === null ? beforeInit : this.#stores.random)?.uuid() ?? this.stores.random.uuid();
  }

  // -------------------------------------------------------------------------------------------------------------- running

  /**
   * Freezes the declarations, validates all of them, and connects what domain.toml names. Called again, it resolves to the same.
   * @throws ProteanError listing every mistake with code, place and fix; ConfigurationError, ConnectionError from connecting
   */
  init(options: { readonly role?: "client" | "engine" } = {}): Promise<this> {
    if (this.#stores !== null) return Promise.resolve(this);
    this.#connecting ??= this.#connect(options.role ?? "client").finally(() => {
      this.#connecting = null;
    });
    return this.#connecting;
  }

  async #connect(role: "client" | "engine"): Promise<this> {
    this.freeze();
    const connect = currentConnector();
    if (connect === null) {
      throw new IncorrectUsageError('nothing here can connect to stores: import Domain from "protean"', {
        fix: "Tests without the composition root call domain.useStores().",
      });
    }
    const stores = await connect({ domainName: this.name, config: this.options.config, databases: this.databasesInUse, role });
    this.useStores(stores);
    // The embedded database has nobody who sets it up beforehand; others are set up by `protean db setup` (rulings 55).
    for (const database of stores.databases.values()) {
      const isEmbedded = database.provider === "sqlite" || database.provider === "memory";
      if (isEmbedded && (await database.missing()).length > 0) await database.setup();
    }
    return this;
  }

  /** Names under `[databases]` that aggregates and projections are kept in, `default` among them. */
  get databasesInUse(): ReadonlySet<string> {
    const kept = [...this.elements.values()].filter(({ kind }) => kind === "aggregate" || kind === "projection");
    return new Set(["default", ...kept.map(({ options }) => (typeof options["provider"] === "string" ? options["provider"] : "default"))]);
  }

  /** Tables of the aggregates and projections that are kept in the database of this name. */
  tablesIn(database: string): readonly Table[] {
    return [...this.elements.values()].filter((meta) => (meta.options["provider"] ?? "default") === database).flatMap(tablesOf);
  }

  /**
   * Ends declaring and reports every mistake at once. Done by `init`; safe to call again.
   * @throws ProteanError
   */
  freeze(): void {
    if (this.#frozenAt === null) this.#frozenAt = declarationPlace();
    const found = [...this.#mistakes, ...validateDomain(this)];
    const [first] = found;
    if (first === undefined) return;
    if (found.length === 1) throw first;
    const lines = found.map((error) => {
      if (!(error instanceof ProteanError)) return `- ${error.name}: ${error.message}`;
      const place = error.about.at === undefined ? "" : `\n    at ${error.about.at}`;
      const fix = error.about.fix === undefined ? "" : `\n    fix: ${error.about.fix}`;
      return `- ${error.code} ${error.name}: ${error.message}${place}${fix}`;
    });
    throw new ProteanError("DECLARATIONS", `domain "${this.name}" has ${found.length} mistakes:\n${lines.join("\n")}`, {
      at: this.declaredAt,
      cause: new AggregateError(found, `${found.length} mistakes in the declarations`),
    });
  }

  /** What is worth knowing but is no mistake, for `protean check`; mistakes come first, as errors. */
  check(): readonly Diagnostic[] {
    return checkDomain(this, [...this.#mistakes, ...validateDomain(this)]);
  }

  /** Freezes, validates, and works with these stores. What `init` does after connecting; tests call it directly. */
  useStores(stores: DomainStores): void {
    this.freeze();
    const clock = this.options.clock;
    this.#stores = clock === undefined ? stores : withClock(stores, clock);
    this.#reactions = null;
    for (const [name, database] of stores.databases) database.declare(this.tablesIn(name));
    this.#reactions = buildReactions(this);
  }

  /** @throws IncorrectUsageError before `init` */
  get stores(): DomainStores {
    if (this.#stores === null) throw new IncorrectUsageError(`domain "${this.name}" is not initialised: await domain.init() first`);
    return this.#stores;
  }

  get isInitialised(): boolean {
    return this.#stores !== null;
  }

  /** Handlers as the engine runs them; after `init`. */
  get reactions(): readonly Reaction[] {
    if (this.#reactions === null) throw new IncorrectUsageError(`domain "${this.name}" is not initialised: await domain.init() first`);
    return this.#reactions;
  }

  /** Closes the connections. `init` may be called again. */
  async close(): Promise<void> {
    const stores = this.#stores;
    this.#stores = null;
    this.#reactions = null;
    await stores?.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Sends a command: handled here and now with `asynchronous: false`, stored for the engine with `true`; else as configured. */
  process<C extends AnyCommand>(command: C, options: ProcessOptions & { readonly asynchronous: false }): Promise<ResultOf<C>>;
  process<C extends AnyCommand>(command: C, options: ProcessOptions & { readonly asynchronous: true }): Promise<CommandReceipt>;
  process<C extends AnyCommand>(command: C, options?: ProcessOptions): Promise<ResultOf<C> | CommandReceipt>;
  process(command: AnyCommand, options: ProcessOptions = {}): Promise<unknown> {
    return processCommand(this, command, options);
  }

  dispatch<Query extends AnyQuery>(query: Query): Promise<ResultOf<Query>> {
    return dispatchQuery(this, query) as Promise<ResultOf<Query>>;
  }

  get brokers(): Brokers {
    return publisher(this);
  }

  /** Runs `fn` with these values in `g`. */
  context<R>(fn: () => R, values: Partial<G> = {}): R {
    return withContext(this, fn, values);
  }

  /** Runs `fn` in one unit of work; inside another it joins that one. */
  unitOfWork<R>(fn: () => Awaitable<R>): Promise<R> {
    return runUnitOfWork(this, fn);
  }

  /** Middleware for Hono-style frameworks: a context per request, with the request's id as correlation id. */
  middleware(): (context: MiddlewareContext, next: () => Promise<void>) => Promise<void> {
    return middleware(this);
  }

  repositoryFor<A extends object>(target: ClassOf<A>): RepositoryOf<A>;
  repositoryFor<R extends object>(target: new () => R): R;
  repositoryFor(target: object): object {
    return repositoryFor(this, target);
  }

  viewFor<P extends AnyProjection>(target: ClassOf<P>): ReadView<P> {
    return viewFor(this, target) as never;
  }

  /** @throws NotSupportedError caches belong to a later version */
  cacheFor(_target: ClassOf<AnyProjection>): never {
    throw new NotSupportedError("caches of projections belong to a later version; use domain.viewFor");
  }

  /** Writes a snapshot of one event-sourced aggregate. */
  createSnapshot(target: ClassOf<AnyAggregate>, id: string): Promise<void> {
    return createSnapshot(this, target, id);
  }

  /** Of all instances; resolves to their number. */
  createSnapshots(target: ClassOf<AnyAggregate>): Promise<number> {
    return createSnapshots(this, target);
  }

  createAllSnapshots(): Promise<number> {
    return createAllSnapshots(this);
  }

  /** All messages of one correlation id, as a tree of causes. */
  correlationTrace(id: string): Promise<CorrelationTrace> {
    return correlationTrace(this, id);
  }

  /** Empties a projection and runs its projectors over all stored events. */
  rebuildProjection(target: ClassOf<AnyProjection>): Promise<number> {
    return rebuildProjection(this, target);
  }
}

/** Adds an `id` where the element needs an identity and declares none. */
function withIdentity(kind: ElementKind, options: Readonly<Record<string, unknown>>, fields: Fields): Fields {
  if ((kind !== "aggregate" && kind !== "entity") || options["autoAddIdField"] === false) return fields;
  if (Object.values(fields).some((field) => field?.options?.["identifier"] === true)) return fields;
  return { id: f.identifier({ identifier: true }), ...fields };
}

function withClock(stores: DomainStores, clock: Clock): DomainStores {
  return { ...stores, clock, close: () => stores.close() };
}
