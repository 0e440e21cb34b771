import { closeSync, copyFileSync, existsSync, linkSync, openSync, readdirSync, readSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ConfigurationError } from "../../errors.ts";
import type { Restored } from "../../ports/database.ts";
import { Connection, primaryCode, RESULT } from "./connection.ts";
import { type OpenOptions, patiently, SqliteFile, syncToDisk } from "./file.ts";
import { requireUsableFile, schemaVersion } from "./schema.ts";
import { isoOfSqlTime, sqlTime } from "./time.ts";

/** The table that a backup has and a database in use hasn't: a file with it was put back and not compared with the other stores yet. */
const NOTE_TABLE = "protean_backup";
/** Between the name of a file that was replaced and the time of that. */
const REPLACED = ".replaced-";

/** How a database file begins (sqlite.org/fileformat.html). */
const MAGIC = "SQLite format 3\0";

/** Code of the error for a file that another process has open. */
export const FILE_IN_USE = "FILE_IN_USE";

export interface BackupFacts {
  readonly version: number;
  readonly size_bytes: number;
  readonly messages: number;
  readonly outboxRows: number;
  /** ISO 8601; null for a copy that `protean db backup` didn't make. */
  readonly takenAt: string | null;
}

/**
 * Copies a database that may be in use into one file, `VACUUM INTO` (rulings 53): what is committed at one moment, without gaps. The copy is checked,
 * and on the disk before it gets its name: a kill leaves at most `<to>.part`, which the next backup replaces.
 * @param options.note of other stores, read before (see engine/positions.ts)
 * @throws ConfigurationError when the copy can't be written or isn't sound
 */
export async function backupFile(options: {
  readonly file: OpenOptions;
  readonly to: string;
  readonly note: string;
}): Promise<BackupFacts> {
  const { to, note } = options;
  const part = `${to}.part`;
  const file = await SqliteFile.open({ ...options.file, watches: false });
  try {
    rmSync(part, { force: true });
    await file.copyInto(part);
    const taken = sqlTime(file.clock.now_ms());
    withConnection(part, (connection) => {
      connection.execute(
        `DROP TABLE IF EXISTS ${NOTE_TABLE}; CREATE TABLE ${NOTE_TABLE} (taken_at DATETIME, restored_at DATETIME, note TEXT)`,
      );
      connection.run(`INSERT INTO ${NOTE_TABLE} (taken_at, note) VALUES (?, ?)`, taken, note);
    });
    const facts = checkBackup(part);
    syncToDisk(part);
    renameSync(part, to);
    syncToDisk(dirname(to));
    return facts;
  } catch (error) {
    rmSync(part, { force: true });
    throw placeError(error, to);
  } finally {
    file.close();
  }
}

/**
 * What a file holds that is to be put back.
 * @throws ConfigurationError when it isn't there, is no database of ours, damaged, or of a newer version
 */
export function checkBackup(path: string): BackupFacts {
  if (!existsSync(path)) throw new ConfigurationError(`there is no file ${path}`, { at: path });
  try {
    return withConnection(path, (connection) => {
      const problems = connection.all<{ integrity_check: string }>("PRAGMA integrity_check(3)").map((row) => row.integrity_check);
      if (problems[0] !== "ok") {
        throw new ConfigurationError(`${path} is damaged: ${problems.join("; ")}`, { at: path, fix: "Take another backup." });
      }
      const version = schemaVersion(connection);
      if (version === 0 || !has(connection, "protean_migration")) {
        throw new ConfigurationError(`${path} is no database of this program`, {
          at: path,
          fix: "A file of Protean for Python is taken over by: protean db import",
        });
      }
      requireUsableFile(connection, path);
      const count = (table: string) => connection.get<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)?.n ?? 0;
      return {
        version,
        size_bytes: statSync(path).size,
        messages: count("messages"),
        outboxRows: count("outbox"),
        takenAt: restoredFrom(connection)?.takenAt ?? null,
      };
    });
  } catch (error) {
    const code = primaryCode(error);
    if (code === null) throw error;
    const isSound = code !== RESULT.notADatabase && code !== RESULT.corrupt;
    throw new ConfigurationError(
      isSound ? `${path} can't be read: ${(error as Error).message}` : `${path} is no SQLite database, or a damaged one`,
      { at: path, cause: error, fix: isSound ? "Copy it to a folder that can be written." : "Take another backup." },
    );
  }
}

/**
 * Puts a backup in the place of a database that nobody uses, and keeps the replaced file beside it.
 *
 * 1. The backup is copied to `<file>.restoring`, without the leases and heartbeats of its time, with a note that it was put back. Killed here, nothing
 *    has changed; the next run makes the copy anew.
 * 2. The database is opened so that nobody else can (SQLite's exclusive lock), and its log is written into it.
 * 3. It gets a second name, `<file>.replaced-<time>`. Killed here, both names are one file; the next run takes the second one away.
 * 4. The copy is renamed over it. There is no moment without a database. From here all is done.
 *
 * @returns the path of the replaced file; null when there was none
 * @throws ConfigurationError with code FILE_IN_USE when a process has the database open; see also `checkBackup`
 */
