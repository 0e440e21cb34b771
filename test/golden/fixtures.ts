/** Reading of the recorded files in `fixtures/`. */
import { readFileSync } from "node:fs";

export function readFixture<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`./fixtures/${name}`, import.meta.url), "utf8")) as T;
}

/** The lines of a `.jsonl` file as their source texts. */
export function readFixtureLines(name: string): string[] {
  return readFileSync(new URL(`./fixtures/${name}`, import.meta.url), "utf8")
    .trim()
    .split("\n");
}

export function readFixtureRecords<T>(name: string): T[] {
  return readFixtureLines(name).map((line) => JSON.parse(line) as T);
}

/** An entry of a recorded Redis stream. */
export interface RecordedEntry {
  readonly stream: string;
  readonly id: string;
  readonly fields: { readonly data: string };
}
