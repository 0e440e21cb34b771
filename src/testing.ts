/**
 * `protean/testing`: a domain on stores in memory, and short ways to say "given this history, when this happens, then that".
 *
 * Works with every test runner: it throws nothing of its own but AssertionErrors.
 */
import { AssertionError } from "node:assert";
import { currentUnitOfWork, openContext } from "./domain/context.ts";
import { correlationTrace, type TracedMessage } from "./domain/correlation-trace.ts";
import { isDiscarded } from "./domain/discarded.ts";
import type { Domain } from "./domain/domain.ts";
import type { ElementMeta } from "./domain/element.ts";
import { metaOf, setMetadata } from "./domain/instance.ts";
import { eventMetadata, payloadOf } from "./domain/message-metadata.ts";
import type { CommandReceipt } from "./domain/process-command.ts";
import { correlationOf, loadInstance } from "./domain/process-manager.ts";
import { ReactionBuilder, type ReactionMeta } from "./domain/reactions.ts";
import { decodeStored, readMessage } from "./domain/read-message.ts";
import { loadEventSourced } from "./domain/snapshots.ts";
import { currentConnector, type DomainSettings, type DomainStores } from "./domain/stores.ts";
import { dispatchEvents, withoutDispatch } from "./domain/sync-dispatch.ts";
import type { AnyCommand, AnyEvent, ClassOf, EventsOf, ResultOf } from "./domain/types.ts";
import { type CommittedEvent, runUnitOfWork } from "./domain/unit-of-work.ts";
import { viewFor } from "./domain/view.ts";
import { IncorrectUsageError, ValidationError } from "./errors.ts";
import { parseDateTime } from "./messages/datetime.ts";
import { eventStream } from "./messages/names.ts";
import type { Clock } from "./ports/clock.ts";
import { ALL_STREAMS, type StoredMessage } from "./ports/event-store.ts";
import { silentLog } from "./ports/log.ts";

const PAGE = 500;
/** Handlers that answer each other in a circle would drain for ever. */
const MAX_DRAINED = 100_000;

export interface TestOptions {
  /** Default `sync`: reactions run inside `process`. With `async` they run in `drain`. */
  readonly eventProcessing?: "sync" | "async";
  /** Default `sync`. */
  readonly commandProcessing?: "sync" | "async";
  /** Default `sync`. */
  readonly messageProcessing?: "sync" | "async";
  /** Default: the real one. `fixed("2026-01-01")` stands still. */
  readonly clock?: Clock;
  /** Anything of domain.toml besides, with its keys. Stores are in memory unless it says otherwise. */
  readonly config?: Readonly<Record<string, unknown>>;
}

