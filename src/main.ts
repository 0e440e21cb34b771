/** The program's entry: hands the arguments to the command line and ends the process with its exit code. */
import { createRequire } from "node:module";
import type { CliRuntime } from "./cli/main.ts";
import { commandLineArguments, endProcess, endWhenReaderCloses, platformName, runtimeName } from "./runtime/environment.ts";

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
const { runCli } = await import("./cli/main.ts");
await endProcess(await runCli(commandLineArguments(), runtime));
