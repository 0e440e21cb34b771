import type { InstanceRecord, Instances } from "../../ports/instances.ts";
import type { SqliteFile } from "./file.ts";

/** Heartbeat records; those that ran out are swept by the next beat of anybody. */
export class SqliteInstances implements Instances {
  readonly #file: SqliteFile;

  constructor(file: SqliteFile) {
    this.#file = file;
  }

  beat(record: InstanceRecord, ttl_ms: number): Promise<void> {
    return this.#file.writeQuickly((connection) => {
      const now_ms = this.#file.clock.now_ms();
      connection.run("DELETE FROM protean_instance WHERE expires_ms <= ?", now_ms);
      connection.run(
        "INSERT OR REPLACE INTO protean_instance (id, record, expires_ms) VALUES (?, ?, ?)",
        record.id,
        JSON.stringify(record),
        now_ms + ttl_ms,
      );
    });
  }

  remove(id: string): Promise<void> {
    return this.#file.writeQuickly((connection) => {
      connection.run("DELETE FROM protean_instance WHERE id = ?", id);
    });
  }

  alive(): Promise<readonly InstanceRecord[]> {
    return this.#file.read((connection) =>
      connection
        .all<{ record: string }>("SELECT record FROM protean_instance WHERE expires_ms > ? ORDER BY id", this.#file.clock.now_ms())
        .map(({ record }) => JSON.parse(record) as InstanceRecord),
    );
  }
}
