import type { Log } from "../../src/ports/log.ts";
import { silentLog } from "../../src/ports/log.ts";

/** A log that gives each line to `write`, or drops it. */
export function traceLog(write: ((line: string) => void) | null): Log {
  if (write === null) return silentLog;
  const at =
    (level: string) =>
    (event: string, fields: Readonly<Record<string, unknown>> = {}) =>
      write(
        `${level} ${event} ${Object.entries(fields)
          .map(([name, value]) => `${name}=${textOf(value)}`)
          .join(" ")}`,
      );
  const log: Log = { debug: at("debug"), info: at("info"), warning: at("warning"), error: at("error"), with: () => log };
  return log;
}

function textOf(value: unknown): string {
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
