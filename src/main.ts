/** The program's entry: hands the arguments to the command line and ends the process with its exit code. */
import { createRequire } from "node:module";
import type { CliRuntime } from "./cli/main.ts";
import { commandLineArguments, endProcess, endWhenReaderCloses, platformName, runtimeName, writeError } from "./runtime/environment.ts";

/** Put in by scripts/build.ts; not defined when run from source. */
declare const PROTEAN_VERSION: string | undefined;
declare const PROTEAN_COMMIT: string | undefined;

const runtime: CliRuntime = {
  build: {
    version: typeof PROTEAN_VERSION === "string" ? PROTEAN_VERSION : versionOfPackage(),
    commit: typeof PROTEAN_COMMIT === "string" ? PROTEAN_COMMIT : "unknown",
    bun: runtimeName().name === "bun" ? runtimeName().version : null,
    platform: platformName(),
  },
  providedModules: {
    protean: () => import("./mod.ts"),
    "protean/testing": () => import("./testing.ts"),
  },
};

/** From source: package.json lies above us. The build replaces the call, the file isn't in the executable. */
function versionOfPackage(): string {
  const { version } = createRequire(import.meta.url)("../package.json") as { readonly version: string };
  return version;
}

endWhenReaderCloses();
let exitCode: number;
try {
  const { runCli } = await import("./cli/main.ts");
  exitCode = await runCli(commandLineArguments(), runtime);
} catch (error) {
  // Mistakes of the user and faults outside are told by the command line; what gets here is ours (cli.md 2.4).
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  writeError(
    `protean ${runtime.build.version} (${runtime.build.commit}, ${runtime.build.platform}): a fault in protean itself\n${stack}\n`,
  );
  writeError("Please report it with these lines.\n");
  exitCode = 70;
}
await endProcess(exitCode);
