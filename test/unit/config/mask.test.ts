import { describe, expect, test } from "bun:test";
import { maskSecrets, maskUrl } from "../../../src/config/mask.ts";
import { editDistance, nearest } from "../../../src/config/nearest.ts";

describe("masking", () => {
  test.each([
    ["redis://u:pw@h:6379/0", "redis://u:***@h:6379/0"],
    ["redis://:pw@h", "redis://:***@h"],
    ["redis://u:p@ss:w@h/0", "redis://u:***@h/0"],
    ["redis://u@h/0", "redis://u@h/0"],
    ["postgresql://u:pw@a,b:5432/d?password=x&sslmode=require", "postgresql://u:***@a,b:5432/d?password=***&sslmode=require"],
    ["sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"],
    ["no address", "no address"],
    ["redis://a:b@h, redis://c:d@i", "redis://a:***@h, redis://c:***@i"],
  ])("%p becomes %p", (url, masked) => {
    expect(maskUrl(url)).toBe(masked);
  });

  test("secrets are found by their key at any depth; empty ones stay visible as empty", () => {
    expect(JSON.stringify(maskSecrets({ Password: "x", list: [{ api_key: "y" }], token: "", n: 3 }))).toBe(
      '{"Password":"***","list":[{"api_key":"***"}],"token":"","n":3}',
    );
  });
});

describe("nearest word", () => {
  test("counts edits, swaps of neighbours as one", () => {
    expect(editDistance("", "abc")).toBe(3);
    expect(editDistance("wrokers", "workers")).toBe(1);
    expect(editDistance("kitten", "sitting")).toBe(3);
  });

  test("offers a word only when it is near", () => {
    expect(nearest("brokres", ["brokers", "caches"])).toBe("brokers");
    expect(nearest("zebra", ["brokers", "caches"])).toBeNull();
  });
});