/** A domain on memory stores. `await using` closes it at the end of the test. */
export interface TestDomain {
  readonly domain: Domain;
  readonly stores: DomainStores;
  /** Runs everything that waits: asynchronous commands and events, until nothing is left. */
  drain(): Promise<number>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

interface Active {
  readonly domain: Domain;
  readonly settings: { -readonly [K in keyof DomainSettings]: DomainSettings[K] };
  /** Global position up to which `drain` has come. */
  position: number;
}

const active = new Map<Domain, Active>();

function activeOf(domain: Domain): Active {
  const found = active.get(domain);
  if (found !== undefined) return found;
  throw new IncorrectUsageError(`domain "${domain.name}" is not under test`, { fix: "Call `await testDomain(domain)` first." });
}

/**
 * Puts the domain on fresh stores in memory. May be called again for each test; the stores before are closed.
 * @example
 * const t = await testDomain(domain);
 * await using _ = t;
 */
export async function testDomain(domain: Domain, options: TestOptions = {}): Promise<TestDomain> {
  const connect = currentConnector();
  if (connect === null)
    throw new IncorrectUsageError("nothing is there to make stores with", { fix: 'Import "protean" before "protean/testing".' });
  if (active.delete(domain)) await domain.close();
  const config = {
    databases: { default: { provider: "memory" } },
    event_store: { provider: "memory" },
    brokers: { default: { provider: "inline" } },
    event_processing: options.eventProcessing ?? "sync",
    command_processing: options.commandProcessing ?? "sync",
    message_processing: options.messageProcessing ?? "sync",
    ...options.config,
  };
  const connected = await connect({ domainName: domain.name, config, databases: domain.databasesInUse, role: "engine" });
  const settings = { ...connected.settings };
  // Not spread: what a connector gives may keep its methods on a prototype.
  const stores: DomainStores = {
    settings,
    databases: connected.databases,
    eventStore: connected.eventStore,
    brokers: connected.brokers,
    idempotency: connected.idempotency,
    clock: options.clock ?? connected.clock,
    random: connected.random,
    log: silentLog,
    telemetry: connected.telemetry,
    close: () => connected.close(),
  };
  await useTestStores(domain, stores);
  const close = async (): Promise<void> => {
    if (active.get(domain)?.settings !== settings) return;
    active.delete(domain);
    await domain.close();
  };
  return { domain, stores, drain: () => drain(domain), close, [Symbol.asyncDispose]: close };
}

/** Attaches stores that are there already. `settings` of theirs may be changed by `given(…).run()` while that runs. */
export async function useTestStores(domain: Domain, stores: DomainStores): Promise<void> {
  domain.useStores(stores);
  await stores.eventStore.setup();
  for (const database of stores.databases.values()) await database.setup();
  const last = await stores.eventStore.lastOfCategory(ALL_STREAMS);
  active.set(domain, { domain, settings: stores.settings, position: last?.globalPosition ?? 0 });
}

/** A clock that stands still at this moment; pauses on it end at once. */
export function fixed(time: string | Date): Clock {
  const now_ms = time instanceof Date ? time.getTime() : (parseDateTime(time)?.epoch_ms ?? Number.NaN);
  if (Number.isNaN(now_ms)) throw new IncorrectUsageError(`fixed: ${String(time)} is no time`);
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  return {
    now_ms: () => now_ms,
    monotonic_ms: () => 0,
    sleep: turn,
    timer: () => () => {},
    turn,
  };
}

// -------------------------------------------------------------------------------------------------------------- event log

type EventClass<E extends object> = abstract new (...args: never) => E;

/** Messages in the order in which they were stored. */
export class EventLog<E extends object = object> implements Iterable<E> {
  readonly #messages: readonly E[];

  constructor(messages: readonly E[]) {
    this.#messages = messages;
  }

