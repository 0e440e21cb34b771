import { Discard } from "../errors.ts";
import type { Log } from "../ports/log.ts";

/** What a run was about, for the log. */
interface Run {
  readonly handler: string;
  readonly message_type: string;
  readonly message_id: string | null;
}

/**
 * Where handlers run without an engine (synchronously, in tests): a handler that throws `Discard` wants the message to count as handled (D25). With
 * several methods all that failed must have thrown it. Logs the reason.
 */
export function isDiscarded(error: unknown, log: Log, run: Run): boolean {
  const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const discards = errors.filter((one) => one instanceof Discard);
  if (discards.length === 0 || discards.length < errors.length) return false;
  for (const { message } of discards) log.info("handler.message_discarded", { ...run, reason: message });
  return true;
}
