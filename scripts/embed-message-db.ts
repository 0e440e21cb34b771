/**
 * Writes src/adapters/postgresql/message-db-sql.ts from the npm package `@eventide/message-db`, so that the executable carries Message DB's own
 * SQL and every runtime can read it. To be run after the package's version was changed; a test compares the two.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const source = join(root, "node_modules", "@eventide", "message-db");

/** In the order of the package's install.sh. Roles and the database itself are not ours to make; the extension is built into the servers we support. */
const FILES = [
  "schema/message-store.sql",
  "tables/messages.sql",
  "types/message.sql",
  "functions/message-store-version.sql",
  "functions/hash-64.sql",
  "functions/acquire-lock.sql",
  "functions/category.sql",
  "functions/is-category.sql",
  "functions/id.sql",
  "functions/cardinal-id.sql",
  "functions/stream-version.sql",
  "functions/write-message.sql",
  "functions/get-stream-messages.sql",
  "functions/get-category-messages.sql",
  "functions/get-last-stream-message.sql",
  "indexes/messages-id.sql",
  "indexes/messages-stream.sql",
  "indexes/messages-category.sql",
  "views/stream-summary.sql",
  "views/type-summary.sql",
  "views/stream-type-summary.sql",
  "views/type-stream-summary.sql",
  "views/category-type-summary.sql",
  "views/type-category-summary.sql",
  "privileges/schema.sql",
  "privileges/table.sql",
  "privileges/sequence.sql",
  "privileges/functions.sql",
  "privileges/views.sql",
] as const;

/** The module's whole text. */
export function messageDbModule(): string {
  const { version } = JSON.parse(readFileSync(join(source, "package.json"), "utf8")) as { readonly version: string };
  const licence = readFileSync(join(source, "MIT-License.txt"), "utf8").trim();
  const lines = [
    "/*",
    ` * Made by scripts/embed-message-db.ts out of the npm package @eventide/message-db ${version}; not to be edited.`,
    " *",
    " * The SQL in this file is Message DB's, under this licence:",
    " *",
    ...licence.split("\n").map((line) => ` * ${line.trimEnd()}`.trimEnd()),
    " */",
    "",
    "/** Files of the package's folder `database`, in the order in which they are run. */",
    "export const MESSAGE_DB_SQL: readonly { readonly file: string; readonly sql: string }[] = [",
  ];
  for (const file of FILES) {
    const sql = readFileSync(join(source, "database", file), "utf8");
    const escaped = sql.replaceAll("\\", "\\\\").replaceAll("`", "\\`").replaceAll("${", "\\${");
    lines.push("  {", `    file: "${file}",`, `    sql: \`${escaped}\`,`, "  },");
  }
  lines.push("];", "");
  return lines.join("\n");
}

if (import.meta.main) writeFileSync(join(root, "src", "adapters", "postgresql", "message-db-sql.ts"), messageDbModule());
