/**
 * Who may import whom, and what may be touched where (docs: the rooms of src/). Reads the sources; a forbidden arrow is named with
 * its file and line.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const source = join(import.meta.dir, "..", "..", "src");

/**
 * Room to the rooms that it may import; every room may import itself, `ports` and `errors`. The rooms of the adapters are named with
 * their own folder, because no adapter imports another.
 */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  ports: ["messages:types"],
  messages: ["config"],
  config: ["messages"],
  domain: ["messages", "config"],
  engine: ["domain", "messages", "config", "runtime"],
  observatory: ["engine", "domain", "messages", "config", "runtime"],
  adapters: ["messages"],
  runtime: [],
  compose: ["observatory", "config", "adapters", "runtime", "domain", "engine", "messages"],
  cli: ["observatory", "engine", "domain", "messages", "config", "compose", "runtime", "mod"],
  main: ["cli", "runtime", "mod", "testing"],
  mod: ["domain", "messages", "config", "compose", "engine", "runtime"],
  testing: ["mod", "domain", "messages", "config", "compose", "engine", "runtime", "adapters"],
};

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typesOnly: boolean;
  readonly place: string;
}

const files = readdirSync(source, { recursive: true })
  .map(String)
  .filter((path) => path.endsWith(".ts"))
  .sort();

/** `adapters/redis/broker.ts` → `adapters/redis`; `mod.ts` → `mod`; `engine/x.ts` → `engine`. */
function roomOf(path: string): string {
  const [first = "", second = ""] = path.replace(/\.ts$/, "").split("/");
  return first === "adapters" ? `adapters/${second}` : first;
}

/** Comments away, line breaks kept, so that places stay right. */
function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|(?<![:"'`])\/\/[^\n]*/g, (comment) => comment.replace(/[^\n]/g, " "));
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split("\n").length;
}

function importsOf(path: string): readonly Import[] {
  const text = withoutComments(readFileSync(join(source, path), "utf8"));
  const pattern = /\b(?:(?:import|export)(?<types>\s+type)?\b[^"';]*?\bfrom\s*|import\s*\(?\s*)["'](?<specifier>\.[^"']+)["']/g;
  return [...text.matchAll(pattern)].map((match) => ({
    from: path,
    to: relative(source, join(source, dirname(path), match.groups?.["specifier"] ?? "")),
    typesOnly: match.groups?.["types"] !== undefined,
    place: `src/${path}:${lineAt(text, match.index)}`,
  }));
}

function isAllowed({ from, to, typesOnly }: Import): boolean {
  const [own, other] = [roomOf(from), roomOf(to)];
  if (own === other || other === "errors" || other === "ports") return own !== "errors";
  const allowed = ALLOWED[own.split("/")[0] ?? ""] ?? [];
  const room = other.split("/")[0] ?? "";
  if (own.startsWith("adapters/") && other.startsWith("adapters/")) return false;
  return allowed.includes(room) || (typesOnly && allowed.includes(`${room}:types`));
}

test("every folder of src has its place in the table of rooms", () => {
  const rooms = new Set(files.map((path) => roomOf(path).split("/")[0] ?? ""));
  expect([...rooms].filter((room) => !(room in ALLOWED))).toEqual([]);
});

test("no room imports one that it may not", () => {
  const forbidden = files.flatMap(importsOf).filter((one) => !isAllowed(one));
  expect(forbidden.map(({ place, to }) => `${place} imports ${to}`)).toEqual([]);
});

test("the check finds forbidden arrows", () => {
  const arrow = (from: string, to: string, typesOnly = false) => isAllowed({ from, to, typesOnly, place: "" });
  expect(arrow("domain/a.ts", "engine/b.ts")).toBe(false);
  expect(arrow("domain/a.ts", "engine/b.ts", true)).toBe(false);
  expect(arrow("engine/a.ts", "cli/b.ts")).toBe(false);
  expect(arrow("adapters/redis/a.ts", "adapters/sqlite/b.ts")).toBe(false);
  expect(arrow("adapters/redis/a.ts", "domain/b.ts")).toBe(false);
  expect(arrow("ports/a.ts", "messages/b.ts")).toBe(false);
  expect(arrow("ports/a.ts", "messages/b.ts", true)).toBe(true);
  expect(arrow("domain/a.ts", "runtime/b.ts")).toBe(false);
  expect(arrow("errors.ts", "ports/b.ts")).toBe(false);
  expect(arrow("adapters/redis/a.ts", "adapters/redis/b.ts")).toBe(true);
  expect(arrow("engine/a.ts", "domain/b.ts")).toBe(true);
});

/** Places in `rooms` (all others with `except`) whose code matches. */
function uses(pattern: RegExp, counts: (room: string) => boolean): readonly string[] {
  return files
    .filter((path) => counts(roomOf(path).split("/")[0] ?? ""))
    .flatMap((path) => {
      const text = withoutComments(readFileSync(join(source, path), "utf8"));
      return [...text.matchAll(pattern)].map((match) => `src/${path}:${lineAt(text, match.index)} ${match[0].trim()}`);
    });
}

test("Bun, Deno and process are touched in runtime/ and main.ts only", () => {
  const pattern = /(?<![\w.$"'`-])(?:Bun|Deno|process)\.(?=[a-z])(?!\w*["'`])|["'](?:node:process|bun|bun:[a-z]+)["']/g;
  expect(uses(pattern, (room) => room !== "runtime" && room !== "main")).toEqual([]);
});

test("time and chance come in from outside in messages, domain and engine", () => {
  const pattern =
    /\bDate\.now\(|\bnew Date\(\)|\bMath\.random\(|\bperformance\.now\(|\bset(?:Timeout|Interval|Immediate)\(|\brandomUUID\(/g;
  expect(uses(pattern, (room) => ["messages", "domain", "engine"].includes(room))).toEqual([]);
});

test("console is not written to: results and log lines have their own ways out", () => {
  expect(uses(/(?<![\w.$])console\.\w+\(/g, () => true)).toEqual([]);
});
