/**
 * A place with a server that may be killed, and the books that tell afterwards whether anything was lost.
 *
 * produced.log   what a producer was about to send, written before it sent it
 * runs.log       what handlers began to run, written by them whatever became of the run
 * the database   what took effect: rows of the handlers' own units of work (handlers/ledger.ts)
 *
 * `verify` compares the three: nothing produced is missing anywhere, numbers of one stream never go back, protected effects are there once, every
 * further run has a death (or a failure that the test asked for) before it, and nothing is left pending, locked or registered for the dead.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { openRedis } from "../../src/adapters/redis/mod.ts";
import { openSqlite } from "../../src/adapters/sqlite/mod.ts";
import type { Broker, EntryFields } from "../../src/ports/broker.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";
import { type TemporaryFolder, temporaryFolder } from "../support/folder.ts";
import { type RedisService, startRedis } from "../support/redis.ts";
import { type RunningProgram, startProgram, untilRunning } from "../support/running.ts";
import { until } from "../support/until.ts";

export type Backend = "sqlite" | "redis";
export const BACKENDS: readonly Backend[] = ["sqlite", "redis"];

const HANDLERS = join(import.meta.dir, "handlers");
const PRODUCER = join(import.meta.dir, "producer.ts");
const SETTLED_ms = 40_000;
/** Streams of the domain, with the class names of those who read them. */
const STREAMS = ["ledger::book", "ledger::book:command", "ledger::receipt", "ledger::receipt:command", "incoming"] as const;
/** Once for every posting. */
const PROTECTED = ["Tally", "Archive", "Confirming", "Confirming.end"] as const;

const COMMAND_HANDLERS: ReadonlySet<string> = new Set(["Posting", "Confirmation"]);

export interface Produced {
  readonly entry: string;
  readonly mood: string;
  readonly foreign: boolean;
}

export interface Run {
  readonly handler: string;
  readonly entry: string;
  readonly message: string | null;
  readonly attempt: number;
  readonly pid: number;
  readonly at: number;
}

/** What deaths cost, over all sites of a test run. */
export const figures = { deaths: 0, messages: 0, runs: 0, lost: 0, publishedAgain: 0, repeatedRuns: 0, repeatedEffects: 0 };

export interface SiteOptions {
  /** Further lines of domain.toml, with their tables. */
  readonly config?: string;
  /** Default 3. A message that was in hand at so many deaths is dead-lettered by rule (D40), whoever caused them. */
  readonly maxRetries?: number;
  /** Further parameters of redis-server. */
  readonly redis?: readonly string[];
  /** Start Redis only when the test says so. */
  readonly redisDown?: boolean;
}

/** A running server of a site. */
export interface Server extends RunningProgram {
  /** SIGKILL, and the end of it. */
  kill(): Promise<void>;
  /** SIGTERM; resolves when it has ended. @throws when it doesn't end with 0 */
  stop(): Promise<string>;
  /** The process stands still; whatever it does afterwards may come late. */
  pause(): Promise<void>;
  resume(): void;
}

export interface Verdict {
  /** Ids of postings that must lie among the dead letters of Recorder instead of being handled there. */
  readonly deadLetters?: readonly string[];
  /** Further dead letters, such as entries that can't be read. */
  readonly furtherLetters?: number;
  /** Whether every effect must be there once, also without a marker; default: where a death explains a second one it may be there twice. */
  readonly exactly?: boolean;
  /** Two servers handled commands at the same time. */
  readonly competing?: boolean;
  /** The broker was away: it may have taken what it could not confirm, so that a message lies there twice or its acknowledgement is missing. */
  readonly outage?: boolean;
  /** Moods whose entries fail on purpose, so that they run several times. */
  readonly failing?: readonly string[];
  /** Event store and database are two files: a command may take effect twice (docs/guarantees.md). */
  readonly twoDatabases?: boolean;
}

export class Site {
  readonly backend: Backend;
  readonly folder: TemporaryFolder;
  readonly redis: RedisService | null;
  /** Processes that ended without being asked, or stood still for long. */
  readonly dead = new Set<number>();
  readonly #closers: (() => Promise<void>)[] = [];
  readonly #servers = new Set<Server>();
  #broker: Broker | null = null;
  #database: DatabaseSync | null = null;

