/** The process as the rest of the code sees it: environment variables, arguments, working directory, the end. */
import process from "node:process";

export type EnvironmentVariables = Readonly<Record<string, string | undefined>>;

/** A copy of the environment without a prototype, so that a variable called `constructor` is only a variable (known-traps C9). */
export function environmentVariables(): EnvironmentVariables {
  return Object.freeze(Object.assign(Object.create(null) as Record<string, string | undefined>, process.env));
}

/** Absolute path of the directory that the process works in. */
export function workingDirectory(): string {
  return process.cwd();
}

/** What the user typed after the program's name. The same in the compiled binary and from source. */
export function commandLineArguments(): readonly string[] {
  return process.argv.slice(2);
}

/**
 * Variables that make a compiled Bun program run other code than ours (known-traps C3), as far as they are set. They can't be
 * switched off in the build; `server` warns of them.
 */
export function runtimeOverrides(variables: EnvironmentVariables = environmentVariables()): readonly string[] {
  return ["BUN_BE_BUN", "BUN_OPTIONS", "NODE_OPTIONS"].filter((name) => (variables[name] ?? "") !== "");
}

/** Which runtime executes us, and its version. */
export function runtimeName(): { readonly name: "bun" | "deno" | "node"; readonly version: string } {
  const versions: Readonly<Record<string, string | undefined>> = process.versions;
  if (versions["bun"] !== undefined) return { name: "bun", version: versions["bun"] };
  if (versions["deno"] !== undefined) return { name: "deno", version: versions["deno"] };
  return { name: "node", version: process.versions.node };
}

/** Operating system and processor, such as `linux-x64`. */
export function platformName(): string {
  return `${process.platform}-${process.arch}`;
}

/** True in the executable made by scripts/build.sh: its own files live in a file system inside the executable. */
export function isCompiled(): boolean {
  const entry = process.argv[1] ?? "";
  return entry.startsWith("/$bunfs/") || entry.includes("~BUN");
}

/** Seconds of processor time (user and system) that this process has used. */
export function processorTime_s(): number {
  const usage = process.cpuUsage();
  return (usage.user + usage.system) / 1e6;
}

/** Bytes of memory that this process holds. */
export function memory_bytes(): number {
  return process.memoryUsage().rss;
}

/** Everything written to stdout is out, then the process ends. Open handles (sockets, timers) don't hold it up. */
export async function endProcess(exitCode: number): Promise<never> {
  await Promise.all(
    [process.stdout, process.stderr].map(
      (stream) =>
        new Promise<void>((resolve) => {
          if (stream.writableLength === 0 || stream.destroyed) resolve();
          else stream.write("", () => resolve());
        }),
    ),
  );
  return process.exit(exitCode);
}

/** Writes a result for the caller. Only results go here; everything said to a person goes to `writeError`. */
export function writeOut(text: string): void {
  process.stdout.write(text);
}

/** Writes something said to a person: log lines, questions, faults. */
export function writeError(text: string): void {
  process.stderr.write(text);
}

/**
 * A reader that closes early (`protean events read | head`) ends us quietly with 0 instead of with a stack trace. Called once, by
 * the entry.
 */
export function endWhenReaderCloses(): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
}

/** All of standard input as text; empty when it is a terminal. */
export async function readStandardInput(): Promise<string> {
  if (process.stdin.isTTY) return "";
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(typeof part === "string" ? Buffer.from(part) : (part as Buffer));
  return Buffer.concat(parts).toString("utf8");
}

/** Lines of standard input as they come, until it ends. */
export async function* standardInputLines(): AsyncGenerator<string> {
  const { createInterface } = await import("node:readline");
  yield* createInterface({ input: process.stdin, crlfDelay: Number.POSITIVE_INFINITY });
}