  get names(): readonly (E extends { readonly $name: infer N } ? N : string)[] {
    return this.#messages.map((message) => (message as { readonly $name: string }).$name) as never;
  }
  get length(): number {
    return this.#messages.length;
  }
  get first(): E | undefined {
    return this.#messages[0];
  }
  get last(): E | undefined {
    return this.#messages.at(-1);
  }
  at(index: number): E | undefined {
    return this.#messages.at(index);
  }
  has(type: EventClass<object>): boolean {
    return this.get(type) !== undefined;
  }
  /** The first of this class. */
  get<X extends object>(type: EventClass<X>): X | undefined {
    return this.ofType(type)[0];
  }
  ofType<X extends object>(type: EventClass<X>): readonly X[] {
    const meta = metaOf(type);
    return this.#messages.filter((message) => metaOf(message) === meta) as unknown as readonly X[];
  }
  [Symbol.iterator](): Iterator<E> {
    return this.#messages[Symbol.iterator]();
  }
}

// ------------------------------------------------------------------------------------------------------------------ given

export interface ProcessedResult<A extends object> {
  readonly accepted: boolean;
  readonly rejected: boolean;
  /** What the handler threw; null when the command was accepted. */
  readonly rejection: unknown;
  /** Reasons of a ValidationError, else the error's message. */
  readonly rejectionMessages: readonly string[];
  /** The aggregate as it is stored now. */
  readonly aggregate: A;
  /** Events of the aggregate that this command raised. */
  readonly events: EventLog<EventOfAggregate<A>>;
  /** Those of all commands of the chain. */
  readonly allEvents: EventLog<EventOfAggregate<A>>;
  process(command: AnyCommand, options?: { readonly reactions?: boolean }): Promise<ProcessedResult<A>>;
}

type EventOfAggregate<A> = [EventsOf<A>] extends [never] ? AnyEvent : EventsOf<A>;

export interface GivenAggregate<A extends object> {
  /** More history. */
  after(...events: readonly EventOfAggregate<A>[]): GivenAggregate<A>;
  /** Runs the command's handler now. `reactions: false` keeps handlers of the events out of it. */
  process(command: AnyCommand, options?: { readonly reactions?: boolean }): Promise<ProcessedResult<A>>;
}

export interface ProcessManagerResult<S> {
  readonly notStarted: boolean;
  readonly complete: boolean;
  /** Number of transitions. */
  readonly transitions: number;
  /** @throws AssertionError when it wasn't started */
  readonly state: S;
  /** Commands that it issued; they were stored, not handled. */
  readonly sent: EventLog;
}

export interface GivenProcessManager<S> {
  run(): Promise<ProcessManagerResult<S>>;
}

export interface ProjectionResult<P> {
  readonly found: boolean;
  /** @throws AssertionError when there is no row */
  readonly projection: Readonly<P>;
  /** Whether the row has these values, by declared names. */
  has(values: Partial<P>): boolean;
}

export interface GivenEvents {
  /** Runs all reactions of the events and looks at one row of the projection. */
  project<P extends object>(projection: ClassOf<P>, id: unknown): Promise<ProjectionResult<P>>;
}

/** State of a process manager, from its builder's type. */
type StateOf<B> = B extends { readonly "~state"?: infer S } ? S : Record<string, unknown>;

/** An aggregate with this identity and history. */
export function given<A extends object>(
  aggregate: ClassOf<A> & { readonly createNew: unknown },
  id: string,
  ...events: readonly EventOfAggregate<A>[]
): GivenAggregate<A>;
/** Events, to see what a projection makes of them. */
export function given(...events: readonly AnyEvent[]): GivenEvents;
/** A process manager and the events that it is told, in this order. */
export function given<B extends object>(processManager: B, ...events: readonly AnyEvent[]): GivenProcessManager<StateOf<B>>;
export function given(subject: object, ...rest: readonly unknown[]): object {
  const reaction = ReactionBuilder.metaOf(subject);
  if (reaction !== null) return givenProcessManager(reaction, rest as readonly object[]);
  if (typeof subject === "function") {
    const [id, ...events] = rest;
    return givenAggregate(metaOf(subject), String(id), events as readonly object[]);
  }
  return givenEvents([subject, ...(rest as readonly object[])]);
}

/** Stores events as history of a stream, with the metadata they would have had. */
async function seed(domain: Domain, owner: ElementMeta | null, id: string, events: readonly object[]): Promise<readonly CommittedEvent[]> {
  const category = owner?.category ?? `${domain.normalisedName}::external`;
  const stream = eventStream(category, id);
  const { eventStore } = domain.stores;
  const seeded: CommittedEvent[] = [];
  await openContext(domain, {}, () =>
    withoutDispatch(domain, () =>
      runUnitOfWork(domain, async () => {
        let version = (await eventStore.heads([stream])).get(stream) ?? -1;
        const unit = currentUnitOfWork();
        for (const event of events) {
          const expectedVersion = version;
          version += 1;
          const sequenceId = owner?.options["eventSourced"] === true ? String(version) : `${version}.1`;
          const made = eventMetadata(owner?.construct.prototype ?? event, event, {
            id: `${stream}-${sequenceId}`,
            stream,
            sequenceId,
            expectedVersion,
          });
          const metadata = { ...made, domain: { ...made.domain, stream_category: category } };
          setMetadata(event, metadata);
          unit?.stage({ metadata, dataText: payloadOf(event).dataText, expectedVersion, outbox: false });
          seeded.push({ event, metadata });
        }
      }),
    ),
  );
  return seeded;
}

/** Runs the reactions of seeded events as the configuration wants it. */
async function react(domain: Domain, seeded: readonly CommittedEvent[]): Promise<void> {
  if (domain.stores.settings.eventProcessing === "sync") {
    await openContext(domain, {}, () => dispatchEvents(domain, seeded));
    activeOf(domain).position = (await domain.stores.eventStore.lastOfCategory(ALL_STREAMS))?.globalPosition ?? 0;
  } else await drain(domain);
}

/** Identity of the aggregate that an event is of, read from the event itself. */
function identityIn(event: object): string {
  const meta = metaOf(event);
  const values = event as Record<string, unknown>;
  const owner = meta.owner;
  const candidates = owner === null ? [] : [owner.identity, `${owner.name.charAt(0).toLowerCase()}${owner.name.slice(1)}Id`];
  for (const name of candidates) if (name !== null && values[name] !== null && values[name] !== undefined) return String(values[name]);
  for (const field of meta.fields.values()) {
    if (field.kind === "identifier" && values[field.name] !== null && values[field.name] !== undefined) return String(values[field.name]);
  }
  return meta.domain.stores.random.uuid();
}

async function seedEach(domain: Domain, events: readonly object[]): Promise<readonly CommittedEvent[]> {
  const seeded: CommittedEvent[] = [];
  for (const event of events) seeded.push(...(await seed(domain, metaOf(event).owner, identityIn(event), [event])));
  return seeded;
}

function givenAggregate(meta: ElementMeta, id: string, events: readonly object[]): GivenAggregate<object> {
  return {
    after: (...more) => givenAggregate(meta, id, [...events, ...more]),
    async process(command, options) {
      const { domain } = meta;
      activeOf(domain);
      if (meta.options["eventSourced"] !== true)
        throw new IncorrectUsageError(`given: \`${meta.name}\` is not event-sourced; add it through its repository`);
      const seeded = await seed(domain, meta, id, events);
      if (options?.reactions !== false) await react(domain, seeded);
      return processOn(meta, id, command, [], options);
    },
  };
}

async function readStream(domain: Domain, stream: string, from: number): Promise<object[]> {
  const events: object[] = [];
  for (let next = from; ; ) {
    const rows = await domain.stores.eventStore.readStream(stream, next, PAGE);
    for (const row of rows) events.push(readMessage(domain, decodeStored(row)));
    if (rows.length < PAGE) return events;
    next += rows.length;
  }
}

async function processOn(
  meta: ElementMeta,
  id: string,
  command: object,
  before: readonly object[],
  options: { readonly reactions?: boolean } = {},
): Promise<ProcessedResult<object>> {
  const { domain } = meta;
  const stream = eventStream(meta.category ?? "", id);
  const { eventStore } = domain.stores;
  const head = (await eventStore.heads([stream])).get(stream) ?? -1;
  let rejection: unknown = null;
  const process = async (): Promise<void> => {
    await domain.process(command as never, { asynchronous: false } as never);
  };
  try {
    if (options.reactions === false) await withoutDispatch(domain, process);
    else await process();
  } catch (error) {
    rejection = error ?? new Error("rejected");
  }
  if (options.reactions !== false && domain.stores.settings.eventProcessing === "async") await drain(domain);
  const events = await readStream(domain, stream, head + 1);
  const all = [...before, ...events];
  const aggregate = await loadEventSourced(domain, meta, id);
  const result = {
    accepted: rejection === null,
    rejected: rejection !== null,
    rejection,
    rejectionMessages: rejection === null ? [] : messagesOf(rejection),
    events: new EventLog(events),
    allEvents: new EventLog(all),
    get aggregate(): object {
      if (aggregate === null) throw new AssertionError({ message: `\`${meta.name}\` ${id} does not exist` });
      return aggregate;
    },
    process: (next: object, more?: { readonly reactions?: boolean }) => processOn(meta, id, next, all, more),
  };
  return result as unknown as ProcessedResult<object>;
}

function messagesOf(error: unknown): readonly string[] {
  if (error instanceof ValidationError) return Object.values(error.messages).flat();
  return [error instanceof Error ? error.message : String(error)];
}

function givenProcessManager(reaction: ReactionMeta, events: readonly object[]): GivenProcessManager<Record<string, unknown>> {
  return {
    async run() {
      const { domain } = reaction;
      const { settings } = activeOf(domain);
      const { eventStore } = domain.stores;
      const state = reaction.state ?? null;
      const runner = domain.reactions.find((candidate) => candidate.fqn === reaction.fqn);
      if (state === null || runner === undefined) throw new IncorrectUsageError(`given: ${reaction.name} is no process manager`);
      const correlation = events
        .flatMap((event) =>
          reaction.methods.filter((method) => method.target === metaOf(event)).map((method) => correlationOf(method, event)),
        )
        .find((value) => value !== null);
      const from = ((await eventStore.lastOfCategory(ALL_STREAMS))?.globalPosition ?? 0) + 1;
      const before = { commandProcessing: settings.commandProcessing, eventProcessing: settings.eventProcessing };
      // The commands are looked at, not handled: what others would do with them is another test.
      settings.commandProcessing = "async";
      settings.eventProcessing = "async";
      try {
        for (const { event, metadata } of await seedEach(domain, events)) {
          const message = decodeStored(await lastStored(domain, metadata.headers.stream ?? "", event));
          await runner.run(message, {
            attempt: 1,
            signal: new AbortController().signal,
            workerId: "test",
            log: domain.stores.log,
            deliveryKey: metadata.headers.id ?? "",
            fences: [],
          });
        }
      } finally {
        Object.assign(settings, before);
      }
      const stored = correlation === undefined || correlation === null ? null : await loadInstance(domain, state, correlation);
      const sent: object[] = [];
      for (const row of await readAll(domain, from)) {
        const message = decodeStored(row);
        if (message.metadata.domain.kind === "COMMAND") sent.push(readMessage(domain, message));
      }
      activeOf(domain).position = (await eventStore.lastOfCategory(ALL_STREAMS))?.globalPosition ?? 0;
      return {
        notStarted: stored === null,
        complete: stored?.complete === true,
        transitions: stored === null ? 0 : stored.version + 1,
        sent: new EventLog(sent),
        get state(): Record<string, unknown> {
          if (stored === null) throw new AssertionError({ message: `process manager ${reaction.name} was not started` });
          return stored.state as Record<string, unknown>;
        },
      };
    },
  };
}

async function lastStored(domain: Domain, stream: string, event: object): Promise<StoredMessage> {
  const rows = await domain.stores.eventStore.readStream(stream, 0, PAGE);
  const { type } = metaOf(event);
  const text = payloadOf(event).dataText;
  const row = rows.findLast((candidate) => candidate.type === type && candidate.data === text) ?? rows.at(-1);
  if (row === undefined) throw new AssertionError({ message: `${type} was not stored` });
  return row;
}

async function readAll(domain: Domain, from: number): Promise<readonly StoredMessage[]> {
  const all: StoredMessage[] = [];
  for (let next = from; ; ) {
    const rows = await domain.stores.eventStore.readCategory(ALL_STREAMS, next, PAGE);
    all.push(...rows);
    const last = rows.at(-1);
    if (rows.length < PAGE || last === undefined) return all;
    next = last.globalPosition + 1;
  }
}

function givenEvents(events: readonly object[]): GivenEvents {
  return {
    async project(projection, id) {
      const { domain } = metaOf(projection);
      activeOf(domain);
      await react(domain, await seedEach(domain, events));
      const row = (await viewFor(domain, projection).getOrNull(id)) as Record<string, unknown> | null;
      const result = {
        found: row !== null,
        has: (values: Record<string, unknown>) =>
          row !== null && Object.entries(values).every(([name, value]) => Object.is(row[name], value)),
        get projection(): object {
          if (row === null) throw new AssertionError({ message: `\`${metaOf(projection).name}\` has no row ${String(id)}` });
          return row;
        },
      };
      return result as never;
    },
  };
}

// ------------------------------------------------------------------------------------------------------------------ drain

/**
 * Runs everything asynchronous that is stored and was not run yet, in the order of the store, until nothing is left: commands by their handler, events by
 * every handler of theirs. What a handler throws, `drain` throws, after the rest has run.
 * @param domain default: all that are under test
 * @returns how many messages were run
 */
export async function drain(domain?: Domain): Promise<number> {
  let count = 0;
  const failures: unknown[] = [];
  for (const one of domain === undefined ? [...active.values()] : [activeOf(domain)]) count += await drainOne(one, failures);
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, `${failures.length} handlers failed`);
  return count;
}

