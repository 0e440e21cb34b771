/** Two servers of one domain share its ordered subscriptions; what one leaves the other goes on with. */
import { afterAll, describe, expect, test } from "bun:test";
import { openRedis } from "../../src/adapters/redis/mod.ts";
import { openSqlite } from "../../src/adapters/sqlite/mod.ts";
import type { Leases } from "../../src/ports/leases.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { sharedRedis, uniqueName } from "../support/redis.ts";
import { endAll, mustRun, rowsOf, startProgram, untilRunning } from "../support/running.ts";
import { until } from "../support/until.ts";

const folders: TemporaryFolder[] = [];
afterAll(async () => {
  await endAll();
  for (const folder of folders) folder.remove();
});
const tools = { clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
const PROJECTORS = 4;
/** rulings 8, with the time that a loaded machine takes on top. */
const TAKEOVER_ms = 15_000;

function handlers(domain: string): string {
  const projectors = Array.from(
    { length: PROJECTORS },
    (_, at) => `
export class Count${at} extends domain.projection("Count${at}", { fields: { counterId: f.string({ identifier: true }), last: f.integer(), wrong: f.integer() } }) {}
export const Counting${at} = domain.projector("Counting${at}", { projectorFor: Count${at}, aggregates: [Counter], idempotent: true }).on(Counted, async ({ counterId, number }) => {
  await domain.repositoryFor(Count${at}).upsert(counterId, () => new Count${at}({ counterId, last: number, wrong: number === 1 ? 0 : 1 }), (row) => {
    if (number !== row.last + 1) row.wrong += 1;
    row.last = number;
  });
});`,
  );
  return `import { Domain, f } from "protean";
export const domain = new Domain("${domain}");
export class Counted extends domain.event("Counted", { fields: { counterId: f.identifier(), number: f.integer() } }) {}
export class Counter extends domain.aggregate("Counter", { fields: { counterId: f.identifier({ identifier: true }), number: f.integer() }, events: [Counted] }) {}
export class Count extends domain.command("Count", { partOf: Counter, fields: { counterId: f.identifier({ identifier: true }), number: f.integer() } }) {}
export const Counters = domain.commandHandler("Counters", { partOf: Counter }).handle(Count, async ({ counterId, number }) => {
  const repository = domain.repositoryFor(Counter);
  const counter = number === 1 ? new Counter({ counterId, number }) : await repository.get(counterId);
  counter.number = number;
  counter.raise(new Counted({ counterId, number }));
  await repository.add(counter);
});
${projectors.join("\n")}
`;
}

describe.each(["redis", "sqlite"])("two servers on one %s", (kind) => {
  test("share the projectors, see every event in order, and one goes on alone when the other is killed (rulings 8, 25)", async () => {
    const domain = uniqueName("sharing").replace("-", "");
    const redis = await sharedRedis();
    const broker =
      kind === "redis"
        ? `[brokers.default]\nprovider = "redis"\nURI = "${redis}/0"\n[databases.default]\nprovider = "sqlite"\ndatabase_uri = "sqlite:///shop.db"\n`
        : "";
    const type = kind === "redis" ? '[event_store]\nprovider = "sqlite"\n[server]\ndefault_subscription_type = "stream"\n' : "";
    const folder = temporaryFolder({ "domain.toml": `${broker}${type}`, "handlers/counting.ts": handlers(domain) });
    folders.push(folder);
    const place = { directory: folder.path };
    const start = () => untilRunning(startProgram(["server", "--http", "off"], place));
    const first = await start();

    const stores = kind === "redis" ? null : await openSqlite({ file: folder.at(".protean", "protean.db"), ...tools });
    const opened = stores?.broker ?? openRedis({ name: "default", url: redis, ...tools });
    const leases: Leases = opened.leases;
    const owners = async () => {
      const held = (await leases.holders("")).filter(({ name }) => name.includes(`${domain}.Counting`));
      const counts = new Map<string, number>();
      for (const { owner } of held) counts.set(owner, (counts.get(owner) ?? 0) + 1);
      return [...counts.values()].sort();
    };
    const send = async (number: number) => {
      await mustRun(["send", "command", "Count", JSON.stringify({ counter_id: "c1", number })], place);
    };
    const seen = async (number: number) => {
      for (let at = 0; at < PROJECTORS; at += 1) {
        const last = async () => (await rowsOf(["query", `Count${at}`], place))[0]?.["last"];
        await until(`projector ${at} has seen ${number}`, async () => (await last()) === number);
      }
    };
    await until("the first one has all", async () => (await owners()).join() === String(PROJECTORS));
    await send(1);
    const second = await start();
    await until("both have half", async () => (await owners()).join() === "2,2", TAKEOVER_ms);
    await send(2);
    // Commands are shared out among engines, without an order between them: each is done before the next one is sent.
    await seen(2);
    await second.end("SIGKILL");
    await send(3);
    await until("the one that is left has all", async () => (await owners()).join() === String(PROJECTORS), TAKEOVER_ms);
    await seen(3);
    for (let at = 0; at < PROJECTORS; at += 1) {
      expect(await rowsOf(["query", `Count${at}`], place)).toEqual([{ counter_id: "c1", last: 3, wrong: 0 }]);
    }
    expect((await first.end("SIGTERM")).exitCode).toBe(0);
    expect(await owners()).toEqual([]);
    await opened.close();
    await stores?.close();
  }, 90_000);
});
