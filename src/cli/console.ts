/**
 * What handlers print with `console` goes to the log (sdk-api 10.9): stdout holds results only, so that `--json` stays one document. A line says
 * which message was being handled.
 */
import { format, inspect } from "node:util";
import { currentContext } from "../domain/context.ts";
import type { Log } from "../ports/log.ts";

/** Takes the console over; called before the first handler file is imported. The last log given wins. */
export function captureConsole(log: Log): void {
  const fields = () => {
    const headers = currentContext()?.message?.headers;
    return headers === undefined ? {} : { message_type: headers.type, message_id: headers.id };
  };
  const info = (...values: unknown[]) => log.info("console", { text: format(...values), ...fields() });
  const warn = (...values: unknown[]) => log.warning("console", { text: format(...values), ...fields() });
  const error = (...values: unknown[]) => log.error("console", { text: format(...values), ...fields() });
  Object.assign(console, {
    log: info,
    info,
    debug: (...values: unknown[]) => log.debug("console", { text: format(...values), ...fields() }),
    warn,
    error,
    trace: warn,
    dir: (value: unknown) => info(inspect(value)),
    table: (value: unknown) => info(inspect(value)),
  });
}