async function drainOne(test: Active, failures: unknown[]): Promise<number> {
  const { domain } = test;
  const { eventStore, log } = domain.stores;
  let count = 0;
  for (;;) {
    const rows = await eventStore.readCategory(ALL_STREAMS, test.position + 1, PAGE);
    if (rows.length === 0) return count;
    for (const row of rows) {
      test.position = row.globalPosition;
      if (row.metadata === null) continue;
      const message = decodeStored(row);
      const { kind, asynchronous, stream_category } = message.metadata.domain;
      if (!asynchronous || (kind !== "EVENT" && kind !== "COMMAND")) continue;
      const category = kind === "COMMAND" ? row.stream.slice(0, row.stream.indexOf("-")) : (stream_category ?? "");
      for (const reaction of domain.reactions) {
        if (reaction.kind === "subscriber" || (kind === "COMMAND") !== (reaction.kind === "commandHandler")) continue;
        if (!reaction.categories.includes(category) && !reaction.categories.includes(ALL_STREAMS)) continue;
        if (reaction.accepts(row.type) === "ignored") continue;
        count += 1;
        if (count > MAX_DRAINED)
          throw new AssertionError({ message: `more than ${MAX_DRAINED} runs; do handlers answer each other in a circle?` });
        const context = {
          attempt: 1,
          signal: new AbortController().signal,
          workerId: "test",
          log,
          deliveryKey: kind === "COMMAND" ? String(row.globalPosition) : (message.id ?? String(row.globalPosition)),
          fences: [],
        };
        try {
          await reaction.run(message, context);
        } catch (error) {
          if (isDiscarded(error, log, { handler: reaction.name, message_type: row.type, message_id: message.id })) continue;
          failures.push(error);
          await reaction.onFailure(error, message);
        }
      }
    }
  }
}

