/**
 * One step of a process manager: find the instance that the event belongs to, run the method on its state, append the transition.
 *
 * absent     no transition yet; only a `start` method makes an instance, for others the event is counted and skipped, or retried with `onMissing: "retry"`
 * running    the state is that of the last transition; each step appends one, guarded by the stream's position
 * complete   `markAsComplete()` or `end: true`: later events are skipped
 *
 * The transition, the commands that the method processed and the marker of the message are one commit (C19): all or nothing.
 */
import { DeserializationError, ObjectNotFoundError } from "../errors.ts";
import type { Metadata } from "../messages/envelope.ts";
import type { JsonObject, JsonValue } from "../messages/json.ts";
import { eventStream, transitionName, typeString } from "../messages/names.ts";
import type { HandlerContext } from "./context.ts";
import { currentContext } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { isComplete, startState } from "./instance.ts";
import { transitionMetadata, wireText } from "./message-metadata.ts";
import type { MethodMeta, ReactionMeta } from "./reactions.ts";
import { decodeStored } from "./read-message.ts";
import { runUnitOfWork, type UnitOptions } from "./unit-of-work.ts";
import { stateFromWire, toWire } from "./wire.ts";

/** A process manager's instance as its stream has it. */
export interface StoredInstance {
  /** Position of the last transition. */
  readonly version: number;
  readonly state: object;
  readonly complete: boolean;
  /** Method that made the last transition. */
  readonly handlerName: string | null;
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The instance behind a correlation value; null when it was never started. Every transition holds the whole state, so the last one is enough,
 * however long the stream is (the original reads the first thousand: W17).
 * @throws DeserializationError when the last transition can't be read
 */
export async function loadInstance(domain: Domain, state: ElementMeta, correlation: string): Promise<StoredInstance | null> {
  const stream = eventStream(state.category ?? "", correlation);
  const row = await domain.stores.eventStore.lastOfStream(stream);
  if (row === null) return null;
  const { data, id } = decodeStored(row);
  const stored = data["state"];
  const instance = isObject(stored) ? stateFromWire(state, stored) : null;
  if (instance === null) {
    throw new DeserializationError(`the last transition of \`${state.name}\` ${correlation} does not fit its fields`, {
      messageId: id,
      at: `${stream} at ${row.position}`,
      fix: "Give fields added since a default, or make them optional.",
    });
  }
  const handlerName = data["handler_name"];
  return {
    version: row.position,
    state: instance,
    complete: data["is_complete"] === true,
    handlerName: typeof handlerName === "string" ? handlerName : null,
  };
}

/** Value by which the event finds its instance; null when the event has none. */
export function correlationOf(method: MethodMeta, event: object): string | null {
  const { correlate } = method;
  if (correlate === undefined || correlate === null) return null;
  const field = typeof correlate === "string" ? correlate : Object.values(correlate)[0];
  const value = field === undefined ? undefined : (event as Record<string, unknown>)[field];
  return value === null || value === undefined ? null : String(value);
}

/** Runs one method for one event. */
export async function runProcessManager(
  domain: Domain,
  reaction: ReactionMeta,
  method: MethodMeta,
  event: object,
  metadata: Metadata | null,
  context: HandlerContext,
  options: UnitOptions,
): Promise<void> {
  const { log, telemetry } = domain.stores;
  const state = reaction.state;
  if (state === undefined || state === null) throw new Error(`assertion failed: process manager ${reaction.name} has a state`);
  const correlation = correlationOf(method, event);
  if (correlation === null) {
    log.debug("pm.no_correlation", { handler: reaction.fqn, method: method.name, message_id: metadata?.headers.id ?? null });
    return;
  }
  const stored = await loadInstance(domain, state, correlation);
  if (stored === null && method.start !== true) {
    telemetry.count("pm_not_started", { handler: reaction.name });
    log.info("pm.not_started", { handler: reaction.fqn, method: method.name, correlation, message_id: metadata?.headers.id ?? null });
    const onMissing = method.onMissing ?? (reaction.options as { readonly onMissing?: "skip" | "retry" }).onMissing ?? "skip";
    if (onMissing === "skip") return;
    throw new ObjectNotFoundError(`process manager \`${reaction.name}\` has no instance ${correlation} yet`, {
      fix: "Nothing, if its start event is still on the way: the event is tried again.",
    });
  }
  if (stored?.complete === true) {
    log.debug("pm.complete", { handler: reaction.fqn, method: method.name, correlation });
    return;
  }
  const instance = stored === null ? startState(state, correlation) : stored.state;
  await runUnitOfWork(
    domain,
    async () => {
      await (method.run as (state: object, event: object, context: HandlerContext) => unknown)(instance, event, context);
      const category = state.category ?? "";
      const stream = eventStream(category, correlation);
      const version = (stored?.version ?? -1) + 1;
      const name = transitionName(state.name);
      const dataText = wireText({
        state: toWire(instance),
        handler_name: method.name,
        is_complete: method.end === true || isComplete(instance),
      });
      // `abc.` is where Python makes the class of its transitions.
      const at = { type: typeString(domain.name, name, 1), fqn: `abc.${name}`, category, stream, version };
      currentContext()?.unit?.stage({
        metadata: transitionMetadata(domain, at, dataText),
        dataText,
        expectedVersion: version - 1,
        outbox: false,
      });
    },
    options,
  );
}
