/** Shown in place of a secret. */
export const MASK = "***";

/**
 * An address without its password: `redis://app:hunter2@host/0` → `redis://app:***@host/0`. Query parameters that carry secrets
 * are masked as well. Text that is no address comes back as it is.
 */
export function maskUrl(url: string): string {
  return (
    url
      // The last "@" before the path ends the credentials: passwords may hold an unescaped "@" or ":".
      .replace(/([a-z][a-z0-9+.-]*:\/\/)([^\s/?#]*)@/gi, (_all, scheme: string, credentials: string) => {
        const colon = credentials.indexOf(":");
        return colon < 0 ? `${scheme}${credentials}@` : `${scheme}${credentials.slice(0, colon)}:${MASK}@`;
      })
      .replace(/([?&](?:password|passwd|pwd|token|secret|api_?key|sslpassword|auth)=)[^&\s#]*/gi, `$1${MASK}`)
  );
}

/** Key names whose value is a secret. A union that users can add to, never take from (known-traps, "redaction defaults"). */
const SECRET_KEY = /(password|passwd|token|secret|api_?key|authorization|cookie|session|csrf|credential)/i;

/** True when a value under this key must never be printed. */
export function isSecretKey(key: string): boolean {
  return SECRET_KEY.test(key);
}

/** A copy of `value` fit for printing: secrets under telling keys become `***`, addresses lose their password. */
export function maskSecrets(value: unknown, key = ""): unknown {
  if (value === null || value === undefined || value === "") return value;
  if (Array.isArray(value)) return value.map((item) => maskSecrets(item, key));
  if (value instanceof Date) return value;
  if (typeof value === "object") {
    const copy: Record<string, unknown> = Object.create(null);
    for (const [name, item] of Object.entries(value)) copy[name] = maskSecrets(item, name);
    return copy;
  }
  if (isSecretKey(key)) return MASK;
  return typeof value === "string" ? maskUrl(value) : value;
}
