/** Tables, Message DB's installation, and what a person is told when something is missing or refused. */
import { describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { createTableSql } from "../../../../src/adapters/postgresql/columns.ts";
import { openMessageDb, openPostgres } from "../../../../src/adapters/postgresql/mod.ts";
import type { ProteanError } from "../../../../src/errors.ts";
import type { CommitSet, Table } from "../../../../src/ports/database.ts";
import { ACCOUNT, TABLES } from "../../../conformance/database.ts";
import { atDatabase, freshDatabase, sharedPostgres, tools } from "../../../support/postgres.ts";

const EMPTY: CommitSet = { rows: [], appends: [], outbox: [], markers: [], fences: [] };
const event = () => ({ id: randomUUID(), stream: "c-1", type: "T", data: "{}", metadata: null, expectedVersion: null });

async function failure(run: () => Promise<unknown>): Promise<ProteanError> {
  try {
    await run();
  } catch (error) {
    return error as ProteanError;
  }
  throw new Error("it went well");
}

const squeezed = (sql: string) => sql.replaceAll('"', "").replace(/\s+/g, " ").trim();

test("a table is declared as Python declares it", async () => {
  const schema = await Bun.file(new URL("../../../golden/fixtures/schema-postgres.sql", import.meta.url)).text();
  const field = (name: string, type: Table["columns"][number]["type"], more: object = {}) => ({
    name,
    type,
    required: false,
    unique: false,
    ...more,
  });
  const account: Table = {
    name: "account",
    element: "Account",
    key: "account_id",
    versioned: true,
    columns: [
      field("account_id", "string", { required: true, unique: true }),
      field("holder", "string", { required: true, maxLength: 100 }),
      field("balance", "float"),
      field("overdraft", "integer"),
      field("rate", "decimal", { precision: 10, scale: 4 }),
      field("tier", "string"),
      field("opened_on", "date"),
      field("opened_at", "datetime"),
      field("active", "boolean"),
      field("notes", "text"),
      field("tags", "list", { items: "string" }),
      field("limits", "json"),
      field("ceiling_amount", "float", { required: true }),
      field("ceiling_currency", "string", { maxLength: 3 }),
    ],
  };
  expect(squeezed(schema)).toContain(squeezed(createTableSql("public", account)));
  const database = await freshDatabase("empty");
  const opened = await openPostgres({ url: database.url, ...tools });
  for (const { what, sql } of await opened.plan()) {
    if (what === "table outbox" || what === "table processed_message") expect(squeezed(schema)).toContain(squeezed(sql));
  }
  await opened.close();
  await database.drop();
});

describe("setup", () => {
  test("an empty database gets Message DB, our tables and a schema of its own; then nothing is missing", async () => {
    const fresh = await freshDatabase("empty");
    const database = await openPostgres({ url: fresh.url, schema: "bank app", ...tools });
    const store = await openMessageDb({ url: fresh.url, databases: [database], ...tools });
    database.declare(TABLES);
    expect((await store.plan()).length).toBeGreaterThan(20);
    expect((await failure(() => store.append([event()]))).about.fix).toBe("Run: protean db setup");
    expect(await database.missing()).toContain("schema bank app");
    await Promise.all([database.setup(), database.setup()]);
    expect((await store.setup()).length).toBeGreaterThan(20);
    expect(await database.missing()).toEqual([]);
    expect(await store.setup()).toEqual([]);
    await database.commit({
      ...EMPTY,
      rows: [{ kind: "insert", table: "account", row: { account_id: "a", holder: "x" } }],
      appends: [event()],
    });
    expect((await fresh.sql`SELECT message_store.message_store_version() AS version`)[0]?.["version"]).toBe("1.3.0");
    expect(await fresh.sql`SELECT holder FROM "bank app".account`).toHaveLength(1);
    await store.close();
    await database.close();
    await fresh.drop();
  });

  test("tables that Python made are kept, with their rows in their order; only our columns and indexes are added", async () => {
    const fresh = await freshDatabase("empty");
    await fresh.sql.unsafe(await Bun.file(new URL("../../../golden/fixtures/schema-postgres.sql", import.meta.url)).text());
    for (const [id, at] of [
      ["new", "2026-01-02"],
      ["old", "2026-01-01"],
    ]) {
      await fresh.sql.unsafe(
        `INSERT INTO outbox (id, message_id, stream_name, type, data, metadata_, created_at, retry_count, status, max_retries, priority, target_broker, _version)
         VALUES ('${id}', '${id}', 's-1', 'T', '{}', '\\x80027d282e', '${at}', 0, 'pending', 3, 0, 'default', 0)`,
      );
    }
    const database = await openPostgres({ url: fresh.url, ...tools });
    const made = await database.setup();
    expect(made).toContain("column outbox.protean_position");
    expect(made).not.toContain("table outbox");
    const rows = await database.outbox.claim({ broker: "default", limit: 10, owner: "me", lock_ms: 1_000 });
    expect(rows.map(({ messageId }) => messageId)).toEqual(["old", "new"]);
    await database.close();
    await fresh.drop();
  });

  test("tables of a newer version are refused in one line with both versions, by setup and when they are opened", async () => {
    const fresh = await freshDatabase("empty");
    const database = await openPostgres({ url: fresh.url, ...tools });
    await database.setup();
    expect(await fresh.sql`SELECT version, usable_from FROM protean_schema`).toMatchObject([{ version: 2, usable_from: 1 }]);
    await fresh.sql`INSERT INTO protean_schema (version) VALUES (99)`;
    for (const attempt of [() => database.setup(), () => openPostgres({ url: fresh.url, ...tools })]) {
      const { message, about } = await failure(attempt);
      expect(message).toMatch(/^postgresql:\S+ has schema version 99, this version of protean knows up to 2$/);
      expect(about.fix).toContain("newer version");
    }
    await database.close();
    await fresh.drop();
  });

  test("the version before goes on beside tables that say so, and can be started again; two versions on it is refused", async () => {
    const fresh = await freshDatabase("empty");
    const database = await openPostgres({ url: fresh.url, ...tools });
    await database.setup();
    await fresh.sql`INSERT INTO protean_schema (version, usable_from) VALUES (3, 2)`;
    await (await openPostgres({ url: fresh.url, ...tools })).close();
    expect(await database.missing()).toEqual([]);
    await fresh.sql`INSERT INTO protean_schema (version, usable_from) VALUES (4, 3)`;
    expect((await failure(() => openPostgres({ url: fresh.url, ...tools }))).message).toContain("schema version 4");
    await database.close();
    await fresh.drop();
  });

  test("tables of the first version serve as they are, and learn the new number when something is added", async () => {
    const fresh = await freshDatabase("empty");
    const database = await openPostgres({ url: fresh.url, ...tools });
    await database.setup();
    await fresh.sql`ALTER TABLE protean_schema DROP COLUMN usable_from`;
    await fresh.sql`UPDATE protean_schema SET version = 1`;
    const again = await openPostgres({ url: fresh.url, ...tools });
    expect(await again.missing()).toEqual([]);
    await fresh.sql`DROP INDEX ix_protean_outbox_busy`;
    expect(await again.setup()).toEqual(["index ix_protean_outbox_busy", "version 2 in protean_schema"]);
    expect(await fresh.sql`SELECT version, usable_from FROM protean_schema ORDER BY version`).toMatchObject([
      { version: 1, usable_from: null },
      { version: 2, usable_from: 1 },
    ]);
    await again.close();
    await database.close();
    await fresh.drop();
  });

  test("a long name of an index is cut, and found again", async () => {
    const fresh = await freshDatabase("empty");
    const database = await openPostgres({ url: fresh.url, ...tools });
    const name = `${"very_long_name_".repeat(3)}table`;
    const indexes = [{ columns: ["holder", "active"], unique: false }];
    database.declare([{ ...ACCOUNT, name, indexes }]);
    await database.setup();
    expect(await database.missing()).toEqual([]);
    await database.close();
    await fresh.drop();
  });
});

describe("what a person is told", () => {
  const at = async (change: (url: URL) => void, database = "postgres") => {
    const url = new URL(atDatabase(await sharedPostgres(), database));
    change(url);
    return { url: url.href, ...tools, wait_ms: 0 };
  };
  const told = (error: ProteanError) => `${error.name}: ${error.message} | ${error.about.fix} | ${JSON.stringify(error.about)}`;

  test("wrong password: refused at once, without it", async () => {
    const source = await at((url) => {
      url.password = "geheim";
    });
    const error = await failure(() => openPostgres({ ...source, wait_ms: 60_000 }));
    expect(error.name).toBe("ConfigurationError");
    expect(error.message).toContain('refused the login of role "postgres"');
    expect(told(error)).not.toContain("geheim");
  });

  test("missing database: what to run", async () => {
    const error = await failure(async () => openPostgres(await at(() => {}, "no_such_db")));
    expect(error.message).toContain('no database "no_such_db"');
    expect(error.about.fix).toBe("Create it: createdb no_such_db. Then run: protean db setup");
  });

  test("no server: a connection error after the time to wait", async () => {
    const source = await at((url) => {
      url.port = "1";
    });
    const error = await failure(() => openPostgres({ ...source, wait_ms: 200 }));
    expect(error.name).toBe("ConnectionError");
    expect(error.message).toContain("ECONNREFUSED");
  });

  test("missing tables, missing privilege, a replica, an old Message DB: one line each with what to do", async () => {
    const fresh = await freshDatabase("message_db");
    const role = `app_${randomUUID().slice(0, 8)}`;
    await fresh.sql.unsafe(`CREATE ROLE ${role} LOGIN PASSWORD 'geheim'`);
    const source = await at((url) => {
      url.username = role;
      url.password = "geheim";
    }, fresh.name);
    const database = await openPostgres(source);
    expect((await failure(() => database.outbox.counts())).about.fix).toBe("Run: protean db setup");
    const denied = await failure(() => database.setup());
    expect(denied).toMatchObject({ name: "ConfigurationError", about: { fix: expect.stringContaining("protean db setup") } });
    expect(denied.message).toContain(`role "${role}" may not`);
    expect(told(denied)).not.toContain("geheim");
    await database.close();

    const admin = await openPostgres({ url: fresh.url, ...tools });
    await admin.setup();
    await admin.close();
    await fresh.sql.unsafe(
      `GRANT ALL ON ALL TABLES IN SCHEMA public TO ${role}; ALTER ROLE ${role} SET default_transaction_read_only = on`,
    );
    const replica = await openPostgres(source);
    const readOnly = await failure(() => replica.leases.acquire("l", "me", 1_000));
    expect(readOnly).toMatchObject({ name: "ConnectionError", about: { fix: expect.stringContaining("primary") } });
    await replica.close();

    await fresh.sql.unsafe(
      "CREATE OR REPLACE FUNCTION message_store.message_store_version() RETURNS varchar LANGUAGE sql AS $$ SELECT '1.2.6' $$",
    );
    const old = await failure(() => openMessageDb({ url: fresh.url, ...tools }));
    expect(old.message).toContain("is version 1.2.6");
    expect(old.about.fix).toContain("Update it to 1.3.0");
    await fresh.sql.unsafe(
      "CREATE OR REPLACE FUNCTION message_store.message_store_version() RETURNS varchar LANGUAGE sql AS $$ SELECT '1.3.0' $$",
    );
    await fresh.sql.unsafe(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    await fresh.drop();
  });
});
