import { describe, expect, test } from "bun:test";
import { parseRedisUrl } from "../../../../src/adapters/redis/address.ts";
import { ConfigurationError } from "../../../../src/errors.ts";

describe("the address of a Redis", () => {
  test("host, port, database and TLS come from the URL, with Redis' defaults", () => {
    expect(parseRedisUrl("redis://cache")).toMatchObject({ host: "cache", port: 6379, database: 0, tls: false, username: undefined });
    expect(parseRedisUrl("rediss://cache:7000/3")).toMatchObject({ host: "cache", port: 7000, database: 3, tls: true });
    expect(parseRedisUrl("redis://cache?db=2").database).toBe(2);
    expect(parseRedisUrl("redis://[::1]:6380/1")).toMatchObject({ host: "::1", port: 6380, shown: "redis://[::1]:6380/1" });
  });

  test("user and password are decoded and never shown", () => {
    const address = parseRedisUrl("redis://app:p%40ss%2Fword@cache:6380/1");
    expect(address).toMatchObject({ username: "app", password: "p@ss/word", shown: "redis://cache:6380/1" });
    expect(parseRedisUrl("redis://:secret@cache")).toMatchObject({ username: undefined, password: "secret" });
    expect(parseRedisUrl("redis://:100%@cache").password).toBe("100%");
  });

  test("what is no address of a Redis is refused, without its password", () => {
    for (const url of [
      "cache:6379",
      "http://u:hunter2@cache",
      "redis://u:hunter2@cache/main",
      "redis://u:hunter2@cache/99999999",
      "",
      "::",
    ]) {
      let refused: unknown;
      try {
        parseRedisUrl(url);
      } catch (error) {
        refused = error;
      }
      expect(refused).toBeInstanceOf(ConfigurationError);
      expect((refused as ConfigurationError).message).not.toContain("hunter2");
      expect((refused as ConfigurationError).about.fix).toContain("redis://");
    }
  });
});
