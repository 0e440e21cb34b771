/**
 * The structured log of the program: consola with a reporter of ours.
 *
 * Everything goes to stderr, whatever its level (known-traps C12: consola's own reporter writes `info` to stdout, which is for results only).
 * Secrets never get here in clear: values under telling keys and the passwords of addresses are masked on the way out.
 */
import { createConsola, type LogObject } from "consola/core";
import type { LoggingConfig } from "../config/config.ts";
import { isSecretKey, MASK, maskUrl } from "../config/mask.ts";
import type { Log, LogFields, LogLevel } from "../ports/log.ts";
import { writeError } from "../runtime/environment.ts";
import { terminal } from "../runtime/terminal.ts";

/** What of `[logging]` shapes the lines. */
export type LogSettings = Pick<LoggingConfig, "level" | "format"> & { readonly redact?: readonly string[] };

export interface LogOptions {
  /** Errors are written with their stack. Default: only on level DEBUG. */
  readonly stacks?: boolean;
  /** Default: when stderr is a terminal that shows colours. */
  readonly colour?: boolean;
  /** Takes finished lines, each with its line break. Default: stderr. */
  readonly write?: (text: string) => void;
}

/** consola's numbers: a line passes when its own is not above the logger's. */
const CONSOLA_LEVELS: Readonly<Record<LoggingConfig["level"], number>> = { DEBUG: 4, INFO: 3, WARNING: 1, ERROR: 0, CRITICAL: 0 };
const LEVEL_OF_TYPE: Readonly<Record<string, LogLevel>> = { debug: "debug", info: "info", warn: "warning", error: "error" };
const COLOURS: Readonly<Record<LogLevel, string>> = { debug: "90", info: "36", warning: "33", error: "31" };
/** A field's text is cut here: a line stays a line, a payload doesn't flood the log. */
const VALUE_MAX_characters = 2_000;
const DEPTH_MAX = 6;

/** The log that domain.toml, environment and flags ask for. Never throws, never waits. */
export function standardLog(settings: LogSettings, options: LogOptions = {}): Log {
  const stacks = options.stacks ?? settings.level === "DEBUG";
  const colour = options.colour ?? terminal("stderr").colour;
  const write = options.write ?? writeError;
  const redact = new Set((settings.redact ?? []).map((word) => word.toLowerCase()));
  const format = settings.format === "json" ? jsonLine : (line: Line) => consoleLine(line, colour);
  const level = CONSOLA_LEVELS[settings.level];
  const consola = createConsola({
    level,
    // Below zero: consola would fold equal lines together, and a count of them is a fact.
    throttle: -1,
    reporters: [
      {
        log: ({ type, date, args }: LogObject) => {
          const [event, fields] = args as [string, LogFields];
          write(format({ level: LEVEL_OF_TYPE[type] ?? "info", date, event, fields: cleanFields(fields, redact, stacks) }));
        },
      },
    ],
  });
  return build({}, (type, event, fields) => {
    try {
      consola[type](event, fields);
    } catch {
      // A field that can't be read (a getter that throws) or a closed stderr must not stop whoever logs.
    }
  });

  function build(always: LogFields, emit: (type: "debug" | "info" | "warn" | "error", event: string, fields: LogFields) => void): Log {
    const at = (type: "debug" | "info" | "warn" | "error", least: number) => (event: string, fields?: LogFields) => {
      // Looked at here already: most debug lines go nowhere and should cost nothing.
      if (least <= level) emit(type, event, { ...always, ...fields });
    };
    return {
      debug: at("debug", 4),
      info: at("info", 3),
      warning: at("warn", 1),
      error: at("error", 0),
      with: (fields) => build({ ...always, ...fields }, emit),
    };
  }
}

interface Line {
  readonly level: LogLevel;
  readonly date: Date;
  readonly event: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** One object a line. A field called like one of our three keys doesn't replace it. */
function jsonLine({ level, date, event, fields }: Line): string {
  const ours = { timestamp: date.toISOString(), level, event };
  return `${JSON.stringify({ ...ours, ...fields, ...ours })}\n`;
}

/** `12:04:31 info    engine.started subscription_count=4`. A stack, where there is one, follows indented. */
function consoleLine({ level, date, event, fields }: Line, colour: boolean): string {
  const paint = (code: string, text: string) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text);
  const stacks: string[] = [];
  const pairs = Object.entries(fields).map(([key, value]) => {
    if (key.endsWith("stack") && typeof value === "string") {
      stacks.push(...value.split("\n").map((frame) => `    ${frame.trim()}`));
      return "";
    }
    return ` ${paint("90", `${key}=`)}${inLine(value)}`;
  });
  const head = `${paint("90", localTime(date))} ${paint(COLOURS[level], level.padEnd(7))} ${event}`;
  return [`${head}${pairs.join("")}`, ...stacks, ""].join("\n");
}

function localTime(date: Date): string {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}

/** Words stand as they are; anything with spaces, quotes, line breaks or control characters is quoted. */
function inLine(value: unknown): string {
  if (typeof value === "string") return /^[\x21\x23-\x7e\u00a1-\uffff]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value) ?? String(value);
}

function cleanFields(fields: LogFields | undefined, redact: ReadonlySet<string>, stacks: boolean): Record<string, unknown> {
  const clean: Record<string, unknown> = Object.create(null);
  for (const [key, value] of Object.entries(fields ?? {})) {
    if (value === undefined || (!stacks && /(^|_)stack$/.test(key))) continue;
    if (value instanceof Error) {
      clean[key] = cleanText(`${value.name}: ${value.message}`);
      if (stacks && value.stack !== undefined) clean[`${key}_stack`] = maskUrl(value.stack);
    } else clean[key] = cleanValue(value, key, redact, 0);
  }
  return clean;
}

function cleanValue(value: unknown, key: string, redact: ReadonlySet<string>, depth: number): unknown {
  if (value === null || value === undefined) return null;
  if (typeof value !== "object" && (isSecretKey(key) || redact.has(key.toLowerCase()))) return MASK;
  if (typeof value === "string") return cleanText(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "function" || typeof value === "symbol") return String(value);
  if (typeof value !== "object") return value;
  if (value instanceof Error) return cleanText(`${value.name}: ${value.message}`);
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`;
  if (depth >= DEPTH_MAX) return "…";
  if (isSecretKey(key) || redact.has(key.toLowerCase())) return MASK;
  if (Array.isArray(value)) return value.map((item) => cleanValue(item, key, redact, depth + 1));
  const clean: Record<string, unknown> = Object.create(null);
  const entries: Iterable<readonly [unknown, unknown]> = value instanceof Map ? value : Object.entries(value);
  for (const [name, item] of entries) clean[String(name)] = cleanValue(item, String(name), redact, depth + 1);
  return clean;
}

function cleanText(text: string): string {
  const masked = maskUrl(text);
  return masked.length > VALUE_MAX_characters ? `${masked.slice(0, VALUE_MAX_characters)}… (${masked.length} characters)` : masked;
}
