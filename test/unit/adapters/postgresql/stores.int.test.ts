/** What the contracts don't say: tables shared with Python, numbers, zones, order under pressure. On the shared server. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { openMessageDb, openPostgres } from "../../../../src/adapters/postgresql/mod.ts";
import { InvalidDataError, ValidationError } from "../../../../src/errors.ts";
import { checksumOfText } from "../../../../src/messages/checksum.ts";
import { pickleOfMetadata } from "../../../../src/messages/pickle.ts";
import type { CommitSet, RowWrite, Table } from "../../../../src/ports/database.ts";
import { ALL_STREAMS, type Append } from "../../../../src/ports/event-store.ts";
import type { OutboxInsert } from "../../../../src/ports/outbox-store.ts";
import { TABLES } from "../../../conformance/database.ts";
import { readFixture } from "../../../golden/fixtures.ts";
import { atDatabase, freshDatabase, type PostgresUnderTest, postgresUnderTest, sharedPostgres, tools } from "../../../support/postgres.ts";
import { until } from "../../../support/until.ts";

const EMPTY: CommitSet = { rows: [], appends: [], outbox: [], markers: [], fences: [] };
const append = (stream: string, more: Partial<Append> = {}): Append => ({
  id: randomUUID(),
  stream,
  type: "Bank.DepositMade.v1",
  data: "{}",
  metadata: null,
  expectedVersion: null,
  ...more,
});
const outboxRow = (messageId: string, streamName = "s-1", more: Partial<OutboxInsert> = {}): OutboxInsert => ({
  id: randomUUID(),
  messageId,
  streamName,
  type: "T.v1",
  data: '{"amount": 10.0}',
  metadata: '{"headers": {"id": "x"}}',
  correlationId: null,
  causationId: null,
  partitionKey: null,
  priority: 0,
  targetBroker: "default",
  maxRetries: 3,
  ...more,
});
const claiming = { broker: "default", limit: 10, owner: "me", lock_ms: 5_000 };

describe("on one database", () => {
  let under: PostgresUnderTest;
  beforeEach(async () => {
    under = await postgresUnderTest();
    under.database.declare(TABLES);
    await under.database.setup();
  });
  afterEach(() => under.dispose());

  describe("numbers and characters in messages", () => {
    const store = async (data: string) => {
      const metadata = `{"envelope": {"specversion": "1.0", "checksum": "${checksumOfText(data)}"}}`;
      await under.eventStore.append([append("c-1", { data, metadata })]);
      const last = await under.eventStore.lastOfStream("c-1");
      const checksum = (JSON.parse(last?.metadata ?? "") as { envelope: { checksum: string | null } }).envelope.checksum;
      return { data: last?.data ?? "", checksum };
    };

    test("large and small floats and big integers come back equal, and their checksum still holds", async () => {
      const text = '{"a": 1e+16, "b": 1.5e+300, "c": 1e-07, "d": 10.0, "e": 9007199254740993, "f": 12345678901234567890123}';
      const { data, checksum } = await store(text);
      expect(JSON.parse(data)).toEqual(JSON.parse(text));
      expect(checksumOfText(data)).toBe(checksum ?? "");
    });

    test("a negative zero comes back without a checksum that can't hold", async () => {
      expect(await store('{"a": -0.0}')).toMatchObject({ checksum: null });
    });

    test("U+0000 is refused at the call with the field's name, alone and in a unit of work, and nothing is written", async () => {
      const bad = append("c-1", { data: '{"note": "a\\u0000b"}' });
      await expect(under.eventStore.append([append("c-2"), bad])).rejects.toThrow("note holds the character U+0000");
      await expect(under.database.commit({ ...EMPTY, appends: [bad] })).rejects.toBeInstanceOf(InvalidDataError);
      expect(await under.eventStore.lastOfCategory("c")).toBeNull();
    });

    test("a column of text refuses what it can't keep; a column of JSON keeps it", async () => {
      const insert = (row: Record<string, string | Record<string, string>>): RowWrite => ({
        kind: "insert",
        table: "account",
        row: { account_id: "a", holder: "Ann", ...row },
      });
      for (const holder of ["a\0b", "half \ud83d", "x".repeat(101)]) {
        const refused = under.database.commit({ ...EMPTY, rows: [insert({ holder })] });
        await expect(refused).rejects.toBeInstanceOf(ValidationError);
        await expect(refused).rejects.toThrow("holder");
      }
      await under.database.commit({ ...EMPTY, rows: [insert({ limits: { odd: "a\0b \ud83d" } })] });
      expect((await under.database.get("account", "a"))?.["limits"]).toEqual({ odd: "a\0b \ud83d" });
      const change: RowWrite = {
        kind: "update",
        table: "account",
        key: "a",
        set: { notes: "x" },
        loaded: { limits: { odd: "a\0b \ud83d" } },
      };
      await under.database.commit({ ...EMPTY, rows: [change] });
    });
  });

  describe("units of work that meet", () => {
    test("those that append to two categories in opposite order never fail each other (rulings 18)", async () => {
      const other = await under.second();
      await Promise.all(
        Array.from({ length: 40 }, (_, n) => {
          const streams = n % 2 === 0 ? ["left-1", "right-1"] : ["right-1", "left-1"];
          return (n % 4 < 2 ? under : other).database.commit({ ...EMPTY, appends: streams.map((stream) => append(stream)) });
        }),
      );
      expect((await under.eventStore.heads(["left-1", "right-1"])).get("left-1")).toBe(39);
    });

    test("those that change the same rows in opposite order get through, the loser of a race by its version", async () => {
      await under.database.commit({
        ...EMPTY,
        rows: ["a", "b"].map(
          (account_id) => ({ kind: "insert", table: "account", row: { account_id, holder: "x", overdraft: 0 } }) as const,
        ),
      });
      const free = (key: string): RowWrite => ({ kind: "update", table: "account", key, set: { notes: "n" } });
      await Promise.all(
        Array.from({ length: 40 }, (_, n) =>
          under.database.commit({ ...EMPTY, rows: n % 2 === 0 ? [free("a"), free("b")] : [free("b"), free("a")] }),
        ),
      );
      // Sets of rows can't be sorted: here one is chosen as the victim of a deadlock, and tried again.
      const both = (first: string, second: string): RowWrite[] =>
        [first, second].map((id) => ({
          kind: "updateWhere",
          table: "account",
          where: { kind: "test", column: "account_id", lookup: "exact", value: id },
          set: { notes: first },
        }));
      await Promise.all(
        Array.from({ length: 3 }, (_, n) => under.database.commit({ ...EMPTY, rows: n % 2 === 0 ? both("a", "b") : both("b", "a") })),
      );
    }, 20_000);

    test("more callers than connections wait for their turn", async () => {
      const small = await openPostgres({ url: under.url, poolMax: 2, ...tools });
      small.declare(TABLES);
      const found = await Promise.all(Array.from({ length: 50 }, () => small.get("account", "nobody")));
      expect(found).toHaveLength(50);
      const { length } = await under.sql`SELECT 1 FROM pg_stat_activity WHERE datname = ${under.name} AND application_name = 'protean'`;
      expect(length).toBeLessThanOrEqual(2 + 15);
      await small.close();
      await expect(small.get("account", "nobody")).rejects.toThrow("closed");
    });

    test("who waits longer than the limit for a connection or a lock is told so, and may try again", async () => {
      const holder = await under.sql.reserve();
      await under.database.commit({ ...EMPTY, rows: [{ kind: "insert", table: "account", row: { account_id: "a", holder: "x" } }] });
      await holder.unsafe("BEGIN; SELECT 1 FROM account FOR UPDATE");
      const update: RowWrite = { kind: "update", table: "account", key: "a", set: { notes: "n" }, version: 0 };
      await expect(under.database.commit({ ...EMPTY, rows: [update] })).rejects.toMatchObject({ name: "ConnectionError" });
      await holder.unsafe("ROLLBACK");
      holder.release();
      await under.database.commit({ ...EMPTY, rows: [update] });
    }, 20_000);
  });

  test("a statement that fails leaves the connection usable, and its rows don't show up in the next answer", async () => {
    const one = await openMessageDb({ url: under.url, poolMax: 1, ...tools });
    const wrong = [append("c-1", { expectedVersion: -1 }), append("c-1", { expectedVersion: 7 })];
    for (let n = 0; n < 3; n += 1) {
      await expect(one.append(wrong)).rejects.toThrow("Wrong expected version: 7 (Stream: c-1, Stream Version: 0)");
      expect(await one.readStream("c-1", 0, 10)).toEqual([]);
    }
    await one.close();
  });

  describe("$all", () => {
    test("what is behind an uncommitted position waits for it, and readers are woken when it comes (D16)", async () => {
      const writer = await under.sql.reserve();
      await under.eventStore.append([append("a-1")]);
      await writer.unsafe("BEGIN; SET LOCAL search_path = message_store");
      await writer.unsafe(`SELECT write_message('${randomUUID()}', 'slow-1', 'T', '{}')`);
      await under.eventStore.append([append("b-1")]);
      const read = async () => (await under.eventStore.readCategory(ALL_STREAMS, 1, 10)).map(({ stream }) => stream);
      expect(await read()).toEqual(["a-1"]);
      let wakes = 0;
      const stop = under.eventStore.onAppend(() => {
        wakes += 1;
      });
      await writer.unsafe("COMMIT");
      writer.release();
      await until("the reader is woken", () => wakes > 0);
      expect(await read()).toEqual(["a-1", "slow-1", "b-1"]);
      stop();
    });

    test("a position that was rolled back is read over after the grace, and readers are woken for it", async () => {
      await under.eventStore.append([append("a-1")]);
      const failing = append("a-1", { expectedVersion: 0 });
      await expect(under.eventStore.append([failing, { ...failing, id: randomUUID() }])).rejects.toThrow("Wrong expected version");
      await under.eventStore.append([append("b-1")]);
      let streams: string[] = [];
      const look = async () => {
        streams = (await under.eventStore.readCategory(ALL_STREAMS, 1, 10)).map(({ stream }) => stream);
      };
      await look();
      expect(streams).toEqual(["a-1"]);
      const stop = under.eventStore.onAppend(() => void look());
      await until("the hole is read over", () => streams.length === 2);
      stop();
    });
  });

  test("messages that another program appends wake, though it doesn't notify", async () => {
    let wakes = 0;
    const stop = under.eventStore.onAppend(() => {
      wakes += 1;
    });
    await until("the first look", () => wakes > 0);
    const before = wakes;
    await under.sql.unsafe(`SET search_path = message_store; SELECT write_message('${randomUUID()}', 'py-1', 'T', '{}')`);
    await until("the row is noticed", () => wakes > before);
    stop();
  });

  describe("an outbox shared with Python", () => {
    /** As Python inserts: every column by name, none of ours, the time bound with its zone. */
    const insertAsPython = async (messageId: string, pickle: Uint8Array) => {
      const hex = `\\x${Buffer.from(pickle).toString("hex")}`;
      await under.sql.unsafe(
        `INSERT INTO outbox (message_id, stream_name, type, data, metadata_, created_at, published_at, retry_count, last_processed_at, last_error,
           status, max_retries, next_retry_at, locked_until, locked_by, sequence_number, correlation_id, causation_id, partition_key, priority,
           target_broker, id, _version)
         VALUES ($1, 's-1', 'T.v1', '{"amount": 10.0}', $2, now()::timestamptz::timestamp, NULL, 0, NULL, 'null', 'pending', 3, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, 0, 'default', $3, 0)`,
        [messageId, Buffer.from(hex.slice(2), "hex"), randomUUID()],
      );
    };

    test("its rows are claimed with their metadata, in their order among ours", async () => {
      const { vectors } = readFixture<{ vectors: { pickle_base64: string; decoded: unknown }[] }>("outbox-pickle-vectors.json");
      const [vector] = vectors;
      await under.database.commit({ ...EMPTY, outbox: [outboxRow("ours-1")] });
      await insertAsPython("python", Buffer.from(vector?.pickle_base64 ?? "", "base64"));
      await under.database.commit({ ...EMPTY, outbox: [outboxRow("ours-2")] });
      const rows = await under.database.outbox.claim(claiming);
      expect(rows.map(({ messageId }) => messageId)).toEqual(["ours-1", "python", "ours-2"]);
      expect(JSON.parse(rows[1]?.metadata ?? "")).toEqual(vector?.decoded);
      expect(rows[1]?.data).toBe('{"amount": 10.0}');
    });

    test("a row whose pickle names another class comes out with a reason, and the others with their metadata", async () => {
      const evil = Buffer.concat([Buffer.from("8004", "hex"), Buffer.from("\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", "latin1")]);
      await insertAsPython("evil", evil);
      await insertAsPython("text", Buffer.from('{"headers": {}}'));
      await insertAsPython("good", pickleOfMetadata('{"headers": {"id": "g"}}'));
      const rows = await under.database.outbox.claim(claiming);
      expect(rows.map(({ metadata }) => metadata)).toEqual([
        "unreadable: the pickle names posix.system, which metadata doesn't hold",
        expect.stringMatching(/^unreadable: the pickle/),
        '{"headers": {"id": "g"}}',
      ]);
      expect(rows).toHaveLength(3);
    });

    test("what we write is what Python's processor expects: every column, a pickle, version 0, no time but that of creation", async () => {
      await under.database.commit({ ...EMPTY, outbox: [outboxRow("m1")] });
      const [row] = await under.sql`SELECT *, created_at::text AS created, metadata_ AS pickle, last_error::text AS error FROM outbox`;
      expect(row).toMatchObject({
        status: "pending",
        retry_count: 0,
        max_retries: 3,
        _version: 0,
        error: "null",
        locked_by: null,
        next_retry_at: null,
      });
      expect(Buffer.from(row?.["pickle"]).subarray(0, 3).toString("hex")).toBe("80027d");
      const rows = await under.database.outbox.claim(claiming);
      const nothing = { published: [], failed: [], abandoned: [], released: [] };
      await under.database.outbox.settle("me", { ...nothing, failed: rows.map(({ id }) => ({ id, error: "no\0route", retryIn_ms: 0 })) });
      const [failed] = await under.sql`SELECT last_error::text AS error, _version FROM outbox`;
      expect(JSON.parse(failed?.["error"])).toEqual({
        message: "no\ufffdroute",
        traceback: "NoneType: None\n",
        failed_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$/),
        retry_count: 1,
      });
      expect(failed?.["_version"]).toBe(1);
    });

    test("rows that Python inserts wake, though it doesn't notify", async () => {
      let wakes = 0;
      const stop = under.database.outbox.onInsert(() => {
        wakes += 1;
      });
      await until("the first look", () => wakes > 0);
      const before = wakes;
      await insertAsPython("python", pickleOfMetadata("{}"));
      await until("the row is noticed", () => wakes > before);
      stop();
    });

    test("a row that Python is just changing holds back its stream, and no other", async () => {
      await under.database.commit({ ...EMPTY, outbox: [outboxRow("a1", "s-a"), outboxRow("a2", "s-a"), outboxRow("b1", "s-b")] });
      const python = await under.sql.reserve();
      await python.unsafe("BEGIN; SELECT 1 FROM outbox WHERE message_id = 'a1' FOR UPDATE");
      expect((await under.database.outbox.claim(claiming)).map(({ messageId }) => messageId)).toEqual(["b1"]);
      await python.unsafe("ROLLBACK");
      python.release();
      expect((await under.database.outbox.claim(claiming)).map(({ messageId }) => messageId)).toEqual(["a1", "a2"]);
    });
  });
});

