/**
 * The errors that Protean raises on purpose. Three kinds: a mistake of the user (CLI exit 2, always with a fix), a fault outside
 * (retried, shown in health), a bug of ours (`assert`, which ends the unit of work but not the engine).
 *
 * Class names are spelled out as literals because a minified binary renames classes, and these names are compared with
 * configuration (`transient_retry.exceptions`, `dead_letter_at_once`) and written into dead letters.
 */

/** What an error carries beside its message. */
export interface ErrorDetail {
  /** What the reader should do about it, one sentence. */
  readonly fix?: string | undefined;
  /** Where: `file:line:column`, a configuration key, or an address without its password. */
  readonly at?: string | undefined;
  readonly cause?: unknown;
}

/** Base of all errors raised on purpose. `code` is stable and documented; `about.fix` is shown to people. */
export class ProteanError extends Error {
  override readonly name: string = "ProteanError";
  readonly code: string;
  readonly about: ErrorDetail;

  constructor(code: string, message: string, about: ErrorDetail = {}) {
    super(message, about.cause === undefined ? undefined : { cause: about.cause });
    this.code = code;
    this.about = about;
  }
}

/** A value in domain.toml, the environment or an option is missing, unknown or of the wrong kind. */
export class ConfigurationError extends ProteanError {
  override readonly name: string = "ConfigurationError";
  constructor(message: string, about: ErrorDetail & { readonly code?: string } = {}) {
    super(about.code ?? "CONFIGURATION", message, about);
  }
}

/** The API was used in a way that can never work; found at declaration or at `init()` where possible. */
export class IncorrectUsageError extends ProteanError {
  override readonly name: string = "IncorrectUsageError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("INCORRECT_USAGE", message, about);
  }
}

/** Something the framework deliberately has no support for, such as two handlers of one command. */
export class NotSupportedError extends ProteanError {
  override readonly name: string = "NotSupportedError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("NOT_SUPPORTED", message, about);
  }
}

/** No domain was found where one is needed. */
export class NoDomainException extends ProteanError {
  override readonly name: string = "NoDomainException";
  constructor(message: string, about: ErrorDetail = {}) {
    super("NO_DOMAIN", message, about);
  }
}

export class ObjectNotFoundError extends ProteanError {
  override readonly name: string = "ObjectNotFoundError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("OBJECT_NOT_FOUND", message, about);
  }
}

export class TooManyObjectsError extends ProteanError {
  override readonly name: string = "TooManyObjectsError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("TOO_MANY_OBJECTS", message, about);
  }
}

export class InsufficientDataError extends ProteanError {
  override readonly name: string = "InsufficientDataError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("INSUFFICIENT_DATA", message, about);
  }
}

export class InvalidDataError extends ProteanError {
  override readonly name: string = "InvalidDataError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("INVALID_DATA", message, about);
  }
}

export class InvalidStateError extends ProteanError {
  override readonly name: string = "InvalidStateError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("INVALID_STATE", message, about);
  }
}

export class InvalidOperationError extends ProteanError {
  override readonly name: string = "InvalidOperationError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("INVALID_OPERATION", message, about);
  }
}

/** Field name (declared spelling) to the reasons why its value was refused. */
export type ValidationMessages = Readonly<Record<string, readonly string[]>>;

/** One or more values were refused. All errors of one construction are collected into `messages`. */
export class ValidationError extends ProteanError {
  override readonly name: string = "ValidationError";
  readonly messages: ValidationMessages;
  constructor(messages: ValidationMessages, about: ErrorDetail = {}) {
    super(
      "VALIDATION",
      Object.entries(messages)
        .map(([field, reasons]) => `${field}: ${reasons.join("; ")}`)
        .join(", "),
      about,
    );
    this.messages = messages;
  }
}

export class DatabaseError extends ProteanError {
  override readonly name: string = "DatabaseError";
  constructor(message: string, about: ErrorDetail & { readonly code?: string } = {}) {
    super(about.code ?? "DATABASE", message, about);
  }
}

/** A broker did not take a message. */
export class SendError extends ProteanError {
  override readonly name: string = "SendError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("SEND", message, about);
  }
}

