import type { DecodedMessage } from "../messages/envelope.ts";
import type { Lease } from "../ports/leases.ts";
import type { Log } from "../ports/log.ts";

export type ReactionKind = "commandHandler" | "eventHandler" | "projector" | "processManager" | "queryHandler" | "subscriber";

/** The subscription options that every handler takes; how they combine with domain.toml is configuration.md §7. */
export interface SubscriptionOptions {
  /** Takes over the Python handler's consumer group, position and markers. Default `<normalised domain>.<name>`. */
  readonly fqn?: string;
  readonly subscriptionType?: "stream" | "event_store";
  readonly subscriptionProfile?: string;
  /** Keys of `[server.subscriptions.H]`, as written there. */
  readonly subscriptionConfig?: Readonly<Record<string, unknown>>;
  readonly sequentialBy?: string | boolean;
  /** Transient retry of this handler, also when it is off in domain.toml. */
  readonly retries?: number;
  readonly backoff?: "exponential" | "linear" | "fixed";
  readonly retryExceptions?: readonly (abstract new (...args: never) => Error)[];
  /** Messages run at once, never two of the same source stream. Default 1. */
  readonly concurrency?: number;
  /** Whether several engines read this subscription at once; default true for handlers and subscribers, false for projectors and process managers. */
  readonly shared?: boolean;
  /** Limit of one run; default 300 000, 0 = none. */
  readonly timeout_ms?: number;
  /** Names of errors that go to the dead letters without further attempts. */
  readonly deadLetterAtOnce?: readonly string[];
  /** Keep only messages whose origin stream is of this category. */
  readonly sourceStream?: string;
}

/** When a run's time is over. */
export interface RunLimit {
  /** Aborts at the time limit, at the command's deadline, or when draining runs out. */
  readonly signal: AbortSignal;
  /** Whether `signal` has aborted, for those who only look: the engine then needn't make a signal for a handler that never reads it. */
  readonly isAborted?: boolean;
}

export function isTimeOver(limit: RunLimit): boolean {
  return limit.isAborted ?? limit.signal.aborted;
}

/** What the engine tells about one run of a handler. */
export interface RunContext extends RunLimit {
  /** 1 for the first run. */
  readonly attempt: number;
  readonly workerId: string;
  readonly log: Log;
  /**
   * Identity of this delivery for exactly-once effects (rulings 11): the message id, or for commands (whose Python ids aren't unique) the
   * store position or stream entry id.
   */
  readonly deliveryKey: string;
  /** Leases that the commit depends on, where the subscription has one owner. */
  readonly fences: readonly Lease[];
}

export type Acceptance =
  | "handled"
  /** The name is known here, this version isn't: a decoding failure, never acknowledged (rulings 1). */
  | "unknown-version"
  /** No method for it: acknowledged before it is decoded (D28). */
  | "ignored";

/** A declared handler as the engine sees it. */
export interface Reaction {
  readonly kind: ReactionKind;
  readonly name: string;
  readonly fqn: string;
  readonly options: SubscriptionOptions;
  /** Categories it reads; `<category>:command` for command handlers, the stream's name for subscribers. */
  readonly categories: readonly string[];
  /** Subscribers: key under `[brokers]`. */
  readonly broker: string;
  /** Looks at the type string only. */
  accepts(type: string): Acceptance;
  /**
   * Decodes and runs all methods for the message, each in its own unit of work, with version and transient retries inside.
   * Opens the context (extensions, correlation, causation, priority) for it. For command handlers resolves to the result.
   * @throws what the handler threw; AggregateError when several methods failed
   */
  run(message: DecodedMessage, context: RunContext): Promise<unknown>;
  /**
   * The same without a promise where nothing is waited for: throws or returns then, and returns a promise otherwise. The value says nothing. Left
   * out by reactions that always wait.
   */
  begin?(message: DecodedMessage, context: RunContext): unknown;
  /** Subscribers only: `payload` is what the foreign entry held. */
  runPayload(payload: unknown, source: { readonly id: string; readonly stream: string }, context: RunContext): Promise<void>;
  /** The user's `onError`; its own errors are logged and swallowed. */
  onFailure(error: unknown, message: DecodedMessage | unknown): Promise<void>;
}

/** What `await` would wait for. */
export function isPromise<R>(value: R | Promise<R>): value is Promise<R> {
  return typeof value === "object" && value !== null && typeof (value as { readonly then?: unknown }).then === "function";
}
