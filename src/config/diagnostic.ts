/** Something about the configuration that people should know and that does not stop the start. */
export interface Diagnostic {
  /** Stable name, such as `CONFIG_UNKNOWN_KEY`. */
  readonly code: string;
  readonly level: "info" | "warning";
  /** One line. Never holds a secret. */
  readonly message: string;
  /** `domain.toml:12`, an environment variable or a key; undefined when there is no place. */
  readonly at?: string | undefined;
  /** What to write instead, one sentence. */
  readonly fix?: string | undefined;
}

/** Wire types of a configuration: what TOML can hold, in maps without a prototype. */
export type Table = { [key: string]: unknown };

/** True for a TOML table (not a list, not a date). */
export function isTable(value: unknown): value is Table {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

/** `["server", "subscriptions", "Commands:a::b"]` → `server.subscriptions."Commands:a::b"`, as TOML writes it. */
export function formatPath(segments: readonly string[]): string {
  return segments.map((segment) => (/^[A-Za-z0-9_-]+$/.test(segment) ? segment : JSON.stringify(segment))).join(".");
}

/** A value as JSON text, for messages and comparisons; integers beyond 2^53 come as plain digits. */
export function jsonText(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) => (typeof item === "bigint" ? item.toString() : item)) ?? String(value);
}