/** A store or broker can't be reached or did not answer in time. Retried; never uses up a message's attempts. */
export class ConnectionError extends ProteanError {
  override readonly name: string = "ConnectionError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("CONNECTION", message, about);
  }
}

/** Something took longer than its limit. */
export class TimeoutError extends ProteanError {
  override readonly name: string = "TimeoutError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("TIMEOUT", message, about);
  }
}

/** Another writer was faster: the stored version is not the one that was loaded. */
export class ExpectedVersionError extends ProteanError {
  override readonly name: string = "ExpectedVersionError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("EXPECTED_VERSION", message, about);
  }
}

/** A unit of work could not be committed; `about.cause` says why. */
export class TransactionError extends ProteanError {
  override readonly name: string = "TransactionError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("TRANSACTION", message, about);
  }
}

/** A command with this idempotency key ran before; only thrown with `raiseOnDuplicate`. */
export class DuplicateCommandError extends ProteanError {
  override readonly name: string = "DuplicateCommandError";
  readonly originalResult: unknown;
  constructor(message: string, originalResult: unknown, about: ErrorDetail = {}) {
    super("DUPLICATE_COMMAND", message, about);
    this.originalResult = originalResult;
  }
}

export class CommandExpiredError extends ProteanError {
  override readonly name: string = "CommandExpiredError";
  readonly commandType: string;
  readonly deadline: string;
  constructor(commandType: string, deadline: string, about: ErrorDetail = {}) {
    super("COMMAND_EXPIRED", `command ${commandType} was due by ${deadline}`, about);
    this.commandType = commandType;
    this.deadline = deadline;
  }
}

/** Bytes that arrived are no message we can read: not JSON, wrong checksum, unknown version, unknown fields. */
export class DeserializationError extends ProteanError {
  override readonly name: string = "DeserializationError";
  readonly messageId: string | null;
  constructor(message: string, about: ErrorDetail & { readonly messageId?: string | null } = {}) {
    super("DESERIALIZATION", message, about);
    this.messageId = about.messageId ?? null;
  }
}

/** A repository, `process` or commit was used after its unit of work had ended, usually because an `await` is missing. */
export class UnitOfWorkClosedError extends ProteanError {
  override readonly name: string = "UnitOfWorkClosedError";
  constructor(message: string, about: ErrorDetail = {}) {
    super("UNIT_OF_WORK_CLOSED", message, about);
  }
}

/** No handler of this command is known here (rulings 2): the message is dead-lettered, never acknowledged in silence. */
export class NoHandlerError extends ProteanError {
  override readonly name: string = "NoHandler";
  constructor(message: string, about: ErrorDetail = {}) {
    super("NO_HANDLER", message, about);
  }
}

/**
 * Thrown by a handler: try this message again after `after_ms`. Counts as an attempt.
 * @throws IncorrectUsageError when `after_ms` is negative or above 15 minutes (rulings 31)
 */
export class RetryLater extends ProteanError {
  override readonly name: string = "RetryLater";
  readonly after_ms: number;
  constructor(options: { readonly after_ms: number; readonly reason?: string }) {
    super("RETRY_LATER", options.reason ?? `asked to be retried after ${options.after_ms} ms`);
    if (!(options.after_ms >= 0 && options.after_ms <= 900_000)) {
      throw new IncorrectUsageError(`RetryLater: after_ms must be between 0 and 900000, not ${options.after_ms}`);
    }
    this.after_ms = options.after_ms;
  }
}

/** Thrown by a handler: no further attempts, the message goes to the dead letters with this reason. */
export class DeadLetter extends ProteanError {
  override readonly name: string = "DeadLetter";
  constructor(reason: string, about: ErrorDetail = {}) {
    super("DEAD_LETTER", reason, about);
  }
}

/** Thrown by a handler: the message is acknowledged without effect, counted and logged. */
export class Discard extends ProteanError {
  override readonly name: string = "Discard";
  constructor(reason: string, about: ErrorDetail = {}) {
    super("DISCARD", reason, about);
  }
}

/** A bug of ours: the condition must hold whatever anybody sends us. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}
