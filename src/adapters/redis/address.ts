/** Where a Redis is, from its URL: what the driver needs, and what people may see. */
import { ConfigurationError } from "../../errors.ts";

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
  readonly database: number;
  readonly tls: boolean;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** `redis://host:port/database`, without user and password. */
  readonly shown: string;
}

const FORMS = "redis://[user:password@]host[:port][/database], or rediss:// for TLS";
const HIGHEST_DATABASE = 65_535;

/**
 * @param url `redis://` or `rediss://`; port 6379 and database 0 when left out; `?db=2` means the same as `/2`, as Python's client has it
 * @throws ConfigurationError when it is something else; the message holds no password
 */
export function parseRedisUrl(url: string): RedisAddress {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw unusable("the Redis address is no URL");
  }
  if (parsed.protocol !== "redis:" && parsed.protocol !== "rediss:") {
    throw unusable(`a Redis address can't begin with "${parsed.protocol}"`);
  }
  const databaseText = parsed.pathname.replace(/^\//, "") || parsed.searchParams.get("db") || "0";
  const database = Number(databaseText);
  if (!/^\d+$/.test(databaseText) || database > HIGHEST_DATABASE) {
    throw unusable(`"${databaseText}" is no number of a Redis database`);
  }
  const hostInUrl = parsed.hostname || "localhost";
  const port = parsed.port === "" ? 6379 : Number(parsed.port);
  const host = hostInUrl.startsWith("[") ? hostInUrl.slice(1, -1) : hostInUrl;
  return {
    host,
    port,
    database,
    tls: parsed.protocol === "rediss:",
    username: parsed.username === "" ? undefined : decoded(parsed.username),
    password: parsed.password === "" ? undefined : decoded(parsed.password),
    shown: `${parsed.protocol}//${hostInUrl}:${port}/${database}`,
  };
}

function unusable(message: string): ConfigurationError {
  return new ConfigurationError(message, { code: "CONFIGURATION_REDIS_URL", fix: `Write ${FORMS}.` });
}

/** A stray `%` in a password is taken as it stands. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
