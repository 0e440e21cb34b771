/**
 * Runs a worker (`protean server` in a process of its own) and replaces it when files change. Modules can't be unloaded, so there is no reload inside
 * a process:
 *
 * starting   a worker loads; its first word on stdout says that it handles messages
 * running    handlers and domain.toml are watched
 * replacing  a change starts a second worker beside the first. When it handles messages the first one drains; when it ends instead, its error is
 *            shown and the first one goes on. Changes meanwhile lead to one more round
 * stopping   the first signal closes the workers' standard input, which makes them drain; the second ends them at once
 */
import { basename, dirname } from "node:path";
import type { Config } from "../config/config.ts";
import { type Child, spawnSelf } from "../runtime/child.ts";
import { environmentVariables, workingDirectory } from "../runtime/environment.ts";
import { kindOf, remove, watchFolder } from "../runtime/files.ts";
import { onEndSignals } from "../runtime/signals.ts";
import { ask, canAsk, terminal } from "../runtime/terminal.ts";
import type { Values } from "./arguments.ts";
import type { Command, Invocation } from "./command.ts";
import { END_WORD, READY_WORD } from "./dev-words.ts";
import { httpFlag } from "./front-door.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { configOf, handlersOf, placeOf, shortPath } from "./project.ts";
import { SERVER_FLAGS } from "./server.ts";

const CONFIG_FILES: ReadonlySet<string> = new Set(["domain.toml", ".domain.toml", "pyproject.toml"]);
const SOURCE = /\.(?:ts|tsx|mts|js|mjs|json)$/;
const PASSED_ON = ["config", "domain", "env", "log-level", "log-format", "http", "drain-timeout"] as const;
const PASSED_ON_LISTS = ["handlers", "only", "except"] as const;

export const dev: Command = {
  description: "Run the engine, one line per message, and restart it when handlers or domain.toml change",
  flags: {
    http: SERVER_FLAGS.http,
    "drain-timeout": SERVER_FLAGS["drain-timeout"],
    only: SERVER_FLAGS.only,
    except: SERVER_FLAGS.except,
    "no-banner": SERVER_FLAGS["no-banner"],
    fresh: { type: "boolean", description: "Delete the data below .protean/ first; asks" },
  },
  async run(invocation) {
    const { values, output } = invocation;
    const place = await placeOf(values);
    const config = await configOf(values, place);
    requireDevelopment(values, config);
    const handlers = await handlersOf(values, place, config);
    if (values.has("fresh")) await deleteData(invocation, config);
    const supervisor = new Supervisor(invocation);
    const stopped = Promise.withResolvers<number>();
    const forget = onEndSignals({
      first: () => void supervisor.end().then(() => stopped.resolve(EXIT.good)),
      second: (_signal, exitCode) => {
        supervisor.kill();
        stopped.resolve(exitCode);
      },
    });
    const watches: (() => void)[] = [];
    try {
      await supervisor.replace("start");
      const changed = (where: string) => (paths: readonly string[]) =>
        void supervisor.replace(`${paths.map((path) => path || where).join(", ")} changed`);
      for (const path of handlers) {
        const folder = (await kindOf(path)) === "folder" ? path : dirname(path);
        if ((await kindOf(folder)) !== "folder") continue;
        watches.push(
          watchFolder(folder, changed(shortPath(folder)), {
            accepts: (name) => SOURCE.test(name) && !/(^|\/)(node_modules|\.protean)\//.test(name),
          }),
        );
      }
      watches.push(watchFolder(config.directory, changed("domain.toml"), { recursive: false, accepts: (name) => CONFIG_FILES.has(name) }));
      output.hint("Watching for changes. Press Ctrl+C to stop.");
      return { exitCode: await stopped.promise };
    } finally {
      for (const end of watches) end();
      forget();
    }
  },
};

function requireDevelopment(values: Values, config: Config): void {
  if (config.production || environmentVariables()["PROTEAN_ENV"] === "production") {
    throw usageError("dev is not for production (PROTEAN_ENV, ENV or --env says production)", "Run: protean server");
  }
  const host = httpFlag(values)?.host ?? config.server.health.host;
  if (!/^(localhost|127(\.\d+){3}|::1)$/.test(host)) {
    throw usageError(`dev listens on this machine only, not on ${host}`, "Leave out the host, or run: protean server");
  }
}

