import type { ComposedEngine } from "../compose/engine.ts";
import type { Config } from "../config/config.ts";
import { ConfigurationError } from "../errors.ts";
import { type HealthFacts, type HealthSource, healthHandler } from "../observatory/health.ts";
import type { Log } from "../ports/log.ts";
import { endProcess, standardInputLines } from "../runtime/environment.ts";
import { hostIdentity } from "../runtime/host.ts";
import { type HttpServer, serveHttp } from "../runtime/http.ts";
import { type EndSignal, onEndSignals } from "../runtime/signals.ts";
import type { Values } from "./arguments.ts";
import type { Invocation } from "./command.ts";
import { END_WORD } from "./dev-words.ts";
import type { Outcome } from "./output.ts";
import { Patience } from "./patience.ts";
import { usageError } from "./problem.ts";

/** Ports tried above a taken one (D39). */
const PORTS_ABOVE = 20;
const KEEP_ALIVE_ms = 60_000;

export interface HttpAddress {
  readonly host: string | undefined;
  readonly port: number;
}

/** null: off; undefined: as domain.toml says. */
export function httpFlag(values: Values): HttpAddress | null | undefined {
  const text = values.text("http");
  if (text === undefined) return undefined;
  if (text === "off") return null;
  const match = /^(?:(\[[0-9a-fA-F:.]+\]|[^:\s]+):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65_535) throw usageError(`--http: "${text}" is no [HOST:]PORT and not off`);
  return { host: match[1]?.replace(/^\[|\]$/g, ""), port };
}

/**
 * What is there before the stores are: signals, and the probes, so that a server that waits for PostgreSQL says so and can be ended.
 *
 * waiting   no engine yet: live, not ready, with the reason
 * running   probes answer for the engine
 */
export class FrontDoor {
  readonly isSupervised: boolean;
  /** The first signal that asked us to end. */
  readonly stopped = Promise.withResolvers<EndSignal>();
  readonly #invocation: Invocation;
  readonly #flag: HttpAddress | null | undefined;
  readonly #stopping = new AbortController();
  readonly #closers: (() => void | Promise<void>)[] = [];
  #isBanner = false;
  #engine: HealthSource | null = null;
  #http: HttpServer | null = null;
  #reason: string | null = null;
  #drains = false;
  #signal: EndSignal | null = null;

  constructor(invocation: Invocation, flag: HttpAddress | null | undefined) {
    this.#invocation = invocation;
    this.#flag = flag;
    this.isSupervised = invocation.values.has("supervised");
  }

  /** Whether a person reads along. */
  get isBanner(): boolean {
    return this.#isBanner;
  }

  /** null: no probes. */
  get http(): HttpServer | null {
    return this.#http;
  }

  banner(line: string): void {
    if (this.#isBanner) this.#invocation.output.say(line);
  }

  /**
   * Listens to signals and for probes. An address of domain.toml that can't be used is a warning, and the server goes on without probes (engine.md §9).
   * @throws ConfigurationError when that of `--http` can't be used
   */
  async open(config: Config): Promise<void> {
    const { output, values } = this.#invocation;
    this.#isBanner = !values.has("no-banner") && !values.has("quiet") && logFormatOf(values, config) === "console";
    const forgetSignals = onEndSignals({
      first: (signal) => this.#stop(signal),
      second: (signal, exitCode) => {
        // Ctrl+C reaches the worker too; whether a second one ends it is for `protean dev` to say.
        if (this.isSupervised) return;
        output.say(`stopped at once by ${signal}; what was running is handled again by the next server`);
        void endProcess(exitCode);
      },
    });
    // Timers of the engine don't hold the process (ports/clock): a server that only waits must stay.
    const alive = setInterval(() => undefined, KEEP_ALIVE_ms);
    this.#closers.push(forgetSignals, () => clearInterval(alive));
    if (this.isSupervised) void endOfSupervision().then(() => this.#stop("SIGTERM"));
    this.banner("Starting Protean Engine...");
    const { health } = config.server;
    if (this.#flag === null || (this.#flag === undefined && !health.enabled)) return;
    const serving = serveHttp({
      handler: healthHandler({
        facts: () => this.#engine?.facts() ?? this.#waiting(config),
        backlog: () => this.#engine?.backlog() ?? null,
        drain: () => {
          this.#drains = true;
          this.#engine?.drain();
        },
        pid: hostIdentity().pid,
      }),
      host: this.#flag?.host ?? health.host,
      port: this.#flag?.port ?? health.port,
      portsAbove: health.portAutoIncrement ? PORTS_ABOVE : 0,
    });
    let http: HttpServer;
    try {
      http = await serving;
    } catch (error) {
      if (this.#flag !== undefined || !(error instanceof ConfigurationError)) throw error;
      output.hint(`warning: ${error.message}; there are no probes. Change [server.health], or leave port_auto_increment out.`);
      return;
    }
    this.#http = http;
    this.#closers.push(() => http.close());
  }

  /** Waiting that a signal ends, and whose reason the probes tell. */
  waitsFor(limit_ms: number, log: Log): Patience {
    return new Patience({
      limit_ms,
      log,
      signal: this.#stopping.signal,
      waiting: (reason) => {
        this.#reason = reason;
      },
    });
  }

  /** From now on the probes answer for the engine. */
  hasEngine({ engine, health }: ComposedEngine): void {
    this.#engine = health;
    engine.listensAt(this.#http?.url ?? null);
    if (this.#drains) engine.drain();
  }

  stoppedWaiting(): Outcome {
    this.#invocation.output.hint("Stopped: nothing was running, a store was waited for.");
    return { data: { handled: 0, reason: this.#signal } };
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close();
  }

  #stop(signal: EndSignal): void {
    this.#signal = signal;
    this.#stopping.abort();
    this.stopped.resolve(signal);
  }

  #waiting(config: Config): HealthFacts {
    return {
      phase: this.#stopping.signal.aborted ? "stopping" : this.#drains ? "draining" : "starting",
      providers: Object.fromEntries(Object.keys(config.databases).map((name) => [name, false])),
      brokers: {},
      eventStore: false,
      services: [],
      reasons: [this.#reason ?? "starting"],
    };
  }
}

/** Resolves when `protean dev` tells this worker to end, or is gone. */
async function endOfSupervision(): Promise<void> {
  for await (const line of standardInputLines()) if (line === END_WORD) return;
}

/** The flag wins over `[logging]`. */
export function logFormatOf(values: Values, config: Config): "console" | "json" {
  const flag = values.text("log-format");
  return flag === "console" || flag === "json" ? flag : config.logging.format;
}
