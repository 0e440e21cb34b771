/** Reading projections where nothing may be changed: query handlers, web pages. */
import { IncorrectUsageError, ObjectNotFoundError, TooManyObjectsError } from "../errors.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { metaOf } from "./instance.ts";
import { type ConditionInput, QuerySet } from "./query-set.ts";
import { tablesOf } from "./rows.ts";

export class ReadView<P extends object = object> {
  readonly #domain: Domain;
  readonly #meta: ElementMeta;

  constructor(domain: Domain, meta: ElementMeta) {
    this.#domain = domain;
    this.#meta = meta;
  }

  get query(): QuerySet<Readonly<P>> {
    return new QuerySet<Readonly<P>>(this.#domain, this.#meta, { readOnly: true });
  }

  /** @throws ObjectNotFoundError */
  async get(id: unknown): Promise<Readonly<P>> {
    const found = await this.getOrNull(id);
    if (found !== null) return found;
    throw new ObjectNotFoundError(`\`${this.#meta.name}\` object with identifier ${String(id)} does not exist.`);
  }

  getOrNull(id: unknown): Promise<Readonly<P> | null> {
    return this.#byId(id).first();
  }

  /** @throws ObjectNotFoundError, TooManyObjectsError */
  async findBy(where: ConditionInput): Promise<Readonly<P>> {
    const [first, second] = await this.query.filter(where).limit(2).all();
    if (first === undefined)
      throw new ObjectNotFoundError(`\`${this.#meta.name}\` object with values ${JSON.stringify(where)} does not exist.`);
    if (second !== undefined)
      throw new TooManyObjectsError(`\`${this.#meta.name}\`: more than one object has values ${JSON.stringify(where)}.`);
    return first;
  }

  async exists(id: unknown): Promise<boolean> {
    return (await this.#byId(id).count()) > 0;
  }

  /** Rows of the whole projection. */
  count(): Promise<number> {
    return this.query.count();
  }

  #byId(id: unknown): QuerySet<Readonly<P>> {
    const { identity } = this.#meta;
    if (identity === null || tablesOf(this.#meta).length === 0)
      throw new IncorrectUsageError(`\`${this.#meta.name}\` has no identity to be found by`);
    return this.query.filter({ [identity]: id });
  }
}

/**
 * A read-only view of a projection.
 * @throws IncorrectUsageError for anything else
 */
export function viewFor(domain: Domain, target: object): ReadView {
  const meta = metaOf(target);
  if (meta.kind !== "projection") throw new IncorrectUsageError(`\`${meta.name}\` is a ${meta.kind}: only projections have views`);
  return new ReadView(domain, meta);
}