describe("times in another zone", () => {
  test("columns hold the session's time, as Python's do, and come back as the same moments", async () => {
    const fresh = await freshDatabase("message_db");
    await fresh.sql.unsafe(`ALTER DATABASE ${fresh.name} SET TimeZone = 'Asia/Tokyo'`);
    const database = await openPostgres({ url: fresh.url, ...tools });
    const eventStore = await openMessageDb({ url: fresh.url, databases: [database], ...tools });
    database.declare(TABLES);
    await database.setup();
    const row = { account_id: "a", holder: "x", opened_at: "2026-01-31T09:30:00.123456+00:00" };
    await database.commit({
      ...EMPTY,
      rows: [{ kind: "insert", table: "account", row }],
      appends: [append("c-1")],
      outbox: [outboxRow("m1")],
    });
    expect((await fresh.sql`SELECT opened_at::text AS at FROM account`)[0]?.["at"]).toBe("2026-01-31 18:30:00.123456");
    expect((await database.get("account", "a"))?.["opened_at"]).toBe(row.opened_at);
    const where = { kind: "test", column: "opened_at", lookup: "in", value: [row.opened_at] } as const;
    expect(await database.count({ table: "account", where, order: [], limit: null, offset: 0 }, [])).toBe(1);
    const now = Date.now();
    expect(Math.abs(Date.parse((await eventStore.lastOfStream("c-1"))?.time ?? "") - now)).toBeLessThan(20_000);
    expect((await eventStore.readCategory(ALL_STREAMS, 0, 10)).length).toBe(1);
    const [claimed] = await database.outbox.claim(claiming);
    expect(Math.abs(Date.parse(claimed?.createdAt ?? "") - now)).toBeLessThan(20_000);
    expect((await database.outbox.counts()).oldest_ms).toBeLessThan(20_000);
    expect(await database.outbox.claim(claiming)).toEqual([]);
    await eventStore.close();
    await database.close();
    await fresh.sql.unsafe(`ALTER DATABASE ${fresh.name} RESET TimeZone`);
    await fresh.drop();
  });
});