  private constructor(backend: Backend, folder: TemporaryFolder, redis: RedisService | null) {
    this.backend = backend;
    this.folder = folder;
    this.redis = redis;
  }

  static async make(backend: Backend, options: SiteOptions = {}): Promise<Site> {
    const redis = backend === "redis" ? await startRedis({ parameters: options.redis ?? [] }) : null;
    if (options.redisDown === true) await redis?.down();
    const broker = redis === null ? "" : `[brokers.default]\nprovider = "redis"\nURI = "${redis.url}"\n`;
    const store = options.config?.includes("[event_store]") === true ? "" : `[event_store]\nprovider = "sqlite"\n`;
    const folder = temporaryFolder({
      "domain.toml": `enable_outbox = true
event_processing = "async"
command_processing = "async"
${broker}${store}[server]
default_subscription_type = "stream"
[server.stream_subscription]
max_retries = ${options.maxRetries ?? 3}
retry_delay_seconds = 0.1
[server.event_store_subscription]
retry_delay_seconds = 0.1
recovery_interval_seconds = 0.2
${options.maxRetries === undefined ? "" : `[server.broker_subscription]\nmax_retries = ${options.maxRetries}`}
${options.config ?? ""}
`,
    });
    return new Site(backend, folder, redis);
  }

  // ------------------------------------------------------------------------------------------------------------ processes

