/**
 * Another process on a SQLite file, for tests: `bun writer-process.ts <what> <file>`.
 *
 * `hold` takes the write lock, says "ready" and keeps it until a line comes. `append` appends one message for every line. `commit` commits
 * units of work until it is killed, and says "ready" after the first.
 */
import { randomUUID } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { openSqlite } from "../../../../src/adapters/sqlite/mod.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";

const [what = "", file = ""] = process.argv.slice(2);

async function* lines(): AsyncGenerator<string> {
  for await (const chunk of process.stdin)
    yield* String(chunk)
      .split("\n")
      .filter((line) => line !== "");
}

const message = (stream: string) => ({ id: randomUUID(), stream, type: "T", data: "{}", metadata: null, expectedVersion: null });

if (what === "hold") {
  const database = new DatabaseSync(file);
  database.exec("BEGIN IMMEDIATE");
  console.log("ready");
  for await (const _line of lines()) {
    database.exec("COMMIT");
    break;
  }
  database.close();
  process.exit(0);
}

const stores = await openSqlite({ file, clock: new SystemClock(), random: new SystemRandom(), log: silentLog });
if (what === "append") {
  console.log("ready");
  for await (const line of lines()) await stores.eventStore.append([message(line)]);
  await stores.close();
}
if (what === "commit") {
  for (let n = 0; ; n += 1) {
    const messageId = `m-${n}`;
    await stores.database.commit({
      rows: [],
      appends: [message("acc-1"), message("acc-2")],
      outbox: [
        {
          id: randomUUID(),
          messageId,
          streamName: "acc-1",
          type: "T",
          data: "{}",
          metadata: "{}",
          correlationId: null,
          causationId: null,
          partitionKey: null,
          priority: 0,
          targetBroker: "default",
          maxRetries: 3,
        },
      ],
      markers: [{ messageId, handler: "h" }],
      fences: [],
    });
    console.log("ready");
  }
}
