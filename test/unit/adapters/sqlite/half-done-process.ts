/**
 * A program that is killed in the middle of a transaction in a rollback journal: `bun half-done-process.ts <file>`. It has changed the file itself, and
 * only its journal knows how it was.
 */
import { DatabaseSync } from "node:sqlite";

const database = new DatabaseSync(process.argv[2] ?? "");
database.exec("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE");
database.exec("UPDATE account SET holder = 'half done'");
// So much that the cache is written out.
database.exec(
  `CREATE TABLE filler AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000) SELECT x, randomblob(1000) AS y FROM n`,
);
process.kill(process.pid, "SIGKILL");
