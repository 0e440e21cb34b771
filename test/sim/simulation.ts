/**
 * One seed, one run: some engines over simulated stores, a client that sends, trouble of the seed's choice, then peace, then the books.
 *
 * trouble   processes die, stand still, stop and come back; servers are away or stall; calls and answers get lost; clocks are set.
 *           Checked again and again: nothing is acknowledged (or passed by a cursor) that wasn't handled, failed for good or recorded as failed (safety).
 * peace     nothing more goes wrong. Within a bounded time everything must be settled (liveness).
 * stopping  all engines stop in order and leave nothing behind.
 * books     effects there once where that is promised, order kept, nobody without its lease had an effect, attempts within their limits.
 */
import { openSqlite, type SqliteStores } from "../../src/adapters/sqlite/mod.ts";
import { type ComposedEngine, composeEngine } from "../../src/compose/engine.ts";
import { domainSettings } from "../../src/compose/settings.ts";
import { configFromObject } from "../../src/config/load.ts";
import { knownDomains } from "../../src/domain/domain.ts";
import { Counters } from "../../src/engine/counters.ts";
import { ConnectionError, SendError } from "../../src/errors.ts";
import { BrokerEntries } from "./broker-entries.ts";
import { type Ledger, ledgerDomain, type Mood } from "./ledger.ts";
import { CALM, Link, type Listener, type Sabotage, Server, type Weather } from "./network.ts";
import { traceLog } from "./trace-log.ts";
import { Dice, SimulatedProcess, VirtualTime } from "./virtual-time.ts";

/** What may go wrong in a run. `calm`: nothing but orderly restarts; then every run of a handler happens once. */
export const PROFILES = ["calm", "kills", "network", "pauses", "everything"] as const;
export type Profile = (typeof PROFILES)[number];

/** Which stores are one database. `one`: all of them; `two`: the broker is apart (PostgreSQL and Redis); `three`: database, event store and broker. */
export const LAYOUTS = ["one", "two", "three"] as const;
export type Layout = (typeof LAYOUTS)[number];

export interface Options {
  readonly profile?: Profile;
  readonly layout?: Layout;
  readonly sabotage?: Sabotage;
  /** Keeps every line of the trace. */
  readonly trace?: boolean;
}

export interface Verdict {
  readonly seed: number;
  readonly profile: Profile;
  readonly layout: Layout;
  /** What was promised and didn't hold; empty for a good run. */
  readonly problems: readonly string[];
  /** Of every call and every happening, with its time: equal for equal runs. */
  readonly hash: string;
  readonly happened: number;
  readonly virtual_ms: number;
  /** From the end of all trouble until everything was settled. */
  readonly settled_ms: number;
  readonly deaths: number;
  readonly entries: number;
  readonly lines: readonly string[];
}

const MAX_RETRIES = 6;
const DRAIN_s = 5;
const CHECK_ms = 2_500;
/** Peace may take this long: a reservation of a key lives a minute, a lock of the outbox 20 s, a lease 7 s, a heartbeat 10 s. */
const PEACE_ms = 180_000;
/** No trouble of ours kills so many. */
const DEATHS_MAX = 60;
const PROTECTED = ["Tally", "Archive", "Confirming", "Confirming.end"];
const STREAMS = ["ledger::book", "ledger::book:command", "ledger::receipt", "ledger::receipt:command", "incoming"] as const;
/** Streams with the handlers whose row tells that an entry was handled. */
const READERS: readonly (readonly [stream: string, handler: string, mark: string])[] = [
  ["ledger::book", "Recorder", "Recorder"],
  ["ledger::book", "Tally", "Tally"],
  ["ledger::book", "Confirming", "Confirming"],
  ["ledger::receipt", "Confirming", "Confirming.end"],
  ["incoming", "Incoming", "Incoming"],
];

const config = configFromObject(
  {
    enable_outbox: true,
    event_processing: "async",
    command_processing: "async",
    event_store: { provider: "memory" },
    outbox: { lock_seconds: 20 },
    server: {
      default_subscription_type: "stream",
      messages_per_tick: 5,
      drain_timeout: DRAIN_s,
      stream_subscription: { max_retries: MAX_RETRIES, retry_delay_seconds: 0.5, circuit_breaker_reset_seconds: 5 },
      subscriptions: { Recorder: { claim_idle_seconds: 2 } },
      broker_subscription: { max_retries: MAX_RETRIES, retry_delay_seconds: 0.5 },
      event_store_subscription: {
        max_retries: MAX_RETRIES,
        retry_delay_seconds: 0.5,
        recovery_interval_seconds: 2,
        position_update_interval: 3,
      },
    },
  },
  { directory: "/", environment: {} },
);

