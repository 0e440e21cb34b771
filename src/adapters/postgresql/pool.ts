import { userInfo } from "node:os";
import postgres from "postgres";
import { ConnectionError } from "../../errors.ts";
import type { Clock } from "../../ports/clock.ts";
import type { PostgresAddress } from "./address.ts";
import { STATE, serverError } from "./failures.ts";

export type Driver = ReturnType<typeof postgres>;
export type DriverOptions = Exclude<Parameters<typeof postgres>[0], string | undefined>;

/** A value as it goes over the wire: text, whose type the statement's cast says. */
export type SqlValue = string | null;

export interface Statement {
  readonly text: string;
  readonly values: readonly SqlValue[];
}

/** Text of each column, null for no value. */
export type StoredRow = Readonly<Record<string, string | null>>;

export interface Result {
  readonly rows: readonly StoredRow[];
  /** Rows that the statement returned or changed. */
  readonly count: number;
}

/** Which statement of a transaction the server complained of. Nothing of the transaction was applied. */
export class StatementFailure extends Error {
  override readonly name: string = "StatementFailure";
  readonly index: number;
  constructor(index: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.index = index;
  }
}

export interface PoolOptions {
  readonly address: PostgresAddress;
  /** Connections open at once, at least 1. */
  readonly max: number;
  /** Names on the server's search path, in order; Message DB's functions need theirs to be found. */
  readonly searchPath: readonly string[];
  /** After this long the server cancels a statement; ours gives up `MARGIN_ms` later and throws the connection away. */
  readonly statement_ms: number;
  /** After this long a statement gives up waiting for somebody's lock. */
  readonly lock_ms: number;
  /** Age at which an idle connection is replaced; null = never. */
  readonly recycle_ms: number | null;
  readonly clock: Clock;
}

const MARGIN_ms = 2_000;
const CONNECT_ms = 5_000;
/** Statement texts that one connection keeps prepared; beyond, it is replaced, so that the server's memory stays bounded. */
const PREPARED_max = 1_000;
/** Pause before the driver's own second try of a connection. */
const BACKOFF_s = 0.05;

const asText = (value: unknown) => value;
/** The driver hands values through as text in both directions: times keep their microseconds, integers their digits. */
const TYPES = {
  number: { to: 0, from: [21, 23, 26, 700, 701], serialize: asText, parse: asText },
  json: { to: 114, from: [114, 3802], serialize: asText, parse: asText },
  boolean: { to: 16, from: [16], serialize: asText, parse: asText },
  date: { to: 1184, from: [1082, 1114, 1184], serialize: asText, parse: asText },
  bytea: { to: 17, from: [17], serialize: asText, parse: asText },
};

/** Options of the driver that both a pool's connections and the listening one have. */
export function driverOptions(options: Omit<PoolOptions, "max" | "recycle_ms" | "clock">): DriverOptions {
  const { address } = options;
  const connection: Record<string, string | number> = {
    application_name: "protean",
    ...address.parameters,
    search_path: options.searchPath.map((name) => `"${name.replaceAll('"', '""')}"`).join(", "),
    DateStyle: "ISO",
    statement_timeout: options.statement_ms,
    lock_timeout: options.lock_ms,
    // Of a process that stopped in the middle of a transaction, whose locks others wait for.
    idle_in_transaction_session_timeout: 10_000,
  };
  const settings = {
    host: address.host,
    port: address.port,
    database: address.database,
    username: address.username || systemUser(),
    ...(address.password === null ? {} : { password: address.password }),
    ssl: address.ssl === null ? false : address.ssl,
    max: 1,
    fetch_types: false,
    connect_timeout: CONNECT_ms / 1000,
    idle_timeout: 0,
    max_lifetime: null,
    backoff: () => BACKOFF_s,
    connection,
    types: TYPES,
    onnotice: () => {},
  };
  return settings as unknown as DriverOptions;
}

/** As libpq: the operating system's user when the URL names none. */
function systemUser(): string {
  try {
    return userInfo().username;
  } catch {
    return "postgres";
  }
}

interface Waiting {
  readonly give: (connection: Connection) => void;
  readonly fail: (error: unknown) => void;
}

/**
 * One connection to the server, reserved from the driver for its whole life, so that the driver never moves a statement of ours to another one.
 *
 * opening   connecting and logging in
 * ready     runs what it is given, everything given in one turn of the loop in one flight
 * lost      the socket closed, or an answer was overdue; whatever was under way is rejected, and the pool drops it
 */
