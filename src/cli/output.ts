/**
 * What a command answers, and how it is written. stdout holds results only; everything said to a person beside them goes to stderr. A command
 * gives one Outcome and never writes a document itself, so `--json` can't print two.
 */
import type { Log } from "../ports/log.ts";
import type { Terminal } from "../runtime/terminal.ts";
import type { ExitCode, Finding } from "./problem.ts";

/** A list for people and for `-o`. */
export interface Listing {
  readonly columns: readonly ListColumn[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  /** Said on stderr when there are no rows. */
  readonly empty: string;
  /** Name of the next useful command; on stderr. */
  readonly hint?: string;
}

export interface ListColumn {
  /** Key in the rows. */
  readonly key: string;
  readonly title: string;
  /** Higher ones are dropped first on narrow terminals. Default 0: never. */
  readonly rank?: number;
}

export interface Outcome {
  /** Default 0. */
  readonly exitCode?: ExitCode;
  /** `data` of the envelope. */
  readonly data?: unknown;
  readonly diagnostics?: readonly Finding[];
  /** For people, instead of a list. */
  readonly text?: string;
  readonly list?: Listing;
}

export type ListFormat = "table" | "json" | "jsonl" | "csv";
export const LIST_FORMATS: readonly ListFormat[] = ["table", "json", "jsonl", "csv"];

/** Version of the envelope: the original's. */
const ENVELOPE_VERSION = "0.1.0";

export interface OutputOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly format: ListFormat;
  readonly terminal: Terminal;
  readonly writeOut: (text: string) => void;
  readonly writeError: (text: string) => void;
}

export class Output {
  readonly #options: OutputOptions;
  #log: Log | null = null;

  constructor(options: OutputOptions) {
    this.#options = options;
  }

  /** The caller is a program: no prose on stdout. */
  get isJson(): boolean {
    return this.#options.json || this.#options.format === "json";
  }

  get isQuiet(): boolean {
    return this.#options.quiet;
  }

  /** From now on what is said is a record of the log: a program reads stderr too, as one JSON object a line. */
  recordsTo(log: Log): void {
    this.#log = log;
  }

  /** To a person, on stderr. */
  say(line: string): void {
    if (this.#log === null) {
      this.#options.writeError(`${line}\n`);
      return;
    }
    const warning = /^warning: /.exec(line);
    if (warning === null) this.#log.info("server.note", { text: line });
    else this.#log.warning("server.warning", { text: line.slice(warning[0].length) });
  }

  /** As `say`, unless `--quiet`. */
  hint(line: string): void {
    if (!this.#options.quiet) this.say(line);
  }

  finish(outcome: Outcome): void {
    const { writeOut, format, terminal } = this.#options;
    if (this.isJson) {
      writeOut(envelope(outcome));
      return;
    }
    const { list, text } = outcome;
    if (list === undefined) {
      if (text !== undefined && text !== "") writeOut(text.endsWith("\n") ? text : `${text}\n`);
    } else if (format === "jsonl") for (const row of list.rows) writeOut(`${sortedJson(row, 0)}\n`);
    else if (format === "csv") writeOut(csv(list));
    else if (list.rows.length === 0) this.hint(list.empty);
    else {
      writeOut(table(list, terminal));
      if (list.hint !== undefined) this.hint(list.hint);
    }
  }
}

/** The result envelope of cli.md 1.1: four keys, sorted, two spaces, one document. */
export function envelope({ exitCode = 0, data = {}, diagnostics = [] }: Outcome): string {
  const status = exitCode === 0 ? "pass" : exitCode === 1 ? "fail" : "error";
  return `${sortedJson({ version: ENVELOPE_VERSION, status, data, diagnostics }, 2)}\n`;
}

/** JSON with the keys of every object sorted; big integers as digits. */
export function sortedJson(value: unknown, spaces: number): string {
  return JSON.stringify(sorted(value), null, spaces);
}

function sorted(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  if (value === null || typeof value !== "object") return value;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map(sorted);
  const { toJSON } = value as { readonly toJSON?: unknown };
  if (typeof toJSON === "function") return sorted(toJSON.call(value));
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  const copy: Record<string, unknown> = Object.create(null);
  for (const [key, item] of entries.sort(([one], [other]) => (one < other ? -1 : 1))) copy[key] = sorted(item);
  return copy;
}

/** Box lines on a terminal; in a pipe plain aligned columns that `awk` can take apart. Nothing is cut or wrapped. */
export function table({ columns, rows }: Listing, terminal: Pick<Terminal, "isTerminal" | "columns">): string {
  let shown = columns;
  const cellsOf = (all: readonly ListColumn[]) => rows.map((row) => all.map(({ key }) => cell(row[key], terminal.isTerminal)));
  const widthsOf = (all: readonly ListColumn[], cells: readonly (readonly string[])[]) =>
    all.map(({ title }, index) => Math.max(width(title), ...cells.map((line) => width(line[index] ?? ""))));
  let cells = cellsOf(shown);
  let widths = widthsOf(shown, cells);
  while (terminal.isTerminal && widths.reduce((sum, one) => sum + one + 3, 1) > terminal.columns) {
    const least = Math.max(...shown.map(({ rank }) => rank ?? 0));
    if (least === 0) break;
    shown = shown.filter(({ rank }) => (rank ?? 0) !== least);
    cells = cellsOf(shown);
    widths = widthsOf(shown, cells);
  }
  const numeric = shown.map(({ key }) => rows.every((row) => typeof row[key] === "number" || row[key] === null));
  const padded = (line: readonly string[]) =>
    line.map((text, index) => {
      const space = " ".repeat(Math.max(0, (widths[index] ?? 0) - width(text)));
      return numeric[index] === true ? space + text : text + space;
    });
  const titles = shown.map(({ title }) => title);
  if (!terminal.isTerminal) return [titles, ...cells].map((line) => `${padded(line).join("  ").trimEnd()}\n`).join("");
  const rule = (left: string, middle: string, right: string) => `${left}${widths.map((one) => "─".repeat(one + 2)).join(middle)}${right}\n`;
  const body = (line: readonly string[]) => `│ ${padded(line).join(" │ ")} │\n`;
  return rule("┌", "┬", "┐") + body(titles) + rule("├", "┼", "┤") + cells.map(body).join("") + rule("└", "┴", "┘");
}

/** In a pipe an empty cell is `-`, so that columns can be counted. */
function cell(value: unknown, isTerminal: boolean): string {
  if (value === null || value === undefined || value === "") return "-";
  if (typeof value === "number") return isTerminal ? value.toLocaleString("en-US") : String(value);
  if (typeof value === "string") return value.replace(/\s*\n\s*/g, " ");
  return sortedJson(value, 0);
}

function width(text: string): number {
  return [...text].length;
}

function csv({ columns, rows }: Listing): string {
  const field = (value: unknown): string => {
    const text = value === null || value === undefined ? "" : typeof value === "string" ? value : sortedJson(value, 0);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns.map(({ key }) => field(key)), ...rows.map((row) => columns.map(({ key }) => field(row[key])))]
    .map((line) => `${line.join(",")}\r\n`)
    .join("");
}
