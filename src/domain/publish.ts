/**
 * `domain.brokers.publish`: a plain JSON object onto a broker's stream, for other programs and for subscribers.
 *
 * Inside a unit of work it waits for the commit and is sent right after it: a rollback sends nothing, a kill between the commit and the sending loses
 * it, since no row backs it. What must not be lost is an event with `published: true`: that goes through the outbox.
 */
import { ConfigurationError, IncorrectUsageError, TransactionError } from "../errors.ts";
import { toJsonText } from "../messages/json.ts";
import { currentContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import { wireValueOf } from "./message-metadata.ts";
import { runInlineSubscribers } from "./sync-dispatch.ts";

/** A message on its way to a broker. */
export interface Publication {
  readonly broker: string;
  readonly stream: string;
  readonly text: string;
}

export interface BrokerPublisher {
  /**
   * Sends `payload` (a JSON object with at least one key) to the stream; inside a unit of work after its commit.
   * @throws IncorrectUsageError for an empty payload; SendError or ConnectionError, outside of a unit of work, when the broker doesn't take it
   */
  publish(stream: string, payload: Readonly<Record<string, unknown>>): Promise<void>;
}

export interface Brokers extends BrokerPublisher {
  /** The broker of this name under `[brokers]`; `publish` itself uses `default`. */
  get(name: string): BrokerPublisher;
}

export function publisher(domain: Domain): Brokers {
  const named = (name: string): BrokerPublisher => ({ publish: (stream, payload) => publish(domain, name, stream, payload) });
  return { ...named("default"), get: named };
}

async function publish(domain: Domain, name: string, stream: string, payload: Readonly<Record<string, unknown>>): Promise<void> {
  const { brokers } = domain.stores;
  if (!brokers.has(name)) {
    throw new ConfigurationError(`there is no broker "${name}"`, {
      fix: `Add [brokers.${name}], or use one of: ${[...brokers.keys()].join(", ")}.`,
    });
  }
  if (typeof stream !== "string" || stream === "") throw new IncorrectUsageError("publish: the stream's name is empty");
  if (payload === null || typeof payload !== "object" || Array.isArray(payload) || Object.keys(payload).length === 0) {
    throw new IncorrectUsageError(`publish to ${stream}: the message is empty`, { fix: "Give an object with at least one key." });
  }
  const context = currentContext();
  requireOpen(context, `publish to ${stream}`);
  // Made into text now: what the caller does to the object afterwards is not published.
  const publication: Publication = { broker: name, stream, text: toJsonText(wireValueOf(payload, "payload")) };
  if (context?.domain === domain && context.unit !== null) return context.unit.publish(publication);
  await send(domain, [publication]);
  await runInlineSubscribers(domain, [publication]);
}

async function send(domain: Domain, publications: readonly Publication[]): Promise<void> {
  const [first] = publications;
  if (first === undefined) return;
  await domain.stores.brokers.get(first.broker)?.publish(publications.map(({ stream, text }) => ({ stream, fields: { data: text } })));
}

/**
 * Sends what a unit of work collected. The unit is durable by now, and failing it would have its message handled again and doubled, so a broker
 * that refuses is logged and counted (`publish_lost`), not thrown.
 * @throws TransactionError when synchronous subscribers failed
 */
export async function publishAfterCommit(domain: Domain, publications: readonly Publication[]): Promise<void> {
  const { log, telemetry } = domain.stores;
  const sent: Publication[] = [];
  for (const broker of new Set(publications.map((publication) => publication.broker))) {
    const batch = publications.filter((publication) => publication.broker === broker);
    try {
      await send(domain, batch);
      sent.push(...batch);
    } catch (error) {
      log.error("publish.failed_after_commit", {
        broker,
        streams: [...new Set(batch.map(({ stream }) => stream))],
        messages: batch.length,
        error,
      });
      telemetry.count("publish_lost", { broker }, batch.length);
    }
  }
  await runInlineSubscribers(domain, sent);
}

/** One error for everything that failed after the data was durable. */
export function failedAfterCommit(errors: readonly unknown[], what: string): TransactionError {
  const [only] = errors;
  const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
  return errors.length === 1
    ? new TransactionError(`${what} failed after the commit: ${text(only)}`, { cause: only })
    : new TransactionError(`${errors.length} × ${what} failed after the commit: ${errors.map(text).join("; ")}`, {
        cause: new AggregateError(errors, what),
      });
}
