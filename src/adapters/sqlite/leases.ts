import type { Lease, Leases } from "../../ports/leases.ts";
import type { Connection } from "./connection.ts";
import type { SqliteFile } from "./file.ts";

interface LeaseRow {
  readonly name: string;
  readonly owner: string;
  readonly generation: number;
  readonly expires_ms: number;
}

/** A row for each name that was ever held; it stays after its end, so that generations go on. */
export class SqliteLeases implements Leases {
  readonly #file: SqliteFile;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  acquire(name: string, owner: string, ttl_ms: number): Promise<Lease | null> {
    return this.#file.writeDurably((connection) => {
      const now_ms = this.#file.clock.now_ms();
      const row = connection.get<LeaseRow>("SELECT * FROM protean_lease WHERE name = ?", name);
      const held = row !== undefined && row.expires_ms > now_ms;
      if (held && row.owner !== owner) return null;
      const generation = held ? row.generation : (row?.generation ?? 0) + 1;
      connection.run(
        `INSERT INTO protean_lease (name, owner, generation, expires_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, generation = excluded.generation, expires_ms = excluded.expires_ms`,
        name,
        owner,
        generation,
        now_ms + ttl_ms,
      );
      return { name, owner, generation };
    });
  }

  async renew(leases: readonly Lease[], ttl_ms: number): Promise<readonly Lease[]> {
    if (leases.length === 0) return [];
    return this.#file.writeQuickly((connection) => {
      const now_ms = this.#file.clock.now_ms();
      return leases.filter(
        ({ name, owner, generation }) =>
          connection.run(
            "UPDATE protean_lease SET expires_ms = ? WHERE name = ? AND owner = ? AND generation = ? AND expires_ms > ?",
            now_ms + ttl_ms,
            name,
            owner,
            generation,
            now_ms,
          ).changes > 0,
      );
    });
  }

  async release(leases: readonly Lease[]): Promise<void> {
    if (leases.length === 0) return;
    await this.#file.writeQuickly((connection) => {
      for (const { name, owner, generation } of leases) {
        connection.run("UPDATE protean_lease SET expires_ms = 0 WHERE name = ? AND owner = ? AND generation = ?", name, owner, generation);
      }
    });
  }

  holders(prefix: string): Promise<readonly (Lease & { readonly expiresIn_ms: number })[]> {
    return this.#file.read((connection) => {
      const now_ms = this.#file.clock.now_ms();
      return connection
        .all<LeaseRow>("SELECT * FROM protean_lease WHERE expires_ms > ? ORDER BY name", now_ms)
        .filter(({ name }) => name.startsWith(prefix))
        .map(({ name, owner, generation, expires_ms }) => ({ name, owner, generation, expiresIn_ms: expires_ms - now_ms }));
    });
  }
}

/** Inside a transaction: is it still this holder's? */
export function isHeld(connection: Connection, lease: Lease, now_ms: number): boolean {
  const row = connection.get(
    "SELECT 1 FROM protean_lease WHERE name = ? AND owner = ? AND generation = ? AND expires_ms > ?",
    lease.name,
    lease.owner,
    lease.generation,
    now_ms,
  );
  return row !== undefined;
}
