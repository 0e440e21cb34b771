/**
 * Declared handlers as the engine runs them.
 *
 * One run, in order: decode → open the message's context → find the methods → skip those whose marker says they are done → run each in a unit of work of
 * its own, retrying version conflicts and (where switched on) transient errors inside → collect failures.
 *
 * Exactly once (rulings 11, 64): command handlers, process managers, idempotent projectors, and every handler with several methods for the message write a
 * marker (delivery key, method) in the same commit as their effect. A second run finds it, before or at commit, and succeeds without effect. That holds
 * where effect and marker are one database; with several, effects are at least once (unit-of-work.ts says why).
 */
import { ExpectedVersionError, ObjectNotFoundError, ProteanError, UnitOfWorkClosedError, ValidationError } from "../errors.ts";
import { parseDateTime } from "../messages/datetime.ts";
import type { DecodedMessage, Metadata } from "../messages/envelope.ts";
import { categoryOf, parseType, typeKey } from "../messages/names.ts";
import { AlreadyProcessedError, type ProcessedMarker } from "../ports/database.ts";
import { ALL_STREAMS } from "../ports/event-store.ts";
import type { Lease } from "../ports/leases.ts";
import type { Log } from "../ports/log.ts";
import { currentContext, type HandlerContext, isolatedContext, openContext } from "./context.ts";
import { isDiscarded } from "./discarded.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { valueFromForeign } from "./foreign-payload.ts";
import { metadataOf, metaOf } from "./instance.ts";
import { contextValues } from "./message-metadata.ts";
import { handledBefore, noteHandled } from "./process-command.ts";
import { runProcessManager } from "./process-manager.ts";
import {
  type Acceptance,
  isPromise,
  type Reaction,
  type ReactionKind,
  type RunContext,
  type RunLimit,
  type SubscriptionOptions,
} from "./reaction.ts";
import type { MethodMeta, ReactionMeta } from "./reactions.ts";
import { elementOf, genericEvent, readableAs, readMessage } from "./read-message.ts";
import type { RetryPolicy } from "./stores.ts";
import { beginUnitOfWork, homeDatabase, providerOf, type UnitOptions } from "./unit-of-work.ts";

/** Errors that are worth another try when transient retry is on and names none. */
const TRANSIENT = ["ConnectionError", "TimeoutError", "SendError"] as const;

const NEVER = new AbortController().signal;

/** A message with everything that running it needs, however it came. */
interface Incoming {
  readonly message: object;
  readonly metadata: Metadata | null;
  readonly context: HandlerContext;
  readonly unit: UnitOptions;
  /** Empty: no markers (runs inside the caller's process). */
  readonly deliveryKey: string;
}

class RunningReaction implements Reaction {
  readonly #domain: Domain;
  readonly #meta: ReactionMeta;
  readonly kind: ReactionKind;
  readonly name: string;
  readonly fqn: string;
  readonly options: SubscriptionOptions;
  readonly categories: readonly string[];
  readonly broker: string;
  /** Types of the methods without their versions. */
  readonly #keys: ReadonlySet<string>;
  readonly #acceptsAny: boolean;
  /** Answers by type string; types come from outside, so their number is bounded. */
  readonly #acceptances = new Map<string, Acceptance>();
  /** Those for an element, or all that take any message. */
  readonly #methods = new Map<ElementMeta | null, readonly MethodMeta[]>();

  constructor(domain: Domain, meta: ReactionMeta) {
    this.#domain = domain;
    this.#meta = meta;
    this.kind = meta.kind;
    this.name = meta.name;
    this.fqn = meta.fqn;
    this.options = meta.options;
    this.categories = meta.categories();
    this.broker = meta.broker ?? "default";
    this.#keys = new Set(meta.methods.flatMap(({ target }) => (target === null ? [] : [typeKey(target.type)])));
    this.#acceptsAny = meta.kind !== "subscriber" && meta.methods.some(({ target }) => target === null);
  }

