/** `app.py` and `protean` of the Python peer, on one Redis and a SQLite file. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { PythonPeer } from "../../scripts/python-peer.ts";
import type { TemporaryFolder } from "../support/folder.ts";
import type { Note } from "./bank.ts";

const app = join(import.meta.dir, "python-app");

/** What a Python handler printed. */
export type PythonNote = Pick<Note, "handler" | "class" | "payload" | "metadata">;

export interface Python {
  /** Runs `app.py` to its end. @throws with its output when it fails. @returns its lines, parsed */
  app(...parameters: readonly string[]): Promise<readonly Readonly<Record<string, unknown>>[]>;
  /** Lets its engine handle what is there. @returns what its handlers saw */
  consume(): Promise<readonly PythonNote[]>;
  /** Its engine in a process of its own, until `stop`. */
  serve(): Promise<PythonServer>;
  /** Runs its `protean` command. @returns stdout */
  cli(...parameters: readonly string[]): Promise<string>;
  close(): Promise<void>;
}

export interface PythonServer {
  handled(): readonly PythonNote[];
  stop(): Promise<void>;
}

/** @param options.redis its server; databases 0 (own), 1 (partners) and 2 (idempotency) are used */
export function openPython(
  peer: Extract<PythonPeer, { readonly python: string }>,
  options: { readonly redis: string; readonly folder: TemporaryFolder; readonly name: string },
): Python {
  const { redis, folder, name } = options;
  const database = folder.at(`${name}.db`);
  const handledLog = folder.at(`${name}.jsonl`);
  const children = new Set<ChildProcess>();
  const environment = {
    PATH: process.env["PATH"] ?? "",
    DB_PROVIDER: "sqlite",
    DATABASE_URL: `sqlite:///${database}`,
    EVENT_STORE_PROVIDER: "memory",
    MESSAGE_DB_URL: "memory",
    REDIS_URL: `${redis}/0`,
    PARTNER_REDIS_URL: `${redis}/1`,
    IDEMPOTENCY_REDIS_URL: `${redis}/2`,
    PYTHONDONTWRITEBYTECODE: "1",
    COLUMNS: "300",
    NO_COLOR: "1",
  };
  const start = (file: string, parameters: readonly string[], more: Readonly<Record<string, string>> = {}) => {
    const child = spawn(file, [...parameters], { cwd: app, env: { ...environment, ...more }, stdio: ["ignore", "pipe", "pipe"] });
    children.add(child);
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    const ended = once(child, "close").then(([exitCode]) => {
      children.delete(child);
      return { exitCode: exitCode as number | null, stdout, stderr };
    });
    return { child, ended };
  };
  const mustRun = async (file: string, parameters: readonly string[]): Promise<string> => {
    const { exitCode, stdout, stderr } = await start(file, parameters).ended;
    if (exitCode !== 0) throw new Error(`${parameters.join(" ")}: exit code ${exitCode}\n${stdout}${stderr}`);
    return stdout;
  };
  const setUp = folder.at("empty.db");
  const tables = async (): Promise<void> => {
    if (existsSync(database)) return;
    if (existsSync(setUp)) return copyFileSync(setUp, database);
    await mustRun(peer.python, ["app.py", "setup"]);
    copyFileSync(database, setUp);
  };
  const lines = <T>(text: string): readonly T[] =>
    text
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as T);
  const python: Python = {
    async app(...parameters) {
      await tables();
      return lines(await mustRun(peer.python, ["app.py", ...parameters]));
    },
    consume: async () => (await python.app("consume")) as unknown as readonly PythonNote[],
    async serve() {
      await tables();
      const { child, ended } = start(peer.python, ["app.py", "serve"], { HANDLED_LOG: handledLog });
      return {
        handled: () => (existsSync(handledLog) ? lines(readFileSync(handledLog, "utf8").replace(/[^\n]*$/, "")) : []),
        async stop() {
          child.kill("SIGTERM");
          await ended;
        },
      };
    },
    async cli(...parameters) {
      await tables();
      return await mustRun(peer.protean, [...parameters, "--domain", "bank"]);
    },
    async close() {
      for (const child of children) {
        child.kill("SIGKILL");
        await once(child, "close");
      }
    },
  };
  return python;
}
