/**
 * One Redis for a whole test run. scripts/test.sh starts it and names it in PROTEAN_TEST_REDIS_URL; a test run by hand starts its own,
 * which ends with the run. Tests share it, so each uses names of its own: `uniqueName`.
 */
import { randomBytes } from "node:crypto";
import { type RedisService, startRedis } from "../../scripts/services.ts";

let own: Promise<RedisService> | undefined;

/** Address of the shared server, such as `redis://127.0.0.1:40123`. Never flush it, pause it or stop it: start one for that. */
export async function sharedRedis(): Promise<string> {
  const given = process.env["PROTEAN_TEST_REDIS_URL"];
  if (given) return given;
  own ??= startRedis();
  return (await own).url;
}

/** A prefix for keys and stream names that no other test has, such as `orders-3f9c2a7be1`. */
export function uniqueName(prefix: string): string {
  return `${prefix}-${randomBytes(5).toString("hex")}`;
}

export { type RedisService, startRedis } from "../../scripts/services.ts";
