/** Where a PostgreSQL database is, from its URL: what the driver needs, and what people may see. */
import { ConfigurationError } from "../../errors.ts";

export interface PostgresAddress {
  readonly host: string;
  readonly port: number;
  /** Empty: the name of the user, as libpq does. */
  readonly database: string;
  /** Empty: the environment's (PGUSER) or the name of the operating system's user. */
  readonly username: string;
  readonly password: string | null;
  /** `sslmode` of libpq; null = none. `verify-ca` is taken as `verify-full`. */
  readonly ssl: "allow" | "prefer" | "require" | "verify-full" | null;
  /** Further parameters of the connection, such as `options` and `application_name`. */
  readonly parameters: Readonly<Record<string, string>>;
  /** `postgresql://host:port/database`, without user and password. */
  readonly shown: string;
}

const FORMS = "postgresql://[user:password@]host[:port]/database[?sslmode=require]";
const SSL_MODES: Readonly<Record<string, PostgresAddress["ssl"]>> = {
  disable: null,
  allow: "allow",
  prefer: "prefer",
  require: "require",
  "verify-ca": "verify-full",
  "verify-full": "verify-full",
};

/**
 * @param url `postgresql://` or `postgres://`; a driver in the scheme, as SQLAlchemy has it (`postgresql+psycopg://`), is left out
 * @throws ConfigurationError when it is something else; the message holds no password
 */
export function parsePostgresUrl(url: string): PostgresAddress {
  const text = url.trim().replace(/^(postgres(?:ql)?)\+\w+:/i, "$1:");
  let parsed: URL;
  try {
    parsed = new URL(text);
  } catch {
    throw unusable("the PostgreSQL address is no URL");
  }
  if (parsed.protocol !== "postgresql:" && parsed.protocol !== "postgres:") {
    throw unusable(`a PostgreSQL address can't begin with "${parsed.protocol}"`);
  }
  const parameters: Record<string, string> = {};
  let ssl: PostgresAddress["ssl"] = null;
  let host = decoded(parsed.hostname) || "localhost";
  let port = parsed.port === "" ? 5432 : Number(parsed.port);
  for (const [name, value] of parsed.searchParams) {
    if (name === "sslmode") {
      const mode = SSL_MODES[value];
      if (mode === undefined) throw unusable(`sslmode=${value} is none of ${Object.keys(SSL_MODES).join(", ")}`);
      ssl = mode;
    } else if (name === "host") host = value;
    else if (name === "port") port = Number(value);
    else if (name === "options" || name === "application_name") parameters[name] = value;
  }
  const database = decoded(parsed.pathname.replace(/^\//, ""));
  return {
    host: host.startsWith("[") ? host.slice(1, -1) : host,
    port,
    database,
    username: decoded(parsed.username),
    password: parsed.password === "" ? null : decoded(parsed.password),
    ssl,
    parameters,
    shown: `postgresql://${host}:${port}/${database}`,
  };
}

function unusable(message: string): ConfigurationError {
  return new ConfigurationError(message, { code: "CONFIGURATION_POSTGRESQL_URL", fix: `Write ${FORMS}.` });
}

/** A stray `%` in a password is taken as it stands. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
