/** What the tests of the Redis adapter share: an opened broker with its log, waiting, a proxy that can fall silent. */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { openRedis, type RedisBroker, type RedisTuning } from "../../../../src/adapters/redis/mod.ts";
import type { Log, LogFields } from "../../../../src/ports/log.ts";
import { SystemClock } from "../../../../src/runtime/clock.ts";
import { SystemRandom } from "../../../../src/runtime/random.ts";

export interface Line {
  readonly level: string;
  readonly event: string;
  readonly fields: LogFields;
}

export function recordingLog(lines: Line[], base: LogFields = {}): Log {
  const line =
    (level: string) =>
    (event: string, fields: LogFields = {}) =>
      void lines.push({ level, event, fields: { ...base, ...fields } });
  return {
    debug: line("debug"),
    info: line("info"),
    warning: line("warning"),
    error: line("error"),
    with: (fields) => recordingLog(lines, { ...base, ...fields }),
  };
}

export function open(url: string, options: RedisTuning = {}): { readonly broker: RedisBroker; readonly lines: Line[] } {
  const lines: Line[] = [];
  const broker = openRedis({
    name: "default",
    url,
    clock: new SystemClock(),
    random: new SystemRandom(),
    log: recordingLog(lines),
    options,
  });
  return { broker, lines };
}

export async function until(what: string, condition: () => Promise<boolean> | boolean, limit_ms = 10_000): Promise<void> {
  const end = performance.now() + limit_ms;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited ${limit_ms} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The error that a promise ends with; fails when it succeeds. */
export async function failureOf(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it should have failed");
}

/**
 * Forwards to `port`. After `silence()` the connections that exist stay open and carry nothing; new ones work: a half-open link. `release()` lets pass what
 * clients sent into it meanwhile, and resolves when the server's ends of these connections are closed.
 */
export async function silentProxy(
  port: number,
): Promise<{ readonly url: string; silence(): number; release(): Promise<void>; close(): void }> {
  const silent: [Socket, Socket][] = [];
  const pairs: [Socket, Socket][] = [];
  const server = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    pairs.push([near, far]);
    near.pipe(far);
    far.pipe(near);
    near.on("error", () => far.destroy());
    far.on("error", () => near.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the system gave no port");
  return {
    url: `redis://127.0.0.1:${address.port}`,
    silence: () => {
      const silenced = pairs.splice(0);
      for (const [near, far] of silenced) {
        near.unpipe(far);
        far.unpipe(near);
      }
      silent.push(...silenced);
      return silenced.length;
    },
    release: async () => {
      await Promise.all(
        silent.splice(0).map(async ([near, far]) => {
          const closed = far.closed ? Promise.resolve() : once(far, "close");
          near.pipe(far);
          far.resume();
          await closed;
        }),
      );
    },
    close: () => {
      server.close();
      for (const [near, far] of pairs) {
        near.destroy();
        far.destroy();
      }
    },
  };
}
