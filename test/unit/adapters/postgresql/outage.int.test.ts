/** A server that goes away, dies or stands still; on a server of this file's own. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import postgres from "postgres";
import { openMessageDb, openPostgres } from "../../../../src/adapters/postgresql/mod.ts";
import { ConnectionError } from "../../../../src/errors.ts";
import { type PostgresService, startPostgres, tools } from "../../../support/postgres.ts";
import { until } from "../../../support/until.ts";

let server: PostgresService;
beforeAll(async () => {
  server = await startPostgres();
}, 60_000);
afterAll(() => server.stop());

async function stores(name: string) {
  const admin = postgres(server.url, { max: 1, onnotice: () => {} });
  await admin.unsafe(`CREATE DATABASE ${name}`);
  await admin.end();
  const url = server.urlOf(name);
  const database = await openPostgres({ url, ...tools });
  const eventStore = await openMessageDb({ url, databases: [database], ...tools });
  await database.setup();
  await eventStore.setup();
  return { url, database, eventStore };
}

const event = (stream: string) => ({ id: randomUUID(), stream, type: "T", data: "{}", metadata: null, expectedVersion: null });

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`a server restarted under load by ${signal}: no append is lost or doubled, and work goes on as soon as it is back`, async () => {
    const { database, eventStore } = await stores(`restart_${signal.toLowerCase()}`);
    const known = new Set<string>();
    const unsure = new Set<string>();
    let stop = false;
    let failures = 0;
    let wakes = 0;
    const unlisten = eventStore.onAppend(() => {
      wakes += 1;
    });
    const writers = Array.from({ length: 8 }, async (_, at) => {
      while (!stop) {
        const message = event(`c${at % 3}-${at}`);
        try {
          await database.commit({
            rows: [],
            appends: [message],
            outbox: [],
            markers: [{ messageId: message.id, handler: "h" }],
            fences: [],
          });
          known.add(message.id);
        } catch (error) {
          expect(error).toBeInstanceOf(ConnectionError);
          failures += 1;
          unsure.add(message.id);
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    });
    await until("appends", () => known.size > 100);
    await server.down(signal);
    await until("failures", () => failures > 0);
    await server.up();
    const [before, back_ms] = [known.size, performance.now()];
    await until("appends go on", () => known.size > before + 100);
    expect(performance.now() - back_ms).toBeLessThan(5_000);
    const wakesBefore = wakes;
    await until("wake-ups go on", () => wakes > wakesBefore);
    stop = true;
    await Promise.all(writers);
    unlisten();
    const stored: string[] = [];
    for (const category of ["c0", "c1", "c2"]) {
      for (let from = 0; ; ) {
        const page = await eventStore.readCategory(category, from, 1_000);
        stored.push(...page.map(({ id }) => id));
        if (page.length < 1_000) break;
        from = (page.at(-1)?.globalPosition ?? 0) + 1;
      }
    }
    const present = new Set(stored);
    expect(present.size).toBe(stored.length);
    // Committed by an engine that lost its answer counts as well; committed and gone does not happen (the server is only asked not to sync).
    if (signal === "SIGTERM") for (const id of known) expect(present.has(id)).toBe(true);
    for (const id of present) expect(known.has(id) || unsure.has(id)).toBe(true);
    const marked = await database.isProcessed(stored.map((messageId) => ({ messageId, handler: "h" })));
    expect(marked.every((is) => is)).toBe(true);
    await eventStore.close();
    await database.close();
  }, 60_000);
}

test("connections that the server ends are replaced, and reads don't notice", async () => {
  const { url, database } = await stores("ended");
  const admin = postgres(url, { max: 1, onnotice: () => {} });
  for (let n = 0; n < 5; n += 1) {
    await database.ping();
    await admin`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ended' AND application_name = 'protean'`;
    await database.ping();
  }
  await database.ping();
  await admin.end();
  await database.close();
}, 30_000);

test("a server that isn't up yet is waited for", async () => {
  const { url, database } = await stores("late");
  await database.close();
  await server.down();
  const opening = openPostgres({ url, ...tools, wait_ms: 20_000 });
  await server.up();
  const late = await opening;
  await late.ping();
  await late.close();
}, 40_000);

test("a server that stands still is given up after the statement's time, and used again afterwards", async () => {
  const { url, database } = await stores("still");
  await database.close();
  const impatient = await openPostgres({ url, ...tools, statementTimeout_ms: 300 });
  await impatient.ping();
  const admin = postgres(url, { max: 1, onnotice: () => {} });
  const slow = await openPostgres({ url, ...tools, statementTimeout_ms: 300 });
  const holder = await admin.reserve();
  await holder.unsafe("BEGIN; LOCK TABLE outbox");
  await expect(slow.outbox.counts()).rejects.toThrow("cancelled");
  await holder.unsafe("ROLLBACK");
  holder.release();
  expect((await slow.outbox.counts()).pending).toBe(0);
  await admin.end();
  await slow.close();
  await impatient.close();
}, 30_000);
