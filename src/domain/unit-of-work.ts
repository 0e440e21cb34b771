/**
 * A unit of work collects what one handler run (or one `domain.unitOfWork`) wants to write and writes it in one go.
 *
 * open        reads go straight to the stores, writes are only collected; nothing is held open across an `await` (rulings 16, 17)
 * committing  one call of `commit`; whoever still writes now has forgotten an `await` and gets UnitOfWorkClosedError
 * committed   everything is durable; deferred broker messages go out, synchronous handlers run
 * ended       rolled back, or given up at the handler's time limit: nothing was written, later calls are refused (rulings 9)
 *
 * One database (event store and database have the same `identity`): all appends, rows, outbox rows, markers and fences are one transaction. A kill
 * leaves everything or nothing (G60 to G62).
 *
 * Several databases, in this order, and what a kill leaves between the steps:
 *  1. event store: all messages in one append. Kill after it: the events and commands are durable, their outbox rows are not. The engine's
 *     reconciliation adds the rows from the store, for events and for commands with a stream category (rulings 10, outbox.md §8). Event-sourced
 *     aggregates are complete; a state-based aggregate's row is still old (a phantom event), and the re-run of the command raises its own.
 *  2. databases other than the home database, `default` first. Kill between two: the first is durable, the others are not; nothing repairs that but
 *     the re-run of the message, which then finds the first already changed. Keep what belongs together in one database.
 *  3. the home database (that of the event store, else `default`), with the processed markers, which are therefore only there when everything else
 *     is: the message is run again after a kill, never skipped. With several databases effects are at least once, with one exactly once.
 *     (When the home database is that of the event store, the appends are part of its transaction; it then goes first, and the markers follow in a
 *     last commit of their own.)
 * Before step 1 the versions of the rows that will be changed are looked at once more, so that a conflict is almost always found while nothing is
 * durable; a writer who commits between that look and step 2 still wins the row, and our events stay as phantoms.
 *
 * After the commit: messages given to `brokers.publish` are sent. A kill before that loses them; no row backs them (outbox.md §3 step 7).
 */
