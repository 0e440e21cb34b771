export type LogLevel = "debug" | "info" | "warning" | "error";

export type LogFields = Readonly<Record<string, unknown>>;

/**
 * Structured log. `event` is a stable dotted name (`engine.started`); everything variable goes into `fields`, in snake_case.
 * Never throws, never waits. Errors are given as the field `error` and are written without a stack unless debugging.
 */
export interface Log {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warning(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** The same log with `fields` on every line. */
  with(fields: LogFields): Log;
}

/** A log that drops everything. */
export const silentLog: Log = { debug() {}, info() {}, warning() {}, error() {}, with: () => silentLog };
