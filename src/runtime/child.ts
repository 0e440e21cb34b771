/** Child processes: this program again, as the worker of `dev`, or another one. */
import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import type { EnvironmentVariables } from "./environment.ts";
import { isCompiled, runtimeName } from "./environment.ts";

export interface ChildOptions {
  /** Default: ours. */
  readonly workingDirectory?: string;
  /** Default: ours. */
  readonly environment?: EnvironmentVariables;
  /** "inherit": the child writes where we write (default). "pipe": line by line to `onLine`. */
  readonly output?: "inherit" | "pipe";
  readonly onLine?: (line: string, from: "stdout" | "stderr") => void;
}

export interface ChildEnd {
  /** null when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
}

export interface Child {
  readonly pid: number;
  /** Resolves once, when the process has ended and its output is read. */
  readonly ended: Promise<ChildEnd>;
  /** Does nothing when it has ended. */
  kill(signal: "SIGTERM" | "SIGINT" | "SIGKILL" | "SIGHUP"): void;
  /** Writes to its standard input. */
  write(text: string): void;
}

/** Program and leading arguments that start this program again: the executable itself, or the runtime with our entry file. */
export function selfCommand(): readonly [program: string, ...leading: string[]] {
  if (isCompiled()) return [process.execPath];
  const entry = process.argv[1] ?? "";
  if (runtimeName().name === "deno") return [process.execPath, "run", "-A", entry];
  return [process.execPath, ...process.execArgv, entry];
}

/** Starts this program with other arguments. */
export function spawnSelf(parameters: readonly string[], options: ChildOptions = {}): Promise<Child> {
  const [program, ...leading] = selfCommand();
  return spawnChild(program, [...leading, ...parameters], options);
}

/** Starts a program; resolves when it runs. @throws when it can't be started. */
export async function spawnChild(program: string, parameters: readonly string[], options: ChildOptions = {}): Promise<Child> {
  const piped = options.output === "pipe";
  const child = spawn(program, [...parameters], {
    cwd: options.workingDirectory,
    env: { ...(options.environment ?? process.env) },
    stdio: ["pipe", piped ? "pipe" : "inherit", piped ? "pipe" : "inherit"],
  });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  // A child that ended before it read what we wrote: its end is told by `ended`.
  child.stdin?.on("error", () => undefined);
  if (piped) for (const name of ["stdout", "stderr"] as const) readLines(child, name, options.onLine);
  const ended = new Promise<ChildEnd>((resolve) => {
    child.once("close", (exitCode, signal) => resolve({ exitCode, signal }));
  });
  return {
    pid: child.pid ?? 0,
    ended,
    kill: (signal) => {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    },
    write: (text) => void child.stdin?.write(text),
  };
}

function readLines(child: ChildProcess, name: "stdout" | "stderr", onLine: ChildOptions["onLine"]): void {
  let rest = "";
  child[name]?.setEncoding("utf8");
  child[name]?.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) onLine?.(line, name);
  });
  child[name]?.on("end", () => {
    if (rest !== "") onLine?.(rest, name);
  });
}
