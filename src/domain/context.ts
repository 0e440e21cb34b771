/**
 * What holds for the code that runs now: which domain, which unit of work, which message is being handled, who the tenant is.
 *
 * Carried by AsyncLocalStorage, which Bun, Deno and Node all have, so that two messages handled at the same time never see each other's (G67).
 * A context is never changed once it is open, except for the values behind `g`; opening another one inside copies what it doesn't replace, and
 * when that one ends the outer is there again untouched (known-traps A23).
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { IncorrectUsageError, NoDomainException, UnitOfWorkClosedError } from "../errors.ts";
import type { Metadata } from "../messages/envelope.ts";
import type { Log } from "../ports/log.ts";
import type { Domain } from "./domain.ts";
import { isTimeOver, type RunLimit } from "./reaction.ts";
import type { UnitOfWork } from "./unit-of-work.ts";

/**
 * Values of the current context, for code and enrichers: tenant, user, request. Extend it in your project with
 * `declare module "protean" { interface G { tenant_id?: string } }`; keys are taken over into messages as they are.
 */
// biome-ignore lint/suspicious/noEmptyInterface: users add their keys to it
export interface G {}

/** Priorities of commands and of what they cause. Any integer is allowed; higher goes first, but never inside one source stream (D27). */
export const Priority = { BULK: -100, LOW: -50, NORMAL: 0, HIGH: 50, CRITICAL: 100 } as const;

