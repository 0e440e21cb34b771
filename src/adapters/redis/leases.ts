import type { Lease, Leases } from "../../ports/leases.ts";
import type { Connection } from "./connection.ts";
import { accepted, listOf, numberOf, textOf } from "./replies.ts";
import { ACQUIRE, LIVING, RELEASE, RENEW } from "./scripts.ts";

const INDEX = "protean:leases";

/**
 * Leases as strings with an expiry: `protean:lease:<name>` holds `<owner>:<generation>`, the form that the original uses for its partitions
 * (wire-format §5). The counter of generations `protean:lease:<name>:generation` never expires. `protean:leases` is an index by time of
 * expiry, so that asking for holders doesn't walk through all keys.
 */
export class RedisLeases implements Leases {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  async acquire(name: string, owner: string, ttl_ms: number): Promise<Lease | null> {
    const generation = await this.#connection.run(
      ACQUIRE,
      [keyOf(name), `${keyOf(name)}:generation`, INDEX],
      [owner, Math.ceil(ttl_ms), name],
    );
    return generation === null ? null : { name, owner, generation: numberOf(generation) };
  }

  async renew(leases: readonly Lease[], ttl_ms: number): Promise<readonly Lease[]> {
    if (leases.length === 0) return [];
    const args = leases.flatMap((lease) => [held(lease), lease.name]);
    const kept = listOf(
      await this.#connection.run(RENEW, [INDEX, ...leases.map((lease) => keyOf(lease.name))], [Math.ceil(ttl_ms), ...args]),
    );
    return leases.filter((_, at) => kept[at] === 1);
  }

  async release(leases: readonly Lease[]): Promise<void> {
    if (leases.length === 0) return;
    const args = leases.flatMap((lease) => [held(lease), lease.name]);
    await this.#connection.run(RELEASE, [INDEX, ...leases.map((lease) => keyOf(lease.name))], args);
  }

  async holders(prefix: string): Promise<readonly (Lease & { readonly expiresIn_ms: number })[]> {
    const names = listOf(await this.#connection.run(LIVING, [INDEX], []))
      .map(textOf)
      .filter((name) => name.startsWith(prefix));
    const replies = await this.#connection.pipeline(
      names.flatMap((name) => [
        { name: "get", args: [keyOf(name)] },
        { name: "pttl", args: [keyOf(name)] },
      ]),
    );
    const holders: (Lease & { readonly expiresIn_ms: number })[] = [];
    for (const [at, name] of names.entries()) {
      const value = accepted(replies[at * 2]);
      const expiresIn_ms = numberOf(accepted(replies[at * 2 + 1]));
      const parts = value === null ? null : /^(.*):(\d+)$/s.exec(textOf(value));
      if (parts === null || expiresIn_ms <= 0) continue;
      holders.push({ name, owner: parts[1] ?? "", generation: Number(parts[2]), expiresIn_ms });
    }
    return holders.sort((left, right) => (left.name < right.name ? -1 : 1));
  }
}

function keyOf(name: string): string {
  return `protean:lease:${name}`;
}

function held(lease: Lease): string {
  return `${lease.owner}:${lease.generation}`;
}
