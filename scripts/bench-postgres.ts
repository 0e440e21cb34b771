/**
 * Measures outbox and event store on PostgreSQL beside hand-written postgres.js loops (test/bench/postgres-floor.ts), interleaved in one run, and
 * prints medians and ratios.
 *
 *   bun scripts/bench-postgres.ts [--messages 20000] [--repeats 3]
 *
 *   outbox   rows pending in the outbox → entries of a Redis stream, until all rows are published
 *   events   messages of one category in Message DB → a handler that does nothing, until the stored position is the last
 *
 * Seen from outside, for both alike: the harness asks PostgreSQL how far they are. The rate runs from the first look with at least 10 % to the first
 * with all. PostgreSQL syncs to the disk at every commit, as it does out of the box.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import postgres from "postgres";
import { openMessageDb, openPostgres } from "../src/adapters/postgresql/mod.ts";
import { decodeMessage, encodeMetadata } from "../src/messages/envelope.ts";
import { silentLog } from "../src/ports/log.ts";
import { SystemClock } from "../src/runtime/clock.ts";
import { SystemRandom } from "../src/runtime/random.ts";
import { benchMessage } from "../test/bench/envelope.ts";
import { binary } from "../test/support/binary.ts";
import { startPostgres, startRedis } from "./services.ts";

const { values } = parseArgs({ options: { messages: { type: "string", default: "20000" }, repeats: { type: "string", default: "3" } } });
const messages = Number(values.messages);
const repeats = Number(values.repeats);
const root = join(import.meta.dirname, "..");
const LOOK_ms = 10;
const LIMIT_ms = 300_000;
const PAGE = 1_000;

type Workload = "outbox" | "events";
/** `ours` writes traces, as it does out of the box. */
const PEERS = ["floor", "ours", "ours-notrace"] as const;
type Who = (typeof PEERS)[number];

const server = await startPostgres({ settings: { fsync: "on", synchronous_commit: "on", full_page_writes: "on" } });
const redis = await startRedis({ durable: false });
const sql = postgres(server.url, { max: 1, onnotice: () => {} });
const tools = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
const database = await openPostgres({ url: server.url, ...tools });
const store = await openMessageDb({ url: server.url, databases: [database], ...tools });

function start(workload: Workload, who: Who, folder: string): ChildProcess {
  if (who === "floor") {
    const parameters = [join(root, "test/bench/postgres-floor.ts"), workload, server.url, String(redis.port), String(messages)];
    return spawn(process.execPath, parameters, { stdio: ["ignore", "ignore", "inherit"] });
  }
  const kind = workload === "outbox" ? "stream" : "event_store";
  writeFileSync(
    join(folder, "domain.toml"),
    `${workload === "outbox" ? "enable_outbox = true\n" : ""}[databases.default]\nprovider = "postgresql"\ndatabase_uri = "${server.url}"\n` +
      `[event_store]\nprovider = "message_db"\ndatabase_uri = "${server.url}"\n[brokers.default]\nprovider = "redis"\nURI = "redis://127.0.0.1:${redis.port}/0"\n` +
      `[outbox]\nmessages_per_tick = 100\n[server]\ndefault_subscription_type = "${kind}"\nmessages_per_tick = 100\n` +
      `[server.event_store_subscription]\nposition_update_interval = 100\n[observatory]\ntrace_retention_days = ${who === "ours" ? 7 : 0}\n`,
  );
  const only = workload === "outbox" ? "outbox" : "Bench";
  const words = [
    "server",
    "--handlers",
    join(root, "test/bench/handlers"),
    "--http",
    "off",
    "--log-level",
    "ERROR",
    "--no-banner",
    "--setup",
    "--only",
    only,
  ];
  return spawn(binary(), words, { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
}

async function progress(workload: Workload): Promise<number> {
  if (workload === "outbox") return Number((await sql`SELECT count(*) AS n FROM outbox WHERE status = 'published'`)[0]?.["n"]);
  const [last] =
    await sql`SELECT data->>'position' AS n FROM message_store.messages WHERE stream_name LIKE 'position-%' ORDER BY global_position DESC LIMIT 1`;
  return Number(last?.["n"] ?? 0);
}

/** The same messages for everybody, in tables that look as after a long life of nothing. */
async function fill(workload: Workload): Promise<void> {
  await sql.unsafe("TRUNCATE outbox; TRUNCATE protean_lease; TRUNCATE message_store.messages RESTART IDENTITY");
  await redis.cli("FLUSHALL");
  for (let from = 0; from < messages; from += PAGE) {
    const page = Array.from({ length: Math.min(PAGE, messages - from) }, (_, at) => decodeMessage(benchMessage(from + at)));
    if (workload === "events") {
      await store.append(
        page.map((message) => ({
          id: randomUUID(),
          stream: message.stream ?? "",
          type: message.type,
          data: message.dataText,
          metadata: encodeMetadata(message.metadata),
          expectedVersion: null,
        })),
      );
    } else {
      await database.outbox.insertMissing(
        page.map((message) => ({
          id: randomUUID(),
          messageId: message.id ?? "",
          streamName: message.stream ?? "",
          type: message.type,
          data: message.dataText,
          metadata: encodeMetadata(message.metadata),
          correlationId: null,
          causationId: null,
          partitionKey: null,
          priority: 0,
          targetBroker: "default",
          maxRetries: 3,
        })),
      );
    }
  }
  await sql.unsafe("VACUUM ANALYZE");
  await sql.unsafe("CHECKPOINT");
}

/** Messages per second of one run. */
async function measure(workload: Workload, who: Who): Promise<number> {
  await fill(workload);
  const folder = mkdtempSync(join(tmpdir(), "protean-bench-"));
  const child = start(workload, who, folder);
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  try {
    const begin_ms = performance.now();
    let first: { readonly at_ms: number; readonly done: number } | null = null;
    for (;;) {
      const done = await progress(workload);
      const at_ms = performance.now();
      if (first === null && done >= messages / 10) first = { at_ms, done };
      if (first !== null && done >= messages) return ((done - first.done) / (at_ms - first.at_ms)) * 1000;
      if (at_ms - begin_ms > LIMIT_ms) throw new Error(`${workload} ${who}: ${done} of ${messages} after ${LIMIT_ms} ms`);
      await new Promise((resolve) => setTimeout(resolve, LOOK_ms));
    }
  } finally {
    child.kill("SIGTERM");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
}

function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((left, right) => left - right);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

try {
  await database.setup();
  await store.setup();
  console.log(`${messages} messages of ${Buffer.byteLength(benchMessage(1))} bytes, ${repeats} repeats, interleaved`);
  for (const workload of ["outbox", "events"] as const) {
    const figures: Record<Who, number[]> = { floor: [], ours: [], "ours-notrace": [] };
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      for (const who of PEERS) figures[who].push(await measure(workload, who));
    }
    for (const who of PEERS) {
      const rate = median(figures[who]);
      console.log(
        `${workload.padEnd(8)} ${who.padEnd(12)} ${Math.round(rate).toString().padStart(8)} msgs/s   ${(rate / median(figures.floor)).toFixed(2)} x floor`,
      );
    }
  }
} finally {
  await sql.end({ timeout: 1 });
  await store.close();
  await database.close();
  await redis.stop();
  await server.stop();
}
