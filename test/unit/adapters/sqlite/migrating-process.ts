/** Another process that migrates a file and never comes to its end: `bun migrating-process.ts <file>`. To be killed in the middle of its transaction. */
import { SqliteFile } from "../../../../src/adapters/sqlite/file.ts";
import { MIGRATIONS } from "../../../../src/adapters/sqlite/migrations.ts";
import { silentLog } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";

const [file = ""] = process.argv.slice(2);
const endless = {
  version: MIGRATIONS.length + 1,
  name: "endless",
  usableFrom: 1,
  sql: `CREATE TABLE half_done (x);
    CREATE TABLE never_done AS WITH RECURSIVE counted(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM counted) SELECT max(x) AS x FROM counted;`,
};
await SqliteFile.open({
  file,
  clock: new SystemClock(),
  random: new SystemRandom(),
  log: silentLog,
  migrations: [...MIGRATIONS, endless],
});
