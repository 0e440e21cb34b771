import { decodeDeadLetter } from "../../src/messages/dead-letter.ts";
import type { Broker, EntryFields } from "../../src/ports/broker.ts";

const ALL = 100_000;

/** Reads the books of a broker: what lies in streams, who has settled what. Every stream is read once. */
export class BrokerEntries {
  readonly #broker: Broker;
  readonly #streams = new Map<
    string,
    Promise<readonly { readonly id: string; readonly entry: string | null; readonly message: string | null }[]>
  >();

  constructor(broker: Broker) {
    this.#broker = broker;
  }

  #entries(stream: string) {
    let found = this.#streams.get(stream);
    if (found === undefined) {
      found = this.#broker.range(stream, { count: ALL }).then((entries) => entries.map(({ id, fields }) => ({ id, ...contentOf(fields) })));
      this.#streams.set(stream, found);
    }
    return found;
  }

  /** Entries that the group has settled. */
  async acknowledged(stream: string, group: string) {
    const info = (await this.#broker.groups(stream)).find(({ name }) => name === group);
    if (info === undefined) return [];
    const pending = new Set((await this.#broker.pending(stream, group, { count: ALL })).map(({ id }) => id));
    return (await this.#entries(stream)).filter(({ id }) => !isAfter(id, info.lastDeliveredId) && !pending.has(id));
  }

  /** Dead letters of a group (null: of all), original entry id to what it was about. */
  async deadLetters(stream: string, group: string | null): Promise<ReadonlyMap<string, string | null>> {
    const found = new Map<string, string | null>();
    for (const { fields } of await this.#broker.range(`${stream}:dlq`, { count: ALL })) {
      const letter = decodeDeadLetter(Object.fromEntries(fields.map(([name, value]) => [name, new TextDecoder().decode(value)])));
      if (group !== null && letter.consumerGroup !== group) continue;
      found.set(String(letter.originalId), contentOf(fields).entry);
    }
    return found;
  }

  /** How often each message lies in these streams. */
  async copies(streams: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const found = new Map<string, number>();
    for (const stream of streams) {
      for (const { message } of await this.#entries(stream)) if (message !== null) found.set(message, (found.get(message) ?? 0) + 1);
    }
    return found;
  }
}

function contentOf(fields: EntryFields): { readonly entry: string | null; readonly message: string | null } {
  const text = new TextDecoder().decode(fields.find(([name]) => name === "data")?.[1] ?? new Uint8Array());
  const entry = /"(?:entry_id|entryId)":\s*"([^"]+)"/.exec(text)?.[1] ?? null;
  const headers = /"headers":\s*\{[^}]*?"id":\s*"([^"]+)"/.exec(text)?.[1] ?? null;
  return { entry, message: headers };
}

function isAfter(left: string, right: string): boolean {
  const [leftTime = 0, leftNumber = 0] = left.split("-").map(Number);
  const [rightTime = 0, rightNumber = 0] = right.split("-").map(Number);
  return leftTime > rightTime || (leftTime === rightTime && leftNumber > rightNumber);
}