  /** Starts a server and doesn't wait for anything. */
  launch(options: { readonly crashAt?: string; readonly http?: string } = {}): Server {
    const environment = options.crashAt === undefined ? {} : { PROTEAN_CRASH_AT: options.crashAt };
    const program = startProgram(["server", "--handlers", HANDLERS, "--http", options.http ?? "off"], {
      directory: this.folder.path,
      environment,
    });
    const server: Server = {
      ...program,
      kill: async () => {
        this.#died(program.pid);
        await program.end("SIGKILL");
      },
      stop: async () => {
        const { exitCode, stdout, stderr } = await program.end("SIGTERM");
        if (exitCode !== 0) throw new Error(`SIGTERM: exit code ${exitCode}\n${stdout}${stderr}`);
        return stdout + stderr;
      },
      pause: async () => {
        this.#died(program.pid);
        // One that stands still inside a write of the file stops everybody, whatever they do.
        await until("it stands still outside of a transaction", () => {
          process.kill(program.pid, "SIGSTOP");
          if (this.#canWrite()) return true;
          process.kill(program.pid, "SIGCONT");
          return false;
        });
      },
      resume: () => void process.kill(program.pid, "SIGCONT"),
    };
    this.#servers.add(server);
    void program.ended.then(() => this.#servers.delete(server));
    return server;
  }

  async start(options: { readonly http?: string } = {}): Promise<Server> {
    const server = this.launch(options);
    await untilRunning(server);
    return server;
  }

  /** Starts a server that is to die by itself, and waits until it did. @throws when it doesn't */
  async dies(crashAt: string, limit_ms = 20_000): Promise<void> {
    const server = this.launch({ crashAt });
    let ended = false;
    void server.ended.then(() => {
      ended = true;
    });
    await until(`the server dies at ${crashAt}`, () => ended, limit_ms);
    const { exitCode, stderr } = await server.ended;
    // Killed by a signal: no exit code.
    if (exitCode !== null) throw new Error(`the server ended with ${exitCode} instead of dying at ${crashAt}:\n${stderr}`);
    this.#died(server.pid);
  }

  #died(pid: number): void {
    if (this.dead.has(pid)) return;
    this.dead.add(pid);
    figures.deaths += 1;
  }

  /** Notes that a process ended without being asked. */
  diedByItself(server: Server): void {
    this.#died(server.pid);
  }

  /** Sends from a process of its own; resolves when everything was accepted. */
  async produce(
    name: string,
    count: number,
    options: {
      readonly books?: number;
      readonly moods?: readonly string[];
      readonly crashAt?: string;
      /** Also messages straight to the broker. Default true. */
      readonly foreign?: boolean;
    } = {},
  ): Promise<void> {
    const words = [name, String(count), String(options.books ?? 4), options.foreign === false ? "0" : "5", ...(options.moods ?? [])];
    const child = spawn(process.execPath, [PRODUCER, ...words], {
      cwd: this.folder.path,
      env: { ...process.env, ...(options.crashAt === undefined ? {} : { PROTEAN_CRASH_AT: options.crashAt }) },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
    const [exitCode, signal] = await new Promise<readonly [number | null, string | null]>((resolve) =>
      child.once("close", (code, by) => resolve([code, by])),
    );
    if (exitCode === 0 && options.crashAt === undefined) return;
    if (signal === "SIGKILL" && options.crashAt !== undefined) return this.#died(child.pid ?? 0);
    throw new Error(`the producer ended with ${exitCode ?? signal}:\n${output}`);
  }

  async close(): Promise<void> {
    for (const server of this.#servers) {
      process.kill(server.pid, "SIGCONT");
      await server.end("SIGKILL");
    }
    for (const close of this.#closers.splice(0).reverse()) await close();
    await this.redis?.stop();
    this.folder.remove();
  }

  // ------------------------------------------------------------------------------------------------------------ the books

  #lines<Line>(file: string): readonly Line[] {
    const path = this.folder.at(file);
    if (!existsSync(path)) return [];
    const text = readFileSync(path, "utf8");
    // Behind the last line break somebody may be writing at this moment.
    return text
      .slice(0, text.lastIndexOf("\n") + 1)
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as Line);
  }

  produced(): readonly Produced[] {
    return this.#lines("produced.log");
  }

  runs(handler?: string): readonly Run[] {
    const all = this.#lines<Run>("runs.log");
    return handler === undefined ? all : all.filter((run) => run.handler === handler);
  }

  /** Opens the gate that handlers of the moods `gated` and `stuck` wait at. */
  openGate(): void {
    writeFileSync(this.folder.at("gate"), "");
  }

  query<Found = Record<string, unknown>>(sql: string, ...parameters: readonly (string | number)[]): readonly Found[] {
    if (this.#database === null) {
      const database = new DatabaseSync(this.folder.at(".protean", "protean.db"), { readOnly: true });
      database.exec("PRAGMA busy_timeout = 2000");
      this.#closers.push(async () => database.close());
      this.#database = database;
    }
    return this.#database.prepare(sql).all(...parameters) as unknown as readonly Found[];
  }

  #canWrite(): boolean {
    const database = new DatabaseSync(this.folder.at(".protean", "protean.db"));
    try {
      database.exec("PRAGMA busy_timeout = 500; BEGIN IMMEDIATE; ROLLBACK");
      return true;
    } catch {
      return false; // locked for half a second: by the one that stands still
    } finally {
      database.close();
    }
  }

  /** Entries with an effect of this handler. */
  handledBy(handler: string): ReadonlySet<string> {
    return new Set(this.query<{ entry_id: string }>("SELECT entry_id FROM handled WHERE handler = ?", handler).map((row) => row.entry_id));
  }

  async broker(): Promise<Broker> {
    if (this.#broker !== null) return this.#broker;
    const parts = { name: "default", clock: new SystemClock(), random: new SystemRandom(), log: silentLog };
    if (this.redis === null) {
      const stores = await openSqlite({ ...parts, file: this.folder.at(".protean", "protean.db") });
      this.#closers.push(() => stores.close());
      this.#broker = stores.broker;
    } else {
      const broker = openRedis({ ...parts, url: this.redis.url });
      this.#closers.push(() => broker.close());
      this.#broker = broker;
    }
    return this.#broker;
  }

  /** Pending entries of a group, by its handler's name. */
  async pendingOf(stream: string, handler: string) {
    return await (await this.broker()).pending(stream, `ledger.${handler}`, { count: 1_000 });
  }

  async letters(): Promise<number> {
    const broker = await this.broker();
    let count = 0;
    for (const stream of STREAMS) count += await broker.length(`${stream}:dlq`);
    return count;
  }

  async #lettersAsText(): Promise<readonly string[]> {
    const broker = await this.broker();
    const texts: string[] = [];
    for (const stream of STREAMS) {
      for (const { fields } of await broker.range(`${stream}:dlq`, { count: 20 })) {
        texts.push(`dead letter: ${fields.map(([name, value]) => `${name}=${Buffer.from(value).toString()}`).join(" ")}`);
      }
    }
    return texts;
  }

  /** What is still owed, one sentence each; empty when all is settled. */
  async #owed(verdict: Verdict): Promise<readonly string[]> {
    const owed: string[] = [];
    const produced = this.produced();
    const letters = new Set(verdict.deadLetters ?? []);
    const wanted = (handler: string, entries: readonly string[]) => {
      const got = this.handledBy(handler);
      const missing = entries.filter((entry) => !got.has(entry));
      if (missing.length > 0) owed.push(`${handler} owes ${missing.length}: ${missing.slice(0, 5).join(" ")}`);
    };
    const all = produced.map(({ entry }) => entry);
    for (const handler of PROTECTED) wanted(handler, all);
    wanted(
      "Recorder",
      all.filter((entry) => !letters.has(entry)),
    );
    wanted(
      "Incoming",
      produced.filter(({ foreign }) => foreign).map(({ entry }) => entry),
    );
    if (owed.length > 0) return owed;
    const rows = this.query<{ status: string; n: number }>(
      "SELECT status, count(*) n FROM outbox WHERE status <> 'published' OR locked_by IS NOT NULL GROUP BY status",
    );
    for (const { status, n } of rows) owed.push(`outbox: ${n} ${status}`);
    const broker = await this.broker();
    for (const stream of STREAMS) {
      for (const group of await broker.groups(stream)) {
        if (group.pending > 0 || (group.lag ?? 1) > 0) owed.push(`${group.name} on ${stream}: ${group.pending} pending, lag ${group.lag}`);
      }
    }
    const found = await this.letters();
    const expected = letters.size + (verdict.furtherLetters ?? 0);
    if (found !== expected) owed.push(`${found} dead letters instead of ${expected}`);
    return owed;
  }