describe("one database or two", () => {
  test("another database of the same server is another database, with leases of its own", async () => {
    const [tables, messages] = [await freshDatabase("empty"), await freshDatabase("message_db")];
    const database = await openPostgres({ url: tables.url, ...tools });
    const store = await openMessageDb({ url: messages.url, databases: [database], ...tools });
    expect(store.identity).not.toBe(database.identity);
    await store.setup();
    expect(await store.leases.acquire("l", "me", 1_000)).not.toBeNull();
    expect(store.address).not.toBe(database.address);
    await store.close();
    await database.close();
    await tables.drop();
    await messages.drop();
  });

  test("a role that may not use Message DB has it as a second database", async () => {
    const fresh = await freshDatabase("message_db");
    const role = `app_${randomUUID().slice(0, 8)}`;
    await fresh.sql.unsafe(`CREATE ROLE ${role} LOGIN PASSWORD 'p'; GRANT ALL ON SCHEMA public TO ${role}`);
    const url = new URL(atDatabase(await sharedPostgres(), fresh.name));
    url.username = role;
    url.password = "p";
    const database = await openPostgres({ url: url.href, ...tools });
    await database.setup();
    const apart = await openMessageDb({ url: fresh.url, databases: [database], ...tools });
    expect(apart.identity).not.toBe(database.identity);
    await apart.close();
    await expect(database.commit({ ...EMPTY, appends: [append("c-1")] })).rejects.toMatchObject({
      about: { fix: expect.stringContaining(`GRANT message_store TO ${role}`) },
    });
    await database.close();
    await fresh.sql.unsafe(`GRANT message_store TO ${role}`);
    const granted = await openPostgres({ url: url.href, ...tools });
    const together = await openMessageDb({ url: fresh.url, databases: [granted], ...tools });
    expect(together.identity).toBe(granted.identity);
    await granted.commit({ ...EMPTY, appends: [append("c-1")] });
    await together.close();
    await granted.close();
    await fresh.sql.unsafe(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    await fresh.drop();
  });

  test("a table of the application called messages doesn't come before Message DB's", async () => {
    const fresh = await freshDatabase("message_db");
    const database = await openPostgres({ url: fresh.url, ...tools });
    const table: Table = {
      name: "messages",
      element: "Message",
      key: "id",
      versioned: true,
      columns: [{ name: "id", type: "string", required: true, unique: true }],
    };
    database.declare([table]);
    await database.setup();
    await database.commit({ ...EMPTY, rows: [{ kind: "insert", table: "messages", row: { id: "x" } }], appends: [append("c-1")] });
    expect(await database.get("messages", "x")).toEqual({ id: "x", _version: 0 });
    await database.close();
    await fresh.drop();
  });
});
