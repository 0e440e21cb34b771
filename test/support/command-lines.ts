/** Command lines of samples and pages that can't be run as they stand: whether the program would take their words. */
import { runBinary } from "./binary.ts";

/** @returns what the program says against these words, such as an unknown flag; null when it takes them */
export function refusal(words: readonly string[]): string | null {
  // Words are read before help is given, and a flag that nobody knows is an error.
  const { exitCode, stderr } = runBinary([...words, "--help"], { directory: import.meta.dir });
  return exitCode === 0 ? null : stderr.trim();
}

/** What follows `protean` in a line of a shell, as `sudo -u protean protean dlq list` has it last; null when it calls no `protean`. */
export function programWords(line: string): readonly string[] | null {
  const [, rest] = /^(?:.*[\s/])?protean ([a-z][^|>&]*)/.exec(line) ?? [];
  if (rest === undefined) return null;
  return [...rest.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(([, single, double, bare]) => single ?? double ?? bare ?? "");
}