  /** Waits until nothing is owed any more. @throws naming what is */
  async settled(verdict: Verdict = {}, limit_ms = SETTLED_ms): Promise<void> {
    const end_ms = performance.now() + limit_ms;
    for (;;) {
      const owed = await this.#owed(verdict);
      if (owed.length === 0) return;
      if (performance.now() > end_ms) {
        throw new Error(`after ${limit_ms} ms:\n${[...owed, ...(await this.#lettersAsText())].join("\n")}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /**
   * Settles, ends all servers by SIGTERM and compares the books. @throws with everything that isn't as promised
   */
  async verify(verdict: Verdict = {}): Promise<void> {
    if (this.#servers.size === 0) await this.start();
    await this.settled(verdict);
    for (const server of [...this.#servers]) await server.stop();
    const copies = await this.#copies(verdict);
    const wrong = [
      ...(await this.#owed(verdict)),
      ...this.#wrongEffects(verdict, copies),
      ...this.#wrongRuns(verdict, copies),
      ...(await this.#leftovers()),
    ];
    figures.lost += wrong.filter((text) => / owes /.test(text)).length;
    if (wrong.length > 0) throw new Error(wrong.join("\n"));
  }

  /** How often each message lies in its stream: a kill between publishing and marking leaves it there twice (C8). */
  async #copies({ outage = false }: Verdict): Promise<ReadonlyMap<string, number>> {
    const broker = await this.broker();
    const copies = new Map<string, number>();
    for (const stream of STREAMS) {
      for (const { fields } of await broker.range(stream, { count: 100_000 })) {
        const id = messageIdOf(fields);
        if (id !== null) copies.set(id, (copies.get(id) ?? 0) + 1);
      }
    }
    const again = [...copies.values()].reduce((sum, count) => sum + count - 1, 0);
    if (again > 0 && this.dead.size === 0 && !outage) throw new Error(`${again} messages were published twice although nothing died`);
    figures.publishedAgain += again;
    return copies;
  }

  #wrongEffects({ exactly = false, twoDatabases = false }: Verdict, copies: ReadonlyMap<string, number>): readonly string[] {
    const wrong: string[] = [];
    const produced = this.produced();
    const effects = this.query<{ handler: string; entry_id: string; message_id: string; n: number; pids: string }>(
      "SELECT handler, entry_id, message_id, count(*) n, group_concat(pid) pids FROM handled GROUP BY handler, entry_id, message_id HAVING count(*) > 1",
    );
    for (const { handler, entry_id, message_id, n, pids } of effects) {
      const isProtected = (PROTECTED as readonly string[]).includes(handler);
      const explained = pids.split(",").some((pid) => this.dead.has(Number(pid))) || n <= (copies.get(message_id) ?? 1);
      if (isProtected || exactly || !explained) wrong.push(`${handler} took effect ${n} times for ${entry_id} (pids ${pids})`);
      else figures.repeatedEffects += n - 1;
    }
    if (twoDatabases) return wrong;
    const confirmed = this.query<{ data: string; n: number }>(
      "SELECT data, count(*) n FROM messages WHERE type = 'Ledger.Confirmed.v1' GROUP BY data HAVING count(*) > 1",
    );
    for (const { data, n } of confirmed) wrong.push(`${n} events Confirmed for ${data}`);
    const posted = this.query<{ n: number | null }>("SELECT sum(posted) n FROM book")[0]?.n ?? 0;
    if (posted !== produced.length) wrong.push(`${posted} postings in the books instead of ${produced.length}`);
    for (const table of ["book_tally", "book_archive"]) {
      for (const row of this.query<{ book_id: string; count: number; last: number; backwards: number; posted: number }>(
        `SELECT t.book_id, t.count, t.last, t.backwards, b.posted FROM ${table} t JOIN book b ON b.book_id = t.book_id`,
      )) {
        if (row.backwards === 0 && row.count === row.posted && row.last === row.posted) continue;
        wrong.push(`${table} ${row.book_id}: ${row.count} of ${row.posted} counted, last ${row.last}, ${row.backwards} times backwards`);
      }
    }
    return wrong;
  }

  /** A second run of a message needs a death or a wanted failure before it. */
  #wrongRuns({ failing = [], deadLetters = [], competing = false }: Verdict, copies: ReadonlyMap<string, number>): readonly string[] {
    const wrong: string[] = [];
    const runs = this.runs();
    const produced = this.produced();
    figures.messages += produced.length;
    figures.runs += runs.length;
    const fails = new Set([...deadLetters, ...produced.filter(({ mood }) => failing.includes(mood)).map(({ entry }) => entry)]);
    const byMessage = new Map<string, Run[]>();
    for (const run of runs) {
      const key = `${run.handler} ${run.message ?? run.entry}`;
      byMessage.set(key, [...(byMessage.get(key) ?? []), run]);
    }
    for (const [key, same] of byMessage) {
      if (same.length === 1) continue;
      const [first] = same;
      if (first !== undefined && fails.has(first.entry)) continue;
      // A command that lost against another server's run of the same aggregate is tried again on the new state, within one attempt.
      const isConflict = competing && COMMAND_HANDLERS.has(first?.handler ?? "") && same.every((run) => run.pid === first?.pid);
      const explained = isConflict || same.length <= (copies.get(first?.message ?? "") ?? 1) || same.some((run) => this.dead.has(run.pid));
      if (!explained) {
        wrong.push(`${key} (${first?.entry}) ran ${same.length} times, by ${same.map((run) => `${run.pid}#${run.attempt}`).join(", ")}`);
      } else figures.repeatedRuns += same.length - 1;
    }
    return wrong;
  }

  /** A server that comes later finds nothing of the dead; when it has gone, nobody is registered any more. */
  async #leftovers(): Promise<readonly string[]> {
    const broker = await this.broker();
    const dead = async () => {
      const names: string[] = [];
      for (const stream of STREAMS) {
        for (const group of await broker.groups(stream)) {
          for (const consumer of await broker.consumers(stream, group.name)) {
            if ([...this.dead].some((pid) => consumer.name.includes(`-${pid}-`))) names.push(consumer.name);
          }
        }
      }
      return names;
    };
    if ((await dead()).length === 0) return [];
    const later = await this.start();
    const wrong: string[] = [];
    try {
      await until("the dead are not registered any more", async () => (await dead()).length === 0, 15_000);
    } catch {
      wrong.push(`still registered: ${(await dead()).join(", ")}`);
    }
    await later.stop();
    return wrong;
  }
}

/** Id of the message in an entry; null for foreign ones and for what can't be read. */
function messageIdOf(fields: EntryFields): string | null {
  const data = fields.find(([name]) => name === "data")?.[1];
  try {
    const message = JSON.parse(Buffer.from(data ?? []).toString("utf8")) as { metadata?: { headers?: { id?: string } } };
    return message.metadata?.headers?.id ?? null;
  } catch {
    return null; // one of the entries that tests break on purpose
  }
}
