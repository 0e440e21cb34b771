/** protean db import: what it counts, takes, refuses and says. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { runBinary } from "../support/binary.ts";
import { onlyDocument } from "../support/cli.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { pythonFile } from "../support/python-file.ts";
import { executeIn } from "../support/sqlite-file.ts";

const BANK = join(import.meta.dir, "..", "interop", "bank.ts");
const LIMIT_ms = 60_000;

let folder: TemporaryFolder;
beforeEach(() => {
  folder = temporaryFolder({ "domain.toml": '[server]\ndefault_subscription_type = "stream"\n' });
  pythonFile(folder.at("python.db"));
  sql("python.db", "UPDATE outbox SET status = 'pending'");
});
afterEach(() => folder.remove());

const sql = (file: string, text: string) => executeIn(folder.at(file), text);

const run = (...words: readonly string[]) =>
  runBinary(["db", "import", ...words, "--handlers", BANK, "--domain", "Corner Bank"], { directory: folder.path });
const table = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => line.split(/\s{2,}/));

test(
  "counts with --dry-run and makes no file, takes everything over with --yes, and nothing when it is called again",
  () => {
    const planned = run("python.db", "--dry-run");
    expect(planned.exitCode).toBe(0);
    expect(table(planned.stdout)).toContainEqual(["account", "2", "2", "0"]);
    expect(planned.stderr).toContain('unpublished rows are for broker "partners", and [outbox] external_brokers doesn\'t name it');
    expect(existsSync(folder.at(".protean"))).toBe(false);

    expect(run("python.db")).toMatchObject({
      exitCode: 3,
      stderr: expect.stringContaining("rows over from ./python.db? There is no terminal to ask."),
    });
    const done = run("python.db", "--yes", "--json");
    expect(done.exitCode).toBe(0);
    const { data, diagnostics } = onlyDocument(done.stdout);
    expect(data["tables"]).toContainEqual({ table: "outbox", rows: 4, added: 4, present: 0 });
    expect(data["outbox"]).toEqual({ pending: 4 });
    expect(diagnostics).toHaveLength(1);
    const status = runBinary(["outbox", "status", "-o", "jsonl"], { directory: folder.path });
    expect(JSON.parse(status.stdout)).toMatchObject({ pending: 4 });

    const again = run("python.db", "--yes");
    expect(table(again.stdout)).toContainEqual(["account", "2", "0", "2"]);
  },
  LIMIT_ms,
);

test(
  "says what stands against it, with the way out, and writes nothing",
  () => {
    sql("python.db", "UPDATE outbox SET status = 'processing', locked_by = 'python', locked_until = '2999-01-01 00:00:00.000000'");
    const locked = run("python.db", "--yes");
    expect(locked).toMatchObject({ exitCode: 5, stdout: "" });
    expect(locked.stderr).toMatch(
      /^error: python\.db can't be imported as it is; nothing was written\n {2}outbox: 4 rows locked by python until 2999/m,
    );
    expect(locked.stderr).toContain("--force");
    sql(
      "python.db",
      "ALTER TABLE account ADD COLUMN colour TEXT; UPDATE account SET colour = 'red'; UPDATE outbox SET status = 'pending', locked_until = NULL",
    );
    expect(run("python.db", "--yes")).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("column colour has 2 values and is not declared here"),
    });
    expect(run("python.db", "--yes", "--force").exitCode).toBe(0);
    sql(".protean/protean.db", "UPDATE account SET holder = 'Grace'");
    expect(run("python.db", "--yes", "--force")).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("2 rows are here already with other content"),
    });
  },
  LIMIT_ms,
);

test(
  "refuses what is no file of Python's, and a database that is no file",
  () => {
    folder.write({ "notes.txt": "words, words. ".repeat(100) });
    for (const [file, words] of [
      ["nowhere.db", "there is no file nowhere.db"],
      ["notes.txt", "is no SQLite database"],
      [".protean/protean.db", "is this domain's own file"],
    ] as const) {
      if (file.startsWith(".protean")) expect(run("python.db", "--yes").exitCode).toBe(0);
      expect(run(file)).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining(words) });
    }
    expect(run("python.db", "--database", "other")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining('there is no database "other"'),
    });
    folder.write({ "domain.toml": '[databases.default]\nprovider = "memory"\n' });
    expect(run("python.db")).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('database "default" is memory') });
  },
  LIMIT_ms,
);