class Connection {
  readonly #sql: Driver;
  readonly #clock: Clock;
  readonly #overdue_ms: number;
  readonly opened_ms: number;
  readonly #texts = new Set<string>();
  #reserved: Awaited<ReturnType<Driver["reserve"]>> | null = null;
  #lose: (error: unknown) => void = () => {};
  readonly #lost: Promise<never>;
  isLost = false;

  constructor(options: PoolOptions) {
    this.#clock = options.clock;
    this.#overdue_ms = options.statement_ms + MARGIN_ms;
    this.opened_ms = options.clock.monotonic_ms();
    this.#lost = new Promise<never>((_, reject) => {
      this.#lose = reject;
    });
    this.#lost.catch(() => {});
    const driver = driverOptions(options);
    this.#sql = postgres({
      ...(driver as object),
      onclose: () => this.#gone(Object.assign(new Error("the connection was closed"), { code: "CONNECTION_CLOSED" })),
    });
  }

  async open(): Promise<void> {
    // Not `reserve` at once: a reservation whose connecting fails is tried a second time by the driver, by itself and for nobody.
    await this.#sql.unsafe("SELECT 1");
    this.#reserved = await this.#sql.reserve();
  }

  get isWorn(): boolean {
    return this.#texts.size > PREPARED_max;
  }

  /**
   * Sends all statements at once. The first that fails rejects with its index; later ones inside a transaction fail with it.
   * @throws StatementFailure, or what broke the connection
   */
  async run(statements: readonly (Statement | string)[]): Promise<Result[]> {
    const reserved = this.#reserved;
    if (reserved === null || this.isLost) throw Object.assign(new Error("the connection is closed"), { code: "CONNECTION_CLOSED" });
    const sent = statements.map((statement) => {
      // Without values a text goes by the simple protocol: one message, and several statements in it.
      if (typeof statement === "string") return reserved.unsafe(statement).execute();
      this.#texts.add(statement.text);
      return reserved.unsafe(statement.text, [...statement.values] as never[], { prepare: true }).execute();
    });
    const cancel = this.#clock.timer(this.#overdue_ms, () => {
      this.#gone(new ConnectionError(`no answer within ${this.#overdue_ms / 1000} s`));
    });
    try {
      const settled = await Promise.race([Promise.allSettled(sent), this.#lost]);
      let failure: StatementFailure | null = null;
      for (const [index, outcome] of settled.entries()) {
        if (outcome.status === "fulfilled") continue;
        if (serverError(outcome.reason)?.code === STATE.inFailedTransaction && failure !== null) continue;
        failure ??= new StatementFailure(index, outcome.reason);
      }
      if (failure !== null) throw failure;
      return settled.map((outcome) => resultOf((outcome as PromiseFulfilledResult<unknown>).value));
    } finally {
      cancel();
      // Statements that never get an answer are nobody's any more.
      for (const one of sent) one.catch(() => {});
    }
  }

  close(): void {
    this.#gone(new ConnectionError("the pool was closed"));
  }

  #gone(error: unknown): void {
    if (this.isLost) return;
    this.isLost = true;
    this.#lose(error);
    this.#sql.end({ timeout: 0 }).catch(() => {});
  }
}

function resultOf(value: unknown): Result {
  const rows = value as readonly StoredRow[] & { readonly count: number | null };
  // A statement that fails after its first rows leaves the driver's row counter standing, and the next result begins with as many holes.
  const whole = rows.length > 0 && !(0 in rows) ? rows.filter(() => true) : rows;
  return { rows: whole, count: rows.count ?? whole.length };
}

/**
 * Connections to one database, opened as they are needed, at most `max`. A caller has a connection for one call only: nothing is held across
 * an `await` of somebody else's code (rulings 17).
 */
