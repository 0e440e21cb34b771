import { ConfigurationError } from "../errors.ts";

/**
 * Version of what we keep in stores: our tables and columns in SQLite and PostgreSQL, our keys in Redis. One number for all of them (rulings 51), so that
 * two programs can tell whether they may share a store.
 *
 * 1  first layout
 * 2  SQLite: the outbox as Python keeps it (docs/adr/0006-sqlite-shared-with-python.md); PostgreSQL and Redis: as before
 */
export const STORE_VERSION = 2;

/** What a store says of itself. */
export interface StoredVersion {
  readonly version: number;
  /**
   * Programs that know this version of the layout, or a later one, can use the store. A change that the program before can live with keeps it one
   * below `version`: during a rolling upgrade old and new programs run side by side, and an old one that is restarted must come up.
   */
  readonly usableFrom: number;
}

/**
 * Refuses a store that a newer program has changed beyond what this one knows.
 * @param known other than ours in tests only
 * @throws ConfigurationError with both versions in one line (exit code 2)
 */
export function requireUsable(address: string, { version, usableFrom }: StoredVersion, fix: string, known = STORE_VERSION): void {
  if (version <= known || usableFrom <= known) return;
  throw new ConfigurationError(`${address} has schema version ${version}, this version of protean knows up to ${known}`, {
    at: address,
    fix,
    code: NEWER_STORE,
  });
}

/** Code of the error that `requireUsable` throws. */
export const NEWER_STORE = "NEWER_STORE";
