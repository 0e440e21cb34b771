/**
 * Repositories: where aggregates and projections are loaded from and saved to.
 *
 * Every call belongs to the unit of work that is open around it; `add` outside of one opens one for itself. Inside a unit one identity is one object.
 */
import { IncorrectUsageError, ObjectNotFoundError, TooManyObjectsError } from "../errors.ts";
import { isoOfEpoch } from "../messages/datetime.ts";
import type { Row, RowWrite } from "../ports/database.ts";
import { currentContext, ensureContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { Constructor, ElementMeta, ElementTable } from "./element.ts";
import { metaOf, raiseFactEvent, stateOf } from "./instance.ts";
import { type ConditionInput, QuerySet } from "./query-set.ts";
import { fromRows, tablesOf } from "./rows.ts";
import { loadEventSourced, type Moment } from "./snapshots.ts";
import { databaseOf, providerOf, runUnitOfWork, type UnitOfWork } from "./unit-of-work.ts";

/** The unit of work around the call, checked to be open. */
function openUnit(domain: Domain, doing: string): UnitOfWork | null {
  const context = currentContext();
  requireOpen(context, doing);
  return context?.domain === domain ? context.unit : null;
}

function isEventSourced(meta: ElementMeta): boolean {
  return meta.options["eventSourced"] === true;
}

export class Repository<A extends object = object> {
  readonly #domain: Domain;
  readonly #meta: ElementMeta;

  constructor(domain: Domain, meta: ElementMeta) {
    this.#domain = domain;
    this.#meta = meta;
  }

  /** Name of the element that it holds. */
  get element(): string {
    return this.#meta.name;
  }

  /**
   * The stored instance. `at` gives an event-sourced aggregate as it was; it can't be changed then.
   * @throws ObjectNotFoundError
   */
  async get(id: unknown, at?: Moment): Promise<A> {
    const found = await this.getOrNull(id, at);
    if (found !== null) return found;
    throw new ObjectNotFoundError(`\`${this.#meta.name}\` object with identifier ${String(id)} ${missing(at)}.`);
  }

  async getOrNull(id: unknown, at?: Moment): Promise<A | null> {
    const meta = this.#meta;
    const unit = openUnit(this.#domain, `get of \`${meta.name}\``);
    const key = String(id);
    if (at !== undefined) {
      if (!isEventSourced(meta)) {
        throw new IncorrectUsageError(`\`${meta.name}\` is not event-sourced: only its present state is stored`);
      }
      return (await loadEventSourced(this.#domain, meta, key, at)) as A | null;
    }
    const known = unit?.find(meta, key) ?? null;
    if (known !== null) return known as A;
    const instance = isEventSourced(meta) ? await loadEventSourced(this.#domain, meta, key) : await loadRow(this.#domain, meta, id, unit);
    if (instance === null || unit === null) return instance as A | null;
    // Two gets at the same time: the one that came first is the object of this unit.
    const meanwhile = unit.find(meta, key);
    if (meanwhile !== null) return meanwhile as A;
    unit.track(meta, key, instance);
    return instance as A;
  }

  /**
   * Saves the instance when the unit of work commits, in the state that it has then; its events with it. Outside of a unit: now.
   * @throws ExpectedVersionError at commit, when another writer was faster
   */
  async add(instance: A): Promise<A> {
    const meta = this.#meta;
    if (metaOf(instance).fqn !== meta.fqn) {
      throw new IncorrectUsageError(`the repository of \`${meta.name}\` got a \`${metaOf(instance).name}\``);
    }
    if (stateOf(instance).readOnly) {
      throw new IncorrectUsageError(`\`${meta.name}\`: this object was loaded for reading only and can't be saved`, {
        fix: "Load it with `repositoryFor(…).get(id)`, without `atVersion` or `asOf`, and not through a view.",
      });
    }
    const unit = openUnit(this.#domain, `add of \`${meta.name}\``);
    if (unit === null) {
      await ensureContext(this.#domain, () => runUnitOfWork(this.#domain, () => this.add(instance)));
      return instance;
    }
    if (meta.kind === "aggregate") {
      for (const enrich of this.#domain.aggregateEnrichers) enrich(instance as never);
      raiseFactEvent(instance);
    }
    unit.save(meta, instance);
    return instance;
  }

  /**
   * The one instance that fits.
   * @throws ObjectNotFoundError, TooManyObjectsError
   */
  async findBy(where: ConditionInput): Promise<A> {
    const found = await this.query.filter(where).limit(2).all();
    const [first, second] = found;
    if (first === undefined) {
      throw new ObjectNotFoundError(`\`${this.#meta.name}\` object with values ${describe(where)} does not exist.`);
    }
    if (second !== undefined) {
      throw new TooManyObjectsError(`\`${this.#meta.name}\`: more than one object has values ${describe(where)}.`);
    }
    return first;
  }

  /** All instances, to be narrowed down. Sees what this unit of work has not committed yet. */
  get query(): QuerySet<A> {
    if (isEventSourced(this.#meta)) {
      throw new IncorrectUsageError(`\`${this.#meta.name}\` is event-sourced and can't be queried`, { fix: "Query a projection of it." });
    }
    return new QuerySet<A>(this.#domain, this.#meta);
  }

  /** Deletes a projection's row when the unit commits (D34). Deleting what isn't there does nothing, so a re-run is safe. */
  async remove(row: A): Promise<void> {
    const meta = this.#requireProjection("remove");
    const unit = openUnit(this.#domain, `remove of \`${meta.name}\``);
    if (unit === null) return ensureContext(this.#domain, () => runUnitOfWork(this.#domain, () => this.remove(row)));
    if (unit.unsave(meta, row)) return;
    const [table] = tablesOf(meta);
    const identity = meta.identity;
    if (table === undefined || identity === null) return;
    unit.write(providerOf(meta), { kind: "delete", table: table.name, key: (row as Record<string, string>)[identity] ?? null });
  }

  /**
   * Changes the projection's row, or makes it when there is none (D34). When two do so at the same time, one is run again by the version retry and
   * then finds the other's row.
   * @param create makes a missing row
   * @param change changes the one that is there
   */
  async upsert(id: unknown, create: () => A | Promise<A>, change: (row: A) => void | Promise<void>): Promise<A> {
    this.#requireProjection("upsert");
    openUnit(this.#domain, `upsert of \`${this.#meta.name}\``);
    return ensureContext(this.#domain, () =>
      runUnitOfWork(this.#domain, async () => {
        const row = await this.getOrNull(id);
        if (row === null) return this.add(await create());
        await change(row);
        return this.add(row);
      }),
    );
  }

  #requireProjection(method: string): ElementMeta {
    if (this.#meta.kind === "projection") return this.#meta;
    throw new IncorrectUsageError(`\`${this.#meta.name}\`: only projections have ${method}`, {
      fix: "Aggregates are never deleted; give them a state that says so.",
    });
  }
}

function describe(where: unknown): string {
  return JSON.stringify(where, (_key, value: unknown) => (typeof value === "bigint" ? value.toString() : value)) ?? String(where);
}

/**
 * Loads an aggregate's or projection's rows. A root and its children are read one after the other: when the root's version moved in between, they
 * are read again, so that nobody sees half of a change.
 */
async function loadRow(domain: Domain, meta: ElementMeta, id: unknown, unit: UnitOfWork | null): Promise<object | null> {
  const tables = tablesOf(meta);
  const [root] = tables;
  if (root === undefined) return null;
  const key = typeof id === "number" || typeof id === "bigint" ? id : String(id);
  const read = (): Promise<Row | null> => readByKey(domain, meta, root, key, unit);
  let row = await read();
  for (let attempt = 0; row !== null && attempt < 3; attempt += 1) {
    if (tables.length === 1) break;
    const childRows = await readChildren(domain, meta, tables, [key], unit);
    const again = await read();
    if (again === null || again["_version"] === row["_version"]) return fromRows(meta, row, childRows);
    row = again;
  }
  if (row === null) return null;
  return fromRows(meta, row, tables.length === 1 ? new Map() : await readChildren(domain, meta, tables, [key], unit));
}

async function readByKey(
  domain: Domain,
  meta: ElementMeta,
  table: ElementTable,
  key: string | number | bigint,
  unit: UnitOfWork | null,
): Promise<Row | null> {
  const database = databaseOf(domain, meta);
  const pending = unit === null ? [] : writesTo(unit, providerOf(meta), table.name);
  if (pending.length === 0) return database.get(table.name, key);
  const rows = await database.select(
    { table: table.name, where: { kind: "test", column: table.key, lookup: "exact", value: key }, order: [], limit: 1, offset: 0 },
    pending,
  );
  return rows[0] ?? null;
}

function writesTo(unit: UnitOfWork, database: string, table: string): readonly RowWrite[] {
  const writes = unit.pendingWrites(database);
  return writes.some((write) => write.table === table) ? writes : [];
}

/** What was looked for and isn't there. */
function missing(at: Moment | undefined): string {
  if (at === undefined) return "does not exist";
  if ("atVersion" in at) return `has no version ${at.atVersion}`;
  return `did not exist at ${at.asOf instanceof Date ? isoOfEpoch(at.asOf.getTime()) : at.asOf}`;
}

/** Rows of the child tables that belong to these roots, at any depth, by table. */
export async function readChildren(
  domain: Domain,
  meta: ElementMeta,
  tables: readonly ElementTable[],
  keys: readonly (string | number | bigint)[],
  unit: UnitOfWork | null,
): Promise<ReadonlyMap<string, readonly Row[]>> {
  const rows = new Map<string, readonly Row[]>();
  const database = databaseOf(domain, meta);
  const [root, ...children] = tables;
  /** Keys of the rows read so far, by the column that refers to them. */
  const keysByColumn = new Map([[`${root?.name}_${root?.key}`, keys.map(String)]]);
  for (const child of children) {
    const parents = child.parentColumn === null ? [] : (keysByColumn.get(child.parentColumn) ?? []);
    if (child.parentColumn === null || parents.length === 0) continue;
    const where = { kind: "test", column: child.parentColumn, lookup: "in", value: parents } as const;
    const pending = unit === null ? [] : writesTo(unit, providerOf(meta), child.name);
    const found = await database.select({ table: child.name, where, order: [], limit: null, offset: 0 }, pending);
    rows.set(child.name, found);
    keysByColumn.set(
      `${child.name}_${child.key}`,
      found.map((row) => String(row[child.key])),
    );
  }
  return rows;
}

/** Repositories by domain and element: asking twice gives the same object. */
const repositories = new WeakMap<Domain, Map<ElementMeta, Repository>>();

function cacheOf(domain: Domain): Map<ElementMeta, Repository> {
  let cache = repositories.get(domain);
  if (cache === undefined) {
    cache = new Map();
    repositories.set(domain, cache);
  }
  return cache;
}

const REPOSITORY_OF: unique symbol = Symbol.for("protean.repositoryOf");

/** Base class for `class AccountRepository extends domain.repository(Account)`. */
export function repositoryClass<A extends object>(domain: Domain, meta: ElementMeta): new () => Repository<A> {
  class BoundRepository extends Repository<A> {
    constructor() {
      super(domain, meta);
    }
  }
  Object.defineProperty(BoundRepository, REPOSITORY_OF, { value: meta });
  return BoundRepository;
}

/**
 * The repository of an aggregate or projection, or of a class made with `domain.repository(…)`. Once the custom class was asked for, the element's
 * repository is the same object.
 * @throws IncorrectUsageError for anything else
 */
export function repositoryFor(domain: Domain, target: object): Repository {
  const cache = cacheOf(domain);
  const custom = (target as { readonly [REPOSITORY_OF]?: ElementMeta })[REPOSITORY_OF];
  if (custom !== undefined) {
    const known = cache.get(custom);
    const make = target as new () => Repository;
    if (known instanceof make) return known;
    const made = new make();
    cache.set(custom, made);
    return made;
  }
  const meta = metaOf(target as Constructor);
  if (meta.kind !== "aggregate" && meta.kind !== "projection") {
    throw new IncorrectUsageError(`\`${meta.name}\` is a ${meta.kind}: only aggregates and projections have a repository`);
  }
  if (meta.domain !== domain)
    throw new IncorrectUsageError(`\`${meta.name}\` belongs to domain "${meta.domain.name}", not to "${domain.name}"`);
  const known = cache.get(meta);
  if (known !== undefined) return known;
  const made = new Repository(domain, meta);
  cache.set(meta, made);
  return made;
}