  accepts(type: string): Acceptance {
    let acceptance = this.#acceptances.get(type);
    if (acceptance === undefined) {
      acceptance = this.#judge(type);
      if (this.#acceptances.size >= 10_000) this.#acceptances.clear();
      this.#acceptances.set(type, acceptance);
    }
    return acceptance;
  }

  #judge(type: string): Acceptance {
    const readable = readableAs(this.#domain, type);
    if (readable !== null) {
      return this.#acceptsAny || this.#meta.methods.some(({ target }) => target === readable) ? "handled" : "ignored";
    }
    if (this.#keys.has(typeKey(type))) return "unknown-version";
    if (!this.#acceptsAny) return "ignored";
    // A version that isn't known of a name that is: the message is ours but newer than this code.
    return isDeclaredName(this.#domain, type) ? "unknown-version" : "handled";
  }

  async run(message: DecodedMessage, context: RunContext): Promise<unknown> {
    return this.#resultOf(await this.begin(message, context));
  }

  /** Runs the methods for a message that is an instance already, in the present context. */
  async runInstance(message: object, metadata: Metadata | null, context: RunContext): Promise<unknown> {
    return this.#resultOf(await this.#beginInstance(message, metadata, context));
  }

  #resultOf(result: unknown): unknown {
    return this.kind === "commandHandler" ? result : undefined;
  }

  begin(message: DecodedMessage, context: RunContext): unknown {
    const { metadata } = message;
    return isolatedContext(this.#domain, handlingContext(metadata, context), () => {
      if (!sourceFits(this.#meta, metadata)) return undefined;
      const known = readableAs(this.#domain, message.type) !== null;
      const instance =
        known || !this.#acceptsAny || isDeclaredName(this.#domain, message.type)
          ? readMessage(this.#domain, message)
          : genericEvent(message);
      return this.#beginInstance(instance, metadata, context);
    });
  }

  /** One method without a marker, as nearly all event handlers have, costs no promise unless it waits or writes. */
  #beginInstance(message: object, metadata: Metadata | null, context: RunContext): unknown {
    const methods = this.#methodsFor(elementOf(message));
    const [first] = methods;
    if (first === undefined) return undefined;
    const isMarked = context.deliveryKey !== "" && this.#isMarked(methods.length);
    if (methods.length > 1 || isMarked || this.kind === "commandHandler")
      return this.#runMethods(methods, isMarked, message, metadata, context);
    return this.#runWithRetries(first, {
      message,
      metadata,
      context: new MessageContext(this.#domain, message, metadata, context),
      unit: { limit: context, fences: context.fences },
      deliveryKey: "",
    });
  }

  #methodsFor(element: ElementMeta | null): readonly MethodMeta[] {
    let methods = this.#methods.get(element);
    if (methods === undefined) {
      methods = this.#meta.methods.filter(({ target }) => target !== null && target === element);
      if (methods.length === 0) methods = this.#meta.methods.filter(({ target }) => target === null);
      this.#methods.set(element, methods);
    }
    return methods;
  }

  async #runMethods(
    methods: readonly MethodMeta[],
    isMarked: boolean,
    message: object,
    metadata: Metadata | null,
    context: RunContext,
  ): Promise<unknown> {
    const domain = this.#domain;
    if (this.kind === "commandHandler" && context.deliveryKey !== "" && metadata !== null) {
      const before = await handledBefore(domain, metadata);
      if (before !== null) return before.result;
    }

    const markerDatabase = this.#markerDatabase();
    const done = isMarked ? await this.#finished(methods, context.deliveryKey, markerDatabase) : [];
    const incoming: Incoming = {
      message,
      metadata,
      context: new MessageContext(domain, message, metadata, context),
      unit: { limit: context, fences: context.fences, markerDatabase },
      deliveryKey: isMarked ? context.deliveryKey : "",
    };

    const failures: unknown[] = [];
    let result: unknown;
    for (const [index, method] of methods.entries()) {
      if (done[index] === true) {
        domain.stores.log.debug("handler.already_processed", { handler: this.#methodFqn(method), delivery_key: context.deliveryKey });
        continue;
      }
      try {
        result = await this.#runWithRetries(method, incoming);
      } catch (error) {
        // A version conflict concerns the whole message: it keeps its type and stops the rest (known-traps A20).
        if (error instanceof ExpectedVersionError) throw error;
        failures.push(error);
      }
    }
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) {
      throw new AggregateError(failures, `${failures.length} methods of ${this.name} failed: ${failures.map(textOf).join("; ")}`);
    }
    if (this.kind === "commandHandler" && context.deliveryKey !== "" && metadata !== null) await noteHandled(domain, metadata, result);
    return result;
  }

  #isMarked(methods: number): boolean {
    if (this.kind === "commandHandler" || this.kind === "processManager") return true;
    if (this.kind !== "projector" && this.kind !== "eventHandler") return false;
    return methods > 1 || (this.options as { readonly idempotent?: boolean }).idempotent === true;
  }

  /** A projection's own database; else the one that is one with the event store. */
  #markerDatabase(): string {
    const { projection } = this.#meta;
    return projection === undefined || projection === null ? homeDatabase(this.#domain) : providerOf(projection);
  }

  #methodFqn(method: MethodMeta): string {
    return `${this.fqn}.${method.name}`;
  }

  #marker(method: MethodMeta, deliveryKey: string): ProcessedMarker {
    return { messageId: deliveryKey, handler: this.#methodFqn(method) };
  }

  async #finished(methods: readonly MethodMeta[], deliveryKey: string, database: string): Promise<readonly boolean[]> {
    const markers = methods.map((method) => this.#marker(method, deliveryKey));
    return (await this.#domain.stores.databases.get(database)?.isProcessed(markers)) ?? [];
  }

  /**
   * Runs a method until it succeeds or may not be tried again: version conflicts by `[server.version_retry]`, transient errors by
   * `[server.transient_retry]` or the handler's options, each counted for itself, never beyond the command's deadline or the time limit.
   */
  #runWithRetries(method: MethodMeta, incoming: Incoming): unknown {
    let running: unknown;
    try {
      running = this.#runMethod(method, incoming);
    } catch (error) {
      return this.#retry(method, incoming, error);
    }
    return isPromise(running) ? running.catch((error: unknown) => this.#retry(method, incoming, error)) : running;
  }

  async #retry(method: MethodMeta, incoming: Incoming, firstError: unknown): Promise<unknown> {
    const { clock, settings, telemetry } = this.#domain.stores;
    const transient = this.#transientPolicy(settings.transientRetry);
    let versionTries = 0;
    let transientTries = 0;
    for (let error = firstError; ; ) {
      if (error instanceof AlreadyProcessedError) return undefined;
      const { signal } = incoming.context;
      // Inside somebody else's unit of work nothing is decided yet; the conflict will be that unit's.
      if (currentContext()?.unit != null || signal.aborted) throw error;
      let delay_ms: number;
      if (error instanceof ExpectedVersionError && settings.versionRetry.enabled && versionTries < settings.versionRetry.maxRetries) {
        delay_ms = retryDelay_ms(settings.versionRetry, versionTries);
        versionTries += 1;
        telemetry.count("handler_version_retries", { handler: this.name });
      } else if (transient !== null && transientTries < transient.maxRetries && this.#isTransient(error, transient)) {
        delay_ms = retryDelay_ms(transient, transientTries);
        transientTries += 1;
        telemetry.count("handler_transient_retries", { handler: this.name });
      } else throw error;
      const deadline = incoming.metadata?.headers.deadline ?? null;
      const due_ms = deadline === null ? null : (parseDateTime(deadline)?.epoch_ms ?? null);
      if (due_ms !== null && clock.now_ms() + delay_ms >= due_ms) throw error;
      await clock.sleep(delay_ms, signal);
      if (signal.aborted) throw error;
      try {
        return await this.#runMethod(method, incoming);
      } catch (next) {
        error = next;
      }
    }
  }

  #transientPolicy(configured: RetryPolicy): RetryPolicy | null {
    const { retries, backoff } = this.options;
    if (retries === undefined && !configured.enabled) return null;
    return { ...configured, maxRetries: retries ?? configured.maxRetries, backoff: backoff ?? configured.backoff };
  }

