import type { Clock } from "../../ports/clock.ts";
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
 * Acknowledgements of one turn of the loop travel together: the handlers of a batch end one by one in the same turn, and a command for each
 * would cost more than running them. They are still written in that turn (D46): `clock.turn` comes round before the loop waits again.
 */
export class Acknowledgements {
  readonly #connection: Connection;
  readonly #clock: Clock;
  /** By group, then by stream. */
  #waiting = new Map<string, Map<string, Waiting[]>>();
  #scheduled = false;

  constructor(connection: Connection, clock: Clock) {
    this.#connection = connection;
    this.#clock = clock;
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
      void this.#clock.turn().then(() => this.#flush());
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
      const ids = waiting.length === 1 ? (waiting[0]?.ids ?? []) : waiting.flatMap((one) => one.ids);
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
}
