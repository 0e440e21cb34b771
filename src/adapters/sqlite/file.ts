import { closeSync, fsyncSync, mkdirSync, openSync, realpathSync, renameSync, rmSync, statfsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { ConfigurationError, ConnectionError, DatabaseError, ProteanError } from "../../errors.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import { Changes } from "./changes.ts";
import { Connection, primaryCode, quoted, RESULT } from "./connection.ts";
import type { Migration } from "./migrations.ts";
import { migrate, OldProgramsRun, requireUsableFile, schemaVersion } from "./schema.ts";

/** How long a call waits for other processes' writes before it gives up (Database port). */
const LOCK_ms = 5_000;
/** Pauses between two tries grow from the first to the second, each with full jitter around it. */
const PAUSE_first_ms = 1;
const PAUSE_max_ms = 20;
/** A server that was killed is taken for alive so long: its leases and its record run out within 10 s. */
const LIVES_ms = 11_000;
const LOOK_AGAIN_ms = 250;

/** Kinds of file system (statfs) over which WAL's shared memory doesn't reach other hosts: NFS, SMB, CIFS, SMB2, AFS. */
const NETWORK_FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0x6969, "NFS"],
  [0x517b, "SMB"],
  [0xff534d42, "CIFS"],
  [0xfe534d42, "SMB"],
  [0x5346414f, "AFS"],
]);

const PLACE_FIX = "Give a local folder that can be written: [protean] data_dir in domain.toml, or PROTEAN_DATA.";

export interface OpenOptions {
  /** Path of the file, or `:memory:`. Its folder is made when it is missing. */
  readonly file: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /**
   * Whether a file watcher may look at the folder; default true. False where watching opens and closes the files that change (Deno): POSIX drops all
   * locks of a process on a file when it closes any descriptor of it. The next process to end then believes to be the last one, removes the
   * write-ahead log, and this one goes on reading a file that nobody writes to any more.
   */
  readonly watches?: boolean;
  /** Other than ours in tests only. */
  readonly migrations?: readonly Migration[];
}

/**
 * One SQLite database, with two connections that differ in what a power loss may take (rulings 29): `durable` waits for the disk,
 * `quick` may lose its last commits. A crash of the process loses nothing in either. In memory both are one.
 *
 * Every method runs its body synchronously, in one turn of the loop; when another process holds the lock it is run again later,
 * so a body must not keep anything from a run that failed.
 */
export class SqliteFile {
  /** As operators see it. */
  readonly address: string;
  readonly identity: string;
  readonly inMemory: boolean;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly changes: Changes;
  readonly #durable: Connection;
  readonly #quick: Connection;
  readonly #migrations: readonly Migration[] | undefined;
  /** Of the file when we last looked. */
  #version: number;
  #closed = false;

  private constructor(
    options: OpenOptions,
    address: string,
    identity: string,
    connections: { readonly durable: Connection; readonly quick: Connection },
  ) {
    this.address = address;
    this.identity = identity;
    this.inMemory = options.file === ":memory:";
    this.clock = options.clock;
    this.random = options.random;
    this.log = options.log;
    this.#durable = connections.durable;
    this.#quick = connections.quick;
    this.#migrations = options.migrations;
    this.#version = schemaVersion(connections.quick);
    const file = this.inMemory ? null : address;
    const watches = options.watches ?? true;
    this.changes = new Changes({ connection: connections.durable, file, watches, clock: options.clock, log: options.log });
  }

