/** The command line: one file per command, imported only when it is asked for, so that starting costs nothing. */
import { nearest } from "../config/nearest.ts";
import type { ProteanError } from "../errors.ts";
import { writeError, writeOut } from "../runtime/environment.ts";
import { terminal } from "../runtime/terminal.ts";
import { GLOBAL_FLAGS, globalFlagLength, readArguments, type Values } from "./arguments.ts";
import type { CliRuntime, Command, FlagSpec } from "./command.ts";
import { COMMANDS, DEFAULT_OF_GROUP, NOT_HERE } from "./commands.ts";
import { envelope, LIST_FORMATS, type ListFormat, Output } from "./output.ts";
import { EXIT, type ExitCode, type Told, tell, usageError } from "./problem.ts";

export type { BuildInfo, CliRuntime } from "./command.ts";

/**
 * Runs the command that `parameters` name.
 * @returns the exit code (cli.md 2.4)
 * @throws what is no fault of the user's or of something outside: the entry tells it and ends with 70
 */
export async function runCli(parameters: readonly string[], runtime: CliRuntime): Promise<ExitCode> {
  const until = parameters.indexOf("--");
  const words = until < 0 ? parameters : parameters.slice(0, until);
  // Before anything is understood: also a wrong call answers a program with one document.
  const wantsJson = words.includes("--json") || isJsonFormat(words);
  const debug = words.includes("--debug");
  try {
    return await call(parameters, runtime);
  } catch (error) {
    const told = tell(error, debug);
    if (told === null) {
      if (wantsJson) writeOut(envelope({ exitCode: EXIT.ours, data: { error: "a fault in protean itself; stderr tells more" } }));
      throw error;
    }
    printProblem(told, wantsJson);
    return told.exitCode;
  }
}

function isJsonFormat(words: readonly string[]): boolean {
  return words.some(
    (word, index) =>
      word === "-o=json" || word === "--output=json" || ((word === "-o" || word === "--output") && words[index + 1] === "json"),
  );
}

function printProblem(told: Told, json: boolean): void {
  if (json) writeOut(envelope({ exitCode: told.exitCode, data: { error: told.message }, diagnostics: told.findings }));
  writeError(`${told.lines.join("\n")}\n`);
}

async function call(parameters: readonly string[], runtime: CliRuntime): Promise<ExitCode> {
  const { name, rest } = findCommand(parameters);
  if (name === null) {
    // No command: what is left are global flags.
    const values = readArguments(rest, { command: "", flags: {}, positionals: [] });
    if (values.has("version")) return await finish("version", COMMANDS["version"] as (typeof COMMANDS)[string], [...rest], runtime);
    writeOut(await rootHelp(runtime));
    return values.has("help") ? EXIT.good : EXIT.usage;
  }
  const entry = COMMANDS[name];
  if (entry === undefined) {
    if (rest.includes("--help") || rest.includes("-h")) {
      writeOut(await groupHelp(name));
      return EXIT.good;
    }
    throw usageError(`"protean ${name}" needs one of: ${groupOf(name).join(", ")}`, `protean ${name} --help lists them.`);
  }
  return await finish(name, entry, rest, runtime);
}

async function finish(name: string, entry: (typeof COMMANDS)[string], rest: readonly string[], runtime: CliRuntime): Promise<ExitCode> {
  const command = await entry.load();
  const values = readArguments(rest, { command: name, flags: command.flags ?? {}, positionals: command.positionals ?? [] });
  if (values.has("help")) {
    writeOut(await commandHelp(name, command));
    return EXIT.good;
  }
  if (values.has("version") && name !== "version")
    return await finish("version", COMMANDS["version"] as typeof entry, ["--version"], runtime);
  if (values.has("log-config")) {
    throw usageError("--log-config takes a Python logging dictionary, which this program can't read", "Write [logging] in domain.toml.");
  }
  const format = formatOf(command, values);
  const output = new Output({
    json: values.has("json"),
    quiet: values.has("quiet"),
    format,
    terminal: terminal("stdout", { noColour: values.has("no-color") }),
    writeOut,
    writeError,
  });
  const outcome = await command.run({ values, output, runtime });
  output.finish(outcome);
  return outcome.exitCode ?? EXIT.good;
}

function formatOf(command: Command, values: Values): ListFormat {
  if (values.has("json")) return "json";
  if (command.flags?.["output"]?.choices === undefined) return "table";
  return LIST_FORMATS.find((format) => format === values.text("output")) ?? "table";
}