export async function restoreFile(
  options: Pick<OpenOptions, "clock" | "random"> & { readonly backup: string; readonly file: string },
): Promise<{ readonly replaced: string | null }> {
  const { backup, file, clock } = options;
  checkBackup(backup);
  const restoring = `${file}.restoring`;
  const now = sqlTime(clock.now_ms());
  rmSync(restoring, { force: true });
  await patiently(options, backup, () => withConnection(backup, (connection) => connection.run("VACUUM INTO ?", restoring)));
  withConnection(restoring, (connection) => {
    connection.execute(`CREATE TABLE IF NOT EXISTS ${NOTE_TABLE} (taken_at DATETIME, restored_at DATETIME, note TEXT)`);
    if (connection.run(`UPDATE ${NOTE_TABLE} SET restored_at = ?`, now).changes === 0) {
      connection.run(`INSERT INTO ${NOTE_TABLE} (restored_at) VALUES (?)`, now);
    }
    // Their owners are not of this time. Generations stay, so that none is used twice.
    connection.execute("DELETE FROM protean_instance; UPDATE protean_lease SET expires_ms = 0");
  });
  syncToDisk(restoring);
  removeSecondNames(file);
  const replaced = existsSync(file) ? `${file}${REPLACED}${now.slice(0, 19).replace(/[-:]/g, "").replace(" ", "T")}Z` : null;
  if (replaced === null) renameSync(restoring, file);
  else {
    const release = lockAlone(file, replaced, restoring);
    try {
      secondName(file, replaced);
      syncToDisk(dirname(file));
      renameSync(restoring, file);
    } finally {
      release();
    }
  }
  syncToDisk(dirname(file));
  return { replaced };
}

/** What the database says of its being put back; null when it wasn't, or was settled. */
export function restoredFrom(connection: Connection): Restored | null {
  if (!has(connection, NOTE_TABLE)) return null;
  const row = connection.get<{ taken_at: string | null; restored_at: string | null; note: string | null }>(
    `SELECT taken_at, restored_at, note FROM ${NOTE_TABLE}`,
  );
  if (row === undefined) return null;
  return {
    takenAt: row.taken_at === null ? null : isoOfSqlTime(row.taken_at),
    restoredAt: row.restored_at === null ? null : isoOfSqlTime(row.restored_at),
    note: row.note,
  };
}

/** Inside a transaction. */
export function forgetRestored(connection: Connection): void {
  connection.execute(`DROP TABLE IF EXISTS ${NOTE_TABLE}`);
}

function has(connection: Connection, table: string): boolean {
  return connection.get("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", table) !== undefined;
}

function withConnection<R>(path: string, body: (connection: Connection) => R): R {
  const connection = new Connection(path);
  try {
    return body(connection);
  } finally {
    connection.close();
  }
}

/**
 * Nobody else has the file open, nor gets it while this lasts; its log lies in it.
 * @param replaced where a log goes that can't be written into the file, because that is damaged
 * @param restoring the copy that was made in vain when the file is in use
 * @returns ends it
 */
function lockAlone(file: string, replaced: string, restoring: string): () => void {
  // SQLite would take the log of a file that it doesn't know for rubbish, and remove it.
  if (!looksLikeDatabase(file)) return setLogAside(file, replaced);
  const connection = new Connection(file);
  try {
    // Out of WAL mode goes only who is alone with the file; then the lock of the rollback journal keeps everybody out.
    connection.get("PRAGMA locking_mode = EXCLUSIVE");
    connection.get("PRAGMA journal_mode = DELETE");
    connection.run("BEGIN EXCLUSIVE");
    return () => {
      connection.run("ROLLBACK");
      connection.close();
    };
  } catch (error) {
    connection.close();
    const code = primaryCode(error);
    if (code === RESULT.busy || code === RESULT.locked) {
      rmSync(restoring, { force: true });
      throw new ConfigurationError(`another process has ${file} open`, {
        code: FILE_IN_USE,
        at: file,
        fix: "Stop every program that uses it, then restore again.",
        cause: error,
      });
    }
    if (code !== RESULT.notADatabase && code !== RESULT.corrupt) throw error;
    return setLogAside(file, replaced);
  }
}

/** Of a damaged file, which is why it is replaced: its log must not be taken for the new file's. */
function setLogAside(file: string, replaced: string): () => void {
  for (const end of ["-wal", "-shm", "-journal"]) if (existsSync(file + end)) renameSync(file + end, replaced + end);
  return () => {};
}

/** An empty file is an empty database. */
function looksLikeDatabase(file: string): boolean {
  const descriptor = openSync(file, "r");
  try {
    const head = Buffer.alloc(MAGIC.length);
    const length = readSync(descriptor, head);
    return length === 0 || head.toString("latin1") === MAGIC;
  } finally {
    closeSync(descriptor);
  }
}

function secondName(file: string, name: string): void {
  try {
    linkSync(file, name);
  } catch {
    // A file system without links.
    copyFileSync(file, name);
  }
}

/** What a run that was killed between its last two steps left. */
function removeSecondNames(file: string): void {
  if (!existsSync(file)) return;
  const { ino, dev, nlink } = statSync(file);
  if (nlink < 2) return;
  for (const name of readdirSync(dirname(file))) {
    if (!name.startsWith(`${basename(file)}${REPLACED}`)) continue;
    const path = join(dirname(file), name);
    const other = statSync(path);
    if (other.ino === ino && other.dev === dev) rmSync(path);
  }
}

function placeError(error: unknown, path: string): unknown {
  const code = (error as { readonly code?: unknown } | null)?.code;
  const isPlace = typeof code === "string" && /^E(ACCES|PERM|ROFS|NOENT|NOTDIR|ISDIR|NOSPC)$/.test(code);
  if (!isPlace) return error;
  return new ConfigurationError(`${path} can't be written: ${(error as Error).message}`, { at: path, cause: error });
}