  /**
   * @throws ConfigurationError when the place can't hold the file, the file is no database or has tables of a newer version
   * @throws ConnectionError when another process keeps it locked for 5 s
   */
  static async open(options: OpenOptions): Promise<SqliteFile> {
    if (options.file === ":memory:") {
      const connection = new Connection(":memory:");
      migrate(connection, { file: ":memory:", now_ms: options.clock.now_ms(), keepCopy: () => {}, ...migrationsOf(options) });
      return new SqliteFile(options, "memory", `memory:${options.random.uuid()}`, { durable: connection, quick: connection });
    }
    const path = resolve(options.file);
    const folder = dirname(path);
    makeFolder(folder, path);
    const opened: Connection[] = [];
    try {
      const durable = await patiently(options, path, () => openConnection(path, "FULL", opened));
      const change = await withoutOldPrograms(options, () =>
        patiently(options, path, () =>
          migrate(durable, {
            file: path,
            now_ms: options.clock.now_ms(),
            keepCopy: () => keepCopy(path),
            ...migrationsOf(options),
          }),
        ),
      );
      if (change !== null && (change.from > 0 || change.adopted)) {
        options.log.info("sqlite.migrated", { file: path, ...change, copy: `${path}.bak` });
      }
      const quick = await patiently(options, path, () => openConnection(path, "NORMAL", opened));
      const identity = `sqlite:${join(realpathSync(folder), basename(path))}`;
      return new SqliteFile(options, path, identity, { durable, quick });
    } catch (error) {
      for (const connection of opened) connection.close();
      throw error instanceof ProteanError ? error : placeError(path, error);
    }
  }

  /** Reads what is committed. */
  read<R>(body: (connection: Connection) => R): Promise<R> {
    return this.#patiently(() => body(this.#quick));
  }

  /** One transaction that is on the disk when the promise resolves: units of work, published entries, dead letters. */
  writeDurably<R>(body: (connection: Connection) => R): Promise<R> {
    return this.#patiently(() => this.#durable.transaction(() => body(this.#usable(this.#durable))));
  }

  /** One transaction whose loss in a power cut only repeats work: claims, acknowledgements, counters, heartbeats. */
  writeQuickly<R>(body: (connection: Connection) => R): Promise<R> {
    return this.#patiently(() => this.#quick.transaction(() => body(this.#usable(this.#quick))));
  }

  /** What `body` sees after its writes; they are undone in the same turn. */
  preview<R>(body: (connection: Connection) => R): Promise<R> {
    return this.#patiently(() => this.#quick.transaction(() => body(this.#quick), "ROLLBACK"));
  }

  /** Writes what is committed into a new file. Stops the loop until it is done, so it is for commands, not for servers. */
  copyInto(path: string): Promise<void> {
    return this.#patiently(() => void this.#quick.run("VACUUM INTO ?", path));
  }

  /**
   * One transaction with another file beside ours, under the name `schema`. Nobody else writes to either meanwhile.
   * @param body `keep` false undoes what it wrote
   */
  withAttached<R>(
    path: string,
    schema: string,
    body: (connection: Connection) => { readonly result: R; readonly keep: boolean },
  ): Promise<R> {
    return this.#patiently(() => {
      this.#durable.run(`ATTACH DATABASE ? AS ${quoted(schema)}`, path);
      try {
        return this.#durable.transaction(
          () => body(this.#usable(this.#durable)),
          ({ keep }) => (keep ? "COMMIT" : "ROLLBACK"),
        ).result;
      } finally {
        this.#durable.run(`DETACH DATABASE ${quoted(schema)}`);
      }
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.changes.close();
    this.#quick.close();
    if (this.#durable !== this.#quick) this.#durable.close();
  }

  /** A newer program may have changed the layout under us: then what we write must still be right there. @throws ConfigurationError */
  #usable(connection: Connection): Connection {
    const version = schemaVersion(connection);
    if (version === this.#version) return connection;
    requireUsableFile(connection, this.address, this.#migrations);
    this.#version = version;
    return connection;
  }

  #patiently<R>(run: () => R): Promise<R> {
    return patiently(this, this.address, () => {
      if (this.#closed) throw new ConnectionError(`${this.address} is closed`);
      return run();
    });
  }
}

function migrationsOf(options: OpenOptions): { readonly migrations?: readonly Migration[] } {
  return options.migrations === undefined ? {} : { migrations: options.migrations };
}

/** Runs at once; again after a pause as long as somebody else holds the lock. @throws what SQLite says in our terms, naming `address` */
export async function patiently<R>(time: { readonly clock: Clock; readonly random: Random }, address: string, run: () => R): Promise<R> {
  const deadline_ms = time.clock.monotonic_ms() + LOCK_ms;
  for (let pause_ms = PAUSE_first_ms; ; pause_ms = Math.min(pause_ms * 2, PAUSE_max_ms)) {
    try {
      return run();
    } catch (error) {
      const code = primaryCode(error);
      if (code !== RESULT.busy && code !== RESULT.locked) throw translated(error, address);
      if (time.clock.monotonic_ms() >= deadline_ms) {
        throw new ConnectionError(`${address}: another process kept the database locked for ${LOCK_ms / 1000} s`, { cause: error });
      }
    }
    await time.clock.sleep(pause_ms * (0.5 + time.random.float()));
  }
}

/** Servers of an older version that were just killed are waited for. */
async function withoutOldPrograms<R>(time: { readonly clock: Clock }, run: () => Promise<R>): Promise<R> {
  const deadline_ms = time.clock.monotonic_ms() + LIVES_ms;
  for (;;) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof OldProgramsRun) || time.clock.monotonic_ms() >= deadline_ms) throw error;
    }
    await time.clock.sleep(LOOK_AGAIN_ms);
  }
}

