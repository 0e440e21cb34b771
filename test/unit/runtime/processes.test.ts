import { afterEach, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { spawnChild } from "../../../src/runtime/child.ts";
import { runtimeOverrides } from "../../../src/runtime/environment.ts";
import { watchFolder } from "../../../src/runtime/files.ts";
import { hostIdentity, isProcessRunning } from "../../../src/runtime/host.ts";
import { type EndSignal, onEndSignals } from "../../../src/runtime/signals.ts";
import { type TemporaryFolder, temporaryFolder } from "../../support/folder.ts";

const folders: TemporaryFolder[] = [];
afterEach(() => {
  for (const made of folders.splice(0)) made.remove();
});

test("a child's lines arrive whole and its end is told with its exit code", async () => {
  const lines: string[] = [];
  const child = await spawnChild("/bin/sh", ["-c", "echo one; printf tw; echo o; echo three >&2; printf end; exit 7"], {
    output: "pipe",
    onLine: (line, from) => lines.push(`${from} ${line}`),
  });
  expect(await child.ended).toEqual({ exitCode: 7, signal: null });
  expect(lines.filter((line) => line.startsWith("stdout"))).toEqual(["stdout one", "stdout two", "stdout end"]);
  expect(lines).toContain("stderr three");
});

test("a killed child is told with its signal, is seen as gone, and killing it again does nothing", async () => {
  const child = await spawnChild("/bin/sh", ["-c", "read -r line"], { output: "pipe" });
  expect(isProcessRunning(child.pid)).toBe(true);
  child.kill("SIGKILL");
  expect(await child.ended).toEqual({ exitCode: null, signal: "SIGKILL" });
  expect(isProcessRunning(child.pid)).toBe(false);
  child.kill("SIGTERM");
});

test("a program that doesn't exist is an error, not a crash", async () => {
  expect(spawnChild("/nowhere/at-all", [])).rejects.toThrow();
});

test("the first signal asks for an end, the second one insists with the shell's exit code", async () => {
  const told: unknown[] = [];
  const both = Promise.withResolvers<void>();
  const dispose = onEndSignals({
    first: (signal: EndSignal) => {
      told.push(signal);
      process.kill(process.pid, "SIGTERM");
    },
    second: (signal, exitCode) => {
      told.push(signal, exitCode);
      both.resolve();
    },
  });
  process.kill(process.pid, "SIGHUP");
  await both.promise;
  dispose();
  expect(told).toEqual(["SIGHUP", "SIGTERM", 143]);
});

test("the host's identity names this process and stays the same", () => {
  const identity = hostIdentity();
  expect(identity.pid).toBe(process.pid);
  expect(identity.host).not.toBe("");
  expect(identity.startedAt_ms).toBeLessThanOrEqual(Date.now());
  expect(hostIdentity()).toEqual(identity);
  if (process.platform === "linux") {
    expect(identity.bootId).toMatch(/^[0-9a-f-]{36}$/);
    expect(identity.pidNamespace).toMatch(/^pid:\[\d+\]$/);
  }
});

test("a watched folder tells a burst of changes once, and only of paths that count", async () => {
  const project = temporaryFolder({ "sub/a.ts": "1" });
  folders.push(project);
  const told = Promise.withResolvers<readonly string[]>();
  const end = watchFolder(project.path, told.resolve, { debounce_ms: 20, accepts: (path) => path.endsWith(".ts") });
  for (const text of ["2", "3"]) {
    writeFileSync(project.at("sub/a.ts"), text);
    writeFileSync(project.at("sub/a.db-wal"), text);
  }
  expect(await told.promise).toEqual(["sub/a.ts"]);
  end();
});

test("variables that make the executable run other code are named (known-traps C3)", () => {
  expect(runtimeOverrides({ BUN_BE_BUN: "1", BUN_OPTIONS: "--preload=x", PATH: "/bin" })).toEqual(["BUN_BE_BUN", "BUN_OPTIONS"]);
  expect(runtimeOverrides({ BUN_OPTIONS: "" })).toEqual([]);
});
