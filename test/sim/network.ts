/**
 * What lies between a process and its stores: every call of a port travels there and back, and can get lost on either way. The stores behind it are the
 * real in-memory adapters, which answer at once; they are what survives a process.
 */
import { ConnectionError } from "../../src/errors.ts";
import type { CommitSet } from "../../src/ports/database.ts";
import type { Lease } from "../../src/ports/leases.ts";
import type { Dice, SimulatedProcess, VirtualTime } from "./virtual-time.ts";

/** Adapters give up on a call after this long. */
const DEADLINE_ms = 5_000;

/** How likely it is that something happens to one call; 0 = never. */
export interface Weather {
  /** The connection is refused or reset before the call reached the store. */
  lostCall: number;
  /** The store did it, the answer never came. */
  lostReply: number;
  /** The call takes long, but arrives. */
  slow: number;
  /** The call is given up and reaches the store all the same, later. */
  late: number;
  /** The process dies when the call has left / when the store has done it. */
  killBefore: number;
  killAfter: number;
  /** A wake-up never arrives. */
  lostWakeup: number;
}

export const CALM: Weather = { lostCall: 0, lostReply: 0, slow: 0, late: 0, killBefore: 0, killAfter: 0, lostWakeup: 0 };

/** A store's server: away (refuses), stalled (answers later), or fine. */
export class Server {
  readonly name: string;
  /** A process has one connection to it, so that its calls arrive as they were sent (Redis, a file); else a pool of them (PostgreSQL). */
  readonly isInOrder: boolean;
  awayUntil_ms = 0;
  stalledUntil_ms = 0;

  constructor(name: string, isInOrder: boolean) {
    this.name = name;
    this.isInOrder = isInOrder;
  }

  heal(): void {
    this.awayUntil_ms = 0;
    this.stalledUntil_ms = 0;
  }
}

/** Everything that the run wants to know of calls. */
export interface Listener {
  /** One line of the trace. */
  trace(line: string): void;
  /** A process is to die in the middle of this call. */
  kill(process: SimulatedProcess, why: string): void;
  /** A call met trouble: what follows may repeat work. */
  troubled(): void;
  /** A commit that depended on these leases took effect. */
  committed(fences: readonly Lease[]): void;
}

/** Calls that a planted bug replaces, by `part.method`; `next` is the true call. */
export type Sabotage = Readonly<
  Record<
    string,
    (next: (...given: readonly unknown[]) => Promise<unknown>, given: readonly unknown[], parts: SabotageParts) => Promise<unknown>
  >
>;

export interface SabotageParts {
  readonly process: SimulatedProcess;
  /** A second journey to the same part's store, as a call of its own. */
  call(part: string, method: string, given: readonly unknown[]): Promise<unknown>;
}

/**
 * The one connection of a process to a server that keeps calls in order. A call that misses its deadline ends it, and all that is under way on it is given
 * up. Its calls may still arrive, but not after the first one of the next connection: the adapter ends the old one there.
 */
class Connection {
  readonly #givingUp = new Set<() => void>();
  /** Nothing of it arrives any more. */
  isDead = false;
  readonly before: Connection | null;

  constructor(before: Connection | null) {
    this.before = before;
  }

  /** @param giveUp called when the connection ends; answers the way to say that the call has ended */
  carries(giveUp: () => void): () => void {
    this.#givingUp.add(giveUp);
    return () => this.#givingUp.delete(giveUp);
  }

