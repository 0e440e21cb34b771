import { expect, test } from "bun:test";
import { parsePostgresUrl } from "../../../../src/adapters/postgresql/address.ts";
import { ConfigurationError } from "../../../../src/errors.ts";

test("a URL is taken apart, and shown without user and password", () => {
  expect(parsePostgresUrl("postgresql://ann:s%40cret@db.example.org:6543/bank?sslmode=require&application_name=x")).toEqual({
    host: "db.example.org",
    port: 6543,
    database: "bank",
    username: "ann",
    password: "s@cret",
    ssl: "require",
    parameters: { application_name: "x" },
    shown: "postgresql://db.example.org:6543/bank",
  });
});

test("what is left out has libpq's defaults, and Python's driver in the scheme is no matter", () => {
  expect(parsePostgresUrl("postgresql+psycopg2://localhost/bank")).toMatchObject({ port: 5432, username: "", password: null, ssl: null });
  expect(parsePostgresUrl("postgres://h").database).toBe("");
});

test("what is no address of PostgreSQL is refused without its password", () => {
  for (const url of [
    "mysql://u:geheim@h/d",
    "postgresql://u:geheim@h:port/d",
    "nonsense geheim",
    "postgresql://u:geheim@h/d?sslmode=maybe",
  ]) {
    try {
      parsePostgresUrl(url);
      throw new Error("accepted");
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigurationError);
      expect(`${error} ${JSON.stringify((error as ConfigurationError).about)}`).not.toContain("geheim");
    }
  }
});
