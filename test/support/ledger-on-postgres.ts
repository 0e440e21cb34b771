/**
 * The ledger of the crash tests (test/crash/handlers) on PostgreSQL, and its books: what a producer was about to send (produced.log) against what took
 * effect in the database and lies in Message DB.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import postgres from "postgres";
import { type TemporaryFolder, temporaryFolder } from "./folder.ts";
import { mustRun, type RunningProgram, startProgram, untilRunning } from "./running.ts";

const CRASH = join(import.meta.dir, "..", "crash");
const HANDLERS = join(CRASH, "handlers");
const PRODUCER = join(CRASH, "producer.ts");
const SETTLED_ms = 60_000;
/** Once for every posting, whatever died. */
const PROTECTED = ["Tally", "Archive", "Confirming", "Confirming.end"] as const;

type Sql = ReturnType<typeof postgres>;

export interface LedgerOptions {
  readonly databaseUrl: string;
  /** The same as `databaseUrl`: one database, one transaction. */
  readonly storeUrl: string;
  /** null: the embedded broker. */
  readonly redisUrl: string | null;
}

export class LedgerOnPostgres {
  readonly folder: TemporaryFolder;
  readonly #sql: Sql;
  readonly #store: Sql;
  readonly #producers = new Set<ChildProcess>();

  private constructor(folder: TemporaryFolder, options: LedgerOptions) {
    this.folder = folder;
    // Reading the books must outlive what the tests do to the server.
    const reader = { max: 1, onnotice: () => {}, idle_timeout: 1 };
    this.#sql = postgres(options.databaseUrl, reader);
    this.#store = postgres(options.storeUrl, reader);
  }

  /** Writes domain.toml and makes all tables. */
  static async make(options: LedgerOptions): Promise<LedgerOnPostgres> {
    const broker = options.redisUrl === null ? "" : `[brokers.default]\nprovider = "redis"\nURI = "${options.redisUrl}"\n`;
    const folder = temporaryFolder({
      "domain.toml": `enable_outbox = true
event_processing = "async"
command_processing = "async"
[databases.default]
provider = "postgresql"
database_uri = "${options.databaseUrl}"
[event_store]
provider = "message_db"
database_uri = "${options.storeUrl}"
${broker}[server]
default_subscription_type = "stream"
[server.stream_subscription]
max_retries = 10
retry_delay_seconds = 0.1
[server.event_store_subscription]
retry_delay_seconds = 0.1
recovery_interval_seconds = 0.2
`,
    });
    const ledger = new LedgerOnPostgres(folder, options);
    await mustRun(["db", "setup", "--handlers", HANDLERS], { directory: folder.path });
    return ledger;
  }

  launch(options: { readonly crashAt?: string; readonly http?: string } = {}): RunningProgram {
    const environment = options.crashAt === undefined ? {} : { PROTEAN_CRASH_AT: options.crashAt };
    return startProgram(["server", "--handlers", HANDLERS, "--http", options.http ?? "off"], {
      directory: this.folder.path,
      environment,
    });
  }

  async start(options: { readonly http?: string } = {}): Promise<RunningProgram> {
    return await untilRunning(this.launch(options));
  }

  /** Sends `count` postings from a process of its own; resolves when all are accepted, or when it died as `crashAt` says. */
  async produce(name: string, count: number, options: { readonly crashAt?: string } = {}): Promise<void> {
    const child = spawn(process.execPath, [PRODUCER, name, String(count), "4", "1000000"], {
      cwd: this.folder.path,
      env: { ...process.env, ...(options.crashAt === undefined ? {} : { PROTEAN_CRASH_AT: options.crashAt }) },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#producers.add(child);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        output += text;
      });
    }
    const [exitCode, signal] = (await once(child, "close")) as [number | null, string | null];
    this.#producers.delete(child);
    const died = options.crashAt !== undefined && signal === "SIGKILL";
    if (!died && (exitCode !== 0 || options.crashAt !== undefined)) {
      throw new Error(`the producer ended with ${exitCode ?? signal}:\n${output}`);
    }
  }

  produced(): readonly string[] {
    const path = this.folder.at("produced.log");
    if (!existsSync(path)) return [];
    const lines = readFileSync(path, "utf8").split("\n");
    return lines.filter((line) => line !== "").map((line) => (JSON.parse(line) as { readonly entry: string }).entry);
  }

  async query(text: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
    return await this.#sql.unsafe(text);
  }

  async inStore(text: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
    return await this.#store.unsafe(text);
  }

  /** Postings that Recorder has taken. */
  async recorded(): Promise<number> {
    return Number((await this.query("SELECT count(DISTINCT entry_id) n FROM handled WHERE handler = 'Recorder'"))[0]?.["n"]);
  }

  async #owed(): Promise<readonly string[]> {
    const owed: string[] = [];
    const rows = await this.query("SELECT handler, entry_id FROM handled");
    const all = this.produced();
    for (const handler of ["Recorder", ...PROTECTED]) {
      const got = new Set(rows.filter((row) => row["handler"] === handler).map((row) => row["entry_id"]));
      const missing = all.filter((entry) => !got.has(entry));
      if (missing.length > 0) owed.push(`${handler} owes ${missing.length}: ${missing.slice(0, 5).join(" ")}`);
    }
    for (const { status, n } of await this.query("SELECT status, count(*) n FROM outbox WHERE status <> 'published' GROUP BY status")) {
      owed.push(`outbox: ${n} ${status}`);
    }
    return owed;
  }

  /** Waits until every posting has had all its effects. @throws naming what is owed */
  async settled(limit_ms = SETTLED_ms): Promise<void> {
    const end_ms = performance.now() + limit_ms;
    for (;;) {
      const owed = await this.#owed().catch((error: unknown) => [String(error)]);
      if (owed.length === 0) return;
      if (performance.now() > end_ms) throw new Error(`after ${limit_ms} ms:\n${owed.join("\n")}`);
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }

  /** What took effect more or less often than it was sent; empty when nothing was lost or doubled. */
  async wrong(): Promise<readonly string[]> {
    const wrong = [...(await this.#owed())];
    const doubled = await this.query("SELECT handler, entry_id, count(*) n FROM handled GROUP BY handler, entry_id HAVING count(*) > 1");
    for (const { handler, entry_id, n } of doubled) {
      if ((PROTECTED as readonly unknown[]).includes(handler)) wrong.push(`${handler} took effect ${n} times for ${entry_id}`);
    }
    const count = this.produced().length;
    const posted = Number((await this.query("SELECT sum(posted) n FROM book"))[0]?.["n"]);
    if (posted !== count) wrong.push(`${posted} postings in the books instead of ${count}`);
    for (const type of ["Ledger.Posted.v1", "Ledger.Confirmed.v1"]) {
      const events = Number((await this.inStore(`SELECT count(*) n FROM message_store.messages WHERE type = '${type}'`))[0]?.["n"]);
      if (events !== count) wrong.push(`${events} events ${type} instead of ${count}`);
    }
    for (const table of ["book_tally", "book_archive"]) {
      for (const row of await this.query(`SELECT t.*, b.posted FROM ${table} t JOIN book b ON b.book_id = t.book_id`)) {
        if (row["count"] !== row["posted"] || row["last"] !== row["posted"] || row["backwards"] !== 0)
          wrong.push(`${table} ${JSON.stringify(row)}`);
      }
    }
    return wrong;
  }

  async close(): Promise<void> {
    for (const child of this.#producers) child.kill("SIGKILL");
    await this.#sql.end({ timeout: 1 });
    await this.#store.end({ timeout: 1 });
    this.folder.remove();
  }
}
