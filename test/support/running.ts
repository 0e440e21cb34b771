/** The program in processes of its own: servers that run until they are ended, and commands that run to their end. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { delimiter, dirname } from "node:path";
import { binary, type Ran } from "./binary.ts";
import { until } from "./until.ts";

export interface Place {
  readonly directory: string;
  readonly environment?: Readonly<Record<string, string>>;
}

export interface RunningProgram {
  readonly pid: number;
  /** stdout and stderr so far. */
  output(): string;
  /** Sends the signal and waits for the end. */
  end(signal: "SIGTERM" | "SIGINT" | "SIGKILL"): Promise<Ran>;
  /** Resolves when it ends by itself. */
  readonly ended: Promise<Ran>;
}

const alive = new Set<ChildProcess>();

/** A line for `sh`, with `protean` on its PATH and nothing in its environment but what is given. */
export function startLine(line: string, { directory, environment = {} }: Place): RunningProgram {
  return start("/bin/sh", ["-c", `exec ${line}`], directory, {
    PATH: [dirname(binary()), "/usr/local/bin", "/usr/bin", "/bin"].join(delimiter),
    ...environment,
  });
}

export function startProgram(parameters: readonly string[], { directory, environment = {} }: Place): RunningProgram {
  return start(binary(), parameters, directory, environment);
}

function start(
  file: string,
  parameters: readonly string[],
  directory: string,
  environment: Readonly<Record<string, string>>,
): RunningProgram {
  const child = spawn(file, [...parameters], { cwd: directory, env: { ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  alive.add(child);
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ended = once(child, "close").then(([exitCode]): Ran => {
    alive.delete(child);
    return { exitCode: exitCode as number | null, stdout, stderr };
  });
  return {
    pid: child.pid ?? 0,
    output: () => stdout + stderr,
    ended,
    async end(signal) {
      child.kill(signal);
      return await ended;
    },
  };
}

/** Starts `protean server` (or `dev`) and waits until it says that it runs. @throws with its output when it ends before */
export async function untilRunning(server: RunningProgram, limit_ms = 15_000): Promise<RunningProgram> {
  let ended = false;
  server.ended.then(() => {
    ended = true;
  });
  await until(
    "the engine runs",
    () => {
      if (ended) throw new Error(`the server ended while it started:\n${server.output()}`);
      return server.output().includes("Engine running.");
    },
    limit_ms,
  );
  return server;
}

/** Runs the program to its end without blocking this process. */
export async function run(parameters: readonly string[], place: Place): Promise<Ran> {
  return await startProgram(parameters, place).ended;
}

/** As `run`. @throws with its output when it doesn't end well */
export async function mustRun(parameters: readonly string[], place: Place): Promise<Ran> {
  const ran = await run(parameters, place);
  if (ran.exitCode !== 0) throw new Error(`protean ${parameters.join(" ")}: exit code ${ran.exitCode}\n${ran.stdout}${ran.stderr}`);
  return ran;
}

/** What a command lists, one object a line, in wire names. */
export async function rowsOf(parameters: readonly string[], place: Place): Promise<readonly Readonly<Record<string, unknown>>[]> {
  const { stdout } = await mustRun([...parameters, "-o", "jsonl"], place);
  return stdout
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line) as Readonly<Record<string, unknown>>);
}

/** Ends whatever a failed test left running. */
export async function endAll(): Promise<void> {
  const closing = [...alive].map((child) => once(child, "close"));
  for (const child of alive) child.kill("SIGKILL");
  await Promise.all(closing);
}
