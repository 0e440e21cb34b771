import { ConfigurationError, ConnectionError, DatabaseError, type ProteanError } from "../../errors.ts";

/** SQLSTATE codes (postgresql.org, appendix A) that mean something to us. */
export const STATE = {
  uniqueViolation: "23505",
  notNullViolation: "23502",
  divisionByZero: "22012",
  numericOutOfRange: "22003",
  stringTooLong: "22001",
  raised: "P0001",
  serializationFailure: "40001",
  deadlock: "40P01",
  lockNotAvailable: "55P03",
  canceled: "57014",
  inFailedTransaction: "25P02",
  readOnly: "25006",
  insufficientPrivilege: "42501",
} as const;

/** A complaint of the server, as the driver gives it. */
export interface ServerError extends Error {
  readonly code: string;
  readonly detail?: string;
  readonly column_name?: string;
  readonly constraint_name?: string;
  readonly table_name?: string;
  readonly severity?: string;
}

/** The complaint behind an error, when it came from the server (and not from the connection to it). */
export function serverError(error: unknown): ServerError | null {
  if (!(error instanceof Error)) return null;
  const { code, severity } = error as { readonly code?: unknown; readonly severity?: unknown };
  return typeof code === "string" && typeof severity === "string" ? (error as ServerError) : null;
}

/** Another try of the whole transaction may succeed: somebody else was chosen to go first. */
export function isPassing(error: unknown): boolean {
  const code = serverError(error)?.code;
  return code === STATE.deadlock || code === STATE.serializationFailure;
}

/** The connection broke, or the server was stopped or told to end it. */
export function isLost(error: unknown): boolean {
  const server = serverError(error);
  if (server !== null) return server.code.startsWith("57P") || server.code.startsWith("08");
  const code = error instanceof Error ? (error as { readonly code?: unknown }).code : undefined;
  return typeof code === "string" && (/^CONNECT(ION)?_/.test(code) || /^E[A-Z]+$/.test(code));
}

/** What a message of ours may say of where it happened; never a password. */
export interface Place {
  readonly shown: string;
  readonly database: string;
  readonly username: string;
}

/**
 * An error of the driver in our terms. Mistakes that a person must repair have a `fix`; of those that a start can't get over, see `isDefinite`.
 * Errors of ours are passed on as they are.
 */
export function translated(error: unknown, place: Place): unknown {
  const server = serverError(error);
  if (server === null) {
    if (!isLost(error)) return error;
    const { code } = error as { readonly code?: string };
    return new ConnectionError(`${place.shown} can't be reached (${code})`, { at: place.shown, cause: error });
  }
  const about = { at: place.shown, cause: error };
  const role = place.username === "" ? "the role" : `role "${place.username}"`;
  switch (server.code) {
    case "28P01":
    case "28000":
      return new ConnectionError(`${place.shown} refused the login of ${role}`, {
        ...about,
        fix: "Correct user and password in the database's URL in domain.toml (or in the variable that it names).",
      });
    case "3D000":
      return new ConnectionError(`there is no database "${place.database}" at ${place.shown}`, {
        ...about,
        fix: `Create it: createdb ${place.database}. Then run: protean db setup`,
      });
    case STATE.readOnly:
      return new ConnectionError(`${place.shown} takes no writes: it is a replica, or set to read only`, {
        ...about,
        fix: "Give the address of the primary server in domain.toml.",
      });
    case "53300":
      return new ConnectionError(`${place.shown} has no connection free`, {
        ...about,
        fix: "Lower pool_size and max_overflow under [databases], or raise max_connections of the server.",
      });
    case "3F000":
    case "42P01":
    case "42703":
    case "42883":
      return new ConfigurationError(`${place.shown} lacks a table, column or function: ${server.message}`, {
        ...about,
        fix: "Run: protean db setup",
      });
    case STATE.insufficientPrivilege:
      return new ConfigurationError(`${role} may not do this in ${place.shown}: ${server.message}`, {
        ...about,
        fix: server.message.includes("message_store")
          ? `Run as the owner of the schema: GRANT message_store TO ${place.username === "" ? "<role>" : place.username};`
          : `Run as the owner: GRANT USAGE, CREATE ON SCHEMA and ALL ON ALL TABLES IN SCHEMA to ${role}. Then run: protean db setup`,
      });
    case STATE.lockNotAvailable:
      return new ConnectionError(`${place.shown}: other writers kept their locks too long`, about);
    case STATE.canceled:
      return new ConnectionError(`${place.shown}: a statement took too long and was cancelled`, about);
    case STATE.deadlock:
    case STATE.serializationFailure:
      return new ConnectionError(`${place.shown}: ${server.message}, several times in a row`, about);
  }
  const passing = isLost(error) || server.code.startsWith("53") || server.code.startsWith("58");
  const message = `${place.shown}: ${server.message}`;
  return passing ? new ConnectionError(message, about) : new DatabaseError(message, about);
}

/** Waiting won't help: login, database, privilege or layout must be repaired by a person. A start ends with it (D21). */
export function isDefinite(error: unknown): error is ProteanError {
  if (error instanceof ConfigurationError) return true;
  const state = error instanceof ConnectionError ? serverError(error.about.cause)?.code : undefined;
  return state === "28P01" || state === "28000" || state === "3D000";
}
