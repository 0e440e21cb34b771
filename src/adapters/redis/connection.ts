import "./driver-tracing.ts";
import { Command, type Pipeline, Redis, type RedisOptions } from "ioredis";
import { ConfigurationError, ConnectionError, ProteanError } from "../../errors.ts";
import type { Clock } from "../../ports/clock.ts";
import type { Random } from "../../ports/random.ts";
import type { RedisAddress } from "./address.ts";
import type { Availability } from "./availability.ts";
import type { Script } from "./scripts.ts";
import { unusable, VERSION_KEY } from "./version.ts";

/** An argument of a command. */
export type Argument = string | number | Buffer;
/** What Redis answers; an error inside a pipeline stands in its place. */
export type Reply = string | number | null | Buffer | Refusal | readonly Reply[];

/** One command. `binary` gives its strings as bytes. */
export interface Request {
  readonly name: string;
  readonly args: readonly Argument[];
  readonly binary?: boolean;
}

/** Redis took the command and said no. `word` is the first word of the answer: `NOGROUP`, `WRONGTYPE`, `OOM`, … */
export class Refusal extends ProteanError {
  override readonly name: string = "RedisRefusal";
  readonly word: string;
  constructor(command: string, answer: string) {
    super("BROKER_REFUSED", `Redis refused ${command.toUpperCase()}: ${answer}`);
    this.word = answer.split(" ", 1)[0] ?? "";
  }
}

/**
 * The server is there but can't serve now: same treatment as a server that is not there. Full memory (`OOM`), a failed save (`MISCONF`) and missing
 * replicas (`NOREPLICAS`) belong here: it is the server's state that refuses the message, so no message may lose an attempt for it (G9).
 */
