import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { messageDbModule } from "../../../../scripts/embed-message-db.ts";

test("the SQL that we carry is that of the installed package, to the letter", () => {
  const path = new URL("../../../../src/adapters/postgresql/message-db-sql.ts", import.meta.url);
  expect(readFileSync(path, "utf8")).toBe(messageDbModule());
});
