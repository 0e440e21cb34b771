/** All stored messages of one correlation id: what a command or a request brought about. */
import { DeserializationError } from "../errors.ts";
import { ALL_STREAMS } from "../ports/event-store.ts";
import type { Domain } from "./domain.ts";
import { decodeStored } from "./read-message.ts";

const PAGE = 1_000;

/** Messages of one chain in the order in which they were stored; `depth` and `causationId` make it a tree. */
export type CorrelationTrace = readonly TracedMessage[];

export interface TracedMessage {
  readonly id: string | null;
  readonly type: string;
  readonly kind: string | null;
  readonly stream: string;
  /** When it was made; for messages without a time of their own, when it was stored. */
  readonly time: string;
  readonly globalPosition: number;
  readonly causationId: string | null;
  /** 0 for messages whose cause is not in the trace, else one more than the cause. */
  readonly depth: number;
}

/**
 * The messages in the order in which they were stored. Reads the whole event store once: meant for people and tests, not for the path of a message.
 * Messages that can't be read are left out.
 */
export async function correlationTrace(domain: Domain, correlationId: string): Promise<CorrelationTrace> {
  const { eventStore, clock } = domain.stores;
  const traced: TracedMessage[] = [];
  const depths = new Map<string, number>();
  let next = 0;
  for (;;) {
    const rows = await eventStore.readCategory(ALL_STREAMS, next, PAGE);
    for (const row of rows) {
      next = row.globalPosition + 1;
      // The text is looked at before it is parsed: nearly all rows are of other chains.
      if (row.metadata === null || !row.metadata.includes(correlationId)) continue;
      try {
        const { metadata, id, type } = decodeStored(row);
        if (metadata.domain.correlation_id !== correlationId) continue;
        const cause = metadata.domain.causation_id;
        const depth = cause !== null && depths.has(cause) ? (depths.get(cause) ?? 0) + 1 : 0;
        if (id !== null) depths.set(id, depth);
        traced.push({
          id,
          type,
          kind: metadata.domain.kind,
          stream: row.stream,
          time: metadata.headers.time ?? row.time,
          globalPosition: row.globalPosition,
          causationId: cause,
          depth,
        });
      } catch (error) {
        if (!(error instanceof DeserializationError)) throw error;
      }
    }
    if (rows.length < PAGE) return traced;
    await clock.turn();
  }
}
