import { type ImportReport, importPythonFile } from "../adapters/sqlite/python-import.ts";
import type { Config, DatabaseConfig } from "../config/config.ts";
import type { Domain } from "../domain/domain.ts";
import { ConfigurationError } from "../errors.ts";
import { kindOf, realPathOf } from "../runtime/files.ts";
import type { Tools } from "./connect.ts";

export type { ImportConcern, ImportReport } from "../adapters/sqlite/python-import.ts";

/**
 * Takes what Protean for Python has in a SQLite file into a database of this domain, once (rulings 66).
 * @param options.database key under `[databases]`
 * @param options.dryRun writes nothing, and makes no file
 * @throws ConfigurationError when the database isn't a SQLite file, or the source is none of Python's
 */
export async function importFromPython(options: {
  readonly domain: Domain;
  readonly config: Config;
  readonly database: string;
  readonly source: string;
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly tools: Tools;
}): Promise<ImportReport> {
  const { domain, config, source, dryRun, force, tools } = options;
  const file = fileOf(config, options.database);
  if ((await kindOf(source)) !== "file") {
    throw new ConfigurationError(`there is no file ${source}`, {
      at: source,
      fix: "Give the path of the file that Python's database_uri names.",
    });
  }
  if ((await kindOf(file)) !== null && (await realPathOf(file)) === (await realPathOf(source))) {
    throw new ConfigurationError(`${source} is this domain's own file`, {
      at: source,
      fix: "Nothing needs to be imported: opening it has made it one that both programs can use.",
    });
  }
  domain.freeze();
  const isThere = (await kindOf(file)) !== null;
  return await importPythonFile({
    source,
    target: { file: dryRun && !isThere ? ":memory:" : file, watches: false, ...tools },
    tables: domain.tablesIn(options.database),
    dryRun,
    force,
  });
}

function fileOf(config: Config, name: string): string {
  const database: DatabaseConfig | undefined = config.databases[name];
  if (database === undefined) {
    throw new ConfigurationError(`there is no database "${name}"`, { fix: `Configured are: ${Object.keys(config.databases).join(", ")}.` });
  }
  if (database.provider === "sqlite" && database.file !== ":memory:") return database.file;
  throw new ConfigurationError(`database "${name}" is ${database.provider}, and rows of a SQLite file go into a SQLite file`, {
    at: config.origins.get(`databases.${name}.provider`) ?? `[databases.${name}]`,
    fix: 'Write provider = "sqlite" while you move.',
  });
}
