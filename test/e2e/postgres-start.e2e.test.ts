/** Starting on PostgreSQL: one that is away is waited for, one that a person must repair ends the start with what to run (D21, G42). */
import { afterEach, describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import postgres from "postgres";
import { freePort } from "../../scripts/services.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type FreshDatabase, freshDatabase, startPostgres } from "../support/postgres.ts";
import { endAll, mustRun, rowsOf, run, startProgram } from "../support/running.ts";
import { until } from "../support/until.ts";
import { SHOP } from "./fixtures/shop.ts";

const LIMIT_ms = 60_000;
const BACK_ms = 5_000;
const SECRET = "geheim-42";
const closers: (() => unknown)[] = [];
afterEach(async () => {
  await endAll();
  for (const close of closers.splice(0).reverse()) await close();
});

function shop(url: string, storeUrl = url): TemporaryFolder {
  const folder = temporaryFolder({
    "handlers/order.ts": SHOP,
    "domain.toml": `enable_outbox = true
command_processing = "async"
event_processing = "async"
[databases.default]
provider = "postgresql"
database_uri = "${url}"
[event_store]
provider = "message_db"
database_uri = "${storeUrl}"
[server]
default_subscription_type = "stream"
`,
  });
  closers.push(() => folder.remove());
  return folder;
}

/** A role of its own, which may log in and nothing else. */
async function role(fresh: FreshDatabase): Promise<{ readonly name: string; readonly url: string }> {
  const name = `app_${randomBytes(4).toString("hex")}`;
  await fresh.sql.unsafe(`CREATE ROLE ${name} LOGIN PASSWORD '${SECRET}'`);
  closers.push(async () => {
    const admin = postgres(fresh.url, { max: 1, onnotice: () => {} });
    await admin.unsafe(`DROP OWNED BY ${name}; DROP ROLE ${name}`);
    await admin.end();
  });
  const url = new URL(fresh.url);
  url.username = name;
  url.password = SECRET;
  return { name, url: url.href };
}

async function database(kind: "empty" | "message_db" = "empty"): Promise<FreshDatabase> {
  const fresh = await freshDatabase(kind);
  closers.push(() => fresh.drop());
  return fresh;
}

const order = JSON.stringify({ order_id: "o1", customer: "Ada", amount: 10 });

test(
  "a PostgreSQL that is away is waited for: live, not ready, one line, and work within 5 s of its coming",
  async () => {
    const server = await startPostgres();
    closers.push(() => server.stop());
    const folder = shop(server.url);
    const place = { directory: folder.path };
    await mustRun(["db", "setup"], place);
    await server.down();
    const url = `http://127.0.0.1:${await freePort()}`;
    const running = startProgram(["server", "--http", url.slice("http://".length)], place);
    const probe = async (path: string) => {
      const response = await fetch(url + path).catch(() => null);
      return { status: response?.status, body: (await response?.text()) ?? "" };
    };
    await until("the probes answer with the reason", async () => (await probe("/readyz")).body.includes("can't be reached"), 15_000);
    expect(await probe("/readyz")).toMatchObject({ status: 503, body: expect.stringContaining('"default":"unavailable"') });
    expect((await probe("/livez")).status).toBe(200);

    // Commands don't wait for ever.
    for (const words of [
      ["send", "command", "PlaceOrder", order],
      ["query", "OrderSummary"],
      ["outbox", "status"],
    ]) {
      const failed = await run([...words, "--timeout", "300ms"], place);
      expect([failed.exitCode, failed.stdout, failed.stderr.trim().split("\n")]).toEqual([
        2,
        "",
        [expect.stringContaining("can't be reached")],
      ]);
    }
    const quick = await run(["server", "--fail-fast", "--http", "off"], place);
    expect(quick).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("can't be reached") });
    const tested = await run(["server", "--test-mode", "--max-wait", "300ms"], place);
    expect(tested).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("can't be reached") });

    expect((await probe("/readyz")).status).toBe(503);
    await server.up();
    const back_ms = performance.now();
    await until("it is ready", async () => (await probe("/readyz")).status === 200, BACK_ms);
    expect(performance.now() - back_ms).toBeLessThan(BACK_ms);
    await mustRun(["send", "command", "PlaceOrder", order, "--wait", "10s"], place);
    const said = running.output();
    expect(said.split("\n").filter((line) => line.includes("unreachable"))).toHaveLength(1);
    expect(said.split("\n").filter((line) => line.includes("recovered"))).toHaveLength(1);
    expect(said).not.toContain(new URL(server.url).password);
    expect((await running.end("SIGTERM")).exitCode).toBe(0);
  },
  LIMIT_ms,
);

test("a server that waits is ended by a signal, with 0", async () => {
  const place = { directory: shop(`postgresql://app:${SECRET}@127.0.0.1:1/shop`).path };
  const running = startProgram(["server", "--http", "off"], place);
  await until("it waits", () => running.output().includes("unreachable"), 15_000);
  const { exitCode, stderr } = await running.end("SIGTERM");
  expect([exitCode, stderr]).toEqual([0, expect.stringContaining("Stopped")]);
  expect(stderr).not.toContain(SECRET);
});