/** Copies of the code, used again in the next run: declaring a domain takes longer than a run's first second. */
const copies: Ledger[] = [];

interface Produced {
  readonly entry: string;
  readonly mood: Mood;
  readonly foreign: boolean;
  accepted: boolean;
}

interface Node {
  readonly process: SimulatedProcess;
  readonly link: Link;
  readonly composed: ComposedEngine;
  readonly instanceId: string;
  /** Restarts itself when it dies or stops. */
  readonly place: number;
  stopping: boolean;
}

export async function simulate(seed: number, options: Options = {}): Promise<Verdict> {
  const simulation = new Simulation(seed, options);
  return await simulation.run();
}

class Simulation implements Listener {
  readonly #seed: number;
  readonly #dice: Dice;
  readonly #time = new VirtualTime();
  readonly #profile: Profile;
  readonly #layout: Layout;
  readonly #sabotage: Sabotage;
  readonly #weather: Weather = { ...CALM };
  readonly #clientWeather: Weather = { ...CALM };
  readonly #servers: Server[] = [];
  readonly #opened: SqliteStores[] = [];
  readonly #nodes = new Map<number, Node>();
  readonly #links = new Set<Link>();
  readonly #produced: Produced[] = [];
  readonly #runs = new Map<string, number>();
  readonly #generations = new Map<string, number>();
  readonly #problems: string[] = [];
  readonly #lines: string[] = [];
  readonly #keepsLines: boolean;
  readonly #living = new Set<number>();
  #hash = 0x811c9dc5;
  #isPeace = false;
  #deaths = 0;
  #troubles = 0;
  #copiesUsed = 0;
  #pid = 100;
  #row = 0;
  #stores!: {
    readonly database: SqliteStores["database"];
    readonly eventStore: SqliteStores["eventStore"];
    readonly broker: SqliteStores["broker"];
  };
  #serverOf!: { readonly database: Server; readonly eventStore: Server; readonly broker: Server };

  constructor(seed: number, options: Options) {
    this.#seed = seed;
    this.#dice = new Dice(seed, "run");
    const profile = this.#dice.pick(PROFILES) ?? "calm";
    const layout = this.#dice.pick(LAYOUTS) ?? "one";
    this.#profile = options.profile ?? profile;
    this.#layout = options.layout ?? layout;
    this.#sabotage = options.sabotage ?? {};
    this.#keepsLines = options.trace ?? false;
  }

  // ------------------------------------------------------------------------------------------------------------ listener

  trace(line: string): void {
    const text = `${this.#time.now_ms.toFixed(3)} ${line}`;
    let hash = this.#hash;
    for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
    this.#hash = hash;
    if (this.#keepsLines) this.#lines.push(text);
  }

  kill(process: SimulatedProcess, why: string): void {
    for (const node of this.#nodes.values()) if (node.process === process) this.#die(node, why);
  }

  troubled(): void {
    this.#troubles += 1;
  }

  committed(fences: readonly { readonly name: string; readonly generation: number }[]): void {
    for (const { name, generation } of fences) {
      const newest = this.#generations.get(name) ?? 0;
      if (generation < newest)
        this.#problem(`a commit under generation ${generation} of ${name} had an effect after one of generation ${newest}`);
      this.#generations.set(name, Math.max(newest, generation));
    }
  }

  #problem(text: string): void {
    if (this.#problems.length < 20) this.#problems.push(`${text} (at ${this.#time.now_ms.toFixed(0)} ms)`);
    this.trace(`PROBLEM ${text}`);
  }

  // ------------------------------------------------------------------------------------------------------------ the run

  async run(): Promise<Verdict> {
    let settled_ms = 0;
    try {
      await this.#open();
      const places = this.#dice.whole(1, 3);
      for (let place = 0; place < places; place += 1) this.#start(place);
      const trouble_ms = this.#profile === "calm" ? 4_000 : this.#dice.between(5_000, 16_000);
      this.#setWeather();
      this.#send(trouble_ms);
      if (this.#profile !== "calm" || this.#dice.chance(0.7)) this.#plan(trouble_ms);
      for (let upTo_ms = CHECK_ms; upTo_ms < trouble_ms + CHECK_ms; upTo_ms += CHECK_ms) {
        await this.#time.until(() => false, Math.min(upTo_ms, trouble_ms));
        await this.#checkNothingIsLost();
      }
      await this.#makePeace(places);
      const peaceBegan_ms = this.#time.now_ms;
      let owed: readonly string[] = ["nothing was looked at"];
      while (this.#time.now_ms < peaceBegan_ms + PEACE_ms) {
        await this.#time.until(() => false, this.#time.now_ms + 1_000);
        if (this.#deaths > DEATHS_MAX) break;
        owed = await this.#owed();
        if (owed.length === 0) break;
      }
      if (this.#deaths > DEATHS_MAX) this.#problem("processes die again and again");
      settled_ms = this.#time.now_ms - peaceBegan_ms;
      for (const one of owed) this.#problem(`not settled after ${PEACE_ms / 1000} s of peace: ${one}`);
      await this.#checkNothingIsLost();
      await this.#stopAll();
      await this.#checkBooks();
    } catch (error) {
      this.#problem(`the run itself failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    }
    const { now_ms, happened } = this.#time;
    this.#time.end();
    for (const link of this.#links) link.close();
    for (const stores of this.#opened) await stores.close();
    return {
      seed: this.#seed,
      profile: this.#profile,
      layout: this.#layout,
      problems: this.#problems,
      hash: (this.#hash >>> 0).toString(16).padStart(8, "0"),
      happened,
      virtual_ms: now_ms,
      settled_ms,
      deaths: this.#deaths,
      entries: this.#produced.length,
      lines: this.#lines,
    };
  }

  async #open(): Promise<void> {
    const make = async (name: string) => {
      const server = new Server(name, this.#layout === "one" || name === "broker");
      const machine = new SimulatedProcess({ name, pid: 1, time: this.#time, random: new Dice(this.#seed, name), skew_ms: 0 });
      const stores = await openSqlite({ file: ":memory:", name: "default", clock: machine, random: machine.random, log: traceLog(null) });
      this.#servers.push(server);
      this.#opened.push(stores);
      return { server, stores };
    };
    const first = await make("database");
    const broker = this.#layout === "one" ? first : await make("broker");
    const store = this.#layout === "three" ? await make("store") : first;
    this.#stores = { database: first.stores.database, eventStore: store.stores.eventStore, broker: broker.stores.broker };
    this.#serverOf = { database: first.server, eventStore: store.server, broker: broker.server };
  }

  #setWeather(): void {
    const dice = this.#dice;
    const isStormy = this.#profile === "network" || this.#profile === "everything";
    const often = dice.pick([0.002, 0.01, 0.03]) ?? 0.01;
    if (isStormy) {
      const storm: Partial<Weather> = {
        lostCall: often,
        lostReply: often,
        slow: often,
        late: often / 4,
        lostWakeup: dice.pick([0, 0.1, 0.5]) ?? 0,
      };
      Object.assign(this.#weather, storm);
      Object.assign(this.#clientWeather, storm);
    }
    if (this.#profile === "kills" || this.#profile === "everything") {
      const deadly = dice.pick([0.0002, 0.001, 0.003]) ?? 0.001;
      this.#weather.killBefore = deadly;
      this.#weather.killAfter = deadly;
    }
  }

  // ------------------------------------------------------------------------------------------------------------ processes

  #process(name: string, random: Dice): SimulatedProcess {
    this.#pid += 1;
    const skew_ms = this.#profile === "everything" || this.#profile === "pauses" ? random.between(-3_000, 3_000) : 0;
    return new SimulatedProcess({ name, pid: this.#pid, time: this.#time, random, skew_ms });
  }

  #storesFor(process: SimulatedProcess, weather: Weather) {
    const link = new Link({
      process,
      time: this.#time,
      dice: new Dice(this.#seed, `link of ${process.name}`),
      weather,
      listener: this,
      sabotage: this.#sabotage,
    });
    this.#links.add(link);
    const { database, eventStore, broker } = this.#stores;
    const home = link.to(database, this.#serverOf.database, "database");
    const stores = {
      config,
      counters: new Counters(),
      settings: domainSettings(config),
      databases: new Map([["default", home]]),
      eventStore: link.to(eventStore, this.#serverOf.eventStore, "eventStore"),
      brokers: new Map([["default", link.to(broker, this.#serverOf.broker, "broker")]]),
      idempotency: home.idempotency,
      clock: process,
      random: process.random,
      log: traceLog(this.#keepsLines ? (line) => this.#lines.push(`${this.#time.now_ms.toFixed(3)} ${process.name} log ${line}`) : null),
      telemetry: { isTracing: false, trace() {}, count() {}, observe() {} },
      close: () => Promise.resolve(),
    };
    return { link, stores };
  }

  #copy(): Ledger {
    let copy = copies[this.#copiesUsed];
    if (copy === undefined) {
      copy = ledgerDomain();
      copies.push(copy);
      // It is kept here; that every domain ever made is remembered is for programs with one.
      (knownDomains() as unknown[]).length = 0;
    }
    this.#copiesUsed += 1;
    return copy;
  }

  #start(place: number): void {
    const name = `engine${place}.${this.#pid - 99}`;
    const process = this.#process(name, new Dice(this.#seed, name));
    this.#living.add(process.pid);
    const copy = this.#copy();
    const { link, stores } = this.#storesFor(process, this.#weather);
    copy.slot.host = {
      ran: (handler, entry, message) => {
        const key = `${handler} ${entry} ${message.id ?? entry}`;
        this.#runs.set(key, (this.#runs.get(key) ?? 0) + 1);
        this.trace(`${name} ran ${handler} ${entry} #${message.attempt} ${message.id ?? ""}`);
      },
      failed: () => {},
      rowId: () => {
        this.#row += 1;
        return `row-${this.#row}`;
      },
      work: (handler) => process.sleep(this.#work_ms(process.random, handler)),
      die: () => {
        this.kill(process, "a deadly message");
        return new Promise<never>(() => {});
      },
    };
    copy.domain.useStores(stores);
    if (place === 0 && !this.#isSetUp) {
      this.#isSetUp = true;
      void this.#stores.database.setup();
    }
    const host = process.random.chance(0.5) ? `host${place % 2}` : `host-${process.pid}`;
    const composed = composeEngine({
      domain: copy.domain,
      stores,
      version: "0",
      surroundings: {
        // One that comes back does so on the same host, where it sees that the old process has gone, or on a new one, where it can't.
        identity: {
          host,
          pid: process.pid,
          bootId: `boot of ${host}`,
          pidNamespace: "pid:[1]",
          startedAt_ms: process.startedAt_ms,
        },
        isRunning: (pid) => this.#living.has(pid),
      },
    });
    const node: Node = { process, link, composed, place, stopping: false, instanceId: composed.engine.status().instance.id };
    this.#nodes.set(place, node);
    this.trace(`${name} starts`);
    void composed.engine.start();
  }
  #isSetUp = false;

  #work_ms(random: Dice, handler: string): number {
    const kind = random.float();
    // Longer than an entry of Recorder may lie there without a word of its owner.
    if (this.#profile === "calm" && handler === "Recorder" && kind > 0.9) return random.between(2_500, 4_500);
    if (kind < 0.75) return 0;
    if (kind < 0.95) return random.between(1, 100);
    return random.between(100, kind < 0.99 || this.#profile === "calm" ? 1_000 : 7_000);
  }

  #die(node: Node, why: string): void {
    if (node.process.isDead) return;
    this.trace(`${node.process.name} dies: ${why}`);
    this.#deaths += 1;
    this.#leave(node);
  }

  #leave(node: Node): void {
    node.process.kill();
    node.link.close();
    this.#links.delete(node.link);
    this.#living.delete(node.process.pid);
    if (this.#nodes.get(node.place) === node) this.#nodes.delete(node.place);
    this.#time.at(this.#isPeace ? 200 : this.#dice.between(50, 4_000), () => {
      if (!this.#nodes.has(node.place) && !this.#isStopping) this.#start(node.place);
    });
  }
  #isStopping = false;

  async #stopInOrder(node: Node): Promise<void> {
    if (node.stopping || node.process.isDead) return;
    node.stopping = true;
    const began_ms = this.#time.now_ms;
    this.trace(`${node.process.name} is asked to stop`);
    await node.composed.engine.stop("SIGTERM");
    node.composed.close();
    this.trace(`${node.process.name} has stopped`);
    const took_ms = this.#time.now_ms - began_ms;
    if (this.#profile === "calm") {
      if (took_ms > DRAIN_s * 1000 + 2_000) this.#problem(`${node.process.name} took ${took_ms} ms to stop`);
      const held = await this.#pendingOf(node.instanceId);
      if (held > 0) this.#problem(`${node.process.name} stopped in order and left ${held} entries pending`);
    }
    if (!node.process.isDead) this.#leave(node);
  }

  async #pendingOf(instanceId: string): Promise<number> {
    const { broker } = this.#stores;
    let count = 0;
    for (const stream of STREAMS) {
      for (const group of await broker.groups(stream)) {
        const pending = await broker.pending(stream, group.name, { count: 1_000 });
        // What was handed back is idle beyond every limit, whoever it was read by.
        count += pending.filter((entry) => entry.consumer.endsWith(instanceId) && entry.idle_ms < 3_600_000).length;
      }
    }
    return count;
  }

  // ------------------------------------------------------------------------------------------------------------ the client

  #send(span_ms: number): void {
    const dice = new Dice(this.#seed, "client");
    const process = this.#process("client", new Dice(this.#seed, "client process"));
    const copy = this.#copy();
    const { stores } = this.#storesFor(process, this.#clientWeather);
    copy.domain.useStores(stores);
    const count = dice.whole(4, 18);
    const books = dice.whole(1, 4);
    const deadly = this.#profile === "kills" && dice.chance(0.3) ? dice.whole(1, count) : 0;
    for (let number = 1; number <= count; number += 1) {
      const mood: Mood = number === deadly ? "deadly" : dice.chance(0.05) ? "poison" : dice.chance(0.1) ? "flaky" : "fine";
      const produced: Produced = { entry: `e${number}`, mood, foreign: dice.chance(0.2), accepted: false };
      const bookId = `book${dice.whole(1, books)}`;
      this.#produced.push(produced);
      process.timer(dice.between(300, span_ms * 0.85), () => void this.#sendOne(process, copy, produced, bookId));
    }
  }

  async #sendOne(process: SimulatedProcess, copy: Ledger, produced: Produced, bookId: string): Promise<void> {
    const { entry, mood } = produced;
    const insist = async (send: () => Promise<unknown>) => {
      for (;;) {
        try {
          await send();
          return;
        } catch (error) {
          if (!(error instanceof ConnectionError || error instanceof SendError)) {
            this.#problem(`the client got ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
            return;
          }
          await process.sleep(process.random.between(50, 1_000));
        }
      }
    };
    await insist(() => copy.domain.process(new copy.Post({ bookId, entryId: entry, mood }), { idempotencyKey: entry }));
    this.trace(`client: ${entry} accepted`);
    if (produced.foreign) await insist(() => copy.domain.brokers.publish("incoming", { entryId: entry }));
    produced.accepted = true;
  }

  // ------------------------------------------------------------------------------------------------------------ trouble and peace

  #plan(span_ms: number): void {
    const dice = this.#dice;
    const kinds: (() => void)[] = [];
    const isAll = this.#profile === "everything";
    const some = (act: (node: Node) => void) => () => {
      const node = dice.pick([...this.#nodes.values()].filter((one) => !one.process.isDead));
      if (node !== undefined) act(node);
    };
    const server = (act: (one: Server) => void) => () => {
      const one = dice.pick(this.#servers);
      if (one !== undefined) act(one);
    };
    kinds.push(some((node) => void this.#stopInOrder(node)));
    if (isAll || this.#profile === "kills") {
      const kill = some((node) => this.#die(node, "killed"));
      kinds.push(kill, kill, kill);
    }
    if (isAll || this.#profile === "pauses") {
      const pause = some((node) => {
        const { process } = node;
        if (process.isPaused) return;
        this.trace(`${process.name} stands still`);
        this.#troubles += 1;
        process.pause();
        this.#time.at(dice.between(100, dice.pick([2_000, 15_000, 40_000]) ?? 2_000), () => {
          this.trace(`${process.name} goes on`);
          process.resume();
        });
      });
      kinds.push(
        pause,
        pause,
        some((node) => node.process.step(dice.between(-10_000, 10_000))),
      );
    }
    if (isAll || this.#profile === "network") {
      kinds.push(
        server((one) => {
          this.trace(`${one.name} is away`);
          one.awayUntil_ms = this.#time.now_ms + dice.between(100, 10_000);
        }),
        server((one) => {
          this.trace(`${one.name} stalls`);
          one.stalledUntil_ms = this.#time.now_ms + dice.between(100, 8_000);
        }),
        some((node) => {
          const one = dice.pick(this.#servers);
          if (one === undefined) return;
          this.trace(`${node.process.name} is cut off from ${one.name}`);
          node.link.cutUntil_ms.set(one, this.#time.now_ms + dice.between(100, 12_000));
        }),
      );
    }
    const gap_ms = dice.between(500, 4_000);
    for (let at_ms = dice.between(200, 2 * gap_ms); at_ms < span_ms; at_ms += dice.between(0.2, 1.8) * gap_ms) {
      const act = dice.pick(kinds);
      if (act !== undefined) this.#time.at(at_ms, act);
    }
  }

  async #makePeace(places: number): Promise<void> {
    this.trace("peace");
    this.#isPeace = true;
    Object.assign(this.#weather, CALM);
    Object.assign(this.#clientWeather, CALM);
    for (const server of this.#servers) server.heal();
    for (const link of this.#links) link.cutUntil_ms.clear();
    for (const node of this.#nodes.values()) node.process.resume();
    for (let place = 0; place < places; place += 1) if (!this.#nodes.has(place)) this.#start(place);
  }

  async #stopAll(): Promise<void> {
    this.#isStopping = true;
    const stopped = new Map([...this.#nodes.values()].map(({ instanceId, process }) => [instanceId, process.name]));
    const began_ms = this.#time.now_ms;
    const stopping = Promise.all([...this.#nodes.values()].map((node) => this.#stopInOrder(node)));
    let done = false;
    void stopping.then(() => {
      done = true;
    });
    if (!(await this.#time.until(() => done, began_ms + DRAIN_s * 1000 + 4_000))) this.#problem("an idle engine doesn't stop");
    const { broker, database, eventStore } = this.#stores;
    for (const leases of new Set([broker.leases, database.leases, eventStore.leases])) {
      for (const { name, owner } of await leases.holders("")) {
        // One that was killed just before holds its leases until they run out.
        if (stopped.has(owner)) this.#problem(`${stopped.get(owner)} stopped in order and still holds the lease ${name}`);
      }
    }
    const owners = await database.outbox.owners();
    if (owners.length > 0) this.#problem(`rows of the outbox are locked by ${owners.join(", ")} after all stopped`);
    const alive = (await broker.instances.alive()).filter(({ id }) => stopped.has(id));
    // A heartbeat that was on its way for long may have come after the removal.
    if (alive.length > 0 && this.#profile !== "network" && this.#profile !== "everything")
      this.#problem(`${alive.length} heartbeats are left after all stopped`);
  }

  // ------------------------------------------------------------------------------------------------------------ the books

  async #rows(table: string): Promise<readonly Record<string, unknown>[]> {
    return await this.#stores.database.select({ table, where: null, order: [], limit: null, offset: 0 }, []);
  }

  async #handled(): Promise<ReadonlyMap<string, ReadonlyMap<string, number>>> {
    const found = new Map<string, Map<string, number>>();
    for (const row of await this.#rows("handled")) {
      const handler = String(row["handler"]);
      const entry = String(row["entry_id"]);
      const entries = found.get(handler) ?? new Map<string, number>();
      entries.set(entry, (entries.get(entry) ?? 0) + 1);
      found.set(handler, entries);
    }
    return found;
  }

  /** Safety: whatever has left a stream or was passed by a cursor was handled, or lies among the dead letters or failures. */
  async #checkNothingIsLost(): Promise<void> {
    const handled = await this.#handled();
    const entries = new BrokerEntries(this.#stores.broker);
    for (const [stream, handler, mark] of READERS) {
      const done = handled.get(mark);
      const letters = await entries.deadLetters(stream, `ledger.${handler}`);
      for (const { id, entry } of await entries.acknowledged(stream, `ledger.${handler}`)) {
        if (entry !== null && done?.has(entry) !== true && !letters.has(id) && !this.#isHalfDone(mark, entry)) {
          this.#problem(`${entry} (${id} of ${stream}) was acknowledged by ${handler} without being handled`);
        }
      }
    }
    const archived = handled.get("Archive");
    const { passed, failed } = await this.#archive();
    for (const { position, entry } of passed) {
      if (archived?.has(entry) !== true && !failed.has(position))
        this.#problem(`the cursor of Archive passed ${entry} at ${position}, neither handled nor recorded`);
    }
  }

  /** What the event-store subscription says of itself. */
  async #archive() {
    const { eventStore } = this.#stores;
    const names = await eventStore.streams("position", null, 100);
    const of = async (stream: string) => await eventStore.readStream(stream, 0, 10_000);
    let cursor = -1;
    for (const name of names) {
      for (const row of await of(name)) {
        const { position } = JSON.parse(row.data) as { position: number };
        // Reconciliation has no owner: whoever looks begins at what it knows, and finds nothing missing.
        if (position < cursor && name.includes("Archive")) this.#problem(`the cursor in ${name} went back from ${cursor} to ${position}`);
        if (name.includes("Archive")) cursor = Math.max(cursor, position);
      }
    }
    const failed = new Set<number>();
    const exhausted = new Set<number>();
    const open = new Set<number>();
    for (const name of await eventStore.streams("failed", null, 100)) {
      for (const row of await of(name)) {
        const { position } = JSON.parse(row.data) as { position: number };
        failed.add(position);
        if (row.type === "Failed") open.add(position);
        else open.delete(position);
        if (row.type === "Exhausted") exhausted.add(position);
      }
    }
    const posted = (await eventStore.readCategory("ledger::book", 0, 10_000)).flatMap((row) =>
      row.type.startsWith("Ledger.Posted")
        ? [{ position: row.globalPosition, entry: (JSON.parse(row.data) as { entry_id: string }).entry_id }]
        : [],
    );
    return { posted, passed: posted.filter(({ position }) => position <= cursor), failed, exhausted, open };
  }

  /** What isn't settled yet, one sentence each. */
  async #owed(): Promise<readonly string[]> {
    const owed: string[] = [];
    const unsent = this.#produced.filter(({ accepted }) => !accepted);
    if (unsent.length > 0) owed.push(`the client has yet to send ${unsent.map(({ entry }) => entry).join(" ")}`);
    const { broker, database } = this.#stores;
    const counts = await database.outbox.counts();
    if (counts.pending + counts.processing + counts.failed > 0) owed.push(`outbox: ${JSON.stringify(counts)}`);
    for (const stream of STREAMS) {
      for (const group of await broker.groups(stream)) {
        if (group.pending > 0 || (group.lag ?? 1) > 0) owed.push(`${group.name} on ${stream}: ${group.pending} pending, lag ${group.lag}`);
      }
    }
    if (owed.length > 0) return owed;
    const handled = await this.#handled();
    const entries = new BrokerEntries(broker);
    for (const [stream, handler, mark] of READERS) {
      const letters = new Set((await entries.deadLetters(stream, `ledger.${handler}`)).values());
      const wanted = this.#produced.filter(({ foreign }) => stream !== "incoming" || foreign);
      const confirmed = mark === "Confirming.end" ? handled.get("Confirming") : null;
      for (const { entry } of wanted) {
        // An entry that one link of the chain gave up never reaches those behind it.
        if (
          this.#isHalfDone(mark, entry) ||
          handled.get(mark)?.has(entry) === true ||
          letters.has(entry) ||
          (confirmed !== null && confirmed?.has(entry) !== true)
        )
          continue;
        if (await this.#isGivenUpBefore(entries, entry, mark)) continue;
        owed.push(`${mark} owes ${entry}`);
      }
    }
    const { posted, exhausted, open } = await this.#archive();
    for (const { position, entry } of posted) {
      if (handled.get("Archive")?.has(entry) !== true && !exhausted.has(position)) owed.push(`Archive owes ${entry}`);
    }
    if (open.size > 0) owed.push(`Archive has ${open.size} failures open`);
    return owed;
  }

  /**
   * With events and tables in two databases a process manager's step can be in the event store without the rows of the same run: it ran, and
   * doesn't run again.
   */
  #isHalfDone(mark: string, entry: string): boolean {
    if (this.#layout !== "three" || !mark.startsWith("Confirming")) return false;
    for (const key of this.#runs.keys()) if (key.startsWith(`${mark} ${entry} `)) return true;
    return false;
  }

  /** Its command lies among the dead letters. */
  async #isGivenUpBefore(entries: BrokerEntries, entry: string, mark: string): Promise<boolean> {
    const streams = mark === "Confirming.end" ? ["ledger::book:command", "ledger::receipt:command"] : ["ledger::book:command"];
    for (const stream of streams) {
      for (const letter of (await entries.deadLetters(stream, null)).values()) if (letter === entry) return true;
    }
    return false;
  }

  async #checkBooks(): Promise<void> {
    const handled = await this.#handled();
    const entries = new BrokerEntries(this.#stores.broker);
    const moods = new Map(this.#produced.map((produced) => [produced.entry, produced.mood]));
    const copiesOf = await entries.copies(STREAMS);
    const givenUp = new Set<string>();
    for (const stream of STREAMS) {
      for (const group of await this.#stores.broker.groups(stream)) {
        const handler = group.name.slice(group.name.lastIndexOf(".") + 1);
        for (const [id, entry] of await entries.deadLetters(stream, group.name)) {
          if (entry === null) {
            this.#problem(`${id} of ${stream} was given up as unreadable`);
            continue;
          }
          givenUp.add(entry);
          const mood = moods.get(entry);
          if (handler === "Recorder" && (mood === "poison" || mood === "deadly")) continue;
          const ran = [...this.#runs].filter(([key]) => key.includes(` ${entry} `)).reduce((most, [, runs]) => Math.max(most, runs), 0);
          const isCounted = this.#profile === "kills" || this.#profile === "pauses";
          if (isCounted && ran < MAX_RETRIES - 1) this.#problem(`${entry} was given up by ${group.name} after ${ran} runs`);
          if (this.#profile === "calm") this.#problem(`${entry} was given up by ${group.name} although nothing was wrong`);
        }
      }
    }
    const { exhausted, posted } = await this.#archive();
    for (const { position, entry } of posted) if (exhausted.has(position)) givenUp.add(entry);

    for (const [handler, counts] of handled) {
      if (!PROTECTED.includes(handler) || this.#layout === "three") continue;
      for (const [entry, count] of counts) if (count > 1) this.#problem(`${handler} took effect ${count} times for ${entry}`);
    }
    if (this.#layout !== "three") await this.#checkNumbers(givenUp);
    for (const [key, runs] of this.#runs) {
      const [handler = "", entry = "", id = ""] = key.split(" ");
      if (handler === "Posting" || handler === "Confirmation") continue;
      const mood = moods.get(entry) ?? "fine";
      const copies = handler === "Archive" ? 1 : (copiesOf.get(id) ?? 1);
      const recorded = handler === "Recorder";
      const allowed = recorded && (mood === "poison" || mood === "deadly") ? MAX_RETRIES : mood === "flaky" && isMoody(handler) ? 2 : 1;
      if (this.#profile === "calm" && runs !== allowed)
        this.#problem(`${handler} ran ${runs} times for ${entry} instead of ${allowed}, and nothing was wrong`);
      if (this.#profile === "kills" && recorded && runs > MAX_RETRIES * copies) {
        this.#problem(`Recorder ran ${runs} times for ${entry} (${mood}), more often than ${MAX_RETRIES} attempts of ${copies} copies`);
      }
    }
  }

  async #checkNumbers(givenUp: ReadonlySet<string>): Promise<void> {
    const books = new Map((await this.#rows("book")).map((row) => [String(row["book_id"]), Number(row["posted"])]));
    const sum = [...books.values()].reduce((total, posted) => total + posted, 0);
    if (sum > this.#produced.length || (givenUp.size === 0 && sum !== this.#produced.length)) {
      this.#problem(`${sum} postings in the books instead of ${this.#produced.length}`);
    }
    for (const table of ["book_tally", "book_archive"]) {
      for (const row of await this.#rows(table)) {
        const posted = books.get(String(row["book_id"])) ?? 0;
        const { count, last, backwards } = row as { count: number; last: number; backwards: number };
        if (backwards > 0) this.#problem(`${table} of ${String(row["book_id"])}: ${backwards} times backwards`);
        if (count > posted || (givenUp.size === 0 && (count !== posted || last !== posted))) {
          this.#problem(`${table} of ${String(row["book_id"])}: ${count} of ${posted} counted, last ${last}`);
        }
      }
    }
    const confirmed = new Map<string, number>();
    for (const row of await this.#stores.eventStore.readCategory("ledger::receipt", 0, 10_000)) {
      const { entry_id } = JSON.parse(row.data) as { entry_id: string };
      confirmed.set(entry_id, (confirmed.get(entry_id) ?? 0) + 1);
    }
    for (const [entry, count] of confirmed) if (count > 1) this.#problem(`${entry} was confirmed ${count} times`);
  }
}

function isMoody(handler: string): boolean {
  return handler === "Recorder" || handler === "Tally" || handler === "Archive";
}
