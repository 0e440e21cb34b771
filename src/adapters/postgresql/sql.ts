import type { SqlValue, Statement } from "./pool.ts";

/** An identifier as SQL takes it, whatever it is made of. */
export function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}

/** Text of a PostgreSQL array; its items' text form is that of the array's element type. */
export function arrayText(items: readonly (string | number | bigint | boolean | null)[]): string {
  const parts = items.map((item) => {
    if (item === null) return "NULL";
    if (typeof item !== "string") return String(item);
    return `"${item.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  });
  return `{${parts.join(",")}}`;
}

/** Collects the values of a statement while its text is put together. */
export class Values {
  readonly list: SqlValue[] = [];

  /** The place of a value in the text: `$1`, `$2`, … */
  add(value: SqlValue): string {
    this.list.push(value);
    return `$${this.list.length}`;
  }

  statement(text: string): Statement {
    return { text, values: this.list };
  }
}

/** Milliseconds as an interval. */
export function interval(place: string): string {
  return `(${place}::float8 * interval '1 millisecond')`;
}
