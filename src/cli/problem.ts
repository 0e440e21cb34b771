/** Faults as people see them: what, where, what to do; one to five lines, no stack unless debugging, no password ever. */
import type { Diagnostic } from "../config/diagnostic.ts";
import { maskUrl } from "../config/mask.ts";
import { ObjectNotFoundError, ProteanError } from "../errors.ts";

/** Exit codes of cli.md 2.4. */
export const EXIT = { good: 0, found: 1, usage: 2, declined: 3, notFound: 4, conflict: 5, ours: 70 } as const;
export type ExitCode = number;

/** A line of the result envelope's `diagnostics`. */
export interface Finding {
  readonly code: string;
  readonly level: "error" | "warning" | "info";
  readonly message: string;
  readonly at?: string | undefined;
  readonly suggestion?: string | undefined;
}

/** A command ends with this, its message already good for people. */
export class CommandError extends ProteanError {
  override readonly name: string = "CommandError";
  readonly exitCode: ExitCode;
  /** Several faults of one kind, each told on its own. */
  readonly findings: readonly Finding[];
  constructor(
    exitCode: ExitCode,
    code: string,
    message: string,
    about: {
      readonly at?: string | undefined;
      readonly fix?: string | undefined;
      readonly cause?: unknown;
      readonly findings?: readonly Finding[];
    } = {},
  ) {
    super(code, message, about);
    this.exitCode = exitCode;
    this.findings = about.findings ?? [];
  }
}

/** Called wrongly. */
export function usageError(message: string, fix?: string): CommandError {
  return new CommandError(EXIT.usage, "USAGE", message, { fix });
}

export function asFinding(diagnostic: Diagnostic): Finding {
  return {
    code: diagnostic.code,
    level: diagnostic.level,
    message: maskUrl(diagnostic.message),
    ...(diagnostic.at === undefined ? {} : { at: diagnostic.at }),
    ...(diagnostic.fix === undefined ? {} : { suggestion: diagnostic.fix }),
  };
}

/** A finding in one line: what was found, where, and what to write. */
export function findingLine({ level, message, at, suggestion }: Finding): string {
  const place = at === undefined || message.includes(at) ? "" : `${at}: `;
  return `${level}: ${place}${message.replace(/\.$/, "")}${suggestion === undefined ? "" : `. ${suggestion}`}`;
}

export interface Told {
  readonly exitCode: ExitCode;
  /** For stderr, without line breaks at their ends. */
  readonly lines: readonly string[];
  /** For `data.error`. */
  readonly message: string;
  readonly findings: readonly Finding[];
}

/** How an error is told; null for a fault of ours, which the entry tells with its stack. */
export function tell(error: unknown, debug: boolean): Told | null {
  if (!(error instanceof ProteanError)) return null;
  const message = maskUrl(error.message);
  const { at, fix } = error.about;
  // What a handler file throws is the user's text, and may hold an address.
  const findings = error instanceof CommandError ? error.findings.map((one) => ({ ...one, message: maskUrl(one.message) })) : [];
  const lines = [`error: ${message}`];
  if (at !== undefined && !message.includes(at)) lines.push(`  at   ${maskUrl(at)}`);
  for (const finding of findings) lines.push(`  ${finding.at === undefined ? "" : `${finding.at} `}${finding.message}`);
  if (fix !== undefined) lines.push(`  fix  ${maskUrl(fix)}`);
  if (debug && error.stack !== undefined) lines.push(maskUrl(error.stack));
  if (debug && error.cause instanceof Error) lines.push(`caused by ${maskUrl(error.cause.stack ?? error.cause.message)}`);
  const own: Finding = {
    code: error.code,
    level: "error",
    message,
    ...(at === undefined ? {} : { at }),
    ...(fix === undefined ? {} : { suggestion: fix }),
  };
  return { exitCode: exitCodeOf(error), lines, message, findings: [own, ...findings] };
}

function exitCodeOf(error: ProteanError): ExitCode {
  if (error instanceof CommandError) return error.exitCode;
  return error instanceof ObjectNotFoundError ? EXIT.notFound : EXIT.usage;
}
