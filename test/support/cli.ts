/** The program from source, in a process of its own, for tests of the command line. The compiled one is `binary.ts`. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { join } from "node:path";

const entry = join(import.meta.dir, "..", "..", "src", "main.ts");
const LIMIT_ms = 20_000;

export interface CliRan {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly directory: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly input?: string;
  /** Default: the runtime that runs the tests. */
  readonly runtime?: "bun" | "deno";
}

/** Program and parameters that run the source under a runtime of the lockfile. */
function commandOf({ runtime }: CliOptions): readonly [program: string, ...parameters: string[]] {
  if (runtime !== "deno") return [process.execPath, entry];
  const root = join(import.meta.dir, "..", "..");
  return [join(root, "node_modules", ".bin", "deno"), "run", "-A", "--config", join(root, "deno.json"), entry];
}

/** Nothing of this shell reaches the program but the way to find programs. */
function environmentOf(options: CliOptions): NodeJS.ProcessEnv {
  return { PATH: process.env["PATH"] ?? "", BUN_RUNTIME_TRANSPILER_CACHE_PATH: "0", ...options.environment };
}

/** Runs the program to its end. */
export function runCli(parameters: readonly string[], options: CliOptions): CliRan {
  const [program, ...before] = commandOf(options);
  const { status, stdout, stderr } = spawnSync(program, [...before, ...parameters], {
    cwd: options.directory,
    env: environmentOf(options),
    input: options.input ?? "",
    encoding: "utf8",
    timeout: LIMIT_ms,
    killSignal: "SIGKILL",
  });
  return { exitCode: status, stdout, stderr };
}

/** A program that goes on until it is told to end. */
export interface RunningCli {
  readonly child: ChildProcess;
  stderr(): string;
  stdout(): string;
  /** Resolves when `text` (or a match) stands in stderr. @throws after 20 s, or when the program ended before */
  says(text: string | RegExp): Promise<void>;
  readonly ended: Promise<{ readonly exitCode: number | null; readonly signal: string | null }>;
  /** Ends it, if it still runs. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

export function startCli(parameters: readonly string[], options: CliOptions): RunningCli {
  const [program, ...before] = commandOf(options);
  const child = spawn(program, [...before, ...parameters], {
    cwd: options.directory,
    env: environmentOf(options),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  const waiters = new Set<() => void>();
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    for (const look of waiters) look();
  });
  let isOver = false;
  const ended = new Promise<{ exitCode: number | null; signal: string | null }>((resolve) => {
    child.once("close", (exitCode, signal) => {
      isOver = true;
      for (const look of waiters) look();
      resolve({ exitCode, signal });
    });
  });
  const isSaid = (text: string | RegExp) => (typeof text === "string" ? stderr.includes(text) : text.test(stderr));
  return {
    child,
    stderr: () => stderr,
    stdout: () => stdout,
    ended,
    says: (text) =>
      new Promise((resolve, reject) => {
        const fail = (why: string) => {
          clearTimeout(timer);
          waiters.delete(look);
          reject(new Error(`${why} ${String(text)}; it said:\n${stderr}`));
        };
        const timer = setTimeout(() => fail(`${LIMIT_ms / 1000} s without`), LIMIT_ms);
        const look = () => {
          if (isSaid(text)) {
            clearTimeout(timer);
            waiters.delete(look);
            resolve();
          } else if (isOver) fail("the program ended without");
        };
        waiters.add(look);
        look();
      }),
    stop: async (signal = "SIGTERM") => {
      if (!isOver) child.kill(signal);
      return (await ended).exitCode;
    },
  };
}

/** The one document on stdout. @throws when there is none, or more than one */
export function onlyDocument(stdout: string): {
  version: string;
  status: string;
  data: Record<string, unknown>;
  diagnostics: Record<string, unknown>[];
} {
  return JSON.parse(stdout) as ReturnType<typeof onlyDocument>;
}
