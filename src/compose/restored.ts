import type { DomainStores } from "../domain/stores.ts";
import { isBeside } from "../engine/recovery/beside.ts";
import { ConfigurationError } from "../errors.ts";

/**
 * Everything that writes is held up while a database was put back and not compared with the stores beside it: new events would take the ids of
 * those that the broker still has. A database with no other store beside it has nothing to be compared with.
 * @throws ConfigurationError naming the database and the command
 */
export async function requireRecovered({ databases, brokers, eventStore, log }: DomainStores): Promise<void> {
  for (const database of databases.values()) {
    const restored = await database.restored();
    if (restored === null) continue;
    const other = [...brokers.values(), eventStore].find((store) => isBeside(store, database));
    if (other === undefined) {
      await database.settleRestored();
      log.info("database.restored", { database: database.name, backup_of: restored.takenAt });
      continue;
    }
    const when = restored.takenAt === null ? "a backup" : `a backup of ${restored.takenAt}`;
    throw new ConfigurationError(
      `database "${database.name}" (${database.address}) was put back from ${when}; ${other.address} was not compared with it yet`,
      {
        at: database.address,
        fix: "Run: protean recover, and then: protean recover --repair",
        code: "NOT_RECOVERED",
      },
    );
  }
}
