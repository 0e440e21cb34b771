import type { Log, LogFields } from "../ports/log.ts";

/** Names of our own events; what handlers log has other ones. */
const OURS =
  /^(?:engine|subscription|outbox|broker|partition|dlq_maintenance|recovery|reconciliation|stream|lease|leases|instance|sqlite|redis|stores|server|idempotency|heartbeat)\./;

/** Leaves out our own news of level info, which the lines of `protean dev` about messages say already; warnings and errors pass. */
export function userLog(log: Log): Log {
  const news = (write: (event: string, fields?: LogFields) => void) => (event: string, fields?: LogFields) => {
    if (!OURS.test(event)) write(event, fields);
  };
  return {
    debug: (event, fields) => log.debug(event, fields),
    info: news((event, fields) => log.info(event, fields)),
    warning: (event, fields) => log.warning(event, fields),
    error: (event, fields) => log.error(event, fields),
    with: (fields) => userLog(log.with(fields)),
  };
}
