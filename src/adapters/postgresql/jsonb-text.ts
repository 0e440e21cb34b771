/**
 * JSON text on its way into a `jsonb` column, as Message DB has. jsonb keeps numbers as exact decimals, not as text: `1e+16` would come back
 * as the integer 10000000000000000, with which a checksum over floats no longer agrees (wire-format §16.7). And it has no form for U+0000 and
 * for half a surrogate pair.
 */
import { InvalidDataError } from "../../errors.ts";
import { type JsonValue, parseJson } from "../../messages/json.ts";
import { isFloatToken } from "../../messages/python-number.ts";

/** Quick looks; what they find is examined token by token. */
const MAY_HOLD_EXPONENT = /\d[eE][-+]?\d|-0/;
const MAY_HOLD_UNKEEPABLE = /\\u0000|\\u[dD][89a-fA-F]|[\ud800-\udfff]/;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/gs;

export interface KeptText {
  /** Text that jsonb gives back with equal values of the same kind. */
  readonly text: string;
  /** False when a checksum over the original no longer holds: there was a negative zero, which jsonb doesn't know. */
  readonly exact: boolean;
}

/**
 * Floats with an exponent, written out: `1e+16` becomes `10000000000000000.0`, which stays a float, equal to the last bit.
 * @param what for errors, such as `data of CornerBank.DepositMade.v1`
 * @throws InvalidDataError naming the field of a text that jsonb can't hold
 */
export function jsonbText(text: string, what: string): KeptText {
  if (MAY_HOLD_UNKEEPABLE.test(text)) requireKeepable(parseJson(text, 0), "", what);
  if (!MAY_HOLD_EXPONENT.test(text)) return { text, exact: true };
  let exact = true;
  const kept = text.replace(TOKENS, (token) => {
    if (token.startsWith('"') || !isFloatToken(token)) return token;
    const value = Number(token);
    if (Object.is(value, -0)) exact = false;
    return /[eE]/.test(token) && Number.isFinite(value) ? plainFloat(token) : token;
  });
  return { text: kept, exact };
}

/** The same float without an exponent, with a point. */
function plainFloat(token: string): string {
  const match = /^(-?)(\d+)(?:\.(\d+))?[eE]([-+]?\d+)$/.exec(token);
  if (match === null) return token;
  const [, sign = "", whole = "", fraction = "", exponentText = "0"] = match;
  const digits = whole + fraction;
  const point = whole.length + Number(exponentText);
  if (point <= 0) return `${sign}0.${"0".repeat(-point)}${digits}`;
  const padded = digits.padEnd(point, "0");
  // JSON has no leading zeros but one.
  return `${sign}${padded.slice(0, point).replace(/^0+(?=\d)/, "")}.${padded.slice(point) || "0"}`;
}

function requireKeepable(value: JsonValue, path: string, what: string): void {
  if (typeof value === "string") {
    const reason = value.includes("\0") ? "the character U+0000" : value.isWellFormed() ? null : "half a surrogate pair";
    if (reason !== null) throw new InvalidDataError(`${what}: ${path || "value"} holds ${reason}, which Message DB can't keep`);
    return;
  }
  if (value === null || typeof value !== "object") return;
  if (Array.isArray(value)) {
    for (const [index, item] of (value as readonly JsonValue[]).entries()) requireKeepable(item, `${path}[${index}]`, what);
    return;
  }
  for (const [key, member] of Object.entries(value)) {
    const at = path === "" ? key : `${path}.${key}`;
    requireKeepable(key, at, what);
    requireKeepable(member as JsonValue, at, what);
  }
}

/** Metadata text whose checksum is null, so that nobody compares what can't agree. */
export function withoutChecksum(metadata: string): string {
  return metadata.replace(/("checksum"\s*:\s*)"[0-9a-f]{64}"/, "$1null");
}
