/**
 * What builds and runs images: a Docker engine, or buildah where none runs. Buildah isolates by chroot here, so that it works in a container and
 * without cgroups: the network is the machine's, and there is no read-only root.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { canInstallPackages, findOnPath, installPackage } from "../programs.ts";
import { ImageError, USER } from "./context.ts";

const run = promisify(execFile);
const MAX_OUTPUT_bytes = 64 * 1024 * 1024;

export interface Ran {
  readonly exitCode: number;
  readonly output: string;
}

export interface ImageSettings {
  readonly user: string;
  /** Entrypoint and command. */
  readonly command: readonly string[];
  readonly healthcheck: readonly string[];
}

/** A server in a container. */
export interface Running {
  /** Runs a program in the same container. */
  exec(command: readonly string[]): Promise<Ran>;
  /** Process id as this machine sees it; null when it isn't one of this machine's. */
  pid(): Promise<number | null>;
  output(): Promise<string>;
  /** SIGTERM; resolves when it has ended. */
  stop(): Promise<Ran>;
  /** Files that it wrote outside of its volumes. */
  written(): Promise<readonly string[]>;
  /** Ends it at once, and deletes what it left. */
  remove(): Promise<void>;
}

export interface Engine {
  /** With its version. */
  readonly name: string;
  /** What isn't tried with it, in words; null = everything is. */
  readonly untried: string | null;
  build(tag: string, folder: string, dockerfile: string, values: Readonly<Record<string, string>>): Promise<void>;
  settings(tag: string): Promise<ImageSettings>;
  size_bytes(tag: string): Promise<number>;
  /** Forgets the image; nothing may run from it. */
  remove(tag: string): Promise<void>;
  /** Starts the image's own command with `app` at /app. `scratch` is an empty folder for the engine's use. */
  start(tag: string, settings: ImageSettings, app: string, scratch: string): Promise<Running>;
}

/** @throws ImageError when there is neither, with what was tried */
export async function findEngine(): Promise<Engine> {
  const tried: string[] = [];
  if (findOnPath("docker") === null) tried.push("no docker on PATH");
  else {
    const { status, stdout, stderr } = spawnSync("docker", ["version", "--format", "{{.Server.Version}}"], { encoding: "utf8" });
    if (status === 0) return docker(stdout.trim());
    tried.push(`docker: ${stderr.trim().split("\n").at(-1)}`);
  }
  if (process.platform !== "linux") throw new ImageError(`nothing here builds images: ${tried.join("; ")}`);
  if (findOnPath("buildah") === null) {
    tried.push("no buildah on PATH");
    if (canInstallPackages()) {
      const problem = await installPackage("buildah");
      if (problem !== null) tried.push(`apt-get install buildah: ${problem}`);
    }
  }
  if (findOnPath("buildah") === null) throw new ImageError(`nothing here builds images: ${tried.join("; ")}`);
  if (process.getuid?.() !== 0) throw new ImageError(`${tried.join("; ")}; buildah with chroot isolation needs root`);
  const { stdout } = await run("buildah", ["--version"]);
  return buildah(stdout.trim().split(" ")[2] ?? "?");
}

/** @throws ImageError with what the program said when it fails */
async function must(program: string, parameters: readonly string[]): Promise<string> {
  try {
    return (await run(program, [...parameters], { maxBuffer: MAX_OUTPUT_bytes })).stdout;
  } catch (error) {
    const { stdout = "", stderr = "" } = error as { readonly stdout?: string; readonly stderr?: string };
    throw new ImageError(`${program} ${parameters.join(" ")}:\n${stdout}${stderr}`, { cause: error });
  }
}

async function may(program: string, parameters: readonly string[]): Promise<Ran> {
  const { status, stdout, stderr } = await new Promise<{ status: number; stdout: string; stderr: string }>((resolve) => {
    execFile(program, [...parameters], { maxBuffer: MAX_OUTPUT_bytes }, (error, out, err) => {
      resolve({ status: error === null ? 0 : typeof error.code === "number" ? error.code : 1, stdout: out, stderr: err });
    });
  });
  return { exitCode: status, output: stdout + stderr };
}

// ---------------------------------------------------------------------------------------------------------------- docker

function docker(version: string): Engine {
  const inspect = async (tag: string, format: string) => (await must("docker", ["image", "inspect", "--format", format, tag])).trim();
  return {
    name: `docker ${version}`,
    untried: null,
    build: async (tag, folder, dockerfile, values) => {
      const before = (await may("docker", ["image", "inspect", "--format", "{{.Id}}", tag])).output.trim();
      await must("docker", ["build", "--tag", tag, "--file", dockerfile, ...argumentsOf(values), folder]);
      // The image that had the name before has none now, and would stay for ever.
      if (before.startsWith("sha256:") && before !== (await inspect(tag, "{{.Id}}"))) await may("docker", ["image", "rm", before]);
    },
    settings: async (tag) => settingsOf(JSON.parse(await inspect(tag, "{{json .Config}}"))),
    size_bytes: async (tag) => Number(await inspect(tag, "{{.Size}}")),
    remove: async (tag) => void (await must("docker", ["image", "rm", tag])),
    start: async (tag, settings, app) => {
      const hard = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"];
      const id = (await must("docker", ["run", "--detach", ...hard, "--volume", `${app}:/app:ro`, tag])).trim();
      const output = async () => (await may("docker", ["logs", id])).output;
      return {
        exec: async (command) => await may("docker", ["exec", id, ...command]),
        pid: async () => {
          const pid = Number(await must("docker", ["inspect", "--format", "{{.State.Pid}}", id]));
          // An engine on another machine tells a number of that machine.
          return commandOf(pid)[0] === settings.command[0] ? pid : null;
        },
        output,
        stop: async () => {
          await must("docker", ["stop", "--time", "30", id]);
          return { exitCode: Number(await must("docker", ["inspect", "--format", "{{.State.ExitCode}}", id])), output: await output() };
        },
        written: async () =>
          (await must("docker", ["diff", id])).split("\n").filter((line) => line !== "" && !/^[AC] \/(app|data)\b/.test(line)),
        remove: async () => void (await may("docker", ["rm", "--force", "--volumes", id])),
      };
    },
  };
}

