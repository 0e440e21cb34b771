/**
 * Runs everything that must hold: type check, linter, build, test suites, and the smoke test of the core under every runtime.
 *
 * The servers that tests need are started once here. Type check, linter, build and each smoke run count as one test. A suite that
 * ends without a summary (crash, time limit) counts as one failed test. Up to five failures of a suite are run once more, alone; what passes then
 * counts as passed and is named as flaky at the end. The last line on stdout is `N passed, N failed`.
 */
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { findNode } from "./node.ts";
import { startPostgres, startRedis } from "./services.ts";

const root = join(import.meta.dir, "..");
const SUITES = ["unit", "types", "golden", "conformance", "e2e", "ship", "crash", "interop"] as const;
const SLOW_SUITES = ["sim", "bench", "image"] as const;
/** Limit for one step; everything together stays below the 25 minutes that CI has. */
const STEP_LIMIT_ms = 8 * 60_000;
const TEST_LIMIT_ms = 30_000;
/** More failures than this in one suite are no accident. */
const RERUN_MOST = 5;

interface Outcome {
  readonly exitCode: number | null;
  readonly output: string;
}

const words = process.argv.slice(2);
const all = words.includes("--all");
const only = words.filter((word) => word !== "--all");
const known: readonly string[] = [...SUITES, ...SLOW_SUITES, "checks", "smoke"];
for (const word of only) {
  if (!known.includes(word)) {
    process.stderr.write(`test: no suite "${word}"; there are ${known.join(", ")}, and --all\n`);
    process.exit(2);
  }
}

let passed = 0;
let failed = 0;
const broken: string[] = [];
/** Tests that failed at first and passed when their file was run alone. */
const flaky: string[] = [];

function wanted(suite: string): boolean {
  return only.length === 0 ? all || !(SLOW_SUITES as readonly string[]).includes(suite) : only.includes(suite);
}

function count(name: string, good: number, bad: number): void {
  passed += good;
  failed += bad;
  if (bad > 0) broken.push(`${name} (${bad})`);
}

function say(text: string): void {
  process.stdout.write(`\n--- ${text}\n`);
}

/** Runs a program, shows its output, and collects it. */
function run(program: string, parameters: readonly string[], environment: Readonly<Record<string, string>> = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(program, [...parameters], {
      cwd: root,
      env: { ...process.env, ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const limit = setTimeout(() => {
      process.stdout.write(`test: no end within ${STEP_LIMIT_ms / 60_000} minutes, killed\n`);
      child.kill("SIGKILL");
    }, STEP_LIMIT_ms);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => {
        output += text;
        process.stdout.write(text);
      });
    }
    const end = (exitCode: number | null) => {
      clearTimeout(limit);
      resolve({ exitCode, output });
    };
    child.once("error", (error) => {
      process.stdout.write(`${error.message}\n`);
      end(null);
    });
    child.once("close", end);
  });
}

async function step(name: string, program: string, parameters: readonly string[]): Promise<boolean> {
  say(name);
  const { exitCode } = await run(program, parameters);
  count(name, exitCode === 0 ? 1 : 0, exitCode === 0 ? 0 : 1);
  return exitCode === 0;
}

function has(folder: string, ending: RegExp): boolean {
  return existsSync(folder) && readdirSync(folder, { recursive: true }).some((path) => ending.test(String(path)));
}

