/**
 * Synchronous dispatch: with `event_processing = "sync"` handlers run in the process of the one who caused the event, right after its commit.
 *
 * Breadth-first (known-traps A21): the events of one commit wait in a queue; what handlers of theirs commit joins the end of it. So a process
 * manager's transition is always committed before the next event is looked at. All handlers run; since everything is durable by then, failures are
 * collected and the one who caused it all gets a single TransactionError.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { TransactionError } from "../errors.ts";
import { parseJson } from "../messages/json.ts";
import { currentContext } from "./context.ts";
import { isDiscarded } from "./discarded.ts";
import type { Domain } from "./domain.ts";
import { failedAfterCommit, type Publication } from "./publish.ts";
import { runInlineEvent } from "./run-reaction.ts";
import type { CommittedEvent } from "./unit-of-work.ts";

/** Events that one cause may bring about; more is a circle of handlers. */
const MAX_EVENTS = 10_000;

class Dispatch {
  readonly domain: Domain;
  readonly queue: CommittedEvent[] = [];
  readonly failures: unknown[] = [];
  running = true;

  constructor(domain: Domain) {
    this.domain = domain;
  }

  async drain(): Promise<void> {
    for (let index = 0; index < this.queue.length; index += 1) {
      if (index >= MAX_EVENTS) {
        throw new TransactionError(`synchronous handlers caused more than ${MAX_EVENTS} events; do they answer each other in a circle?`);
      }
      const next = this.queue[index];
      if (next !== undefined) this.failures.push(...(await runInlineEvent(this.domain, next.event, next.metadata)));
    }
  }
}

const dispatches = new AsyncLocalStorage<Dispatch>();

/**
 * Runs the handlers of committed events when events are processed synchronously; else does nothing.
 * @throws TransactionError with one cause, or an AggregateError of all as cause
 */
export async function dispatchEvents(domain: Domain, events: readonly CommittedEvent[]): Promise<void> {
  if (events.length === 0 || domain.stores.settings.eventProcessing !== "sync") return;
  const outer = dispatches.getStore();
  if (outer?.domain === domain && outer.running) {
    outer.queue.push(...events);
    return;
  }
  const dispatch = new Dispatch(domain);
  dispatch.queue.push(...events);
  try {
    await dispatches.run(dispatch, () => dispatch.drain());
  } finally {
    dispatch.running = false;
  }
  if (dispatch.failures.length > 0) throw failedAfterCommit(dispatch.failures, "a synchronous handler");
}

/** Runs `fn` without any synchronous handlers: what it commits is not dispatched (tests of the write side). */
export async function withoutDispatch<R>(domain: Domain, fn: () => Promise<R>): Promise<R> {
  const dispatch = new Dispatch(domain);
  try {
    return await dispatches.run(dispatch, fn);
  } finally {
    dispatch.running = false;
  }
}

/**
 * With `message_processing = "sync"`: hands published messages to this domain's subscribers at once.
 * @throws TransactionError with what they threw
 */
export async function runInlineSubscribers(domain: Domain, publications: readonly Publication[]): Promise<void> {
  const { settings, random, log } = domain.stores;
  if (settings.messageProcessing !== "sync") return;
  const failures: unknown[] = [];
  for (const { broker, stream, text } of publications) {
    for (const reaction of domain.reactions) {
      if (reaction.kind !== "subscriber" || reaction.broker !== broker || !reaction.categories.includes(stream)) continue;
      const payload = parseJson(text);
      const id = random.uuid();
      try {
        const signal = currentContext()?.limit?.signal ?? new AbortController().signal;
        await reaction.runPayload(payload, { id, stream }, { attempt: 1, signal, workerId: "inline", log, deliveryKey: id, fences: [] });
      } catch (error) {
        if (isDiscarded(error, log, { handler: reaction.name, message_type: stream, message_id: id })) continue;
        await reaction.onFailure(error, payload);
        failures.push(error);
      }
    }
  }
  if (failures.length > 0) throw failedAfterCommit(failures, "a synchronous subscriber");
}