  end(): void {
    for (const giveUp of [...this.#givingUp]) giveUp();
  }
}

const PARTS = new Set(["leases", "outbox", "idempotency", "instances"]);
const SUBSCRIPTIONS = new Set(["onAppend", "onInsert"]);

/** The way from one process to all stores. */
export class Link {
  readonly #process: SimulatedProcess;
  readonly #time: VirtualTime;
  readonly #dice: Dice;
  readonly #weather: Weather;
  readonly #listener: Listener;
  readonly #sabotage: Sabotage;
  readonly #made = new Map<object, object>();
  readonly #subscriptions: (() => void)[] = [];
  /** When the last call arrives. */
  readonly #arrivals = new Map<Server, number>();
  readonly #connections = new Map<Server, Connection>();
  /** Cut between this process and one server. */
  readonly cutUntil_ms = new Map<Server, number>();

  constructor(options: {
    readonly process: SimulatedProcess;
    readonly time: VirtualTime;
    readonly dice: Dice;
    readonly weather: Weather;
    readonly listener: Listener;
    readonly sabotage: Sabotage;
  }) {
    this.#process = options.process;
    this.#time = options.time;
    this.#dice = options.dice;
    this.#weather = options.weather;
    this.#listener = options.listener;
    this.#sabotage = options.sabotage;
  }

  /** The same port, at the other end of the way. Asked again for the same store, it is the same object. */
  to<Store extends object>(store: Store, server: Server, part: string): Store {
    const known = this.#made.get(store);
    if (known !== undefined) return known as Store;
    const made = new Proxy(store, { get: (target, key) => this.#member(target, server, part, String(key)) });
    this.#made.set(store, made);
    return made;
  }

  /** No wake-ups any more. */
  close(): void {
    for (const stop of this.#subscriptions.splice(0)) stop();
  }

  readonly #members = new Map<object, Map<string, unknown>>();

  #member(target: object, server: Server, part: string, key: string): unknown {
    let members = this.#members.get(target);
    if (members === undefined) {
      members = new Map();
      this.#members.set(target, members);
    }
    if (members.has(key)) return members.get(key);
    const value: unknown = Reflect.get(target, key, target);
    const made = this.#wrapped(target, server, part, key, value);
    members.set(key, made);
    return made;
  }

  #wrapped(target: object, server: Server, part: string, key: string, value: unknown): unknown {
    if (PARTS.has(key) && typeof value === "object" && value !== null) return this.to(value, server, key);
    if (key === "address") return server.name;
    if (typeof value !== "function") return value;
    const own = value.bind(target) as (...given: readonly unknown[]) => unknown;
    if (key === "close") return () => Promise.resolve();
    if (key === "declare") return own;
    if (SUBSCRIPTIONS.has(key)) {
      return (wake: () => void) => {
        const stop = own(() => this.#wakes(server, wake)) as () => void;
        this.#subscriptions.push(stop);
        return stop;
      };
    }
    if (key === "wakeups") {
      return (wake: (stream: string) => void) => {
        const wakeups = own((stream: string) => this.#wakes(server, () => wake(stream))) as { close(): Promise<void> };
        this.#subscriptions.push(() => void wakeups.close());
        return wakeups;
      };
    }
    const name = `${part}.${key}`;
    const run = name === "database.commit" ? this.#committing(own) : own;
    const travel = (...given: readonly unknown[]) => this.#travel(server, name, () => run(...given) as Promise<unknown>);
    const sabotage = this.#sabotage[name];
    if (sabotage === undefined) return travel;
    const parts: SabotageParts = {
      process: this.#process,
      call: (otherPart, method, given) => {
        const other = otherPart === part ? target : (Reflect.get(target, otherPart, target) as object);
        const run = (Reflect.get(other, method, other) as (...given: readonly unknown[]) => Promise<unknown>).bind(other);
        return this.#travel(server, `${otherPart}.${method}`, () => run(...given));
      },
    };
    return (...given: readonly unknown[]) => sabotage(travel, given, parts);
  }

  #committing(commit: (...given: readonly unknown[]) => unknown) {
    return async (...given: readonly unknown[]) => {
      const result = await commit(...given);
      this.#listener.committed((given[0] as CommitSet).fences);
      return result;
    };
  }

  #wakes(server: Server, wake: () => void): void {
    if (this.#process.isDead || this.#isCut(server) || this.#dice.chance(this.#weather.lostWakeup)) return;
    this.#time.at(this.#way_ms(), () => this.#process.happens(wake));
  }

  #isCut(server: Server): boolean {
    const now_ms = this.#time.now_ms;
    return server.awayUntil_ms > now_ms || (this.cutUntil_ms.get(server) ?? 0) > now_ms;
  }

  #wayTo_ms(server: Server): number {
    const { now_ms } = this.#time;
    const arrives_ms = now_ms + this.#way_ms();
    if (!server.isInOrder) return arrives_ms - now_ms;
    const inOrder_ms = Math.max(arrives_ms, this.#arrivals.get(server) ?? 0);
    this.#arrivals.set(server, inOrder_ms);
    return inOrder_ms - now_ms;
  }

  #way_ms(): number {
    return this.#dice.chance(this.#weather.slow) ? this.#dice.between(20, 2_000) : this.#dice.between(0.1, 2);
  }

  #connectionTo(server: Server): Connection {
    let connection = this.#connections.get(server);
    if (connection === undefined) {
      connection = new Connection(null);
      this.#connections.set(server, connection);
    }
    return connection;
  }

  #replace(server: Server, ended: Connection): void {
    if (this.#connections.get(server) !== ended) return;
    this.#connections.set(server, new Connection(ended));
    ended.end();
  }

  #travel(server: Server, name: string, run: () => Promise<unknown>): Promise<unknown> {
    const process = this.#process;
    const time = this.#time;
    const dice = this.#dice;
    const weather = this.#weather;
    const listener = this.#listener;
    const caller = `${process.name} ${name}`;
    return new Promise((resolve, reject) => {
      if (process.isDead) return;
      const sent_ms = time.now_ms;
      let open = true;
      const connection = server.isInOrder ? this.#connectionTo(server) : null;
      const settles = (settle: () => void) => {
        if (!open) return;
        open = false;
        left?.();
        settle();
      };
      const left = connection?.carries(() =>
        settles(() => reject(new ConnectionError(`${server.name}: the connection ended`, { at: server.name }))),
      );
      const ends = (delay_ms: number, settle: () => void) => time.at(delay_ms, () => process.happens(() => settles(settle)));
      const breaks = (why: string) => {
        listener.troubled();
        reject(new ConnectionError(`${server.name}: ${why}`, { at: server.name }));
        if (connection !== null) this.#replace(server, connection);
      };
      const lose = (delay_ms: number, why: string) => {
        listener.trace(`${caller} ${why}`);
        ends(delay_ms, () => breaks(why));
      };
      // A connection that doesn't answer is thrown away by the adapter.
      const giveUpAt = (delay_ms: number) =>
        ends(delay_ms, () => {
          listener.trace(`${caller} no answer`);
          breaks(`no answer within ${DEADLINE_ms} ms`);
        });
      if (dice.chance(weather.lostCall)) return lose(dice.chance(0.5) ? 1 : dice.between(1, DEADLINE_ms), "call lost");
      if (dice.chance(weather.killBefore)) return listener.kill(process, `${name} was sent`);
      const isLate = dice.chance(weather.late);
      const wayThere_ms = isLate ? DEADLINE_ms + dice.between(1, 4_000) : this.#wayTo_ms(server);
      if (isLate) giveUpAt(DEADLINE_ms);
      const arrives = () => {
        const now_ms = time.now_ms;
        if (connection !== null) {
          if (connection.isDead) return;
          for (let older = connection.before; older !== null && !older.isDead; older = older.before) older.isDead = true;
        }
        // A call on its way when its process died may still arrive.
        if (process.isDead && dice.chance(0.5)) return;
        if (this.#isCut(server)) return lose(dice.chance(0.5) ? 1 : dice.between(1, DEADLINE_ms), "connection refused");
        if (server.stalledUntil_ms > now_ms) {
          giveUpAt(Math.max(0, sent_ms + DEADLINE_ms - now_ms));
          time.at(server.stalledUntil_ms - now_ms + dice.between(0, 5), arrives);
          return;
        }
        const done = (settle: () => void, what: string) => {
          listener.trace(`${caller} ${what}`);
          if (process.isDead) return;
          if (dice.chance(weather.killAfter)) return listener.kill(process, `${name} was done`);
          if (dice.chance(weather.lostReply)) return lose(dice.chance(0.5) ? 1 : dice.between(1, DEADLINE_ms), "reply lost");
          ends(this.#way_ms(), () => {
            // After standing still a process finds the answer and the end of its patience at once.
            if (time.now_ms - sent_ms <= DEADLINE_ms || dice.chance(0.5)) return settle();
            breaks(`no answer within ${DEADLINE_ms} ms`);
          });
        };
        run().then(
          (value) => done(() => resolve(value), "done"),
          (error: unknown) => done(() => reject(error), error instanceof Error ? error.name : "error"),
        );
      };
      time.at(wayThere_ms, arrives);
    });
  }
}