/**
 * Processes a command and runs everything that follows from it, whatever the configuration says of sync and async.
 * @param options.until looked at again and again until it holds; default: nothing to wait for
 * @returns what `domain.process` resolves to
 * @throws AssertionError when `until` doesn't hold after `timeout_ms` (5 s)
 */
export async function processAndWait<C extends AnyCommand>(
  command: C,
  options: { readonly until?: () => boolean | Promise<boolean>; readonly timeout_ms?: number } = {},
): Promise<ResultOf<C> | CommandReceipt> {
  const { domain } = metaOf(command);
  activeOf(domain);
  const result = await domain.process(command);
  await drain(domain);
  const { until, timeout_ms = 5_000 } = options;
  if (until === undefined) return result;
  const { clock } = domain.stores;
  const start_ms = clock.monotonic_ms();
  // A fixed clock never gets to the timeout: then the number of looks ends it.
  for (let looks = 0; !(await until()); looks += 1) {
    if (clock.monotonic_ms() - start_ms >= timeout_ms || looks >= timeout_ms) {
      throw new AssertionError({ message: `still waiting for ${metaOf(command).name} after ${timeout_ms} ms` });
    }
    await clock.sleep(10);
    await drain(domain);
  }
  return result;
}

/**
 * Checks that a trace holds messages of these classes in this order; others may lie between them.
 * @example assertChain(await domain.correlationTrace(id), [MakeDeposit, DepositMade])
 * @throws AssertionError
 */
export function assertChain(trace: readonly TracedMessage[], classes: readonly EventClass<object>[]): void {
  const wanted = classes.map((type) => metaOf(type).type);
  let next = 0;
  for (const { type } of trace) if (type === wanted[next]) next += 1;
  if (next === wanted.length) return;
  throw new AssertionError({
    message: `the chain lacks ${wanted[next]}${next === 0 ? "" : ` after ${wanted[next - 1]}`}; it is: ${trace.map(({ type }) => type).join(" → ") || "empty"}`,
    actual: trace.map(({ type }) => type),
    expected: wanted,
  });
}

export type { TracedMessage };
export { correlationTrace };