export class Pool {
  readonly #options: PoolOptions;
  readonly #idle: Connection[] = [];
  readonly #all = new Set<Connection>();
  readonly #waiting: Waiting[] = [];
  #count = 0;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
  }

  /** One statement, by itself a transaction. @throws what the driver throws */
  async query(text: string, values: readonly SqlValue[] = []): Promise<Result> {
    const results = await this.#with((connection) => connection.run([{ text, values }]).catch(unwrap));
    return results[0] ?? { rows: [], count: 0 };
  }

  /**
   * All statements in one transaction and one flight.
   * @param end what becomes of it; default COMMIT
   * @throws StatementFailure when one fails: then nothing was applied
   */
  async transaction(statements: readonly Statement[], end: "COMMIT" | "ROLLBACK" = "COMMIT"): Promise<Result[]> {
    return await this.#with(async (connection) => {
      try {
        const results = await connection.run(["BEGIN", ...statements, end]);
        return results.slice(1, -1);
      } catch (error) {
        throw error instanceof StatementFailure ? new StatementFailure(error.index - 1, error.cause) : error;
      }
    });
  }

  /** Definitions, in one transaction, however long they take. `plan` sees the database under `lock`, a number that names this kind of work. */
  async define(lock: number, plan: (query: (text: string, values?: readonly SqlValue[]) => Promise<Result>) => Promise<readonly string[]>) {
    await this.#with(async (connection) => {
      const run = (text: string, values: readonly SqlValue[] = []) =>
        connection.run([{ text, values }]).then((results) => results[0] ?? { rows: [], count: 0 }, unwrap);
      await connection.run(["BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"]).catch(unwrap);
      try {
        await run("SELECT pg_advisory_xact_lock($1::int, 0)", [String(lock)]);
        for (const sql of await plan(run)) await connection.run([sql]).catch(unwrap);
        await connection.run(["COMMIT"]).catch(unwrap);
      } catch (error) {
        await connection.run(["ROLLBACK"]).catch(() => connection.close());
        throw error;
      }
    });
  }

  /** Drops the idle connections: one was found to be dead, and what ended it has probably ended the others too. */
  refresh(): void {
    for (const connection of this.#idle.splice(0)) this.#drop(connection);
  }

  close(): void {
    this.#closed = true;
    for (const { fail } of this.#waiting.splice(0)) fail(new ConnectionError(`${this.#options.address.shown} is closed`));
    for (const connection of this.#all) connection.close();
    this.#all.clear();
    this.#idle.length = 0;
  }

  async #with<R>(use: (connection: Connection) => Promise<R>): Promise<R> {
    const connection = await this.#acquire();
    try {
      return await use(connection);
    } finally {
      this.#release(connection);
    }
  }

  async #acquire(): Promise<Connection> {
    const { clock, max, address, lock_ms, recycle_ms } = this.#options;
    if (this.#closed) throw new ConnectionError(`${address.shown} is closed`);
    for (let connection = this.#idle.pop(); connection !== undefined; connection = this.#idle.pop()) {
      const old = recycle_ms !== null && clock.monotonic_ms() - connection.opened_ms > recycle_ms;
      if (!connection.isLost && !old && !connection.isWorn) return connection;
      this.#drop(connection);
    }
    if (this.#count < max) return await this.#open();
    return await new Promise((resolve, reject) => {
      const waiting: Waiting = {
        give: (connection) => {
          cancel();
          resolve(connection);
        },
        fail: (error) => {
          cancel();
          reject(error);
        },
      };
      const cancel = clock.timer(lock_ms, () => {
        const at = this.#waiting.indexOf(waiting);
        if (at >= 0) this.#waiting.splice(at, 1);
        waiting.fail(
          new ConnectionError(`${address.shown}: all ${max} connections were busy for ${lock_ms / 1000} s`, { at: address.shown }),
        );
      });
      this.#waiting.push(waiting);
    });
  }

  async #open(): Promise<Connection> {
    this.#count += 1;
    const connection = new Connection(this.#options);
    this.#all.add(connection);
    try {
      await connection.open();
      return connection;
    } catch (error) {
      this.#drop(connection);
      this.#serveNext();
      throw error;
    }
  }

  #release(connection: Connection): void {
    if (connection.isLost || this.#closed) {
      this.#drop(connection);
      this.refresh();
      this.#serveNext();
      return;
    }
    const next = this.#waiting.shift();
    if (next === undefined) this.#idle.push(connection);
    else next.give(connection);
  }

  #drop(connection: Connection): void {
    if (!this.#all.delete(connection)) return;
    this.#count -= 1;
    connection.close();
  }

  /** A place became free without a connection: whoever waits longest gets a new one. */
  #serveNext(): void {
    if (this.#closed || this.#count >= this.#options.max) return;
    const next = this.#waiting.shift();
    if (next !== undefined) this.#open().then(next.give, next.fail);
  }
}

function unwrap(error: unknown): never {
  throw error instanceof StatementFailure ? error.cause : error;
}