const NOT_SERVING = new Set(["LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "UNBLOCKED", "OOM", "MISCONF", "NOREPLICAS"]);
/** This connection will never be right again: another server has become the master, or our credentials were taken away. */
const CONNECTION_STALE = new Set(["READONLY", "NOAUTH", "WRONGPASS"]);
const CREDENTIALS = /WRONGPASS|NOAUTH|invalid password|AUTH <password> called/i;
const CREDENTIALS_FIX = "Check user and password in the broker's URL; the server refused them.";

const PAUSE_LEAST_ms = 50;
const PAUSE_MOST_ms = 2_000;
const SCRIPTS_MISSING = "NOSCRIPT";

export interface ConnectionOptions {
  /** Word for logs: `commands` or `wakeups`. */
  readonly purpose: string;
  readonly address: RedisAddress;
  readonly clock: Clock;
  readonly random: Random;
  readonly availability: Availability;
  /** Milliseconds that a command may take. */
  readonly deadline_ms: number;
  /** Passed on to the driver; can't change what keeps the contract. */
  readonly driver?: RedisOptions | undefined;
  /** Called each time that a connection stands, before anybody else uses it. */
  readonly onReady?: (() => void) | undefined;
}

/**
 * One connection to Redis that always comes back (known-traps A9, B9, C14; decisions D5, D21).
 *
 * idle        nothing was asked yet; the first call connects and waits for it, at most its deadline
 * connecting  the first try
 * ready       calls go out at once
 * lost        the socket ended, or an answer missed its deadline: the client is thrown away, all its calls fail with ConnectionError.
 *             New ones are made with pauses of 50 ms … 2 s, for ever; calls fail at once meanwhile, nothing is queued
 * refused     lost, because a newer program has been here whose keys we don't know (rulings 51): calls fail with its ConfigurationError
 * closed      for good
 *
 * A call that was given up may still lie in a buffer on its way, and a server that stood still carries it out when it goes on: an XREADGROUP would give
 * us entries that we don't know of, behind newer ones. So a new client first ends the old connection at the server (CLIENT KILL); after that
 * nothing of it can take effect. Without permission for that such entries are found later, out of order.
 *
 * The driver's own reconnecting, queueing and resending are off: it hides a link that is dead on the other side, and a command that was
 * sent again by itself could take effect twice. Each client is used until its first fault and then dropped; what it still answers has
 * nobody waiting for it.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #ended = new AbortController();
  #client: Redis | null = null;
  #state: "idle" | "connecting" | "ready" | "lost" | "closed" = "idle";
  #firstTry: Promise<void> | null = null;
  /** Number at the server of the connection that stood last; null when the server tells none. */
  #lastId: number | null = null;
  #reason = "not connected yet";
  #fix: string | undefined;
  #refusal: ConfigurationError | null = null;

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  get isReady(): boolean {
    return this.#state === "ready";
  }

  /** One command. @throws ConnectionError, Refusal, ConfigurationError */
  async call(
    name: string,
    args: readonly Argument[],
    options: { readonly binary?: boolean; readonly deadline_ms?: number } = {},
  ): Promise<Reply> {
    const client = this.#client !== null && this.#state === "ready" ? this.#client : await this.#usable();
    const command = new Command(name, args as Argument[], { replyEncoding: options.binary === true ? null : "utf8" });
    client.sendCommand(command);
    try {
      return (await this.#inTime(client, name, command.promise as Promise<Reply>, options.deadline_ms)) as Reply;
    } catch (error) {
      throw this.#understood(client, name, error);
    }
  }

  /** Several commands in one round trip; what Redis refuses stands as Refusal in its place. @throws ConnectionError */
  async pipeline(requests: readonly Request[]): Promise<readonly Reply[]> {
    const first = requests[0];
    if (first === undefined) return [];
    const client = this.#client !== null && this.#state === "ready" ? this.#client : await this.#usable();
    const pipeline = client.pipeline() as unknown as Pipeline;
    for (const request of requests) {
      pipeline.sendCommand(
        new Command(request.name, request.args as Argument[], { replyEncoding: request.binary === true ? null : "utf8" }),
      );
    }
    let answers: [Error | null, unknown][] | null;
    try {
      answers = (await this.#inTime(client, first.name, pipeline.exec() as Promise<unknown>)) as [Error | null, unknown][] | null;
    } catch (error) {
      throw this.#understood(client, first.name, error);
    }
    const replies: Reply[] = [];
    for (let at = 0; at < requests.length; at++) {
      const [error, value] = answers?.[at] ?? [new Error("no answer"), null];
      if (error === null) {
        replies.push(value as Reply);
        continue;
      }
      const understood = this.#understood(client, requests[at]?.name ?? first.name, error);
      if (!(understood instanceof Refusal)) throw understood;
      replies.push(understood);
    }
    return replies;
  }

  /** Runs a script; its text travels only when the server doesn't know it yet. @throws ConnectionError, Refusal */
  async run(
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
    options: { readonly binary?: boolean } = {},
  ): Promise<Reply> {
    try {
      return await this.call("evalsha", [script.digest, keys.length, ...keys, ...args], options);
    } catch (error) {
      if (!(error instanceof Refusal && error.word === SCRIPTS_MISSING)) throw error;
      return await this.call("eval", [script.text, keys.length, ...keys, ...args], options);
    }
  }

  /** Throws the client away: a new one looks at the server anew. */
  renew(reason: string): void {
    if (this.#client !== null) this.#lose(this.#client, reason);
  }

  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#reason = "closed";
    this.#ended.abort();
    this.#options.availability.forget(this.#options.purpose);
    const client = this.#client;
    this.#client = null;
    if (client !== null) drop(client);
  }

  async #usable(): Promise<Redis> {
    if (this.#state === "idle") {
      this.#state = "connecting";
      this.#firstTry = this.#connect().then((connected) => {
        if (!connected) void this.#comeBack();
      });
    }
    if (this.#state === "connecting") await this.#firstTry;
    if (this.#state === "ready" && this.#client !== null) return this.#client;
    throw this.#refusal ?? this.#unreachable(this.#reason);
  }

  #unreachable(reason: string): ConnectionError {
    return new ConnectionError(`Redis at ${this.#options.address.shown}: ${reason}`, { at: this.#options.address.shown, fix: this.#fix });
  }

  /** Makes one client; true when it stands. Never rejects. */
  async #connect(): Promise<boolean> {
    const { address, deadline_ms, driver, purpose } = this.#options;
    const options: RedisOptions & { replyMapping: "legacy" } = {
      keepAlive: 10_000,
      ...(address.tls ? { tls: {} } : {}),
      ...driver,
      host: address.host,
      port: address.port,
      db: address.database,
      username: address.username,
      password: address.password,
      connectionName: `protean-${purpose}`,
      protocol: 2,
      replyMapping: "legacy",
      lazyConnect: true,
      retryStrategy: null,
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      maxRetriesPerRequest: 0,
      connectTimeout: deadline_ms,
    };
    const client = new Redis(options);
    let said: string | null = null;
    client.on("error", (error: Error) => {
      said = error.message;
    });
    client.on("close", () => {
      if (this.#client === client) this.#lose(client, said ?? "the server closed the connection");
    });
    const late = Promise.withResolvers<never>();
    const cancel = this.#options.clock.timer(deadline_ms, () => {
      said = `no connection within ${deadline_ms} ms`;
      late.reject(new Error(said));
    });
    try {
      const looked = client.connect().then(() => Promise.all([this.#replace(client), requireUsable(client, address.shown)]));
      await Promise.race([looked, late.promise]);
      if (this.#state === "closed") throw new Error(this.#reason);
      this.#client = client;
      this.#state = "ready";
      this.#fix = undefined;
      this.#refusal = null;
      this.#options.availability.back(purpose);
      this.#options.onReady?.();
      return true;
    } catch (error) {
      drop(client);
      if (this.#state === "closed") return false;
      this.#state = "lost";
      this.#refusal = error instanceof ConfigurationError ? error : null;
      this.#reason = said ?? (error as Error).message;
      this.#fix = CREDENTIALS.test(this.#reason) ? CREDENTIALS_FIX : undefined;
      this.#options.availability.lost(purpose, this.#reason, this.#fix);
      return false;
    } finally {
      cancel();
    }
  }

  /** Ends the connection before this one at the server, in the new one's first round trip. */
  async #replace(client: Redis): Promise<void> {
    const before = this.#lastId;
    const kill = before === null ? null : client.call("client", "KILL", "ID", before);
    const [id] = await Promise.allSettled([client.call("client", "ID"), kill]);
    // Refusals change nothing: no such connection any more, or no permission. A connection that broke meanwhile is told of by its end.
    this.#lastId = id.status === "fulfilled" && typeof id.value === "number" ? id.value : null;
  }

  /** Throws a client away and starts looking for a new one. */
  #lose(client: Redis, reason: string): void {
    if (this.#client !== client || this.#state === "closed") return;
    this.#client = null;
    this.#state = "lost";
    this.#reason = reason;
    drop(client);
    this.#options.availability.lost(this.#options.purpose, reason, undefined);
    void this.#comeBack();
  }

  async #comeBack(): Promise<void> {
    for (let pause_ms = PAUSE_LEAST_ms; this.#state === "lost"; pause_ms = Math.min(pause_ms * 2, PAUSE_MOST_ms)) {
      await this.#options.clock.sleep(pause_ms * (0.5 + this.#options.random.float() / 2), this.#ended.signal);
      if (this.#state !== "lost" || (await this.#connect())) return;
    }
  }

  /** The answer, or ConnectionError when it misses its deadline; then the client is thrown away. */
  #inTime(client: Redis, what: string, answer: Promise<unknown>, deadline_ms = this.#options.deadline_ms): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const cancel = this.#options.clock.timer(deadline_ms, () => {
        const reason = `no answer to ${what.toUpperCase()} within ${deadline_ms} ms`;
        reject(this.#unreachable(reason));
        this.#lose(client, reason);
      });
      answer.then(
        (value) => {
          cancel();
          resolve(value);
        },
        (error: unknown) => {
          cancel();
          reject(error);
        },
      );
    });
  }

  /** The driver's errors carry the command with its arguments (payloads, passwords): only their words go on. */
  #understood(client: Redis, command: string, error: unknown): ProteanError {
    if (error instanceof ProteanError) return error;
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof Error) || error.name !== "ReplyError")
      return this.#unreachable(this.#state === "ready" ? message : this.#reason);
    const refusal = new Refusal(command, message);
    if (CONNECTION_STALE.has(refusal.word)) {
      this.#lose(client, message);
      return this.#unreachable(message);
    }
    return NOT_SERVING.has(refusal.word) ? this.#unreachable(message) : refusal;
  }
}

/** A server that doesn't say its version (no key, no right to read it) may be used. @throws ConfigurationError */
async function requireUsable(client: Redis, address: string): Promise<void> {
  let text: string | null = null;
  try {
    text = await client.get(VERSION_KEY);
  } catch (error) {
    if (!(error instanceof Error) || error.name !== "ReplyError") throw error;
  }
  const refusal = unusable(text, address);
  if (refusal !== null) throw refusal;
}

/** Ends a client without a word: a half-open link would never see a QUIT through. */
function drop(client: Redis): void {
  const stream = (client as { readonly stream?: { destroy(): void } }).stream;
  client.disconnect(false);
  stream?.destroy();
}