import { ConfigurationError, ExpectedVersionError, IncorrectUsageError, ProteanError, TransactionError } from "../errors.ts";
import { decodeMetadata, encodeMetadata, type Metadata } from "../messages/envelope.ts";
import type { CommitSet, Database, ProcessedMarker, RowWrite, SucceededKey } from "../ports/database.ts";
import type { Append } from "../ports/event-store.ts";
import type { Lease } from "../ports/leases.ts";
import type { OutboxInsert } from "../ports/outbox-store.ts";
import { closedError, currentContext, openContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { markSaved, metaOf, raiseFactEvent, stateOf } from "./instance.ts";
import { payloadOf, withExpectedVersion } from "./message-metadata.ts";
import { type Publication, publishAfterCommit } from "./publish.ts";
import { isPromise, isTimeOver, type RunLimit } from "./reaction.ts";
import { rowWrites } from "./rows.ts";
import { dispatchEvents } from "./sync-dispatch.ts";

type Phase = "open" | "committing" | "committed" | "ended";

/** An event that became durable, for synchronous handlers. */
export interface CommittedEvent {
  readonly event: object;
  readonly metadata: Metadata;
}

/** A message that is no aggregate's event: a command or a process manager's transition. */
export interface StagedMessage {
  readonly metadata: Metadata;
  readonly dataText: string;
  readonly expectedVersion: number | null;
  /** Whether the message is published by the outbox. */
  readonly outbox: boolean;
}

/** Something that the commit of a unit adds to what its code wrote. */
export interface UnitOptions {
  /** Lets the commit fail with AlreadyProcessedError when it exists already. */
  readonly marker?: ProcessedMarker | null;
  /** Database that the marker goes to; default: the home database. */
  readonly markerDatabase?: string;
  /** Leases that must still be held; leases of the event store. */
  readonly fences?: readonly Lease[];
  /** The unit ends when this time is over. */
  readonly limit?: RunLimit | null;
}

type Operation =
  | { readonly kind: "save"; readonly instance: object; readonly meta: ElementMeta }
  | { readonly kind: "write"; readonly database: string; readonly write: RowWrite };

/**
 * Database of an element by its `provider` option.
 * @throws ConfigurationError when there is none of this name
 */
export function databaseOf(domain: Domain, meta: ElementMeta): Database {
  return databaseNamed(domain, providerOf(meta), `\`${meta.name}\``);
}

/** Key under `[databases]` of an element. */
export function providerOf(meta: ElementMeta): string {
  const provider = meta.options["provider"];
  return typeof provider === "string" ? provider : "default";
}

function databaseNamed(domain: Domain, name: string, who: string): Database {
  const database = domain.stores.databases.get(name);
  if (database !== undefined) return database;
  throw new ConfigurationError(`${who} is kept in database "${name}", which domain.toml doesn't have`, {
    fix: `Add [databases.${name}], or use one of: ${[...domain.stores.databases.keys()].join(", ")}.`,
  });
}

/** The database that is one with the event store, else `default`: markers and commands go there. */
export function homeDatabase(domain: Domain): string {
  const { databases, eventStore } = domain.stores;
  if (databases.get("default")?.identity === eventStore.identity) return "default";
  for (const [name, database] of databases) if (database.identity === eventStore.identity) return name;
  return "default";
}

function identityOf(meta: ElementMeta, instance: object): string {
  return meta.identity === null ? "" : String((instance as Record<string, unknown>)[meta.identity]);
}

class DatabasePart {
  readonly rows: RowWrite[] = [];
  readonly outbox: OutboxInsert[] = [];
  readonly markers: ProcessedMarker[] = [];
  readonly keys: SucceededKey[] = [];
}

export class UnitOfWork {
  readonly domain: Domain;
  #phase: Phase = "open";
  #reason: string | null = null;
  #doom: unknown = null;
  readonly #options: UnitOptions;
  readonly #loaded = new Map<ElementMeta, Map<string, object>>();
  readonly #operations: Operation[] = [];
  readonly #saved = new Set<object>();
  readonly #staged: StagedMessage[] = [];
  readonly #publications: Publication[] = [];
  readonly #keys: SucceededKey[] = [];
  readonly #endings: ((committed: boolean) => Promise<void>)[] = [];

  constructor(domain: Domain, options: UnitOptions = {}) {
    this.domain = domain;
    this.#options = options;
  }

  /** Looks at the time too: a unit whose handler ran into its limit is closed from that moment on. */
  get isOpen(): boolean {
    const limit = this.#options.limit ?? null;
    if (this.#phase === "open" && limit !== null && isTimeOver(limit)) this.close("the handler's time was over");
    return this.#phase === "open";
  }

  /** Why it is closed; null while it is open. */
  get closedBecause(): string | null {
    return this.#reason;
  }

  #requireOpen(doing: string): void {
    if (!this.isOpen) throw closedError(doing, this.#reason);
  }

  /** The instance that this unit has loaded or saved under this identity. */
  find(meta: ElementMeta, id: string): object | null {
    return this.#loaded.get(meta)?.get(id) ?? null;
  }

  /** Remembers a loaded instance, so that one identity is one object inside the unit. */
  track(meta: ElementMeta, id: string, instance: object): void {
    this.#requireOpen(`\`${meta.name}\` ${id} was loaded`);
    let instances = this.#loaded.get(meta);
    if (instances === undefined) {
      instances = new Map();
      this.#loaded.set(meta, instances);
    }
    instances.set(id, instance);
  }

  /** Forgets loaded instances that were not saved; after a change by sets they may be stale. */
  forget(meta: ElementMeta, id?: string): void {
    const instances = this.#loaded.get(meta);
    if (instances === undefined) return;
    for (const [key, instance] of instances) {
      if (id === undefined ? !this.#saved.has(instance) : key === id) instances.delete(key);
    }
  }

  /** The instance, as it is at commit, is to be stored. */
  save(meta: ElementMeta, instance: object): void {
    this.#requireOpen(`add of \`${meta.name}\``);
    const id = identityOf(meta, instance);
    const other = this.find(meta, id);
    if (other !== null && other !== instance && this.#saved.has(other)) {
      throw new IncorrectUsageError(`\`${meta.name}\` ${id} was added twice in one unit of work, as two different objects`);
    }
    this.track(meta, id, instance);
    if (this.#saved.has(instance)) return;
    this.#saved.add(instance);
    this.#operations.push({ kind: "save", instance, meta });
  }

  /** Takes back a save; true when there was one and the row was never stored, so that nothing has to be deleted. */
  unsave(meta: ElementMeta, instance: object): boolean {
    this.#requireOpen(`remove of \`${meta.name}\``);
    this.forget(meta, identityOf(meta, instance));
    if (!this.#saved.delete(instance)) return false;
    const index = this.#operations.findIndex((operation) => operation.kind === "save" && operation.instance === instance);
    this.#operations.splice(index, 1);
    return rowWrites(instance)[0]?.kind === "insert";
  }

  /** A write that belongs to no instance. */
  write(database: string, write: RowWrite): void {
    this.#requireOpen(`a change of ${write.table}`);
    this.#operations.push({ kind: "write", database, write });
  }

  /** A command or transition to be appended. */
  stage(message: StagedMessage): void {
    this.#requireOpen(`storing of ${message.metadata.headers.type}`);
    this.#staged.push(message);
  }

  /** An idempotency key of the home database, to be noted with the command that was staged for it. */
  noteKey(key: SucceededKey): void {
    this.#requireOpen(`the idempotency key ${key.key}`);
    this.#keys.push(key);
  }

  /** A broker message to be sent after the commit. */
  publish(publication: Publication): void {
    this.#requireOpen(`publish to ${publication.stream}`);
    this.#publications.push(publication);
  }

  /** Runs when the unit has ended, however it ended. */
  onEnd(run: (committed: boolean) => Promise<void>): void {
    this.#requireOpen("onEnd");
    this.#endings.push(run);
  }

  /** Tells those who wait for the end. Called once, by whoever opened the unit. */
  async settle(): Promise<void> {
    for (const run of this.#endings.splice(0)) {
      try {
        await run(this.#phase === "committed");
      } catch (error) {
        // What is committed stays committed; the error belongs to bookkeeping such as idempotency keys.
        this.domain.stores.log.error("unit_of_work.ending_failed", { error });
      }
    }
  }

  /** Part of the work failed: whoever swallows that error must not commit the other part. */
  doom(error: unknown): void {
    if (this.#doom === null) this.#doom = error ?? new Error("rolled back");
  }

  /** Ends an open unit without writing anything. */
  close(reason: string): void {
    if (this.#phase !== "open") return;
    this.#phase = "ended";
    this.#reason = reason;
  }

  /** Whether anything is collected for this table that a query must see. */
  hasPending(database: string, table: string): boolean {
    return this.pendingWrites(database).some((write) => write.table === table);
  }

  /** What is collected for a database so far, in order. */
  pendingWrites(database: string): readonly RowWrite[] {
    const writes: RowWrite[] = [];
    for (const operation of this.#operations) {
      if (operation.kind === "write") {
        if (operation.database === database) writes.push(operation.write);
      } else if (providerOf(operation.meta) === database && operation.meta.options["eventSourced"] !== true) {
        writes.push(...rowWrites(operation.instance));
      }
    }
    return writes;
  }

  /**
   * Ends a unit that has nothing to write, nothing to send and nobody to tell, as most of those of event handlers; false when it has.
   * @throws UnitOfWorkClosedError when its time is over
   */
  endIfEmpty(): boolean {
    const isEmpty =
      this.#operations.length === 0 &&
      this.#staged.length === 0 &&
      this.#publications.length === 0 &&
      this.#endings.length === 0 &&
      this.#loaded.size === 0 &&
      this.#doom === null &&
      (this.#options.marker ?? null) === null;
    if (!isEmpty) return false;
    this.#requireOpen("commit");
    this.#phase = "committed";
    this.#reason = "it was committed";
    return true;
  }

  /**
   * Writes everything.
   * @returns the events that are durable now, in the order in which they were appended
   * @throws ExpectedVersionError another writer was faster; AlreadyProcessedError; LeaseLostError; ValidationError for a unique column;
   *   ConnectionError; TransactionError for everything else, and when a nested part had failed. In all cases nothing is durable on one database
   */
  async commit(): Promise<readonly CommittedEvent[]> {
    this.#requireOpen("commit");
    if (this.#doom !== null) {
      this.close("rolled back");
      throw new TransactionError("part of this unit of work failed, so nothing of it was stored", { cause: this.#doom });
    }
    this.#phase = "committing";
    this.#reason = "it was being committed";
    let events: readonly CommittedEvent[];
    try {
      events = await this.#store();
    } catch (error) {
      this.#phase = "ended";
      this.#reason = "rolled back";
      if (error instanceof ProteanError) throw error;
      throw new TransactionError(`the unit of work could not be stored: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
    this.#phase = "committed";
    this.#reason = "it was committed";
    for (const instance of this.#saved) markSaved(instance);
    return events;
  }

  async #store(): Promise<readonly CommittedEvent[]> {
    const { domain } = this;
    const { stores } = domain;
    const { eventStore, settings } = stores;
    this.#reportUnsaved();

    const parts = new Map<string, DatabasePart>();
    const part = (name: string): DatabasePart => {
      let found = parts.get(name);
      if (found === undefined) {
        found = new DatabasePart();
        parts.set(name, found);
      }
      return found;
    };
    const home = homeDatabase(domain);
    const oneDatabase = stores.databases.get(home)?.identity === eventStore.identity;

    const appends: Append[] = [];
    const append = (metadata: Metadata, dataText: string, expectedVersion: number | null): void => {
      appends.push({
        id: stores.random.uuid(),
        stream: metadata.headers.stream ?? "",
        type: metadata.headers.type ?? "",
        data: dataText,
        metadata: encodeMetadata(withExpectedVersion(metadata, expectedVersion)),
        expectedVersion,
      });
    };

    for (const { metadata, dataText, expectedVersion, outbox } of this.#staged) {
      append(metadata, dataText, expectedVersion);
      if (outbox) part(home).outbox.push(this.#outboxRow(metadata, dataText, settings.outbox.broker));
    }

    for (const operation of this.#operations) {
      if (operation.kind === "write") part(operation.database).rows.push(operation.write);
      else {
        raiseFactEvent(operation.instance);
        if (operation.meta.options["eventSourced"] !== true) {
          const writes = rowWrites(operation.instance);
          if (writes.length > 0) part(providerOf(operation.meta)).rows.push(...writes);
        }
      }
    }

    // State-based aggregates have no stream position of their own: it is read right before the commit, in one call, and guards the append.
    const heads = await this.#headsOfStateBased();
    const numbers = await this.#numbersInUse();
    const committed: CommittedEvent[] = [];
    for (const operation of this.#operations) {
      if (operation.kind !== "save" || operation.meta.kind !== "aggregate") continue;
      const eventSourced = operation.meta.options["eventSourced"] === true;
      for (const { event, metadata: raised } of stateOf(operation.instance).events) {
        const stream = raised.headers.stream ?? "";
        const metadata = renumbered(raised, numbers.get(stream));
        const head = heads.get(stream);
        let expected: number | null;
        if (head !== undefined) {
          expected = head;
          heads.set(stream, head + 1);
        } else expected = eventSourced ? metadata.domain.expected_version : null;
        const { dataText } = payloadOf(event);
        append(metadata, dataText, expected);
        committed.push({ event, metadata });
        if (!settings.outbox.enabled) continue;
        const { outbox } = part(providerOf(operation.meta));
        outbox.push(this.#outboxRow(metadata, dataText, settings.outbox.broker));
        if (metaOf(event).options["published"] !== true) continue;
        for (const broker of settings.outbox.externalBrokers) outbox.push(this.#outboxRow(metadata, dataText, broker));
      }
    }

    const { marker, markerDatabase, fences = [] } = this.#options;
    const markerHome = markerDatabase ?? home;
    if (marker !== undefined && marker !== null) part(markerHome).markers.push(marker);
    if (this.#keys.length > 0) part(home).keys.push(...this.#keys);
    if (parts.size === 0 && appends.length === 0) return committed;

    await this.#commitParts(parts, { appends, home, oneDatabase, markerHome, fences });
    return committed;
  }

  async #commitParts(
    parts: ReadonlyMap<string, DatabasePart>,
    plan: {
      readonly appends: readonly Append[];
      readonly home: string;
      readonly oneDatabase: boolean;
      readonly markerHome: string;
      readonly fences: readonly Lease[];
    },
  ): Promise<void> {
    const { stores } = this.domain;
    const { appends, home, oneDatabase, markerHome } = plan;
    const fences = oneDatabase ? plan.fences : [];
    const names = [...parts.keys()];
    const appendsHere = oneDatabase && appends.length > 0;
    if (appendsHere && !names.includes(home)) names.unshift(home);
    const set = (name: string, extra: Partial<CommitSet>): CommitSet => {
      const part = parts.get(name);
      return {
        rows: part?.rows ?? [],
        outbox: part?.outbox ?? [],
        markers: [],
        appends: [],
        fences: name === home ? fences : [],
        keys: part?.keys ?? [],
        ...extra,
      };
    };
    const database = (name: string): Database => databaseNamed(this.domain, name, "a row");

    const [only] = names;
    if (names.length === 1 && only !== undefined && (appends.length === 0 || (oneDatabase && only === home))) {
      await database(only).commit(set(only, { appends: oneDatabase ? appends : [], markers: parts.get(only)?.markers ?? [] }));
      return;
    }

    if (!oneDatabase && appends.length > 0) {
      await this.#checkRowVersions(parts);
      await stores.eventStore.append(appends);
    }
    // `default` first, the home database last, unless it carries the appends: then it is the anchor and goes before all others.
    const rank = (name: string): number => (name === home ? (appendsHere ? -1 : 2) : name === "default" ? 0 : 1);
    names.sort((left, right) => rank(left) - rank(right));
    const markers = parts.get(markerHome)?.markers ?? [];
    const last = names.at(-1);
    for (const name of names) {
      const here = set(name, {
        appends: name === home && appendsHere ? appends : [],
        markers: name === last && name === markerHome ? markers : [],
      });
      const writes = [here.rows, here.outbox, here.appends, here.markers, here.keys ?? []];
      if (writes.some((part) => part.length > 0)) await database(name).commit(here);
    }
    if (markers.length > 0 && last !== markerHome) {
      await database(markerHome).commit({ rows: [], appends: [], outbox: [], markers, fences: markerHome === home ? fences : [] });
    }
  }

  /** Finds a stale version while nothing is durable yet; the guard of the update itself has the last word. */
  async #checkRowVersions(parts: ReadonlyMap<string, DatabasePart>): Promise<void> {
    for (const [name, { rows }] of parts) {
      for (const write of rows) {
        if (write.kind !== "update" || write.version === undefined) continue;
        const row = await databaseNamed(this.domain, name, "a row").get(write.table, write.key);
        if (row?.["_version"] !== write.version) {
          throw new ExpectedVersionError(
            `Wrong expected version: ${write.version} (Aggregate: ${write.table}(${String(write.key)}), Version: ${String(row?.["_version"] ?? "none")})`,
          );
        }
      }
    }
  }

  async #headsOfStateBased(): Promise<Map<string, number>> {
    const streams = new Set<string>();
    for (const operation of this.#operations) {
      if (operation.kind !== "save" || operation.meta.kind !== "aggregate" || operation.meta.options["eventSourced"] === true) continue;
      for (const { metadata } of stateOf(operation.instance).events) {
        const { stream } = metadata.headers;
        if (stream !== null && !isFactStream(operation.meta, stream)) streams.add(stream);
      }
    }
    const heads = new Map<string, number>();
    if (streams.size === 0) return heads;
    const found = await this.domain.stores.eventStore.heads([...streams]);
    for (const stream of streams) heads.set(stream, found.get(stream) ?? -1);
    return heads;
  }

  /**
   * Where tables and events lie in two databases, a commit that ended between them leaves events whose state was never stored: the next ones of that
   * aggregate would get their ids, and whoever has handled the first would take the others for done (W22).
   * @returns stream to the number `<version>.<n>` of its last event
   */
  async #numbersInUse(): Promise<ReadonlyMap<string, string>> {
    const { databases, eventStore } = this.domain.stores;
    const streams = new Set<string>();
    for (const operation of this.#operations) {
      if (operation.kind !== "save" || operation.meta.kind !== "aggregate" || operation.meta.options["eventSourced"] === true) continue;
      if (databases.get(providerOf(operation.meta))?.identity === eventStore.identity) continue;
      for (const { metadata } of stateOf(operation.instance).events)
        if (metadata.headers.stream !== null) streams.add(metadata.headers.stream);
    }
    const numbers = new Map<string, string>();
    for (const stream of streams) {
      const last = await eventStore.lastOfStream(stream);
      const number = last?.metadata == null ? null : decodeMetadata(last.metadata).domain.sequence_id;
      if (number !== null) numbers.set(stream, number);
    }
    return numbers;
  }

  #outboxRow(metadata: Metadata, dataText: string, targetBroker: string): OutboxInsert {
    return {
      id: this.domain.stores.random.uuid(),
      messageId: metadata.headers.id ?? "",
      streamName: metadata.headers.stream ?? "",
      type: metadata.headers.type ?? "",
      data: dataText,
      // Positions are the event store's affair: null in the outbox and on streams (wire-format §2.1).
      metadata: encodeMetadata(withExpectedVersion(metadata, null)),
      correlationId: metadata.domain.correlation_id,
      causationId: metadata.domain.causation_id,
      partitionKey: null,
      priority: metadata.domain.priority,
      targetBroker,
      maxRetries: this.domain.stores.settings.outbox.maxAttempts,
    };
  }

  #reportUnsaved(): void {
    for (const [meta, instances] of this.#loaded) {
      if (meta.kind !== "aggregate") continue;
      for (const [id, instance] of instances) {
        const count = stateOf(instance).events.length;
        if (count === 0 || this.#saved.has(instance)) continue;
        this.domain.stores.log.debug("unit_of_work.unsaved_events", {
          message: `${count} events raised on \`${meta.name}\` ${id} were not saved`,
          aggregate: meta.name,
          id,
          events: count,
        });
      }
    }
  }

  /** Sends what was given to `publish`; for whoever opened the unit, after the commit. */
  async publishDeferred(): Promise<void> {
    if (this.#publications.length > 0) await publishAfterCommit(this.domain, this.#publications.splice(0));
  }
}

function isFactStream(meta: ElementMeta, stream: string): boolean {
  return meta.options["factEvents"] === true && stream.startsWith(`${meta.category ?? ""}-fact-`);
}

/**
 * Runs `fn` in a unit of work of its own, or in the one that is open: then its failure dooms the whole, even when somebody catches the error
 * (nested rollbacks, domain-model §7).
 */
export async function runUnitOfWork<R>(domain: Domain, fn: () => R | Promise<R>, options: UnitOptions = {}): Promise<R> {
  return beginUnitOfWork(domain, fn, options);
}

/**
 * `runUnitOfWork` without a promise where nothing is waited for: `fn` answered at once and wrote nothing. Most event handlers are like that, and
 * promises would cost more than they do.
 */
export function beginUnitOfWork<R>(domain: Domain, fn: () => R | Promise<R>, options: UnitOptions = {}): R | Promise<R> {
  const context = currentContext();
  requireOpen(context, "unitOfWork");
  if (context?.domain === domain && context.unit !== null) return joinUnitOfWork(context.unit, fn);
  const unit = new UnitOfWork(domain, options);
  const limit = options.limit ?? null;
  const inside = limit === null ? { unit } : { unit, limit };
  let result: R | Promise<R>;
  try {
    result = openContext(domain, inside, fn);
    if (!isPromise(result) && unit.endIfEmpty()) return result;
  } catch (error) {
    return rollBack(unit, error);
  }
  return commitAfter(unit, result, (commit) => openContext(domain, inside, commit));
}

async function joinUnitOfWork<R>(unit: UnitOfWork, fn: () => R | Promise<R>): Promise<R> {
  try {
    return await fn();
  } catch (error) {
    unit.doom(error);
    throw error;
  }
}

/** @param inContext opens the unit's context again: enrichers of fact events see the same `g` at commit */
async function commitAfter<R>(
  unit: UnitOfWork,
  running: R | Promise<R>,
  inContext: <T>(commit: () => Promise<T>) => Promise<T>,
): Promise<R> {
  let result: R;
  let events: readonly CommittedEvent[];
  try {
    result = await running;
    if (unit.endIfEmpty()) return result;
    events = await inContext(() => unit.commit());
  } catch (error) {
    return rollBack(unit, error);
  }
  await unit.settle();
  await unit.publishDeferred();
  await dispatchEvents(unit.domain, events);
  return result;
}

async function rollBack(unit: UnitOfWork, error: unknown): Promise<never> {
  unit.close("rolled back");
  await unit.settle();
  throw error;
}

/** The same event with the next free number of its stream, when its own is, or may be, in use. */
function renumbered(metadata: Metadata, inUse: string | undefined): Metadata {
  const { id, stream } = metadata.headers;
  const own = /^(\d+)\.(\d+)$/.exec(metadata.domain.sequence_id ?? "");
  const used = /^(\d+)\.(\d+)$/.exec(inUse ?? "");
  if (own === null || used === null || stream === null || Number(used[1]) < Number(own[1])) return metadata;
  if (id !== `${stream}-${own[0]}`) return metadata;
  const number = `${used[1]}.${Number(used[2]) + Number(own[2])}`;
  return { ...metadata, headers: { ...metadata.headers, id: `${stream}-${number}` }, domain: { ...metadata.domain, sequence_id: number } };
}
