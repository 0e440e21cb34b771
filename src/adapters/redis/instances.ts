import type { InstanceRecord, Instances } from "../../ports/instances.ts";
import { STORE_VERSION } from "../../ports/store-version.ts";
import type { Connection } from "./connection.ts";
import { listOf, textOf } from "./replies.ts";
import { BEAT, LIVING } from "./scripts.ts";
import { unusable, VERSION_KEY, VERSION_TEXT } from "./version.ts";

const INDEX = "protean:engines";

/** Heartbeats: `protean:engine:<id>` holds the record as JSON and expires by itself; `protean:engines` lists the ids by time of expiry. */
export class RedisInstances implements Instances {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  async beat(record: InstanceRecord, ttl_ms: number): Promise<void> {
    const keys = [keyOf(record.id), INDEX, VERSION_KEY];
    const values = [JSON.stringify(record), Math.ceil(ttl_ms), record.id, STORE_VERSION, VERSION_TEXT];
    const newer = await this.#connection.run(BEAT, keys, values);
    if (typeof newer !== "string" || unusable(newer, "") === null) return;
    // A newer program has come, and has changed what we don't know. The next connection says so to everybody.
    this.#connection.renew("a newer program is here");
  }

  async remove(id: string): Promise<void> {
    await this.#connection.pipeline([
      { name: "del", args: [keyOf(id)] },
      { name: "zrem", args: [INDEX, id] },
    ]);
  }

  async alive(): Promise<readonly InstanceRecord[]> {
    const ids = listOf(await this.#connection.run(LIVING, [INDEX], [])).map(textOf);
    if (ids.length === 0) return [];
    const records: InstanceRecord[] = [];
    for (const text of listOf(await this.#connection.call("mget", ids.map(keyOf)))) {
      const record = typeof text === "string" ? recordOf(text) : null;
      if (record !== null) records.push(record);
    }
    return records;
  }
}

function keyOf(id: string): string {
  return `protean:engine:${id}`;
}

/** What another program left under our key is nobody we know. */
function recordOf(text: string): InstanceRecord | null {
  try {
    const record = JSON.parse(text) as Partial<InstanceRecord> | null;
    return typeof record?.id === "string" ? (record as InstanceRecord) : null;
  } catch {
    return null;
  }
}
