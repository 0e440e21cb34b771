/**
 * Many simulated runs (test/sim/simulation.ts), on all cores:
 *
 *   bun scripts/sim.ts --seeds 10000 [--from 1]    runs so many seeds; exit code 1 when one fails, with the command that replays it
 *   bun scripts/sim.ts --seed 4711 [--trace]       replays one; with --trace everything that happened
 *
 * --profile calm|kills|network|pauses|everything and --layout one|two|three fix what else the seed chooses; --jobs N is the number of processes.
 */
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { LAYOUTS, PROFILES, simulate, type Verdict } from "../test/sim/simulation.ts";

const SAY_EVERY_ms = 10_000;

const { values } = parseArgs({
  options: {
    seeds: { type: "string" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    profile: { type: "string" },
    layout: { type: "string" },
    jobs: { type: "string", default: String(availableParallelism()) },
    trace: { type: "boolean", default: false },
  },
});

const number = (name: string, text: string): number => {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  process.stderr.write(`sim: --${name} ${text} is no whole number\n`);
  process.exit(2);
};

const chosen = <Name extends string>(option: string, names: readonly Name[], given: string | undefined): Name | undefined => {
  const found = names.find((name) => name === given);
  if (given === undefined || found !== undefined) return found;
  process.stderr.write(`sim: --${option} ${given}: use one of ${names.join(", ")}\n`);
  process.exit(2);
};

const profile = chosen("profile", PROFILES, values.profile);
const layout = chosen("layout", LAYOUTS, values.layout);
const fixed = { ...(profile === undefined ? {} : { profile }), ...(layout === undefined ? {} : { layout }) };
const fixedWords = [...(profile === undefined ? [] : ["--profile", profile]), ...(layout === undefined ? [] : ["--layout", layout])];

if (values.seed !== undefined && values.seeds === undefined) await replay(number("seed", values.seed));
else await many(number("seeds", values.seeds ?? "1000"), number("from", values.seed ?? values.from));

async function replay(seed: number): Promise<void> {
  const verdict = await simulate(seed, { ...fixed, trace: values.trace });
  for (const line of verdict.lines) process.stdout.write(`${line}\n`);
  process.stdout.write(
    `seed ${seed}: ${verdict.profile}, layout ${verdict.layout}, ${verdict.entries} messages, ${verdict.deaths} deaths, ${verdict.happened} happenings in ` +
      `${(verdict.virtual_ms / 1000).toFixed(1)} virtual s, trace ${verdict.hash}\n`,
  );
  for (const problem of verdict.problems) process.stdout.write(`  ${problem}\n`);
  process.exit(verdict.problems.length === 0 ? 0 : 1);
}

/** Runs `count` seeds from `first`, in this process when it is to be one, else in several, each with every n-th seed. */
async function many(count: number, first: number): Promise<void> {
  const jobs = Math.max(1, Math.min(number("jobs", values.jobs), count));
  const share = process.env["PROTEAN_SIM_SHARE"];
  if (share !== undefined) {
    const [at = 0, step = 1] = share.split("/").map(Number);
    for (let seed = first + at; seed < first + count; seed += step)
      process.stdout.write(`${JSON.stringify(summary(await simulate(seed, fixed)))}\n`);
    process.exit(0);
  }
  const began_ms = performance.now();
  const totals = { runs: 0, failed: 0, deaths: 0, happened: 0, entries: 0 };
  const say = () => {
    const took_s = (performance.now() - began_ms) / 1000;
    process.stdout.write(
      `${totals.runs} seeds in ${took_s.toFixed(0)} s (${(totals.runs / took_s).toFixed(1)}/s, ${jobs} processes): ${totals.entries} messages, ` +
        `${totals.deaths} deaths, ${totals.happened} happenings, ${totals.failed} failed\n`,
    );
  };
  const saying = setInterval(say, SAY_EVERY_ms);
  const take = (line: string) => {
    const verdict = JSON.parse(line) as ReturnType<typeof summary>;
    totals.runs += 1;
    totals.deaths += verdict.deaths;
    totals.happened += verdict.happened;
    totals.entries += verdict.entries;
    if (verdict.problems.length === 0) return;
    totals.failed += 1;
    process.stdout.write(
      `seed ${verdict.seed} failed (${verdict.profile}, layout ${verdict.layout}); replay: bun scripts/sim.ts --seed ${[verdict.seed, ...fixedWords].join(" ")}\n` +
        `${verdict.problems.map((problem) => `  ${problem}\n`).join("")}`,
    );
  };
  const codes = await Promise.all(Array.from({ length: jobs }, (_, at) => worker(at, jobs, count, first, take)));
  clearInterval(saying);
  say();
  process.exit(totals.failed === 0 && totals.runs === count && codes.every((code) => code === 0) ? 0 : 1);
}

function summary({ seed, profile: ran, layout: on, problems, deaths, happened, entries }: Verdict) {
  return { seed, profile: ran, layout: on, problems, deaths, happened, entries };
}

function worker(at: number, jobs: number, count: number, first: number, take: (line: string) => void): Promise<number | null> {
  return new Promise((resolve) => {
    const words = [import.meta.filename, "--seeds", String(count), "--from", String(first), ...fixedWords];
    const child = spawn(process.execPath, words, {
      env: { ...process.env, PROTEAN_SIM_SHARE: `${at}/${jobs}` },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let rest = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) take(line);
    });
    child.once("close", resolve);
  });
}
