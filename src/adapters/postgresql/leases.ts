import type { Lease, Leases } from "../../ports/leases.ts";
import type { Statement } from "./pool.ts";
import type { Server } from "./server.ts";
import { arrayText, interval, quoted } from "./sql.ts";

/** A row for each name that was ever held; it stays after its end, so that generations go on. Time is the database's (rulings 58). */
export class PostgresLeases implements Leases {
  readonly #server: Server;
  readonly #table: string;

  constructor(server: Server, schema: string) {
    this.#server = server;
    this.#table = `${quoted(schema)}.protean_lease`;
  }

  async acquire(name: string, owner: string, ttl_ms: number): Promise<Lease | null> {
    const { rows } = await this.#server.change(
      `INSERT INTO ${this.#table} AS held (name, owner, generation, expires_at) VALUES ($1, $2, 1, clock_timestamp() + ${interval("$3")})
       ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at,
         generation = held.generation + CASE WHEN held.expires_at > clock_timestamp() THEN 0 ELSE 1 END
       WHERE held.owner = excluded.owner OR held.expires_at <= clock_timestamp()
       RETURNING generation::text`,
      [name, owner, String(ttl_ms)],
    );
    const [row] = rows;
    return row === undefined ? null : { name, owner, generation: Number(row["generation"]) };
  }

  async renew(leases: readonly Lease[], ttl_ms: number): Promise<readonly Lease[]> {
    if (leases.length === 0) return [];
    const { rows } = await this.#server.change(
      `UPDATE ${this.#table} SET expires_at = clock_timestamp() + ${interval("$4")} WHERE name IN (${this.#held})
       RETURNING name, owner, generation::text`,
      [...columnsOf(leases), String(ttl_ms)],
    );
    const kept = new Set(rows.map((row) => `${row["generation"]} ${row["owner"]} ${row["name"]}`));
    return leases.filter(({ name, owner, generation }) => kept.has(`${generation} ${owner} ${name}`));
  }

  async release(leases: readonly Lease[]): Promise<void> {
    if (leases.length === 0) return;
    await this.#server.change(`UPDATE ${this.#table} SET expires_at = '-infinity' WHERE name IN (${this.#held})`, columnsOf(leases));
  }

  async holders(prefix: string): Promise<readonly (Lease & { readonly expiresIn_ms: number })[]> {
    const { rows } = await this.#server.query(
      `SELECT name, owner, generation::text, extract(epoch FROM expires_at - clock_timestamp()) * 1000 AS left_ms FROM ${this.#table}
       WHERE expires_at > clock_timestamp() AND starts_with(name, $1) ORDER BY name COLLATE "C"`,
      [prefix],
    );
    return rows.map((row) => ({
      name: row["name"] ?? "",
      owner: row["owner"] ?? "",
      generation: Number(row["generation"]),
      expiresIn_ms: Number(row["left_ms"]),
    }));
  }

  /** To be part of a transaction: fails it, by a division by zero, unless the lease is held; nobody can take it before the transaction's end. */
  fence({ name, owner, generation }: Lease): Statement {
    return {
      text: `WITH held AS MATERIALIZED (SELECT 1 FROM ${this.#table} WHERE name = $1 AND owner = $2 AND generation = $3::int8
         AND expires_at > clock_timestamp() FOR SHARE) SELECT 1 / count(*)::int FROM held`,
      values: [name, owner, String(generation)],
    };
  }

  /** Rows of the leases in `$1` to `$3` that are held, locked in order of name. */
  get #held(): string {
    return `SELECT l.name FROM ${this.#table} AS l JOIN unnest($1::text[], $2::text[], $3::int8[]) AS mine (name, owner, generation)
      ON l.name = mine.name AND l.owner = mine.owner AND l.generation = mine.generation
      WHERE l.expires_at > clock_timestamp() ORDER BY l.name FOR UPDATE OF l`;
  }
}

function columnsOf(leases: readonly Lease[]): string[] {
  return [
    arrayText(leases.map(({ name }) => name)),
    arrayText(leases.map(({ owner }) => owner)),
    arrayText(leases.map(({ generation }) => generation)),
  ];
}
