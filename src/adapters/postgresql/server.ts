import { ConfigurationError, ConnectionError } from "../../errors.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import type { PostgresAddress } from "./address.ts";
import { Changes } from "./changes.ts";
import { isDefinite, isLost, isPassing, type Place, translated } from "./failures.ts";
import { driverOptions, Pool, type Result, type SqlValue, type Statement, StatementFailure } from "./pool.ts";

/** A transaction that lost against others is tried again, at most so long, after pauses that grow. */
const RETRY_ms = 5_000;
const PAUSE_first_ms = 2;
const PAUSE_max_ms = 200;
/** Pauses between two tries of a server that can't be reached (D21). */
const WAIT_first_ms = 50;
const WAIT_max_ms = 2_000;

export interface ServerOptions {
  readonly address: PostgresAddress;
  readonly schema: string;
  /** Most connections at once, the one that listens not counted. */
  readonly poolMax: number;
  readonly poolRecycle_ms: number | null;
  readonly statement_ms: number;
  readonly lock_ms: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** What a server says of itself. */
interface Facts {
  readonly identity: string;
  readonly database: string;
  readonly username: string;
}

/** One database of one server: its pool, and who is told of changes in it. Used by a database, an event store, or both. */
export class Server {
  readonly address: string;
  readonly schema: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly changes: Changes;
  readonly identity: string;
  /** The role that is logged in. */
  readonly username: string;
  readonly #pool: Pool;
  readonly #place: Place;

  private constructor(options: ServerOptions, pool: Pool, facts: Facts) {
    this.address = options.address.shown;
    this.schema = options.schema;
    this.clock = options.clock;
    this.random = options.random;
    this.log = options.log;
    this.identity = facts.identity;
    this.username = facts.username;
    this.#pool = pool;
    this.#place = { shown: options.address.shown, database: facts.database, username: facts.username };
    this.changes = new Changes({
      query: (text, values) => this.query(text, values),
      driver: driverOptions(poolOptions(options)),
      schema: options.schema,
      clock: options.clock,
      log: options.log,
    });
  }

  /**
   * Connects, and learns which database it is.
   * @param wait_ms how long a server that can't be reached is waited for
   * @throws ConfigurationError for what waiting won't repair: login, name of the database
   * @throws ConnectionError when it can't be reached
   */
  static async connect(options: ServerOptions, wait_ms: number): Promise<Server> {
    const { address, clock, random, log } = options;
    const pool = new Pool(poolOptions(options));
    const place: Place = { shown: address.shown, database: address.database || address.username, username: address.username };
    const deadline_ms = clock.monotonic_ms() + wait_ms;
    for (let pause_ms = WAIT_first_ms; ; pause_ms = Math.min(pause_ms * 2, WAIT_max_ms)) {
      try {
        const { rows } = await pool.query(
          "SELECT (SELECT system_identifier FROM pg_control_system())::text AS cluster, current_database() AS database, current_user AS username",
        );
        const [row] = rows;
        const database = row?.["database"] ?? "";
        return new Server(options, pool, {
          identity: `postgresql:${row?.["cluster"]}/${database}`,
          database,
          username: row?.["username"] ?? "",
        });
      } catch (error) {
        const failure = translated(error, place);
        if (isDefinite(failure)) {
          pool.close();
          if (failure instanceof ConfigurationError) throw failure;
          throw new ConfigurationError(failure.message, { at: address.shown, fix: failure.about.fix, cause: failure });
        }
        if (clock.monotonic_ms() + pause_ms >= deadline_ms) {
          pool.close();
          throw failure;
        }
        if (pause_ms === WAIT_first_ms) log.warning("postgresql.unreachable", { address: address.shown, error: String(failure) });
      }
      await clock.sleep(pause_ms * (0.5 + random.float() / 2));
    }
  }

  /** Reads. A connection that the server had ended meanwhile is found out by its next use, so a lost one is replaced and asked again, once. */
  async query(text: string, values: readonly SqlValue[] = []): Promise<Result> {
    try {
      return await this.#pool.query(text, values).catch((error: unknown) => {
        if (!isLost(error)) throw error;
        this.#pool.refresh();
        return this.#pool.query(text, values);
      });
    } catch (error) {
      throw this.translated(error);
    }
  }

  /** A write of one statement, tried again when it lost against others. */
  change(text: string, values: readonly SqlValue[] = []): Promise<Result> {
    return this.#patiently(() => this.#pool.query(text, values)).catch((error: unknown) => {
      throw this.translated(error);
    });
  }

  /**
   * One transaction in one flight; tried again when it was chosen as the victim of a deadlock.
   * @throws StatementFailure, untranslated, when a statement of it fails
   */
  async transaction(statements: readonly Statement[], end: "COMMIT" | "ROLLBACK" = "COMMIT"): Promise<Result[]> {
    try {
      return await this.#patiently(() => this.#pool.transaction(statements, end));
    } catch (error) {
      throw error instanceof StatementFailure ? error : this.translated(error);
    }
  }

  /** Runs the definitions that `plan` finds necessary, in one transaction that excludes others of the same kind. */
  async define(lock: number, plan: (query: (text: string, values?: readonly SqlValue[]) => Promise<Result>) => Promise<readonly string[]>) {
    try {
      await this.#pool.define(lock, plan);
    } catch (error) {
      throw this.translated(error);
    }
  }

  translated(error: unknown): unknown {
    const failure = translated(error instanceof StatementFailure ? error.cause : error, this.#place);
    return failure instanceof ConnectionError && failure.about.at === undefined
      ? new ConnectionError(`${this.address}: ${failure.message}`, { at: this.address, cause: failure })
      : failure;
  }

  /** @throws ConnectionError on a replica, or where the role or database is set to read only */
  async requireWritable(): Promise<void> {
    const { rows } = await this.query("SELECT current_setting('transaction_read_only') AS state");
    if (rows[0]?.["state"] !== "on") return;
    throw new ConnectionError(`${this.address} takes no writes: it is a replica, or set to read only`, {
      at: this.address,
      fix: "Give the address of the primary server in domain.toml.",
    });
  }

  async ping(): Promise<void> {
    await this.query("SELECT 1");
  }

  close(): void {
    this.changes.close();
    this.#pool.close();
  }

  async #patiently<R>(run: () => Promise<R>): Promise<R> {
    const deadline_ms = this.clock.monotonic_ms() + RETRY_ms;
    for (let pause_ms = PAUSE_first_ms; ; pause_ms = Math.min(pause_ms * 2, PAUSE_max_ms)) {
      try {
        return await run();
      } catch (error) {
        const passing = isPassing(error instanceof StatementFailure ? error.cause : error);
        if (!passing || this.clock.monotonic_ms() >= deadline_ms) throw error;
      }
      await this.clock.sleep(pause_ms * (0.5 + this.random.float()));
    }
  }
}

function poolOptions(options: ServerOptions) {
  return {
    address: options.address,
    max: Math.max(1, options.poolMax),
    // Message DB's functions name each other without a schema, and a table of the application called `messages` must not hide theirs (rulings 20).
    searchPath: ["message_store", options.schema],
    statement_ms: options.statement_ms,
    lock_ms: options.lock_ms,
    recycle_ms: options.poolRecycle_ms,
    clock: options.clock,
  };
}
