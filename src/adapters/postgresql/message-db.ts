import { ConfigurationError } from "../../errors.ts";
import { MESSAGE_DB_SQL } from "./message-db-sql.ts";
import type { Result, SqlValue } from "./pool.ts";
import { quoted } from "./sql.ts";
import { leaseTableSql, type SetupStep } from "./table-setup.ts";

export type Query = (text: string, values?: readonly SqlValue[]) => Promise<Result>;

/** The oldest Message DB whose functions we know; Python's is the same. */
export const MESSAGE_DB_VERSION = "1.3.0";

/** Code of the error that an older one causes. */
export const MESSAGE_DB_OLD = "MESSAGE_DB_OLD";

/**
 * Version of the Message DB that is installed, null when there is none.
 * @throws ConfigurationError when it is older than ours, or no Message DB
 */
export async function messageDbVersion(query: Query, address: string): Promise<string | null> {
  const { rows } = await query(
    "SELECT to_regclass('message_store.messages')::text AS messages, to_regprocedure('message_store.message_store_version()')::text AS version",
  );
  const present = rows[0];
  if (present?.["messages"] == null) return null;
  const version =
    present["version"] == null
      ? null
      : ((await query("SELECT message_store.message_store_version() AS version")).rows[0]?.["version"] ?? null);
  if (version !== null && !isOlder(version, MESSAGE_DB_VERSION)) return version;
  throw new ConfigurationError(`Message DB at ${address} is ${version === null ? "too old to say its version" : `version ${version}`}`, {
    code: MESSAGE_DB_OLD,
    at: address,
    fix: `Update it to ${MESSAGE_DB_VERSION} with its own script, database/update.sh of @eventide/message-db.`,
  });
}

function isOlder(version: string, than: string): boolean {
  const [mine, other] = [version, than].map((text) => text.split(".").map((part) => Number.parseInt(part, 10) || 0));
  for (let at = 0; at < 3; at += 1) {
    const difference = (mine?.[at] ?? 0) - (other?.[at] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

/**
 * What Message DB lacks here: its whole schema, and our table of leases in `leaseSchema`. Nothing that exists is changed.
 *
 * Its role `message_store`, under which Python logs in, is made only by who may make roles; without it the one who installs owns and uses all.
 */
export async function installSteps(query: Query, leaseSchema: string): Promise<SetupStep[]> {
  const steps: SetupStep[] = [];
  if ((await messageDbVersion(query, "this database")) === null) {
    const { rows } = await query(
      `SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'message_store') AS role,
         (SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user) AS makes`,
    );
    const hasRole = rows[0]?.["role"] === "t";
    const makesRole = !hasRole && rows[0]?.["makes"] === "t";
    if (makesRole) steps.push({ what: "role message_store", sql: "CREATE ROLE message_store WITH LOGIN" });
    for (const { file, sql } of MESSAGE_DB_SQL) {
      const isPrivilege = file.startsWith("privileges/");
      if (isPrivilege && !hasRole && !makesRole) continue;
      // This function belongs to the server, where everybody may run it; only a superuser may say so again.
      const text = isPrivilege ? sql.replace(/^GRANT EXECUTE ON FUNCTION gen_random_uuid\(\).*$/m, "") : sql;
      steps.push({ what: `message_store: ${file.replace(/\.sql$/, "")}`, sql: text.trim() });
    }
  }
  const { rows } = await query("SELECT to_regclass($1) AS present", [`${quoted(leaseSchema)}.protean_lease`]);
  if (rows[0]?.["present"] == null) steps.push({ what: "table protean_lease", sql: leaseTableSql(leaseSchema) });
  return steps;
}