/** Second argument of every handler method. */
export interface HandlerContext {
  readonly domain: Domain;
  /** The message being handled. Positions are null when it came over a broker. `attempt` counts from 1. */
  readonly message: {
    readonly id: string | null;
    readonly type: string;
    readonly stream: string | null;
    readonly position: number | null;
    readonly globalPosition: number | null;
    readonly attempt: number;
  };
  /** null in subscribers: foreign payloads have none. */
  readonly metadata: Metadata | null;
  /** Aborts at the handler's time limit, at the command's deadline, and when draining runs out. */
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface Context {
  readonly domain: Domain;
  /** The values behind `g`. */
  readonly values: Record<string, unknown>;
  readonly unit: UnitOfWork | null;
  /** Metadata of the message being handled. */
  readonly message: Metadata | null;
  readonly correlationId: string | null;
  readonly causationId: string | null;
  /** From `processingPriority`, else from the message being handled; null for neither. */
  readonly priority: number | null;
  /** Time limit of the handler that runs; what it does after it is refused (rulings 9). */
  readonly limit: RunLimit | null;
}

const storage = new AsyncLocalStorage<Context>();
/** What `processingPriority` gave where no context was open: for those that are opened inside. */
const priorityOutside = new AsyncLocalStorage<number>();

/** The open context, or null outside of all. */
export function currentContext(): Context | null {
  return storage.getStore() ?? null;
}

/** Runs `fn` in a context that is the present one of this domain (or an empty one) with `changes` on top. */
export function openContext<R>(domain: Domain, changes: Partial<Omit<Context, "domain">>, fn: () => R): R {
  const outer = currentContext();
  const base: Context =
    outer !== null && outer.domain === domain
      ? outer
      : {
          domain,
          values: {},
          unit: null,
          message: null,
          correlationId: null,
          causationId: null,
          priority: outer === null ? (priorityOutside.getStore() ?? null) : null,
          limit: null,
        };
  return storage.run({ ...base, ...changes }, fn);
}

/** Runs `fn` in a context that knows nothing of the one around it. */
export function isolatedContext<R>(domain: Domain, given: Partial<Omit<Context, "domain">>, fn: () => R): R {
  return storage.run(
    { domain, values: {}, unit: null, message: null, correlationId: null, causationId: null, priority: null, limit: null, ...given },
    fn,
  );
}

/** Runs `fn` in the present context of the domain, opening one when there is none. */
export function ensureContext<R>(domain: Domain, fn: () => R): R {
  return currentContext()?.domain === domain ? fn() : openContext(domain, {}, fn);
}

/**
 * Runs `fn` with these values in `g`, in addition to those that are there. Changes of `g` inside don't reach outside.
 * @example await domain.context(() => domain.process(command), { tenant_id: "acme" })
 */
export function withContext<R>(domain: Domain, fn: () => R, values: Partial<G> = {}): R {
  const outer = currentContext();
  const inherited = outer?.domain === domain ? outer.values : {};
  return openContext(domain, { values: { ...inherited, ...values } }, fn);
}

/** @throws NoDomainException outside of a context */
export function currentDomain(): Domain {
  const context = currentContext();
  if (context === null) {
    throw new NoDomainException("no domain is active here", {
      fix: "Run the code in `domain.context(() => …)`, or use the domain object itself.",
    });
  }
  return context.domain;
}

/** The unit of work that the code runs in, or null. */
export function currentUnitOfWork(): UnitOfWork | null {
  return currentContext()?.unit ?? null;
}

/**
 * Refuses to go on when the code belongs to a handler whose unit of work has ended: an `await` was forgotten, or its time was over.
 * @throws UnitOfWorkClosedError
 */
export function requireOpen(context: Context | null, doing: string): void {
  if (context === null) return;
  if (context.unit !== null && !context.unit.isOpen) throw closedError(doing, context.unit.closedBecause);
  if (context.limit !== null && isTimeOver(context.limit)) throw closedError(doing, "the handler's time was over");
}

export function closedError(doing: string, because: string | null): UnitOfWorkClosedError {
  return new UnitOfWorkClosedError(`${doing}: its unit of work has ended${because === null ? "" : ` (${because})`}`, {
    fix: "Await every call to a repository, `process` and `publish` inside the handler.",
  });
}

/**
 * Gives everything that `fn` raises or processes this priority, unless a call names its own.
 * @example await processingPriority(Priority.BULK, () => importAll())
 */
export function processingPriority<R>(priority: number, fn: () => R): R {
  if (!Number.isSafeInteger(priority)) throw new IncorrectUsageError(`processingPriority: ${priority} is no integer`);
  const context = currentContext();
  return context === null ? priorityOutside.run(priority, fn) : openContext(context.domain, { priority }, fn);
}

function writable(key: string | symbol): Record<string, unknown> {
  const context = currentContext();
  if (context !== null) return context.values;
  throw new IncorrectUsageError(`g.${String(key)} can't be set: no context is open here`, {
    fix: "Open one with `domain.context(() => …, { key: value })`, or put `domain.middleware()` before your routes.",
  });
}

/**
 * Values of the current context. Reading outside of a context gives undefined; writing throws (D37).
 * The engine fills it with the extensions of the message being handled.
 */
export const g: G & { [key: string]: unknown } = new Proxy<Record<string, unknown>>(
  {},
  {
    get: (_target, key) => (typeof key === "string" ? currentContext()?.values[key] : undefined),
    set(_target, key, value) {
      writable(key)[String(key)] = value;
      return true;
    },
    deleteProperty(_target, key) {
      return delete writable(key)[String(key)];
    },
    has: (_target, key) => typeof key === "string" && key in (currentContext()?.values ?? {}),
    ownKeys: () => Object.keys(currentContext()?.values ?? {}),
    getOwnPropertyDescriptor(_target, key) {
      const values = currentContext()?.values ?? {};
      return typeof key === "string" && key in values
        ? { value: values[key], writable: true, enumerable: true, configurable: true }
        : undefined;
    },
  },
);

/** The part of a request context that `domain.middleware()` uses; Hono's fits. */
export interface MiddlewareContext {
  readonly req: { header(name: string): string | undefined };
  header?(name: string, value: string): void;
}

const USABLE_ID = /^[\x21-\x7e]{1,255}$/;

/**
 * Middleware for Hono and frameworks of its kind: opens a context for the request, with `g.request_id` from the header `x-request-id` (else a new
 * one, which the answer then carries), and with the header `x-correlation-id` as correlation id of the commands.
 */
export function middleware(domain: Domain): (context: MiddlewareContext, next: () => Promise<void>) => Promise<void> {
  return async (request, next) => {
    const given = request.req.header("x-request-id");
    const requestId = given !== undefined && USABLE_ID.test(given) ? given : domain.stores.random.uuid();
    const correlation = request.req.header("x-correlation-id");
    const correlationId = correlation !== undefined && USABLE_ID.test(correlation) ? correlation : null;
    request.header?.("x-request-id", requestId);
    await isolatedContext(domain, { values: { request_id: requestId }, correlationId }, next);
  };
}
