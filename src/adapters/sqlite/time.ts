import { isoOfEpoch, parseDateTime } from "../../messages/datetime.ts";

/** `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, the form in which Python keeps times in SQLite (wire-format §10.4). Sorts as the times do. */
export function sqlTime(epoch_ms: number): string {
  const epoch_us = Math.round(epoch_ms * 1000);
  const microsecond = ((epoch_us % 1_000) + 1_000) % 1_000;
  const iso = new Date((epoch_us - microsecond) / 1000).toISOString();
  return `${iso.slice(0, 10)} ${iso.slice(11, 23)}${String(microsecond).padStart(3, "0")}`;
}

/** A time of the wire in the column's form; null when it is none. */
export function sqlTimeOf(text: string): string | null {
  const parts = parseDateTime(text);
  return parts === null ? null : sqlTime(parts.epoch_ms + (parts.microsecond % 1000) / 1000);
}

/** Milliseconds since 1970 of a time in a column. */
export function epochOf_ms(text: string): number {
  const parts = parseDateTime(text);
  return parts === null ? Number.NaN : parts.epoch_ms + (parts.microsecond % 1000) / 1000;
}

/** A time in a column as ISO 8601 with offset; what is no time stays as it is. */
export function isoOfSqlTime(text: string): string {
  const epoch_ms = epochOf_ms(text);
  return Number.isNaN(epoch_ms) ? text : isoOfEpoch(epoch_ms);
}
