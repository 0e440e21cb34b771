/** A store that a newer program has changed: one line with both versions, exit code 2, and nothing is touched (rulings 51). */
import { afterEach, describe, expect, test } from "bun:test";
import { DatabaseSync } from "node:sqlite";
import { STORE_VERSION } from "../../src/ports/store-version.ts";
import { runBinary } from "../support/binary.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { freshDatabase } from "../support/postgres.ts";
import { startRedis } from "../support/redis.ts";
import { SHOP } from "./fixtures/shop.ts";

const LIMIT_ms = 60_000;
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function shop(configuration = ""): TemporaryFolder {
  const folder = temporaryFolder({
    "handlers/order.ts": SHOP,
    "domain.toml": `command_processing = "async"\nevent_processing = "async"\n[server]\ndefault_subscription_type = "stream"\n${configuration}`,
  });
  closers.push(() => folder.remove());
  return folder;
}

const COMMANDS = [
  ["server", "--http", "off"],
  ["server", "--test-mode"],
  ["outbox", "status"],
  ["db", "setup"],
  ["dlq", "list"],
] as const;

function expectRefusals(folder: TemporaryFolder, commands: readonly (readonly string[])[], where: RegExp): void {
  for (const words of commands) {
    const { exitCode, stdout, stderr } = runBinary(words, { directory: folder.path });
    const [line = "", ...more] = stderr.split("\n").filter((one) => one.startsWith("error"));
    expect([words.join(" "), exitCode, stdout, more]).toEqual([words.join(" "), 2, "", []]);
    expect(line).toMatch(where);
    expect(line).toEndWith(`has schema version 99, this version of protean knows up to ${STORE_VERSION}`);
    expect(stderr).toContain("Use the newer version of protean");
  }
}

describe("a newer store is refused", () => {
  test(
    "in a SQLite file",
    () => {
      const folder = shop('[event_store]\nprovider = "sqlite"\n');
      const file = folder.at(".protean", "protean.db");
      expect(runBinary(["db", "setup"], { directory: folder.path }).exitCode).toBe(0);
      const database = new DatabaseSync(file);
      database.exec("PRAGMA user_version = 99");
      database.close();
      expectRefusals(folder, COMMANDS, /^error: \S+protean\.db /);
    },
    LIMIT_ms,
  );

  test(
    "in PostgreSQL",
    async () => {
      const fresh = await freshDatabase("empty");
      closers.push(() => fresh.drop());
      const part = (name: string, kind: string) => `[${name}]\nprovider = "${kind}"\ndatabase_uri = "${fresh.url}"\n`;
      const folder = shop(`${part("databases.default", "postgresql")}${part("event_store", "message_db")}`);
      expect(runBinary(["db", "setup"], { directory: folder.path }).exitCode).toBe(0);
      await fresh.sql`INSERT INTO protean_schema (version, usable_from) VALUES (99, 98)`;
      expectRefusals(folder, COMMANDS, /^error: postgresql:/);
    },
    LIMIT_ms,
  );

  test(
    "in Redis",
    async () => {
      const redis = await startRedis({ durable: false });
      closers.push(() => redis.stop());
      await redis.cli("SET", "protean:schema", '{"version": 99, "usable_from": 98}');
      const folder = shop(`[brokers.default]\nprovider = "redis"\nURI = "${redis.url}/0"\n`);
      expectRefusals(
        folder,
        [
          ["server", "--http", "off"],
          ["server", "--test-mode"],
          ["dlq", "list"],
        ],
        /^error: Redis at redis:/,
      );
      expect((await redis.cli("KEYS", "*")).trim()).toBe("protean:schema");
    },
    LIMIT_ms,
  );
});
