import type { ProvidedModules } from "../runtime/provide.ts";
import type { Values } from "./arguments.ts";
import type { Outcome, Output } from "./output.ts";

export interface BuildInfo {
  readonly version: string;
  /** Of the source it was built from; "unknown" without git. */
  readonly commit: string;
  /** Version of Bun inside; null under Deno and Node. */
  readonly bun: string | null;
  /** Such as linux-x64. */
  readonly platform: string;
}

/** What the entry knows and commands need. */
export interface CliRuntime {
  readonly build: BuildInfo;
  /** The modules that handler files import from this program. */
  readonly providedModules: ProvidedModules;
}

/** A flag. `optional`: `--wait` alone is right, and so is `--wait 10s`. */
export interface FlagSpec {
  readonly type: "boolean" | "text" | "optional";
  readonly description: string;
  readonly short?: string;
  /** Other spellings, not shown in help. */
  readonly also?: readonly string[];
  readonly hint?: string;
  readonly repeatable?: boolean;
  readonly choices?: readonly string[];
  readonly hidden?: boolean;
}

export interface PositionalSpec {
  readonly name: string;
  readonly description: string;
  readonly required?: boolean;
  /** Takes all that are left. */
  readonly rest?: boolean;
}

/** One call of a command, its words read and checked. */
export interface Invocation {
  readonly values: Values;
  readonly output: Output;
  readonly runtime: CliRuntime;
}

/** One command, one file; the file is imported when the command is called. */
export interface Command {
  readonly description: string;
  readonly flags?: Readonly<Record<string, FlagSpec>>;
  readonly positionals?: readonly PositionalSpec[];
  /** Lines for the end of its help. */
  readonly examples?: readonly string[];
  run(invocation: Invocation): Promise<Outcome>;
}