// --------------------------------------------------------------------------------------------------------------- buildah

function buildah(version: string): Engine {
  const call = (...parameters: readonly string[]) => must("buildah", ["--storage-driver", "vfs", ...parameters]);
  const chroot = ["--isolation", "chroot"];
  const inspect = async (tag: string) => JSON.parse(await call("inspect", "--type", "image", tag)) as { Docker: { config: DockerConfig } };
  const idOf = async (tag: string) =>
    await call("images", "--quiet", "--no-trunc", tag).then(
      (text) => text.trim(),
      () => "",
    );
  return {
    name: `buildah ${version}`,
    untried: "a read-only root and a network of its own, which chroot isolation doesn't have",
    build: async (tag, folder, dockerfile, values) => {
      const before = await idOf(tag);
      // Docker's format: that of OCI knows no HEALTHCHECK.
      const how = [...chroot, "--format", "docker", "--layers", "--tag", tag, "--file", dockerfile, ...argumentsOf(values)];
      await call("build", ...how, folder);
      if (before !== "" && before !== (await idOf(tag))) await call("rmi", before).catch(() => undefined);
    },
    settings: async (tag) => settingsOf((await inspect(tag)).Docker.config),
    size_bytes: async (tag) => parseSize(await call("images", "--format", "{{.Size}}", tag)),
    remove: async (tag) => void (await call("rmi", tag)),
    start: async (tag, settings, app, scratch) => {
      const data = join(scratch, "data");
      mkdirSync(data);
      chmodSync(scratch, 0o755);
      chownSync(data, USER, USER);
      const id = (await call("from", "--pull-never", tag)).trim();
      const mount = (await call("mount", id)).trim();
      const parameters = (command: readonly string[]) => {
        const how = ["--volume", `${app}:/app:ro`, "--volume", `${data}:/data`];
        return ["--storage-driver", "vfs", "run", ...chroot, ...how, id, "--", ...command];
      };
      // The first run makes what chroot isolation needs: mount points, /etc/hosts.
      await must("buildah", parameters([settings.command[0] ?? "", "version"]));
      const before = new Set(listing(mount));
      const child = spawn("buildah", parameters(settings.command), { stdio: ["ignore", "pipe", "pipe"] });
      let said = "";
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding("utf8").on("data", (text: string) => {
          said += text;
        });
      }
      const ended = once(child, "close").then(([exitCode]): Ran => ({ exitCode: (exitCode as number | null) ?? 1, output: said }));
      const pid = () => innermost(child, settings.command[0] ?? "");
      return {
        exec: async (command) => await may("buildah", parameters(command)),
        pid: async () => pid(),
        output: async () => said,
        stop: async () => {
          // Buildah itself would kill what it runs.
          const inside = pid();
          if (inside !== null) process.kill(inside, "SIGTERM");
          return await ended;
        },
        written: async () => listing(mount).filter((line) => !before.has(line)),
        remove: async () => {
          const inside = pid();
          if (inside !== null) process.kill(inside, "SIGKILL");
          if (child.exitCode === null) child.kill("SIGKILL");
          await ended;
          await call("rm", id);
        },
      };
    },
  };
}

interface DockerConfig {
  readonly User?: string;
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Healthcheck?: { readonly Test?: readonly string[] };
}

function settingsOf({ User = "", Entrypoint = [], Cmd = [], Healthcheck }: DockerConfig): ImageSettings {
  const [kind, ...healthcheck] = Healthcheck?.Test ?? [];
  return { user: User, command: [...Entrypoint, ...Cmd], healthcheck: kind === "CMD" ? healthcheck : [] };
}

function argumentsOf(values: Readonly<Record<string, string>>): readonly string[] {
  return Object.entries(values).flatMap(([name, value]) => ["--build-arg", `${name}=${value}`]);
}

/** `115 MB` */
function parseSize(text: string): number {
  const [, number = "", unit = ""] = /^([\d.]+)\s*([kMG]?)B/.exec(text.trim()) ?? [];
  return Number(number) * ({ k: 1e3, M: 1e6, G: 1e9 }[unit] ?? 1);
}

/** Every file below a folder, with its size. */
function listing(folder: string): readonly string[] {
  const { stdout } = spawnSync("find", [folder, "-xdev", "-type", "f", "-printf", "%P %s\n"], {
    encoding: "utf8",
    maxBuffer: MAX_OUTPUT_bytes,
  });
  return stdout.split("\n").filter((line) => line !== "");
}

/** Below buildah lie its helpers, below them the program. null: it has ended, or not begun. */
function innermost(child: ChildProcess, program: string): number | null {
  const wanted = [child.pid ?? 0];
  for (let pid = wanted.pop(); pid !== undefined; pid = wanted.pop()) {
    if (pid !== child.pid && commandOf(pid)[0] === program) return pid;
    wanted.push(...childrenOf(pid));
  }
  return null;
}

function childrenOf(pid: number): readonly number[] {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.flatMap((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean).map(Number));
  } catch {
    // It has ended meanwhile.
    return [];
  }
}

function commandOf(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}
