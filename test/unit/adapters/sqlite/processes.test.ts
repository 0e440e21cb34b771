import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import type { Subprocess } from "bun";
import { openSqlite } from "../../../../src/adapters/sqlite/mod.ts";
import { ConnectionError } from "../../../../src/errors.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";
import { HurriedClock } from "../../../support/hurried-clock.ts";
import { type SqliteUnderTest, sqliteUnderTest } from "../../../support/sqlite.ts";
import { until } from "../../../support/until.ts";

type Writer = Subprocess<"pipe", "pipe", "inherit">;

const message = (stream: string) => ({
  id: crypto.randomUUID(),
  stream,
  type: "T",
  data: "{}",
  metadata: null,
  expectedVersion: null,
});

describe("a SQLite file and other processes", () => {
  let under: SqliteUnderTest;
  const started: Writer[] = [];
  beforeEach(async () => {
    under = await sqliteUnderTest("file");
  });
  afterEach(async () => {
    for (const process of started.splice(0)) {
      process.kill("SIGKILL");
      await process.exited;
    }
    await under.dispose();
  });

  const start = async (what: "hold" | "append" | "commit"): Promise<Writer> => {
    const writer = Bun.spawn([process.execPath, join(import.meta.dir, "writer-process.ts"), what, under.file], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "inherit",
    });
    started.push(writer);
    const reader = writer.stdout.getReader();
    const { value } = await reader.read();
    expect(new TextDecoder().decode(value)).toContain("ready");
    // What it says later must not fill its pipe.
    void (async () => {
      while (!(await reader.read()).done);
    })();
    return writer;
  };

  test("while another process holds the lock, our write waits without blocking the loop (rulings 16)", async () => {
    const holder = await start("hold");
    let written = false;
    const writing = under.stores.eventStore.append([message("a-1")]).then(() => {
      written = true;
    });
    const acknowledging = under.stores.broker.acknowledge("s", "g", ["1-1"]);
    let longest_ms = 0;
    let ticks = 0;
    let last_ms = performance.now();
    for (const end_ms = last_ms + 300; last_ms < end_ms; ticks += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      const now_ms = performance.now();
      longest_ms = Math.max(longest_ms, now_ms - last_ms);
      last_ms = now_ms;
    }
    expect(written).toBe(false);
    expect(ticks).toBeGreaterThan(50);
    expect(longest_ms).toBeLessThan(100);
    expect(await under.stores.eventStore.readStream("a-1", 0, 1)).toEqual([]);
    holder.stdin.write("go\n");
    await holder.stdin.flush();
    await writing;
    expect(await acknowledging).toBe(0);
    expect(await under.stores.eventStore.readStream("a-1", 0, 1)).toHaveLength(1);
  });

  test("a lock that isn't given up becomes a ConnectionError after 5 s, and nothing was written", async () => {
    const stores = await openSqlite({ file: under.file, clock: new HurriedClock(), random: new SystemRandom(), log: silentLog });
    const holder = new DatabaseSync(under.file);
    holder.exec("BEGIN IMMEDIATE");
    const attempt = stores.eventStore.append([message("a-1")]);
    await expect(attempt).rejects.toBeInstanceOf(ConnectionError);
    await expect(attempt).rejects.toThrow("locked");
    holder.exec("COMMIT");
    holder.close();
    await stores.eventStore.append([message("a-1")]);
    expect(await stores.eventStore.readStream("a-1", 0, 10)).toHaveLength(1);
    await stores.close();
  });

  test("what another process appends wakes us", async () => {
    let wakes = 0;
    const stop = under.stores.eventStore.onAppend(() => {
      wakes += 1;
    });
    const writer = await start("append");
    for (let n = 1; n <= 3; n += 1) {
      const before = wakes;
      writer.stdin.write("a-1\n");
      await writer.stdin.flush();
      await until("the append wakes", () => wakes > before);
    }
    stop();
  });

  test("a process killed while it commits leaves whole units of work only", async () => {
    const writer = await start("commit");
    const count = async () => (await under.stores.database.outbox.counts()).pending;
    await until("some units are committed", async () => (await count()) > 20);
    writer.kill("SIGKILL");
    await writer.exited;
    const again = await under.second();
    const units = await count();
    expect(await again.eventStore.readStream("acc-1", 0, 100_000)).toHaveLength(units);
    expect(await again.eventStore.readStream("acc-2", 0, 100_000)).toHaveLength(units);
    const markers = Array.from({ length: units + 1 }, (_, n) => ({ messageId: `m-${n}`, handler: "h" }));
    expect((await again.database.isProcessed(markers)).indexOf(false)).toBe(units);
    await again.eventStore.append([message("acc-1")]);
  });
});

describe("entry ids", () => {
  test("they grow also when the clock goes back", async () => {
    const under = await sqliteUnderTest("memory");
    const publish = async () => (await under.stores.broker.publish([{ stream: "s", fields: { data: "x" } }]))[0] ?? "";
    const first = await publish();
    under.clock.ahead_ms = -60_000;
    const second = await publish();
    under.clock.ahead_ms = 60_000;
    const third = await publish();
    const [ms, seq] = first.split("-").map(Number);
    expect(second).toBe(`${ms}-${(seq ?? 0) + 1}`);
    expect(Number(third.split("-")[0])).toBeGreaterThan(ms ?? 0);
    const entries = await under.stores.broker.range("s", { count: 10 });
    expect(entries.map(({ id }) => id)).toEqual([first, second, third]);
    await under.dispose();
  });
});
