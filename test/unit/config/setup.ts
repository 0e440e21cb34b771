import { dirname } from "node:path";
import type { ReadFile } from "../../../src/config/find.ts";
import { type Config, type LoadOptions, loadConfig } from "../../../src/config/load.ts";
import { ProteanError } from "../../../src/errors.ts";

/** Files in memory. */
export function files(contents: Readonly<Record<string, string>>): ReadFile {
  return { readText: (path) => contents[path] ?? null };
}

/** Loads `toml` as /app/domain.toml. */
export function load(toml: string, options: Partial<LoadOptions> = {}): Promise<Config> {
  return loadConfig({ start: dirname("/app/domain.toml"), environment: {}, read: files({ "/app/domain.toml": toml }), ...options });
}

/** The ProteanError that `promise` ends with. */
export async function refusal(promise: Promise<unknown>): Promise<ProteanError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof ProteanError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Messages of the diagnostics with this code. */
export function told(config: Config, code: string): string[] {
  return config.diagnostics
    .filter((diagnostic) => diagnostic.code === code)
    .map((diagnostic) => `${diagnostic.at ?? ""} ${diagnostic.message} ${diagnostic.fix ?? ""}`);
}

/** Chapter 8 of the tutorial, as printed in the seed document. */
export const CHAPTER_8 = `[brokers.default]
provider = "redis"
url = "\${REDIS_URL|redis://localhost:6379/0}"
event_processing = "async"
command_processing = "async"
enable_outbox = true
[event_store]
provider = "memory"
[server]
default_subscription_type = "stream"
messages_per_tick = 100
[server.stream_subscription]
blocking_timeout_ms = 100
max_retries = 3
retry_delay_seconds = 1
enable_dlq = true
`;