/** Only files of ours, only below `.protean/` (rulings 37). */
async function deleteData({ values, output }: Invocation, config: Config): Promise<void> {
  const folder = config.dataDir;
  if (basename(folder) !== ".protean")
    throw usageError(`--fresh deletes .protean folders only, not ${shortPath(folder)}`, "Delete it yourself.");
  if ((await kindOf(folder)) === null) return;
  if (!values.has("yes")) {
    if (!canAsk())
      throw new CommandError(
        EXIT.declined,
        "NEEDS_YES",
        `--fresh deletes ${shortPath(folder)} with all data, and there is no terminal to ask`,
        { fix: "Add --yes." },
      );
    const answer = await ask(`Delete ${shortPath(folder)} with all data? [y/N] `);
    if (!/^y(es)?$/i.test(answer?.trim() ?? "")) throw new CommandError(EXIT.declined, "DECLINED", "nothing was deleted");
  }
  await remove(folder);
  output.hint(`deleted ${shortPath(folder)}`);
}

class Supervisor {
  readonly #invocation: Invocation;
  #current: Child | null = null;
  readonly #all = new Set<Child>();
  #replacing: Promise<void> | null = null;
  #again: string | null = null;
  #ending = false;

  constructor(invocation: Invocation) {
    this.#invocation = invocation;
  }

  /** One replacement at a time; changes meanwhile lead to one more. */
  async replace(why: string): Promise<void> {
    if (this.#replacing !== null) {
      this.#again = why;
      return await this.#replacing;
    }
    this.#replacing = this.#rounds(why).finally(() => {
      this.#replacing = null;
    });
    await this.#replacing;
  }

  async #rounds(why: string): Promise<void> {
    for (let reason: string | null = why; reason !== null && !this.#ending; ) {
      this.#again = null;
      await this.#round(reason);
      reason = this.#again;
    }
  }

  async #round(why: string): Promise<void> {
    const { output } = this.#invocation;
    const before = this.#current;
    if (before !== null) output.hint(`${why}: starting the new code`);
    const worker = await this.#start(before === null && this.#all.size === 0);
    if (worker === null) {
      output.say(before === null ? "it doesn't run; waiting for changes" : "the new code doesn't run; the old one goes on");
      return;
    }
    this.#current = worker;
    if (before === null) return;
    before.write(`${END_WORD}\n`);
    await before.ended;
    output.hint("the new code runs");
  }

  /** Resolves when the worker handles messages, or null when it ended before. */
  async #start(withBanner: boolean): Promise<Child | null> {
    const { values, output } = this.#invocation;
    const ready = Promise.withResolvers<boolean>();
    const colour = terminal("stderr", { noColour: values.has("no-color") }).colour;
    const child = await spawnSelf(this.#parameters(withBanner && !values.has("no-banner")), {
      output: "pipe",
      environment: { ...environmentVariables(), ...(colour ? { FORCE_COLOR: "1" } : { NO_COLOR: "1" }) },
      workingDirectory: workingDirectory(),
      onLine: (line, from) => {
        if (from === "stdout") {
          if (line === READY_WORD) ready.resolve(true);
        } else output.say(line);
      },
    });
    this.#all.add(child);
    void child.ended.then(({ exitCode, signal }) => {
      this.#all.delete(child);
      ready.resolve(false);
      if (this.#current !== child) return;
      this.#current = null;
      if (!this.#ending) output.say(`the worker ended by itself (${signal ?? `exit ${exitCode}`}); waiting for changes`);
    });
    return (await ready.promise) ? child : null;
  }

  #parameters(withBanner: boolean): readonly string[] {
    const { values } = this.#invocation;
    const words = ["server", "--supervised"];
    for (const name of PASSED_ON) {
      const value = values.text(name);
      if (value !== undefined) words.push(`--${name}=${value}`);
    }
    for (const name of PASSED_ON_LISTS) for (const value of values.texts(name)) words.push(`--${name}=${value}`);
    for (const name of ["debug", "no-color", "quiet"]) if (values.has(name)) words.push(`--${name}`);
    if (!withBanner) words.push("--no-banner");
    return words;
  }

  async end(): Promise<void> {
    this.#ending = true;
    await Promise.all(
      [...this.#all].map(async (child) => {
        child.write(`${END_WORD}\n`);
        await child.ended;
      }),
    );
  }

  kill(): void {
    for (const child of this.#all) child.kill("SIGKILL");
  }
}
