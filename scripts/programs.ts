/** Programs of the machine: found on PATH, or installed with apt-get where that may be done. */
import { execFile } from "node:child_process";
import { chmodSync, existsSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import { promisify } from "node:util";

const run = promisify(execFile);

export function findOnPath(name: string): string | null {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null;
}

/** Whether we are root on Debian. */
export function canInstallPackages(): boolean {
  return process.getuid?.() === 0 && existsSync("/etc/debian_version") && findOnPath("apt-get") !== null;
}

/**
 * Installs a Debian package without letting it start its own service, which would take the well-known port: `policy-rc.d` forbids
 * that for as long as the installation runs, unless the machine has one already. @returns what went wrong, or null
 */
export async function installPackage(name: string): Promise<string | null> {
  const policy = "/usr/sbin/policy-rc.d";
  const ours = !existsSync(policy);
  if (ours) {
    writeFileSync(policy, "#!/bin/sh\nexit 101\n");
    chmodSync(policy, 0o755);
  }
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
  const install = () => run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", name], { env, maxBuffer: 64 * 1024 * 1024 });
  try {
    process.stderr.write(`setup: installing ${name} with apt-get\n`);
    await install().catch(async () => {
      await run("apt-get", ["update", "-qq"], { env, maxBuffer: 64 * 1024 * 1024 });
      return await install();
    });
    return null;
  } catch (error) {
    return lastLine(error);
  } finally {
    if (ours) rmSync(policy, { force: true });
  }
}

/** Of what a failed program said. */
export function lastLine(error: unknown): string {
  const { stderr, message } = error as { readonly stderr?: string; readonly message: string };
  return (stderr?.trim() || message).split("\n").at(-1) ?? message;
}