  #isTransient(error: unknown, policy: RetryPolicy): boolean {
    if (error instanceof ExpectedVersionError || error instanceof UnitOfWorkClosedError) return false;
    const classes = this.options.retryExceptions;
    if (classes !== undefined && classes.length > 0) return classes.some((type) => error instanceof type);
    const names = policy.exceptions.length === 0 ? TRANSIENT : policy.exceptions;
    return namesOf(error).some((name) => (names as readonly string[]).includes(name));
  }

  #runMethod(method: MethodMeta, incoming: Incoming): unknown {
    const { message, metadata, context, deliveryKey } = incoming;
    const options: UnitOptions = deliveryKey === "" ? incoming.unit : { ...incoming.unit, marker: this.#marker(method, deliveryKey) };
    if (this.kind === "processManager") return runProcessManager(this.#domain, this.#meta, method, message, metadata, context, options);
    const run = method.run as (message: object, context: HandlerContext) => unknown;
    return beginUnitOfWork(this.#domain, () => run(message, context), options);
  }

  /** @throws ValidationError when the payload doesn't fit the subscriber's schema; what the handler threw */
  async runPayload(payload: unknown, source: { readonly id: string; readonly stream: string }, context: RunContext): Promise<void> {
    const domain = this.#domain;
    const [method] = this.#meta.methods;
    if (method === undefined) return;
    const { random } = domain.stores;
    const foreign = foreignMetadata(payload);
    const given = {
      values: {},
      // A chain that began elsewhere goes on; one that begins here is one chain for all that this payload causes (known-traps A22).
      correlationId: foreign.correlationId ?? random.hex(32),
      causationId: foreign.id ?? source.id,
      limit: context,
    };
    await isolatedContext(domain, given, async () => {
      const value = await valueFromForeign(this.#meta.payload ?? null, payload, this.name);
      const about = {
        id: foreign.id ?? source.id,
        type: "",
        stream: source.stream,
        position: null,
        globalPosition: null,
        attempt: context.attempt,
      };
      const ctx: HandlerContext = { domain, message: about, metadata: null, signal: context.signal, log: context.log };
      await (method.run as (payload: unknown, context: HandlerContext) => unknown)(value, ctx);
    });
  }

  async onFailure(error: unknown, message: unknown): Promise<void> {
    const { onError } = this.#meta;
    if (onError === undefined || onError === null) return;
    const domain = this.#domain;
    try {
      const { shown, metadata } = this.#shown(message);
      await isolatedContext(domain, metadata === null ? {} : handlingContext(metadata, null), async () => {
        await (onError as (error: unknown, message: unknown) => unknown)(error, shown);
      });
    } catch (failure) {
      domain.stores.log.error("engine.error_handler_failed", { handler: this.fqn, error: failure });
    }
  }

  /** The message as `onError` gets it: an instance where it can be read, else as it came. */
  #shown(message: unknown): { readonly shown: unknown; readonly metadata: Metadata | null } {
    if (!isDecoded(message)) return { shown: message, metadata: null };
    try {
      return { shown: readMessage(this.#domain, message), metadata: message.metadata };
    } catch {
      // It may be the very reason of the failure that it can't be read.
      return { shown: message, metadata: message.metadata };
    }
  }
}

function isDecoded(message: unknown): message is DecodedMessage {
  return typeof message === "object" && message !== null && "dataText" in message && "metadata" in message && "type" in message;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether the type's name, whatever its version, is one of this domain's messages. */
function isDeclaredName(domain: Domain, type: string): boolean {
  if (parseType(type) === null) return false;
  const key = typeKey(type);
  for (const meta of domain.elements.values()) {
    if ((meta.kind === "event" || meta.kind === "externalEvent" || meta.kind === "command") && typeKey(meta.type) === key) return true;
  }
  return false;
}

/** What configuration may call an error: its name, its `code`, the names of the classes it is of. */
function namesOf(error: unknown): readonly string[] {
  if (!(error instanceof Error)) return [];
  const names = [error.name];
  if (error instanceof ProteanError) names.push(error.code);
  else if ("code" in error && typeof error.code === "string") names.push(error.code);
  for (let type: unknown = Object.getPrototypeOf(error); type !== null && type !== Object.prototype; type = Object.getPrototypeOf(type)) {
    const made = (type as { readonly constructor?: { readonly name?: string } }).constructor;
    if (typeof made?.name === "string") names.push(made.name);
  }
  return names;
}

/** Wait before further try `tries` (0 = the first). */
function retryDelay_ms(policy: RetryPolicy, tries: number): number {
  const factor = policy.backoff === "exponential" ? 2 ** tries : policy.backoff === "linear" ? tries + 1 : 1;
  return Math.min(policy.baseDelay_ms * factor, policy.maxDelay_ms);
}

/** Context of code that handles this message (G67). */
function handlingContext(metadata: Metadata, limit: RunLimit | null) {
  return {
    values: contextValues(metadata.extensions),
    message: metadata,
    correlationId: metadata.domain.correlation_id,
    causationId: metadata.headers.id,
    priority: metadata.domain.priority,
    limit,
  };
}

/** What most handlers never look at is made when they do. */
class MessageContext implements HandlerContext {
  readonly domain: Domain;
  readonly metadata: Metadata | null;
  readonly #instance: object;
  readonly #run: RunContext;
  #message: HandlerContext["message"] | null = null;

  constructor(domain: Domain, instance: object, metadata: Metadata | null, run: RunContext) {
    this.domain = domain;
    this.metadata = metadata;
    this.#instance = instance;
    this.#run = run;
  }

  get message(): HandlerContext["message"] {
    const { metadata } = this;
    this.#message ??= {
      id: metadata?.headers.id ?? null,
      type: metadata?.headers.type ?? (this.#instance as { readonly $name: string }).$name,
      stream: metadata?.headers.stream ?? null,
      position: metadata?.event_store?.position ?? null,
      globalPosition: metadata?.event_store?.global_position ?? null,
      attempt: this.#run.attempt,
    };
    return this.#message;
  }

  get signal(): AbortSignal {
    return this.#run.signal;
  }

  get log(): Log {
    return this.#run.log;
  }
}

/** Ids that a payload of another Protean domain carries. */
function foreignMetadata(payload: unknown): { readonly id: string | null; readonly correlationId: string | null } {
  const text = (value: unknown): string | null => (typeof value === "string" && value !== "" ? value : null);
  const member = (value: unknown, key: string): unknown =>
    typeof value === "object" && value !== null ? (value as Record<string, unknown>)[key] : undefined;
  const metadata = member(payload, "metadata");
  return { id: text(member(member(metadata, "headers"), "id")), correlationId: text(member(member(metadata, "domain"), "correlation_id")) };
}

const running = new WeakMap<ReactionMeta, RunningReaction>();

function runningOf(domain: Domain, meta: ReactionMeta): RunningReaction {
  let reaction = running.get(meta);
  if (reaction === undefined) {
    reaction = new RunningReaction(domain, meta);
    running.set(meta, reaction);
  }
  return reaction;
}

/** Everything that the engine runs; query handlers are not among it. */
export function buildReactions(domain: Domain): readonly Reaction[] {
  return domain.reactionMetas.filter((meta) => meta.kind !== "queryHandler").map((meta) => runningOf(domain, meta));
}

const INLINE: Omit<RunContext, "log" | "signal"> = { attempt: 1, workerId: "inline", deliveryKey: "", fences: [] as readonly Lease[] };

function inlineContext(domain: Domain): RunContext {
  return { ...INLINE, log: domain.stores.log, signal: currentContext()?.limit?.signal ?? NEVER };
}

/** Runs a command's handler in the caller's process, inside the unit of work that may be open. */
export function runInlineCommand(domain: Domain, handler: ReactionMeta, command: object, metadata: Metadata): Promise<unknown> {
  const { values, ...handling } = handlingContext(metadata, currentContext()?.limit ?? null);
  const merged = { ...currentContext()?.values, ...values };
  return openContext(domain, { ...handling, values: merged }, () =>
    runningOf(domain, handler).runInstance(command, metadata, inlineContext(domain)),
  );
}

/** Runs all handlers of a committed event in the caller's process and answers what they threw. */
export async function runInlineEvent(domain: Domain, event: object, metadata: Metadata): Promise<readonly unknown[]> {
  const category = metadata.domain.stream_category ?? "";
  const type = metadata.headers.type ?? "";
  const failures: unknown[] = [];
  for (const meta of domain.reactionMetas) {
    if (meta.kind !== "eventHandler" && meta.kind !== "projector" && meta.kind !== "processManager") continue;
    const reaction = runningOf(domain, meta);
    if (!reaction.categories.includes(category) && !reaction.categories.includes(ALL_STREAMS)) continue;
    if (reaction.accepts(type) !== "handled") continue;
    if (!sourceFits(meta, metadata)) continue;
    const { values, ...handling } = handlingContext(metadata, null);
    const merged = { ...currentContext()?.values, ...values };
    try {
      await isolatedContext(domain, { ...handling, values: merged }, () =>
        reaction.runInstance(event, metadata, { ...INLINE, log: domain.stores.log, signal: NEVER }),
      );
    } catch (error) {
      const run = { handler: meta.name, message_type: type, message_id: metadata.headers.id };
      if (isDiscarded(error, domain.stores.log, run)) continue;
      failures.push(error);
      await reaction.onFailure(error, event);
    }
  }
  return failures;
}

/** `sourceStream`: only messages that go back to this category, or this very stream. */
function sourceFits(meta: ReactionMeta, metadata: Metadata): boolean {
  const wanted = meta.options.sourceStream;
  if (wanted === undefined) return true;
  const origin = metadata.domain.origin_stream;
  return origin !== null && (origin === wanted || categoryOf(origin) === wanted);
}

/**
 * `Handler.invoke(message)`: runs the matching methods as a plain function, each in a unit of work.
 * @throws ObjectNotFoundError when the handler has no method for the message; what the methods threw
 */
export async function invokeReaction(domain: Domain, meta: ReactionMeta, message: unknown): Promise<unknown> {
  if (meta.kind === "subscriber") {
    const id = domain.stores.random.uuid();
    return runningOf(domain, meta).runPayload(message, { id, stream: meta.stream ?? "" }, inlineContext(domain));
  }
  if (typeof message !== "object" || message === null) throw new ValidationError({ message: ["is no object"] });
  if (meta.kind === "queryHandler") {
    const method = meta.methods.find(({ target }) => target === metaOf(message));
    if (method === undefined) throw noMethod(meta, message);
    return openContext(domain, {}, async () => (method.run as (query: object) => unknown)(message));
  }
  const element: ElementMeta | null = elementOf(message);
  if (!meta.methods.some(({ target }) => target === null || target === element)) throw noMethod(meta, message);
  const metadata = metadataOf(message);
  const run = (): Promise<unknown> => runningOf(domain, meta).runInstance(message, metadata, inlineContext(domain));
  if (metadata === null) return openContext(domain, {}, run);
  const { values, ...handling } = handlingContext(metadata, currentContext()?.limit ?? null);
  return openContext(domain, { ...handling, values: { ...currentContext()?.values, ...values } }, run);
}

function noMethod(meta: ReactionMeta, message: object): ObjectNotFoundError {
  return new ObjectNotFoundError(`\`${meta.name}\` has no method for \`${(message as { readonly $name?: string }).$name ?? "this"}\``);
}