describe("what a person must repair ends the start with 2 and what to run", () => {
  /** Runs the server and answers the error and its fix. */
  async function told(url: string, storeUrl = url): Promise<string> {
    const { exitCode, stdout, stderr } = await run(["server", "--http", "off"], { directory: shop(url, storeUrl).path });
    expect([exitCode, stdout]).toEqual([2, ""]);
    expect(stderr).not.toContain(SECRET);
    const lines = stderr.trim().split("\n");
    const error = lines.findIndex((line) => line.startsWith("error: "));
    const place = lines[error + 1]?.startsWith("  at ") === true ? 1 : 0;
    expect(lines.slice(error)).toEqual([
      expect.stringMatching(/^error: /),
      ...(place === 1 ? [expect.any(String)] : []),
      expect.stringMatching(/^ {2}fix {2}/),
    ]);
    expect(lines.filter((line) => line.includes("unreachable"))).toEqual([]);
    return lines.slice(error).join("\n");
  }

  test("wrong password, missing database", async () => {
    const fresh = await database();
    const wrong = new URL(fresh.url);
    wrong.password = SECRET;
    expect(await told(wrong.href)).toMatch(/refused the login of role "postgres"[\s\S]*Correct user and password/);
    const nowhere = new URL(fresh.url);
    nowhere.pathname = "/no_such_db";
    expect(await told(nowhere.href)).toMatch(/no database "no_such_db"[\s\S]*createdb no_such_db. Then run: protean db setup/);
  });

  test("missing tables: three of them and the count; Message DB missing", async () => {
    const fresh = await database();
    const text = await told(fresh.url);
    expect(text).toMatch(/lacks [^,]+, [^,]+, [^,]+ and \d+ more\n[\s\S]*fix {2}Run: protean db setup/);
    const other = await database();
    await mustRun(["db", "setup"], { directory: shop(fresh.url).path });
    expect(await told(fresh.url, other.url)).toMatch(/there is no Message DB at [\s\S]*fix {2}Run: protean db setup/);
  });

  test(
    "missing privileges, a role that may not write, an old Message DB",
    async () => {
      const fresh = await database("message_db");
      await mustRun(["db", "setup"], { directory: shop(fresh.url).path });
      const app = await role(fresh);
      await fresh.sql.unsafe(`GRANT message_store TO ${app.name}`);
      const refused = await told(app.url);
      expect(refused).toMatch(/may not read and write table \S+ and \d+ more/);
      // The message says what to run, and that is enough.
      const grant = /Run as the owner: (.*)$/m.exec(refused)?.[1] ?? "";
      await fresh.sql.unsafe(grant);
      await mustRun(["server", "--test-mode"], { directory: shop(app.url).path });

      await fresh.sql.unsafe(`REVOKE message_store FROM ${app.name}`);
      expect(await told(app.url)).toMatch(/GRANT message_store TO/);

      await fresh.sql.unsafe(
        `CREATE OR REPLACE FUNCTION message_store.message_store_version() RETURNS varchar LANGUAGE sql AS $$ SELECT '1.2.6' $$`,
      );
      expect(await told(fresh.url)).toMatch(/is version 1\.2\.6[\s\S]*Update it to 1\.3\.0/);
      await fresh.sql.unsafe(
        `CREATE OR REPLACE FUNCTION message_store.message_store_version() RETURNS varchar LANGUAGE sql AS $$ SELECT '1.3.0' $$`,
      );
    },
    LIMIT_ms,
  );
});

test(
  "looking needs no more than reading, and changes nothing",
  async () => {
    const fresh = await database("message_db");
    const folder = shop(fresh.url);
    const place = { directory: folder.path };
    await mustRun(["db", "setup"], place);
    await mustRun(["send", "command", "PlaceOrder", order], place);
    await mustRun(["server", "--test-mode"], place);
    const reader = await role(fresh);
    await fresh.sql.unsafe(
      `GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${reader.name}; GRANT USAGE ON SCHEMA message_store TO ${reader.name};
       GRANT SELECT ON ALL TABLES IN SCHEMA message_store TO ${reader.name}; ALTER ROLE ${reader.name} SET default_transaction_read_only = on`,
    );
    // Beside it, because the embedded broker lies there.
    folder.write({ "reader.toml": readFileSync(folder.at("domain.toml"), "utf8").replaceAll(fresh.url, reader.url) });
    const looking = { directory: folder.path, environment: { PROTEAN_CONFIG: "reader.toml" } };
    expect((await rowsOf(["query", "OrderSummary"], looking))[0]).toMatchObject({ order_id: "o1" });
    expect((await rowsOf(["query", "LargeOrders", '{"at_least": 1}'], looking))[0]).toMatchObject({ order_id: "o1" });
    expect((await rowsOf(["outbox", "status"], looking))[0]).toMatchObject({ pending: 0, failed: 0 });
    expect((await rowsOf(["subscriptions", "status"], looking)).length).toBeGreaterThan(2);
    expect(await rowsOf(["dlq", "list"], looking)).toEqual([]);
  },
  LIMIT_ms,
);
