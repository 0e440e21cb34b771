/** What the terminal can do: whether there is one, how wide it is, whether it shows colours. */
import process from "node:process";
import { type EnvironmentVariables, environmentVariables } from "./environment.ts";

export interface Terminal {
  readonly isTerminal: boolean;
  /** Characters in a line; 80 when nobody says. */
  readonly columns: number;
  readonly colour: boolean;
}

/** The width used when the stream is no terminal or doesn't tell. */
const DEFAULT_COLUMNS = 80;

/** stdout or stderr. `noColour` is the flag `--no-color`. */
export function terminal(name: "stdout" | "stderr", options: { readonly noColour?: boolean } = {}): Terminal {
  const stream = process[name];
  const isTerminal = stream.isTTY === true;
  return {
    isTerminal,
    columns: stream.columns && stream.columns > 0 ? stream.columns : DEFAULT_COLUMNS,
    colour: options.noColour !== true && wantsColour(environmentVariables(), isTerminal),
  };
}

/**
 * The conventions of cli.md 2.3, strongest first: NO_COLOR (any value but empty) switches off, FORCE_COLOR switches on (`0` and
 * `false` off), TERM=dumb switches off, else colours go to terminals only.
 */
export function wantsColour(variables: EnvironmentVariables, isTerminal: boolean): boolean {
  if ((variables["NO_COLOR"] ?? "") !== "") return false;
  const force = variables["FORCE_COLOR"];
  if (force !== undefined && force !== "") return force !== "0" && force !== "false";
  if (variables["TERM"] === "dumb") return false;
  return isTerminal;
}

/** True when a question can be asked and answered. */
export function canAsk(): boolean {
  return process.stdin.isTTY === true && process.stderr.isTTY === true;
}

/** Asks on stderr and resolves to the line typed, without its end; null when the input ends first. */
export async function ask(question: string): Promise<string | null> {
  const { createInterface } = await import("node:readline");
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  return await new Promise((resolve) => {
    lines.once("close", () => resolve(null));
    lines.question(question, (answer) => {
      resolve(answer);
      lines.close();
    });
  });
}
