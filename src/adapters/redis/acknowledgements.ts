import type { Connection } from "./connection.ts";
import { listOf, numberOf } from "./replies.ts";
import { ACKNOWLEDGE } from "./scripts.ts";

/** Ids in one command: bounded so that no command holds up the server. */
const IDS_PER_COMMAND = 2_000;

interface Waiting {
  readonly ids: readonly string[];
  readonly resolve: (count: number) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Acknowledgements that are asked for together travel together. Nothing is waited for beyond that: a subscription comes with all that ended in a turn of
 * the loop, and they are written in that turn (D46).
 */
export class Acknowledgements {
  readonly #connection: Connection;
  /** By group, then by stream. */
  #waiting = new Map<string, Map<string, Waiting[]>>();
  #scheduled = false;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  add(stream: string, group: string, ids: readonly string[]): Promise<number> {
    if (ids.length === 0) return Promise.resolve(0);
    return new Promise((resolve, reject) => {
      let streams = this.#waiting.get(group);
      if (streams === undefined) {
        streams = new Map();
        this.#waiting.set(group, streams);
      }
      const waiting = streams.get(stream);
      if (waiting === undefined) streams.set(stream, [{ ids, resolve, reject }]);
      else waiting.push({ ids, resolve, reject });
      if (this.#scheduled) return;
      this.#scheduled = true;
      void Promise.resolve().then(() => this.#flush());
    });
  }

  #flush(): void {
    const groups = this.#waiting;
    this.#waiting = new Map();
    this.#scheduled = false;
    for (const [group, streams] of groups) {
      for (const [stream, waiting] of streams) void this.#send(stream, group, waiting);
    }
  }

  async #send(stream: string, group: string, waiting: readonly Waiting[]): Promise<void> {
    try {
      const [only] = waiting;
      if (only !== undefined && waiting.length === 1) {
        only.resolve(await this.#sendFor(stream, group, only.ids));
        return;
      }
      const ids = waiting.flatMap((one) => one.ids);
      const each: number[] = [];
      let total = 0;
      for (let from = 0; from < ids.length; from += IDS_PER_COMMAND) {
        const part = ids.slice(from, from + IDS_PER_COMMAND);
        const reply = await this.#connection.run(ACKNOWLEDGE, [stream], [group, ...part]);
        if (typeof reply === "number") {
          total += reply;
          for (let at = 0; at < part.length; at++) each.push(1);
        } else {
          for (const one of listOf(reply)) {
            total += numberOf(one);
            each.push(numberOf(one));
          }
        }
      }
      if (total === ids.length) {
        for (const one of waiting) one.resolve(one.ids.length);
        return;
      }
      let at = 0;
      for (const one of waiting) {
        let count = 0;
        for (let id = 0; id < one.ids.length; id++) count += each[at++] ?? 0;
        one.resolve(count);
      }
    } catch (error) {
      for (const one of waiting) one.reject(error);
    }
  }

  /** One caller wants the total only, which the plain command gives. */
  async #sendFor(stream: string, group: string, ids: readonly string[]): Promise<number> {
    let total = 0;
    for (let from = 0; from < ids.length; from += IDS_PER_COMMAND) {
      const part = from === 0 && ids.length <= IDS_PER_COMMAND ? ids : ids.slice(from, from + IDS_PER_COMMAND);
      total += numberOf(await this.#connection.call("xack", [stream, group, ...part]));
    }
    return total;
  }
}
