/**
 * Dates and times as Python's `isoformat()` writes them, and reading of all that Python accepts. JavaScript's Date has milliseconds
 * only, so microseconds travel beside it or in the text.
 */

/** A point in time (or a local time without offset) with Python's precision. */
export interface DateTimeParts {
  /** Milliseconds since 1970-01-01 UTC, whole; a time without offset counts as UTC (D30). */
  readonly epoch_ms: number;
  /** Microseconds of the second, 0 to 999999. */
  readonly microsecond: number;
  /** Minutes east of UTC, or null when the text had no offset. */
  readonly offset_minutes: number | null;
}

const DATE_TIME = /^(\d{4})-(\d\d)-(\d\d)(?:[Tt _](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s?(?:([Zz])|([+-])(\d\d)(?::?(\d\d))?)?)?$/;

/** Above this an epoch number means milliseconds, as pydantic decides: 2e10 seconds is the year 2603. */
const LARGEST_EPOCH_s = 2e10;

/**
 * Reads an ISO 8601 text (`T` or space, 0 to 9 fraction digits, `Z`, `+02:00`, `+0200` or no offset, date alone) or epoch seconds or
 * milliseconds. Digits after the sixth are cut, as in Python.
 * @returns null when it is no time
 */
export function parseDateTime(value: string | number): DateTimeParts | null {
  if (typeof value === "number") return fromEpoch(value);
  const match = DATE_TIME.exec(value);
  if (match === null) return /^-?\d+(?:\.\d+)?$/.test(value) ? fromEpoch(Number(value)) : null;
  const [, year, month, day, hour = "0", minute = "0", second = "0", fraction = "", zulu, sign, offsetHours, offsetMinutes] = match;
  const numbers = [Number(month), Number(day), Number(hour), Number(minute), Number(second)] as const;
  if (!isDate(Number(year), numbers[0], numbers[1]) || numbers[2] > 23 || numbers[3] > 59 || numbers[4] > 59) return null;
  let offset_minutes: number | null = null;
  if (zulu !== undefined) offset_minutes = 0;
  else if (sign !== undefined) {
    if (Number(offsetHours) > 23 || Number(offsetMinutes ?? 0) > 59) return null;
    offset_minutes = (sign === "-" ? -1 : 1) * (Number(offsetHours) * 60 + Number(offsetMinutes ?? 0)) + 0;
  }
  const microsecond = Number(fraction.padEnd(6, "0").slice(0, 6));
  const local_ms = utc_ms(Number(year), ...numbers) + Math.floor(microsecond / 1000);
  return { epoch_ms: local_ms - (offset_minutes ?? 0) * 60_000, microsecond, offset_minutes };
}

function fromEpoch(value: number): DateTimeParts | null {
  if (!Number.isFinite(value)) return null;
  const epoch_us = Math.round(Math.abs(value) > LARGEST_EPOCH_s ? value * 1000 : value * 1e6);
  // Years 1 to 9999, Python's range.
  if (epoch_us < -62_135_596_800e6 || epoch_us >= 253_402_300_800e6) return null;
  const epoch_s = Math.floor(epoch_us / 1e6);
  const microsecond = epoch_us - epoch_s * 1e6;
  return { epoch_ms: epoch_s * 1000 + Math.floor(microsecond / 1000), microsecond, offset_minutes: 0 };
}

function utc_ms(year: number, month: number, day: number, hour: number, minute: number, second: number): number {
  const date = new Date(0);
  // setUTCFullYear, because Date.UTC takes the years 0 to 99 for 19xx.
  date.setUTCFullYear(year, month - 1, day);
  return date.setUTCHours(hour, minute, second);
}

const DAYS_OF_MONTH = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] as const;

function isDate(year: number, month: number, day: number): boolean {
  if (year < 1) return false;
  const leap = month === 2 && year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = DAYS_OF_MONTH[month - 1];
  return days !== undefined && day >= 1 && day <= days + (leap ? 1 : 0);
}

/** Text as Python's `isoformat()`: six fraction digits or none, offset `+00:00` (never `Z`), none when there was none. */
export function formatDateTime(parts: DateTimeParts): string {
  const local = new Date(parts.epoch_ms + (parts.offset_minutes ?? 0) * 60_000);
  const year = String(local.getUTCFullYear()).padStart(4, "0");
  const date = `${year}-${two(local.getUTCMonth() + 1)}-${two(local.getUTCDate())}`;
  const time = `${two(local.getUTCHours())}:${two(local.getUTCMinutes())}:${two(local.getUTCSeconds())}`;
  const fraction = parts.microsecond === 0 ? "" : `.${String(parts.microsecond).padStart(6, "0")}`;
  return `${date}T${time}${fraction}${offsetText(parts.offset_minutes)}`;
}

function offsetText(offset_minutes: number | null): string {
  if (offset_minutes === null) return "";
  const size = Math.abs(offset_minutes);
  return `${offset_minutes < 0 ? "-" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

function two(value: number): string {
  return value < 10 ? `0${value}` : String(value);
}

/**
 * UTC text of a point in time, as message times are written.
 * @param epoch_ms milliseconds since 1970, may have a fraction (down to microseconds)
 * @example isoOfEpoch(1767323045123) // "2026-01-02T03:04:05.123000+00:00"
 */
export function isoOfEpoch(epoch_ms: number): string {
  const epoch_us = Math.round(epoch_ms * 1000);
  const epoch_s = Math.floor(epoch_us / 1e6);
  const microsecond = epoch_us - epoch_s * 1e6;
  if (epoch_s !== lastSecond.epoch_s) {
    const text = formatDateTime({ epoch_ms: epoch_s * 1000, microsecond: 0, offset_minutes: null });
    lastSecond = { epoch_s, text };
  }
  return microsecond === 0 ? `${lastSecond.text}+00:00` : `${lastSecond.text}.${String(1e6 + microsecond).slice(1)}+00:00`;
}

/** Most calls are for now: those of one second share its text. */
let lastSecond = { epoch_s: Number.NaN, text: "" };

/** UTC in Python's form with its microseconds, on a day that every such month has: nothing to change. (29 February and microsecond 0 aren't among them.) */
const IN_FORM =
  /^(?!0000)\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.(?!000000)\d{6}\+00:00$/;

/** The same time in Python's form, or null when it is no time. Times without offset stay without one. */
export function normalisedDateTime(value: string | number): string | null {
  // What Python and we write is in that form already; taking it apart costs ten times as much as looking.
  if (typeof value === "string" && IN_FORM.test(value)) return value;
  const parts = parseDateTime(value);
  return parts === null ? null : formatDateTime(parts);
}

/** A `YYYY-MM-DD` that exists in the calendar. Takes the date of a longer text too when its time is midnight, as Python does. */
export function parseDate(value: string): string | null {
  const parts = /^\d{4}-\d\d-\d\d/.test(value) ? parseDateTime(value) : null;
  if (parts === null) return null;
  const text = formatDateTime({ ...parts, microsecond: 0 });
  return text.slice(11, 19) === "00:00:00" && parts.microsecond === 0 ? text.slice(0, 10) : null;
}
