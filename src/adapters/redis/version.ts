import { ConfigurationError } from "../../errors.ts";
import { requireUsable, STORE_VERSION } from "../../ports/store-version.ts";

/** Says which program's keys are here, as `{"version": 2, "usable_from": 1}` (`StoredVersion`). Every engine's heartbeat sees to it. */
export const VERSION_KEY = "protean:schema";

/** Programs that know this version can use the keys as they are written here. */
const USABLE_FROM = 1;

export const VERSION_TEXT = `{"version": ${STORE_VERSION}, "usable_from": ${USABLE_FROM}}`;

/** Why this program must not use a Redis whose key holds this text; null when it may. */
export function unusable(text: string | null, address: string): ConfigurationError | null {
  const numberOf = (name: string) => Number(new RegExp(`"${name}": ?(\\d+)`).exec(text ?? "")?.[1] ?? 0);
  const version = numberOf("version");
  try {
    requireUsable(
      `Redis at ${address}`,
      { version, usableFrom: numberOf("usable_from") || version },
      "Use the newer version of protean with this Redis.",
    );
    return null;
  } catch (error) {
    if (error instanceof ConfigurationError) return error;
    throw error;
  }
}