/** Faults of the disk are outside and pass; anything else that SQLite complains of is about the statement. */
function translated(error: unknown, address: string): unknown {
  const code = primaryCode(error);
  if (code === null) return error;
  const message = `${address}: ${(error as Error).message}`;
  if (code === RESULT.ioError || code === RESULT.full || code === RESULT.cantOpen) return new ConnectionError(message, { cause: error });
  if (code === RESULT.readonly) return new ConfigurationError(message, { at: address, fix: PLACE_FIX, cause: error });
  if (code === RESULT.notADatabase) {
    return new ConfigurationError(`${address} is no SQLite database`, { at: address, fix: "Move the file away, or give another path." });
  }
  return new DatabaseError(message, { cause: error });
}

function makeFolder(folder: string, path: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    const kind = NETWORK_FILE_SYSTEMS.get(statfsSync(folder).type);
    if (kind !== undefined) {
      throw new ConfigurationError(`${folder} lies on a network file system (${kind}), where SQLite can't be shared safely`, {
        at: path,
        fix: PLACE_FIX,
      });
    }
  } catch (error) {
    throw error instanceof ProteanError ? error : placeError(path, error);
  }
}

function placeError(path: string, error: unknown): ConfigurationError {
  const reason = error instanceof Error ? error.message : String(error);
  return new ConfigurationError(`the database ${path} can't be opened: ${reason}`, { at: path, fix: PLACE_FIX, cause: error });
}

function openConnection(path: string, synchronous: "FULL" | "NORMAL", opened: Connection[]): Connection {
  let connection: Connection;
  try {
    connection = new Connection(path);
  } catch (error) {
    throw primaryCode(error) === RESULT.busy ? error : placeError(path, error);
  }
  try {
    const mode = connection.get<{ journal_mode: string }>("PRAGMA journal_mode = WAL")?.journal_mode;
    if (mode !== "wal") {
      throw new ConfigurationError(`${path} lies on a file system without shared memory, which several processes on one file need (WAL)`, {
        at: path,
        fix: PLACE_FIX,
      });
    }
    connection.execute(`PRAGMA synchronous = ${synchronous}; PRAGMA journal_size_limit = 67108864;`);
  } catch (error) {
    connection.close();
    const code = primaryCode(error);
    throw code === RESULT.cantOpen || code === RESULT.ioError ? placeError(path, error) : error;
  }
  opened.push(connection);
  return connection;
}

/**
 * The file as it was, beside it. Copying the file itself would miss what lies in its log (rulings 53). Its owner holds the write lock, so nobody else is
 * here; what a kill left of an earlier copy is made anew.
 */
function keepCopy(path: string): void {
  const unfinished = `${path}.bak.part`;
  rmSync(unfinished, { force: true });
  const reader = new Connection(path);
  try {
    reader.run("VACUUM INTO ?", unfinished);
  } finally {
    reader.close();
  }
  syncToDisk(unfinished);
  renameSync(unfinished, `${path}.bak`);
  syncToDisk(dirname(path));
}

/** SQLite doesn't sync what VACUUM INTO wrote. */
export function syncToDisk(path: string): void {
  const descriptor = openSync(path, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
