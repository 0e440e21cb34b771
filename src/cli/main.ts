/** The command line: one file per command, imported only when it is asked for, so that starting costs nothing. */
import { defineCommand, runCommand } from "citty";
import { writeError, writeOut } from "../runtime/environment.ts";
import type { ProvidedModules } from "../runtime/provide.ts";

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

/** Runs the command that `parameters` name. @returns the exit code (cli.md 2.4) */
export async function runCli(parameters: readonly string[], runtime: CliRuntime): Promise<number> {
  const version = defineCommand({
    meta: { name: "version", description: "Version, commit, Bun and platform" },
    args: { json: { type: "boolean", description: "One JSON document" } },
    run: ({ args }) => {
      const { build } = runtime;
      writeOut(args.json ? `${JSON.stringify(build)}\n` : `protean ${build.version} (${build.commit}, ${build.platform})\n`);
    },
  });
  try {
    await runCommand(defineCommand({ meta: { name: "protean" }, subCommands: { version } }), { rawArgs: [...parameters] });
    return 0;
  } catch (error) {
    writeError(`${error instanceof Error ? error.message : String(error)}\n`);
    return 2;
  }
}
