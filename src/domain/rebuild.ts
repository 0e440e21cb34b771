/** Making a projection anew from the events of the store. */
import { IncorrectUsageError } from "../errors.ts";
import type { StoredMessage } from "../ports/event-store.ts";
import { ensureContext } from "./context.ts";
import type { Domain } from "./domain.ts";
import { metaOf } from "./instance.ts";
import { QuerySet } from "./query-set.ts";
import { decodeStored } from "./read-message.ts";

const PAGE = 500;

/** Rows of one category, read ahead a page at a time. */
class CategoryReader {
  readonly #domain: Domain;
  readonly #category: string;
  #rows: readonly StoredMessage[] = [];
  #index = 0;
  #next = 0;
  #ended = false;

  constructor(domain: Domain, category: string) {
    this.#domain = domain;
    this.#category = category;
  }

  async peek(): Promise<StoredMessage | null> {
    if (this.#index >= this.#rows.length && !this.#ended) {
      this.#rows = await this.#domain.stores.eventStore.readCategory(this.#category, this.#next, PAGE);
      this.#index = 0;
      this.#ended = this.#rows.length < PAGE;
      this.#next = (this.#rows.at(-1)?.globalPosition ?? this.#next - 1) + 1;
    }
    return this.#rows[this.#index] ?? null;
  }

  take(): void {
    this.#index += 1;
  }
}

/**
 * Deletes the projection's rows and runs its projectors over all events of their categories, in the order of the store. Stop the engine's projectors of it
 * first: what they write meanwhile is written twice.
 * @returns how many events were applied
 * @throws IncorrectUsageError when it is no projection or has no projector here; what a projector threw, with the rows made so far in place
 */
export async function rebuildProjection(domain: Domain, target: object): Promise<number> {
  const meta = metaOf(target);
  if (meta.kind !== "projection") throw new IncorrectUsageError(`\`${meta.name}\` is a ${meta.kind}, not a projection`);
  const names = new Set(domain.reactionMetas.filter((reaction) => reaction.projection === meta).map((reaction) => reaction.fqn));
  const projectors = domain.reactions.filter((reaction) => reaction.kind === "projector" && names.has(reaction.fqn));
  if (projectors.length === 0) throw new IncorrectUsageError(`projection \`${meta.name}\` has no projector in this process`);
  const { log } = domain.stores;

  await ensureContext(domain, () => new QuerySet(domain, meta).delete());
  const readers = [...new Set(projectors.flatMap((projector) => projector.categories))].map(
    (category) => new CategoryReader(domain, category),
  );
  let applied = 0;
  for (;;) {
    let earliest: { readonly reader: CategoryReader; readonly row: StoredMessage } | null = null;
    for (const reader of readers) {
      const row = await reader.peek();
      if (row !== null && (earliest === null || row.globalPosition < earliest.row.globalPosition)) earliest = { reader, row };
    }
    if (earliest === null) return applied;
    earliest.reader.take();
    const { row } = earliest;
    const takers = projectors.filter((projector) => projector.accepts(row.type) !== "ignored");
    if (takers.length === 0) continue;
    const message = decodeStored(row);
    for (const projector of takers) {
      // Without a delivery key no markers: those of the first time must not keep the events away.
      await projector.run(message, {
        attempt: 1,
        signal: new AbortController().signal,
        workerId: "rebuild",
        log,
        deliveryKey: "",
        fences: [],
      });
    }
    applied += 1;
  }
}
