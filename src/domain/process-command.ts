/**
 * `domain.process`: stores a command, and runs its handler at once or leaves that to the engine.
 *
 * A command belongs to the unit of work around it (D8): it is stored when that commits and gone when it rolls back. Without one it is stored at once.
 *
 * Idempotency keys (rulings 14), step by step, and what a kill leaves:
 *  1. `reserve`: atomic; of several submissions at once one goes on, the others wait for its outcome. A kill after it: the reservation runs out (a
 *     minute; for commands run at once five), then the key is free again; nothing was stored.
 *  2. the command is stored. Where the keys lie in the home database and the command is asynchronous, 3 is part of this commit: nothing lies between.
 *     Else (Redis keys, commands run at once) a kill after it: as 1, but the command is there. A submission after the reservation ran out stores a
 *     second one, which `handledBefore` recognises once the first was handled.
 *  3. `succeed`. For commands that were only accepted it holds a receipt, which nobody takes for "handled" (W4); the handler's run replaces it.
 */
import {
  CommandExpiredError,
  ConnectionError,
  DuplicateCommandError,
  IncorrectUsageError,
  NotSupportedError,
  ValidationError,
} from "../errors.ts";
import { isoOfEpoch, parseDateTime } from "../messages/datetime.ts";
import type { Metadata } from "../messages/envelope.ts";
import { commandCategory } from "../messages/names.ts";
import { ReservationLostError } from "../ports/database.ts";
import type { Idempotency, KeyReservation } from "../ports/idempotency.ts";
import { currentContext, ensureContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { metaOf, setMetadata } from "./instance.ts";
import { commandMetadata, payloadOf } from "./message-metadata.ts";
import type { ReactionMeta } from "./reactions.ts";
import { runInlineCommand } from "./run-reaction.ts";
import { homeDatabase, runUnitOfWork, type UnitOfWork } from "./unit-of-work.ts";

export interface ProcessOptions {
  /** false: run the handler now and resolve to its result. Default: `command_processing` in domain.toml, whose `sync` wins over true. */
  readonly asynchronous?: boolean;
  /** Submissions with the same key within `[idempotency] ttl` are one command. */
  readonly idempotencyKey?: string;
  /** Throw DuplicateCommandError instead of resolving to what the first submission gave. */
  readonly raiseOnDuplicate?: boolean;
  /** Any integer; higher goes first. Default: `processingPriority`, else that of the message being handled, else 0. */
  readonly priority?: number;
  /** Default: that of the message being handled, or of the request, else a new one. */
  readonly correlationId?: string;
  /** The command isn't run after this moment. Not together with `expiresAfter_ms`. */
  readonly deadline?: Date | string;
  /** The same as a time from now, in milliseconds (rulings 42). */
  readonly expiresAfter_ms?: number;
}

/** What an asynchronous `process` resolves to. */
export interface CommandReceipt {
  /** Message id; null when an earlier submission with the same key left none. */
  readonly id: string | null;
  readonly stream: string;
  readonly correlationId: string | null;
}

const RESERVATION_ms = 60_000;
/** A handler that runs inside `process` may take this long before its key is free again. */
const INLINE_RESERVATION_ms = 300_000;
/** Pauses between two looks at a key that another submission holds: the first one, doubled up to the last one. */
const POLL_ms = 50;
const POLL_MOST_ms = 1_000;

/** Process-wide: said once for each domain. */
const warnedOfKeys = new WeakSet<Domain>();

/**
 * Stores the command and, unless it is asynchronous, runs its handler.
 * @returns a CommandReceipt, or the handler's result
 * @throws ValidationError, InvalidDataError and what enrichers throw; CommandExpiredError before anything is stored; DuplicateCommandError with
 *   `raiseOnDuplicate`; what the handler threw
 */
export function processCommand(domain: Domain, command: object, options: ProcessOptions = {}): Promise<unknown> {
  return ensureContext(domain, () => submit(domain, command, options));
}

async function submit(domain: Domain, command: object, options: ProcessOptions): Promise<unknown> {
  const meta = metaOf(command);
  requireOpen(currentContext(), `process of ${meta.name}`);
  if (meta.kind !== "command") throw new IncorrectUsageError(`process takes commands; \`${meta.name}\` is a ${meta.kind}`);
  if (meta.domain !== domain)
    throw new IncorrectUsageError(`command \`${meta.name}\` belongs to domain "${meta.domain.name}", not to "${domain.name}"`);
  const category = meta.owner?.category ?? null;
  if (category === null) throw new IncorrectUsageError(`command \`${meta.name}\` is part of no aggregate`);
  checkOptions(options);

  const { settings, idempotency } = domain.stores;
  const inline = settings.commandProcessing === "sync" || options.asynchronous === false;
  const handler = commandHandlerOf(domain, meta);
  if (inline && handler === null) {
    throw new IncorrectUsageError(`command \`${meta.name}\` has no handler in this process`, {
      fix: "Import the module that declares its command handler, or process it asynchronously.",
    });
  }
  const key = options.idempotencyKey ?? null;
  if (key !== null && idempotency === null && !warnedOfKeys.has(domain)) {
    warnedOfKeys.add(domain);
    domain.stores.log.warning("idempotency.off", { message: "idempotency keys have no effect: there is nowhere to keep them" });
  }

  const priority = options.priority ?? currentContext()?.priority ?? 0;
  const deadline = deadlineOf(domain, options, handler);
  const identifier = meta.identity === null ? domain.stores.random.uuid() : String((command as Record<string, unknown>)[meta.identity]);
  const published = !inline && settings.commandSubscriptionType(category, handlersOf(domain, meta)) === "stream";
  const metadata = commandMetadata(command, category, {
    identifier,
    asynchronous: !inline,
    streamCategory: published ? commandCategory(category) : null,
    idempotencyKey: key,
    deadline,
    priority,
    correlationId: options.correlationId ?? null,
  });
  const receipt: CommandReceipt = {
    id: metadata.headers.id,
    stream: metadata.headers.stream ?? "",
    correlationId: metadata.domain.correlation_id,
  };

  let reservation: Reservation | null = null;
  if (key !== null && idempotency !== null) {
    const taken = await reserve(domain, idempotency, key, inline ? INLINE_RESERVATION_ms : RESERVATION_ms, metadata);
    if (taken instanceof Reservation) reservation = taken;
    else {
      const earlier = taken;
      if (options.raiseOnDuplicate === true) {
        throw new DuplicateCommandError(`a command with the idempotency key "${key}" was processed before`, publicResult(earlier.result));
      }
      return inline && options.asynchronous !== true ? publicResult(earlier.result) : receiptOf(earlier.result, receipt);
    }
  }

  let result: unknown;
  try {
    // Only now: a duplicate of a command that has expired since gets its result all the same.
    if (inline) requireInTime(domain, meta, deadline);
    setMetadata(command, metadata);
    const message = { metadata, dataText: payloadOf(command).dataText, expectedVersion: null, outbox: published };
    await runUnitOfWork(domain, () => {
      const unit = currentContext()?.unit;
      unit?.stage(message);
      if (!inline && unit !== null && unit !== undefined) reservation?.commitWith(unit, acceptedEntry(receipt));
    });
    result = inline && handler !== null ? await runInlineCommand(domain, handler, command, metadata) : undefined;
  } catch (error) {
    await reservation?.failed(inline && !(error instanceof CommandExpiredError), error);
    // Our reservation ran out on the way: whoever had the key since then has done it or is at it.
    if (error instanceof ReservationLostError && currentContext()?.unit == null) return await submit(domain, command, options);
    throw error;
  }
  await reservation?.succeeded(inline ? storable(result) : acceptedEntry(receipt));
  return inline && options.asynchronous !== true ? result : receipt;
}

function checkOptions(options: ProcessOptions): void {
  const { deadline, expiresAfter_ms, priority, idempotencyKey } = options;
  if (deadline !== undefined && expiresAfter_ms !== undefined) {
    throw new IncorrectUsageError("process: `deadline` and `expiresAfter_ms` say the same thing; give one of them");
  }
  if (expiresAfter_ms !== undefined && !(expiresAfter_ms > 0))
    throw new IncorrectUsageError(`process: expiresAfter_ms must be above 0, not ${expiresAfter_ms}`);
  if (priority !== undefined && !Number.isSafeInteger(priority))
    throw new IncorrectUsageError(`process: priority ${priority} is no integer`);
  if (idempotencyKey === "") throw new ValidationError({ idempotencyKey: ["is empty"] });
}

/** Explicit, else inherited from the message being handled, else the handler's, else the domain's. */
function deadlineOf(domain: Domain, options: ProcessOptions, handler: ReactionMeta | null): string | null {
  const now_ms = domain.stores.clock.now_ms();
  if (options.expiresAfter_ms !== undefined) return isoOfEpoch(now_ms + options.expiresAfter_ms);
  if (options.deadline !== undefined) {
    const epoch_ms =
      options.deadline instanceof Date ? options.deadline.getTime() : (parseDateTime(options.deadline)?.epoch_ms ?? Number.NaN);
    if (Number.isNaN(epoch_ms)) throw new IncorrectUsageError(`process: deadline ${String(options.deadline)} is no time`);
    return isoOfEpoch(epoch_ms);
  }
  const inherited = currentContext()?.message?.headers.deadline ?? null;
  if (inherited !== null) return inherited;
  const own = handler === null ? undefined : (handler.options as { readonly expiresAfter_ms?: number }).expiresAfter_ms;
  const span_ms = own ?? domain.stores.settings.commandDefaultTimeout_ms;
  return span_ms === null || span_ms === undefined ? null : isoOfEpoch(now_ms + span_ms);
}

function requireInTime(domain: Domain, meta: ElementMeta, deadline: string | null): void {
  if (deadline === null) return;
  const due_ms = parseDateTime(deadline)?.epoch_ms;
  if (due_ms !== undefined && domain.stores.clock.now_ms() > due_ms) throw new CommandExpiredError(meta.type, deadline);
}

/** The handler of a command as far as this process knows it. */
export function commandHandlerOf(domain: Domain, meta: ElementMeta): ReactionMeta | null {
  const handlers = domain.reactionMetas.filter(
    (reaction) => reaction.kind === "commandHandler" && reaction.methods.some((method) => method.target === meta),
  );
  if (handlers.length > 1) throw new NotSupportedError(`command \`${meta.name}\` has ${handlers.length} handlers`);
  return handlers[0] ?? null;
}

/** Names of the handlers that share the subscription of this command's category. */
function handlersOf(domain: Domain, meta: ElementMeta): readonly string[] {
  return domain.reactionMetas.flatMap(({ kind, owner, name }) => (kind === "commandHandler" && owner === meta.owner ? [name] : []));
}

// ------------------------------------------------------------------------------------------------------------ idempotency

/** A key that is ours until the outcome is known. */
class Reservation {
  readonly #domain: Domain;
  readonly #keys: Idempotency;
  readonly #key: string;
  /** What we have: the key, or a second one when the key itself holds the mark of a failed run. */
  readonly #held: KeyReservation;
  /** The commit of the command notes the key too. */
  #isCommitted = false;

  constructor(domain: Domain, keys: Idempotency, key: string, held: KeyReservation) {
    this.#domain = domain;
    this.#keys = keys;
    this.#key = key;
    this.#held = held;
  }

  /** Lets the unit that stores the command note the key in the same transaction, where both lie in one database. */
  commitWith(unit: UnitOfWork, result: unknown): void {
    const { databases, settings } = this.#domain.stores;
    if (databases.get(homeDatabase(this.#domain))?.idempotency !== this.#keys) return;
    unit.noteKey({ key: this.#key, reservation: this.#held, result, ttl_ms: settings.idempotency.ttl_ms });
    this.#isCommitted = true;
  }

  /** Notes the result when it is durable: now, or when the unit of work around it has ended. */
  async succeeded(result: unknown): Promise<void> {
    const { ttl_ms } = this.#domain.stores.settings.idempotency;
    const note = (): Promise<void> =>
      this.#settle(() => (this.#isCommitted ? Promise.resolve() : this.#keys.succeed(this.#key, result, ttl_ms)));
    const context = currentContext();
    if (context?.domain !== this.#domain || context.unit === null) return note();
    context.unit.onEnd((committed) => (committed ? note() : this.failed(false)));
  }

  /**
   * @param ran whether the handler ran and threw; else the key is simply free again, unless its command may yet be stored: a commit without an answer
   *   can take effect later. Noted in the same transaction, it then finds that the key isn't reserved for it; else the reservation runs out by itself
   */
  async failed(ran: boolean, error?: unknown): Promise<void> {
    const { errorTtl_ms } = this.#domain.stores.settings.idempotency;
    if (error instanceof ConnectionError && !this.#isCommitted) return;
    await this.#settle(() => (ran ? this.#keys.fail(this.#key, errorTtl_ms) : this.#keys.release(this.#held)));
  }

  async #settle(note: () => Promise<void>): Promise<void> {
    try {
      await note();
      if (this.#held.key !== this.#key) await this.#keys.release(this.#held);
    } catch (error) {
      // What became of the command is decided and must be told to the caller; the reservation runs out by itself.
      this.#domain.stores.log.error("idempotency.not_noted", { key: this.#key, error });
    }
  }
}

/**
 * Takes the key for this submission, or answers with what an earlier one gave; waits while another is at it. The mark of a failed run doesn't keep
 * anybody from trying again at once (as in the original), but the tries queue up behind a second key.
 */
async function reserve(
  domain: Domain,
  keys: Idempotency,
  key: string,
  ttl_ms: number,
  metadata: Metadata,
): Promise<Reservation | { readonly result: unknown }> {
  const { clock } = domain.stores;
  const signal = currentContext()?.limit?.signal;
  const { deadline } = metadata.headers;
  const due_ms = deadline === null ? null : (parseDateTime(deadline)?.epoch_ms ?? null);
  const by = domain.stores.random.uuid();
  let pause_ms = POLL_ms;
  const first = { key, by };
  const second = { key: `${key}:retry`, by };
  for (;;) {
    const entry = await keys.reserve(first, ttl_ms);
    if (entry.state === "reserved") return new Reservation(domain, keys, key, first);
    if (entry.state === "success") return { result: entry.result };
    if (entry.state === "error" && (await keys.reserve(second, ttl_ms)).state === "reserved") {
      // Whoever held the second key before may have succeeded in the meantime.
      const now = await keys.get(key);
      if (now?.state === "error") return new Reservation(domain, keys, key, second);
      await keys.release(second);
      continue;
    }
    if (due_ms !== null && clock.now_ms() > due_ms) throw new CommandExpiredError(metadata.headers.type ?? "", deadline ?? "");
    await clock.sleep(pause_ms, signal);
    pause_ms = Math.min(pause_ms * 2, POLL_MOST_ms);
    requireOpen(currentContext(), "process");
  }
}

interface AcceptedEntry {
  readonly accepted: true;
  readonly id: string | null;
  readonly stream: string;
  readonly correlation_id: string | null;
  readonly handled?: true;
  readonly result?: unknown;
}

function acceptedEntry(receipt: CommandReceipt): AcceptedEntry {
  return { accepted: true, id: receipt.id, stream: receipt.stream, correlation_id: receipt.correlationId };
}

function asAccepted(result: unknown): AcceptedEntry | null {
  const entry = result as Partial<AcceptedEntry> | null;
  return typeof entry === "object" && entry !== null && entry.accepted === true && typeof entry.stream === "string"
    ? (entry as AcceptedEntry)
    : null;
}

/** Results are kept as JSON; what JSON can't hold is kept as null. */
function storable(result: unknown): unknown {
  try {
    const text = JSON.stringify(result);
    return text === undefined ? null : JSON.parse(text);
  } catch {
    // A circle or a bigint: the command succeeded, only its result can't be told again.
    return null;
  }
}

function publicResult(result: unknown): unknown {
  const accepted = asAccepted(result);
  if (accepted === null) return result;
  return accepted.handled === true ? accepted.result : { id: accepted.id, stream: accepted.stream, correlationId: accepted.correlation_id };
}

function receiptOf(result: unknown, own: CommandReceipt): CommandReceipt {
  const accepted = asAccepted(result);
  return accepted === null
    ? { id: null, stream: own.stream, correlationId: null }
    : { id: accepted.id, stream: accepted.stream, correlationId: accepted.correlation_id };
}

/**
 * Whether a command with this key was *handled* before. A number is the position that Python notes at submission, an entry of ours without
 * `handled` our own receipt: neither says that anything ran (W4).
 */
export async function handledBefore(domain: Domain, metadata: Metadata): Promise<{ readonly result: unknown } | null> {
  const key = metadata.headers.idempotency_key;
  const { idempotency } = domain.stores;
  if (key === null || idempotency === null) return null;
  const entry = await idempotency.get(key);
  if (entry?.state !== "success" || typeof entry.result === "number") return null;
  const accepted = asAccepted(entry.result);
  if (accepted !== null && accepted.handled !== true) return null;
  // The entry may speak of this very message, run before a kill that came before its marker: that is for the marker to say.
  return { result: publicResult(entry.result) };
}

/** Notes that the handler of a keyed command has run and committed. */
export async function noteHandled(domain: Domain, metadata: Metadata, result: unknown): Promise<void> {
  const key = metadata.headers.idempotency_key;
  const { idempotency, settings, log } = domain.stores;
  if (key === null || idempotency === null) return;
  const entry: AcceptedEntry = {
    accepted: true,
    handled: true,
    id: metadata.headers.id,
    stream: metadata.headers.stream ?? "",
    correlation_id: metadata.domain.correlation_id,
    result: storable(result) ?? true,
  };
  try {
    await idempotency.succeed(key, entry, settings.idempotency.ttl_ms);
  } catch (error) {
    log.error("idempotency.not_noted", { key, error });
  }
}
