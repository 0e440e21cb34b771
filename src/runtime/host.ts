/** Who we are among the processes of the cluster: the facts that an engine's heartbeat record holds (rulings 7). */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import process from "node:process";

export interface HostIdentity {
  readonly host: string;
  readonly pid: number;
  /** Of the running kernel; empty where the system doesn't tell (not Linux), which makes no other process "known dead". */
  readonly bootId: string;
  /** Such as `pid:[4026531836]`; equal host names in two containers differ here. Empty where the system doesn't tell. */
  readonly pidNamespace: string;
  /** Milliseconds since 1970. */
  readonly startedAt_ms: number;
}

/** Read once, then kept. */
let known: HostIdentity | undefined;

export function hostIdentity(): HostIdentity {
  known ??= {
    host: hostname(),
    pid: process.pid,
    bootId: readOr("", () => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
    pidNamespace: readOr("", () => readlinkSync("/proc/self/ns/pid")),
    startedAt_ms: Math.round(Date.now() - process.uptime() * 1000),
  };
  return known;
}

/**
 * Whether a process of this host and pid namespace still runs. Only for records whose boot id and namespace equal ours: elsewhere
 * the same number is another process.
 */
export function isProcessRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it runs, under another user.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function readOr<T>(otherwise: T, read: () => T): T {
  try {
    return read();
  } catch {
    // Not Linux, or /proc is hidden: the field stays empty and nothing is concluded from it.
    return otherwise;
  }
}