async function suite(name: string, environment: Readonly<Record<string, string>>): Promise<void> {
  if (!has(join(root, "test", name), /\.test\.tsx?$/)) return;
  say(`bun test ${name}`);
  const parameters = ["test", "--timeout", String(TEST_LIMIT_ms), `./test/${name}/`];
  const { exitCode, output } = await run(process.execPath, parameters, environment);
  // Escape codes are there when FORCE_COLOR is set.
  const plain = output.replaceAll(new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g"), "");
  const number = (word: string) => Number([...plain.matchAll(new RegExp(`^\\s*(\\d+) ${word}$`, "gm"))].at(-1)?.[1] ?? 0);
  const bad = exitCode === 0 ? number("fail") : Math.max(number("fail"), 1);
  const files = failingFiles(plain);
  // Kills at random times and other people's load: a file that fails is run once more, alone, and said to be flaky when it passes then.
  if (bad > 0 && bad <= RERUN_MOST && files.length > 0) {
    say(`once more, alone: ${files.join(" ")}`);
    const again = await run(
      process.execPath,
      ["test", "--timeout", String(TEST_LIMIT_ms), ...files.map((file) => `./${file}`)],
      environment,
    );
    if (again.exitCode === 0) {
      flaky.push(...plain.split("\n").filter((line) => line.startsWith("(fail)")));
      count(name, number("pass") + bad, 0);
      return;
    }
  }
  count(name, number("pass"), bad);
}

/** Files whose tests failed: bun prints a file's name above its tests. */
function failingFiles(output: string): string[] {
  const files = new Set<string>();
  let file = "";
  for (const line of output.split("\n")) {
    const named = /^(test\/\S+\.test\.tsx?):$/.exec(line);
    if (named !== null) file = named[1] ?? "";
    else if (line.startsWith("(fail)") && file !== "") files.add(file);
    else if (/^\d+ tests? failed:/.test(line)) break;
  }
  return [...files];
}

async function smoke(): Promise<void> {
  const folder = join(root, "test", "smoke");
  if (!has(folder, /\.ts$/)) return;
  const deno = process.env["DENO"];
  const node = await findNode();
  for (const file of readdirSync(folder)
    .filter((name) => name.endsWith(".ts"))
    .sort()) {
    const path = join("test", "smoke", file);
    await step(`bun ${path}`, process.execPath, [path]);
    if (deno) await step(`deno run -A ${path}`, deno, ["run", "-A", path]);
    else say(`skipped: ${path} under Deno, there is none for this machine in node_modules or on PATH`);
    if (typeof node === "string") say(`skipped: ${path} under Node: ${node}`);
    else await step(`node ${path} (Node ${node.version})`, node.program, [path]);
  }
}

if (only.length === 0 || only.includes("checks")) {
  // Through this Bun: what these files in JavaScript need of Node is more than the 20.0 that the scripts ask for.
  const tool = (name: string) => join(root, "node_modules", ".bin", name);
  await step("type check", process.execPath, [tool("tsc"), "--noEmit", "-p", "."]);
  await step("linter and formatter", process.execPath, [tool("biome"), "check", "."]);
}
await step("build", process.execPath, [join("scripts", "build.ts")]);
const redis = await startRedis().catch((error: unknown) => {
  process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`);
  count("redis for the tests", 0, 1);
  return null;
});
const postgres = await startPostgres().catch((error: unknown) => {
  process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`);
  count("postgresql for the tests", 0, 1);
  return null;
});
try {
  const environment = {
    ...(postgres === null ? {} : { PROTEAN_TEST_POSTGRES_URL: postgres.url }),
    ...(redis === null ? {} : { PROTEAN_TEST_REDIS_URL: redis.url }),
    PROTEAN_TEST_BINARY: join(root, "dist", "protean"),
    ...(all ? { PROTEAN_TEST_ALL: "1" } : {}),
  };
  for (const name of [...SUITES, ...SLOW_SUITES]) if (wanted(name)) await suite(name, environment);
  if (only.length === 0 || only.includes("smoke")) await smoke();
} finally {
  await redis?.stop();
  await postgres?.stop();
}

if (flaky.length > 0) process.stdout.write(`\nflaky, passed when run alone:\n${[...new Set(flaky)].join("\n")}\n`);
if (broken.length > 0) process.stdout.write(`\nfailed: ${broken.join(", ")}\n`);
process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
process.exitCode = failed > 0 ? 1 : 0;