/** The command's words, wherever global flags stand around them, and everything that isn't them. */
function findCommand(parameters: readonly string[]): { readonly name: string | null; readonly rest: readonly string[] } {
  const rest: string[] = [];
  let index = 0;
  const skipFlags = () => {
    for (let length = globalFlagLength(parameters, index); length > 0; length = globalFlagLength(parameters, index)) {
      rest.push(...parameters.slice(index, index + length));
      index += length;
    }
  };
  skipFlags();
  const first = parameters[index];
  if (first === undefined) return { name: null, rest };
  if (first.startsWith("-")) {
    // An unknown flag before any command; reading it tells so.
    return { name: null, rest: [...rest, ...parameters.slice(index)] };
  }
  index += 1;
  const group = groupOf(first);
  if (COMMANDS[first] !== undefined) return { name: first, rest: [...rest, ...parameters.slice(index)] };
  if (group.length === 0) throw unknownCommand(first, parameters[index]);
  skipFlags();
  const second = parameters[index];
  const chosen = second === undefined || second.startsWith("-") ? undefined : `${first} ${second}`;
  if (chosen !== undefined && COMMANDS[chosen] !== undefined) return { name: chosen, rest: [...rest, ...parameters.slice(index + 1)] };
  if (chosen !== undefined && second !== undefined) throw unknownCommand(first, second);
  const otherwise = parameters.includes("--help") || parameters.includes("-h") ? undefined : DEFAULT_OF_GROUP[first];
  return { name: otherwise ?? first, rest: [...rest, ...parameters.slice(index)] };
}

function groupOf(first: string): readonly string[] {
  return Object.keys(COMMANDS).flatMap((name) => (name.startsWith(`${first} `) ? [name.slice(first.length + 1)] : []));
}

function unknownCommand(first: string, second: string | undefined): ProteanError {
  const both = `${first} ${second ?? ""}`.trim();
  const [named, instead] = NOT_HERE[both] !== undefined ? [both, NOT_HERE[both]] : [first, NOT_HERE[first]];
  if (instead !== undefined)
    return usageError(`"protean ${named}" is a command of Protean for Python that this program doesn't have`, instead);
  const inGroup = groupOf(first);
  if (inGroup.length > 0) {
    const near = nearest(second ?? "", inGroup);
    return usageError(
      `unknown command "${both}"`,
      near === null ? `Use one of: ${inGroup.join(", ")}.` : `Did you mean "protean ${first} ${near}"?`,
    );
  }
  const words = new Set(Object.keys(COMMANDS).map((name) => name.split(" ")[0] ?? name));
  const near = nearest(first, words);
  return usageError(`unknown command "${first}"`, near === null ? "protean --help lists all commands." : `Did you mean "protean ${near}"?`);
}

/** citty writes the help from definitions that hold no code, so that listing the commands imports none of them. */
async function usage(definition: Parameters<typeof import("citty").renderUsage>[0]): Promise<string> {
  const { renderUsage } = await import("citty");
  const text = await renderUsage(definition);
  // citty asks neither the terminal nor NO_COLOR rightly; stdout is for programs too.
  const plain = text.replace(new RegExp(`${String.fromCharCode(27)}\\[\\d+m`, "g"), "");
  return `${plain.trimEnd()}\n`;
}

async function rootHelp({ build }: CliRuntime): Promise<string> {
  const subCommands = Object.fromEntries(
    Object.entries(COMMANDS).map(([name, { summary }]) => [name, { meta: { name, description: summary } }]),
  );
  const text = await usage({
    meta: { name: "protean", version: build.version, description: "Message-processing engine for domain-driven applications" },
    args: flagArguments(GLOBAL_FLAGS),
    subCommands,
  });
  // citty's line of all names doesn't fit any terminal.
  return text.replace(/^USAGE .*$/m, "USAGE protean [OPTIONS] COMMAND …");
}

async function groupHelp(group: string): Promise<string> {
  const subCommands = Object.fromEntries(
    groupOf(group).map((name) => [name, { meta: { name, description: COMMANDS[`${group} ${name}`]?.summary ?? "" } }]),
  );
  return await usage({ meta: { name: `protean ${group}`, description: `Commands of ${group}` }, subCommands });
}

async function commandHelp(name: string, command: Command): Promise<string> {
  const positionals = Object.fromEntries(
    (command.positionals ?? []).map(({ name: position, description, required }) => [
      position,
      { type: "positional" as const, description, required: required === true },
    ]),
  );
  const text = await usage({
    meta: { name: `protean ${name}`, description: command.description },
    args: { ...positionals, ...flagArguments(command.flags ?? {}), ...flagArguments(GLOBAL_FLAGS) },
  });
  const examples = command.examples ?? [];
  return examples.length === 0 ? text : `${text}\nEXAMPLES\n\n${examples.map((line) => `  ${line}\n`).join("")}`;
}

function flagArguments(
  flags: Readonly<Record<string, FlagSpec>>,
): Record<string, { type: "boolean" | "string"; description: string; alias?: string; valueHint?: string }> {
  const shown = Object.entries(flags).filter(([, spec]) => spec.hidden !== true);
  return Object.fromEntries(
    shown.map(([name, spec]) => [
      name,
      {
        type: spec.type === "boolean" ? ("boolean" as const) : ("string" as const),
        description: spec.description,
        ...(spec.short === undefined ? {} : { alias: spec.short }),
        ...(spec.hint === undefined ? {} : { valueHint: spec.hint }),
      },
    ]),
  );
}
