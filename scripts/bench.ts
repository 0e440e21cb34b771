/**
 * Measures our engine beside the bare driver, interleaved in one run, and prints medians and ratios.
 *
 *   bun scripts/bench.ts [--messages 60000] [--repeats 3]
 *
 * Seen from outside, for both alike: the harness polls XINFO GROUPS and counts entries that were delivered and acknowledged. The rate runs from the
 * first look with at least 10 % of them to the first with all, so start-up isn't in it. The binary runs with everything on: checksums
 * verified, each message acknowledged after its handler; once with traces (the default) and once without.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Redis } from "ioredis";
import { benchMessage } from "../test/bench/envelope.ts";
import { startRedis } from "./services.ts";

const { values } = parseArgs({ options: { messages: { type: "string", default: "60000" }, repeats: { type: "string", default: "3" } } });
const messages = Number(values.messages);
const repeats = Number(values.repeats);
const root = join(import.meta.dirname, "..");
const STREAM = "bench::account";
const LOOK_ms = 10;
const LIMIT_ms = 120_000;

interface Peer {
  readonly name: string;
  /** Consumer group whose progress is watched. */
  readonly group: string;
  start(port: number, folder: string): ChildProcess;
}

const ours = (name: string, retention_days: number): Peer => ({
  name,
  group: "bench.Bench",
  start(port, folder) {
    writeFileSync(
      join(folder, "domain.toml"),
      `[brokers.default]\nprovider = "redis"\nURI = "redis://127.0.0.1:${port}/0"\n[event_store]\nprovider = "memory"\n[databases.default]\nprovider = "memory"\n` +
        `[server]\ndefault_subscription_type = "stream"\nmessages_per_tick = 100\n[observatory]\ntrace_retention_days = ${retention_days}\n`,
    );
    const handlers = join(root, "test/bench/handlers");
    return spawn(join(root, "dist/protean"), ["server", "--handlers", handlers, "--http", "off", "--log-level", "ERROR", "--no-banner"], {
      cwd: folder,
      stdio: ["ignore", "ignore", "inherit"],
    });
  },
});

const floor: Peer = {
  name: "floor-ioredis",
  group: "floor",
  start: (port) =>
    spawn(process.execPath, [join(root, "test/bench/floor.ts"), String(port), STREAM, "floor", String(messages)], {
      stdio: ["ignore", "ignore", "inherit"],
    }),
};

/** Messages per second of one run. */
async function measure(peer: Peer, client: Redis, port: number): Promise<number> {
  await client.call("XGROUP", "DESTROY", STREAM, peer.group);
  await client.del("protean:traces");
  const folder = mkdtempSync(join(tmpdir(), "protean-bench-"));
  const child = peer.start(port, folder);
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  try {
    const begin_ms = performance.now();
    let first: { readonly at_ms: number; readonly done: number } | null = null;
    for (;;) {
      const done = await acknowledged(client, peer.group);
      const at_ms = performance.now();
      if (first === null && done >= messages / 10) first = { at_ms, done };
      if (first !== null && done >= messages) return ((done - first.done) / (at_ms - first.at_ms)) * 1000;
      if (at_ms - begin_ms > LIMIT_ms) throw new Error(`${peer.name}: ${done} of ${messages} after ${LIMIT_ms} ms`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_ms));
    }
  } finally {
    child.kill("SIGTERM");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

async function acknowledged(client: Redis, group: string): Promise<number> {
  for (const reply of (await client.call("XINFO", "GROUPS", STREAM)) as unknown[][]) {
    const facts = new Map<unknown, unknown>();
    for (let index = 0; index < reply.length; index += 2) facts.set(reply[index], reply[index + 1]);
    if (facts.get("name") === group) return Number(facts.get("entries-read") ?? 0) - Number(facts.get("pending"));
  }
  return 0;
}

function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((left, right) => left - right);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

const redis = await startRedis();
const client = new Redis(redis.port, "127.0.0.1");
try {
  console.log(`${messages} messages of ${Buffer.byteLength(benchMessage(1))} bytes, ${repeats} repeats, interleaved`);
  for (let index = 0; index < messages; ) {
    const pipeline = client.pipeline();
    for (const end = Math.min(messages, index + 1_000); index < end; index += 1) pipeline.xadd(STREAM, "*", "data", benchMessage(index));
    await pipeline.exec();
  }
  const peers = [floor, ours("ours", 7), ours("ours-notrace", 0)];
  const figures = new Map<string, number[]>(peers.map((peer) => [peer.name, []]));
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    for (const peer of peers) figures.get(peer.name)?.push(await measure(peer, client, redis.port));
  }
  const base = median(figures.get(floor.name) ?? []);
  for (const [name, rates] of figures) {
    console.log(
      `${name.padEnd(16)} ${Math.round(median(rates)).toString().padStart(8)} msgs/s   ${(median(rates) / base).toFixed(2)} x floor`,
    );
  }
} finally {
  client.disconnect();
  await redis.stop();
}
