/**
 * JSON with the source text kept in sight. `JSON.parse` gives the values (it is the fastest there is), but it forgets whether a
 * number was `10` or `10.0` and what digits a big integer had. So the checksum form is made straight from the text, and payloads
 * travel between stores as slices of it, never parsed and written again.
 */
import { DeserializationError, InvalidDataError } from "../errors.ts";
import { JSON_MAX_DEPTH } from "./limits.ts";
import { isFloatToken, normalisedNumberToken, PyFloat, pythonFloat } from "./python-number.ts";

/** A value as `parseJson` gives it; `bigint` only for integers beyond 2^53. */
export type JsonValue = null | boolean | string | number | bigint | readonly JsonValue[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: JsonValue;
}

/** A value that can be written as Python would write it. Wrap floats in `PyFloat`. */
export type WireValue = null | boolean | string | number | bigint | PyFloat | readonly WireValue[] | WireObject;
export interface WireObject {
  readonly [key: string]: WireValue;
}

const QUOTE = 34;
const COMMA = 44;
const MINUS = 45;
const DOT = 46;
const ZERO = 48;
const NINE = 57;
const COLON = 58;
const BRACKET = 91;
const BACKSLASH = 92;
const BRACKET_END = 93;
const BRACE = 123;
const BRACE_END = 125;

interface CanonicalMember {
  readonly key: string;
  /** Among its siblings, as written. */
  readonly place: number;
  readonly text: string;
}

/** Reads JSON text front to back, strictly (RFC 8259), never building values. */
class Scanner {
  readonly text: string;
  at = 0;
  /** Of the last string: it has no escapes and only U+0020 to U+007E, so its text is its Python text. */
  plain = true;

  constructor(text: string) {
    this.text = text;
  }

  fail(what: string): never {
    throw new DeserializationError(`not JSON: ${what} at character ${this.at}`);
  }

  /** Skips white space and gives the code of the next character, NaN at the end. */
  next(): number {
    const { text } = this;
    let code = text.charCodeAt(this.at);
    while (code === 32 || code === 10 || code === 13 || code === 9) code = text.charCodeAt(++this.at);
    return code;
  }

  expect(code: number): void {
    if (this.next() !== code) this.fail(`expected "${String.fromCharCode(code)}"`);
    this.at += 1;
  }

  /** Expects nothing but white space until the end. */
  end(): void {
    if (!Number.isNaN(this.next())) this.fail("text after the value");
  }

  skipString(): void {
    const { text } = this;
    let at = this.at + 1;
    let plain = true;
    for (;;) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) break;
      if (code === BACKSLASH) {
        plain = false;
        const escaped = text[at + 1];
        if (escaped === "u") {
          if (!/^[0-9a-fA-F]{4}$/.test(text.slice(at + 2, at + 6))) {
            this.at = at;
            this.fail("bad \\u escape");
          }
          at += 6;
        } else if (escaped !== undefined && '"\\/bfnrt'.includes(escaped)) {
          at += 2;
        } else {
          this.at = at;
          this.fail("bad escape");
        }
        continue;
      }
      if (!(code >= 32)) {
        this.at = at;
        this.fail(Number.isNaN(code) ? "unfinished string" : "control character in a string");
      }
      if (code > 126) plain = false;
      at += 1;
    }
    this.at = at + 1;
    this.plain = plain;
  }

  private skipDigits(): void {
    const { text } = this;
    const from = this.at;
    let code = text.charCodeAt(this.at);
    while (code >= ZERO && code <= NINE) code = text.charCodeAt(++this.at);
    if (this.at === from) this.fail("expected a digit");
  }

  /** Skips a number; true when it is a float. */
  skipNumber(): boolean {
    const { text } = this;
    let float = false;
    if (text.charCodeAt(this.at) === MINUS) this.at += 1;
    if (text.charCodeAt(this.at) === ZERO) this.at += 1;
    else this.skipDigits();
    if (text.charCodeAt(this.at) === DOT) {
      float = true;
      this.at += 1;
      this.skipDigits();
    }
    const exponent = text[this.at];
    if (exponent === "e" || exponent === "E") {
      float = true;
      this.at += 1;
      const sign = text[this.at];
      if (sign === "+" || sign === "-") this.at += 1;
      this.skipDigits();
    }
    return float;
  }

  skipLiteral(): string {
    for (const literal of ["null", "true", "false"]) {
      if (this.text.startsWith(literal, this.at)) {
        this.at += literal.length;
        return literal;
      }
    }
    if (/^-?(?:NaN|Infinity)/.test(this.text.slice(this.at, this.at + 9))) this.fail("NaN and Infinity are no JSON numbers");
    return this.fail("unexpected character or end");
  }

  enter(depth: number): void {
    if (depth > JSON_MAX_DEPTH) this.tooDeep();
    this.at += 1;
  }

  tooDeep(): never {
    throw new DeserializationError(`nested deeper than ${JSON_MAX_DEPTH} levels`);
  }

  /** Reads one key and its colon; gives the decoded key. */
  key(): string {
    if (this.next() !== QUOTE) this.fail("expected a key");
    const from = this.at;
    this.skipString();
    const key = this.plain ? this.text.slice(from + 1, this.at - 1) : (JSON.parse(this.text.slice(from, this.at)) as string);
    this.expect(COLON);
    return key;
  }

  skipValue(depth: number): void {
    const code = this.next();
    if (code === QUOTE) this.skipString();
    else if (code === BRACE) {
      this.enter(depth);
      if (this.next() === BRACE_END) {
        this.at += 1;
        return;
      }
      for (;;) {
        if (this.next() !== QUOTE) this.fail("expected a key");
        this.skipString();
        this.expect(COLON);
        this.skipValue(depth + 1);
        if (this.isLast(BRACE_END)) return;
      }
    } else if (code === BRACKET) {
      this.enter(depth);
      if (this.next() === BRACKET_END) {
        this.at += 1;
        return;
      }
      for (;;) {
        this.skipValue(depth + 1);
        if (this.isLast(BRACKET_END)) return;
      }
    } else if (code === MINUS || (code >= ZERO && code <= NINE)) this.skipNumber();
    else this.skipLiteral();
  }

  /** Jumps over a value of text that is known to be JSON: only quotes and brackets are looked at. */
  leapValue(depth: number): void {
    const code = this.next();
    if (code === QUOTE) this.leapString();
    else if (code === BRACE || code === BRACKET) this.leapContainer(depth);
    else {
      const { text } = this;
      let at = this.at;
      let next = text.charCodeAt(at);
      while (next > 32 && next !== COMMA && next !== BRACE_END && next !== BRACKET_END) next = text.charCodeAt(++at);
      this.at = at;
    }
  }

  private leapContainer(depth: number): void {
    const { text } = this;
    const deepest = JSON_MAX_DEPTH - depth + 1;
    let open = 0;
    for (;;) {
      const code = text.charCodeAt(this.at);
      if (code === QUOTE) {
        this.leapString();
        continue;
      }
      if (code === BRACE || code === BRACKET) {
        open += 1;
        if (open > deepest) this.tooDeep();
      } else if (code === BRACE_END || code === BRACKET_END) open -= 1;
      else if (Number.isNaN(code)) this.fail("unfinished value");
      this.at += 1;
      if (open === 0) return;
    }
  }

  leapString(): void {
    const { text } = this;
    let end = text.indexOf('"', this.at + 1);
    while (end !== -1 && text.charCodeAt(end - 1) === BACKSLASH) {
      let first = end - 1;
      while (text.charCodeAt(first - 1) === BACKSLASH) first -= 1;
      if ((end - first) % 2 === 0) break;
      end = text.indexOf('"', end + 1);
    }
    if (end === -1) this.fail("unfinished string");
    this.at = end + 1;
  }

  /** After a member or element: true at the closing character, false after a comma. */
  isLast(closing: number): boolean {
    const code = this.next();
    if (code !== COMMA && code !== closing) this.fail(`expected "," or "${String.fromCharCode(closing)}"`);
    this.at += 1;
    return code === closing;
  }

  /** The checksum form of the next value. */
  canonical(depth: number): string {
    const code = this.next();
    const from = this.at;
    if (code === QUOTE) {
      this.skipString();
      const token = this.text.slice(from, this.at);
      return this.plain ? token : pythonString(JSON.parse(token) as string);
    }
    if (code === BRACE) return this.canonicalObject(depth);
    if (code === BRACKET) {
      this.enter(depth);
      if (this.next() === BRACKET_END) {
        this.at += 1;
        return "[]";
      }
      let out = "[";
      for (;;) {
        out += this.canonical(depth + 1);
        if (this.isLast(BRACKET_END)) return `${out}]`;
        out += ",";
      }
    }
    if (code === MINUS || (code >= ZERO && code <= NINE)) {
      const float = this.skipNumber();
      const token = this.text.slice(from, this.at);
      return float ? pythonFloat(Number(token)) : normalisedNumberToken(token);
    }
    return this.skipLiteral();
  }

  private canonicalObject(depth: number): string {
    this.enter(depth);
    if (this.next() === BRACE_END) {
      this.at += 1;
      return "{}";
    }
    const members: CanonicalMember[] = [];
    let previous: CanonicalMember | null = null;
    let sorted = true;
    let plainKeys = true;
    for (;;) {
      const key = this.key();
      if (!this.plain) plainKeys = false;
      const name = this.plain ? `"${key}":` : `${pythonString(key)}:`;
      const member = { key, place: members.length, text: name + this.canonical(depth + 1) };
      if (previous !== null && !(previous.key < key && plainKeys) && compareCodePoints(previous.key, key) >= 0) sorted = false;
      members.push(member);
      previous = member;
      if (this.isLast(BRACE_END)) break;
    }
    if (!sorted) {
      // Of ASCII keys JavaScript's own order is Python's, and far faster.
      const compare = plainKeys ? compareUnits : compareCodePoints;
      members.sort((one, other) => compare(one.key, other.key) || one.place - other.place);
    }
    let out = "{";
    for (let index = 0; index < members.length; index += 1) {
      const { key, text } = members[index] as CanonicalMember;
      // Of keys given twice the last one counts, in Python as in JavaScript.
      if (members[index + 1]?.key === key) continue;
      out += out === "{" ? text : `,${text}`;
    }
    return `${out}}`;
  }

  /** The next value with floats marked, for rewriting it as Python would. */
  wireValue(depth: number): WireValue {
    const code = this.next();
    const from = this.at;
    if (code === QUOTE) {
      this.skipString();
      return JSON.parse(this.text.slice(from, this.at)) as string;
    }
    if (code === BRACE) {
      const object: Record<string, WireValue> = Object.create(null) as Record<string, WireValue>;
      this.enter(depth);
      if (this.next() === BRACE_END) {
        this.at += 1;
        return object;
      }
      for (;;) {
        const key = this.key();
        object[key] = this.wireValue(depth + 1);
        if (this.isLast(BRACE_END)) return object;
      }
    }
    if (code === BRACKET) {
      const array: WireValue[] = [];
      this.enter(depth);
      if (this.next() === BRACKET_END) {
        this.at += 1;
        return array;
      }
      for (;;) {
        array.push(this.wireValue(depth + 1));
        if (this.isLast(BRACKET_END)) return array;
      }
    }
    if (code === MINUS || (code >= ZERO && code <= NINE)) {
      this.skipNumber();
      const token = this.text.slice(from, this.at);
      if (isFloatToken(token)) return new PyFloat(Number(token));
      const value = Number(token);
      return Number.isSafeInteger(value) ? value + 0 : BigInt(token);
    }
    const literal = this.skipLiteral();
    return literal === "null" ? null : literal === "true";
  }
}

function compareUnits(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}

/**
 * Order of two strings by Unicode code point, as Python sorts. JavaScript's own order is by UTF-16 unit, which puts astral
 * characters before U+E000 to U+FFFF.
 * @returns negative, 0 or positive
 */
export function compareCodePoints(left: string, right: string): number {
  const shorter = Math.min(left.length, right.length);
  let at = 0;
  while (at < shorter && left.charCodeAt(at) === right.charCodeAt(at)) at += 1;
  if (at === shorter) return left.length - right.length;
  const before = at > 0 ? left.charCodeAt(at - 1) : 0;
  if (before >= 0xd800 && before <= 0xdbff) {
    const difference = (left.codePointAt(at - 1) ?? 0) - (right.codePointAt(at - 1) ?? 0);
    if (difference !== 0) return difference;
  }
  return (left.codePointAt(at) ?? 0) - (right.codePointAt(at) ?? 0);
}

const PLAIN = /^[\x20\x21\x23-\x5b\x5d-\x7e]*$/;
const NOT_ASCII = /[\u007f-\uffff]/g;

/** A JSON string as Python writes it: everything outside U+0020 to U+007E as `\uXXXX` in lower-case hex, the usual short escapes. */
export function pythonString(value: string): string {
  // Nearly all strings are plain; looking takes a tenth of the time that writing does.
  if (PLAIN.test(value)) return `"${value}"`;
  return JSON.stringify(value).replace(NOT_ASCII, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * The text over which checksums are made, from JSON text: sorted keys, no spaces, numbers and strings as Python prints them.
 * @throws DeserializationError when the text is not JSON or nested deeper than 64 levels
 */
export function canonicalTextOf(text: string): string {
  const scanner = new Scanner(text);
  const canonical = scanner.canonical(1);
  scanner.end();
  return canonical;
}

/** Where a member lies in its object's text. */
export interface MemberSpan {
  readonly key: string;
  /** Of the key's opening quote. */
  readonly keyFrom: number;
  readonly from: number;
  readonly to: number;
}

/** The runtime's parser checks the text (it is the fastest); when it refuses, our scanner says where and why. */
function parseNative(text: string, reviver?: typeof keepDigits): unknown {
  try {
    return reviver === undefined ? JSON.parse(text) : JSON.parse(text, reviver);
  } catch (cause) {
    const scanner = new Scanner(text);
    scanner.skipValue(0);
    scanner.end();
    // Only reached for what this runtime refuses and RFC 8259 allows.
    throw new DeserializationError("not JSON", { cause });
  }
}

/**
 * The members of the object in `text`, in order, with the place of their values' source text; keys given twice appear twice.
 * @param depth level of the object for the depth limit: 1 for a payload, 0 for an envelope around one
 * @throws DeserializationError when the text is not a JSON object, or nested deeper than 64 levels
 */
export function objectMembers(text: string, depth = 1): MemberSpan[] {
  parseNative(text);
  return membersOfChecked(text, depth);
}

/** `objectMembers` of a text that is known to be JSON. */
function membersOfChecked(text: string, depth: number): MemberSpan[] {
  const scanner = new Scanner(text);
  if (scanner.next() !== BRACE) throw new DeserializationError("the message is JSON, but no object");
  scanner.enter(depth);
  const members: MemberSpan[] = [];
  if (scanner.next() === BRACE_END) return members;
  for (;;) {
    scanner.next();
    const keyFrom = scanner.at;
    scanner.leapString();
    const keyTo = scanner.at;
    scanner.expect(COLON);
    scanner.next();
    const from = scanner.at;
    scanner.leapValue(depth + 1);
    const raw = text.slice(keyFrom + 1, keyTo - 1);
    const key = raw.includes("\\") ? (JSON.parse(`"${raw}"`) as string) : raw;
    members.push({ key, keyFrom, from, to: scanner.at });
    if (scanner.isLast(BRACE_END)) return members;
  }
}

/**
 * Source text of the top-level member `key` of a message, or null when there is none. Of a key given twice the last one counts.
 * @throws DeserializationError when the text is not a JSON object
 */
export function memberText(text: string, key: string): string | null {
  const span = objectMembers(text, 0).findLast((member) => member.key === key);
  return span === undefined ? null : text.slice(span.from, span.to);
}

/** An integer of 17 digits, or of 16 that begin with 9: 2^53 is 9007199254740992. A time in microseconds has 16 and begins with 1. */
const MAY_BE_UNSAFE = /(?:^|[\s:,[])-?(?:\d{17}|9\d{15})/;

/**
 * True when `JSON.parse` alone may not do: there may be integers beyond 2^53, or keys named `__proto__`. Worth a precise look: the repair takes six
 * times as long as parsing.
 */
function needsRepair(text: string): boolean {
  return MAY_BE_UNSAFE.test(text) || mayHoldPrototype(text);
}

/** Also when the letters of `__proto__` may be spelled with escapes, U+005F to U+0074. */
function mayHoldPrototype(text: string): boolean {
  return text.includes("__proto__") || (text.includes("\\u00") && /\\u00[567]/.test(text));
}

/** A JSON object taken apart: its values, and where they came from. */
export interface OpenedObject {
  /** Values by the runtime's parser, or repaired ones when the text needs it. */
  readonly values: JsonObject;
  readonly members: readonly MemberSpan[];
}

/**
 * Parses an object once, for both its values and the places of their source text.
 * @param parsed what `JSON.parse` gave for this text, when somebody looked at it before
 * @throws DeserializationError when the text is not a JSON object, or nested deeper than 64 levels
 */
export function openObject(text: string, depth: number, parsed: unknown = parseNative(text)): OpenedObject {
  const asWritten = membersAsWritten(text, depth, parsed);
  if (asWritten !== null) return { values: parsed as JsonObject, members: asWritten };
  const members = membersOfChecked(text, depth);
  return { values: (needsRepair(text) ? parseRepaired(text) : parsed) as JsonObject, members };
}

/**
 * The members of a message written as we and Python write it, `{"data": {…}, "metadata": {…}}`, found by search; null for everything else, and for
 * whatever needs a repair or is too deep. Walking over the text instead takes most of the time of opening it.
 *
 * Why a search will do, in text that is JSON already: without a backslash each quote begins or ends a string, so what is found is a whole string. Each
 * of the two names is there once, and both are keys of the outermost object, which has no others.
 */
function membersAsWritten(text: string, depth: number, parsed: unknown): MemberSpan[] | null {
  if (!text.startsWith('{"data": {') || !text.endsWith("}}") || text.includes("\\")) return null;
  const at = text.indexOf('"metadata"');
  if (at !== text.lastIndexOf('"metadata"') || !text.startsWith(', "metadata": {', at - 2)) return null;
  if (text.includes('"data"', 2)) return null;
  const values = parsed as JsonObject;
  if (!Object.hasOwn(values, "metadata") || Object.keys(values).length !== 2 || !isTame(values, depth)) return null;
  return [
    { key: "data", keyFrom: 1, from: '{"data": '.length, to: at - 2 },
    { key: "metadata", keyFrom: at, from: at + '"metadata": '.length, to: text.length - 1 },
  ];
}

/** No integers beyond 2^53, no keys named `__proto__`, not too deep. */
function isTame(value: JsonValue, depth: number): boolean {
  if (typeof value === "number") return value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER;
  if (typeof value !== "object" || value === null) return true;
  if (depth > JSON_MAX_DEPTH) return false;
  if (Array.isArray(value)) return (value as readonly JsonValue[]).every((element) => isTame(element, depth + 1));
  for (const key in value) {
    if (key === "__proto__" || !isTame((value as JsonObject)[key] as JsonValue, depth + 1)) return false;
  }
  return true;
}

/**
 * `JSON.parse` with two repairs: integers beyond 2^53 become `bigint` instead of losing digits, and when there is a `__proto__` key
 * no object has a prototype to swap (known-traps C9).
 * @param depth level of the outermost object or array for the depth limit: 1 for a payload, 0 for an envelope around one
 * @throws DeserializationError when the text is not JSON or nested deeper than 64 levels
 */
export function parseJson(text: string, depth = 1): JsonValue {
  const parsed = parseNative(text);
  new Scanner(text).leapValue(depth);
  return (needsRepair(text) ? parseRepaired(text) : parsed) as JsonValue;
}

function parseRepaired(text: string): JsonValue {
  const value = parseNative(text, keepDigits) as JsonValue;
  return mayHoldPrototype(text) ? withoutPrototypes(value) : value;
}

function keepDigits(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value) || context?.source === undefined) return value;
  return /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
}

function withoutPrototypes(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map(withoutPrototypes);
  if (value === null || typeof value !== "object") return value;
  const copy = Object.create(null) as Record<string, JsonValue>;
  for (const [key, member] of Object.entries(value as JsonObject)) copy[key] = withoutPrototypes(member);
  return copy;
}

/**
 * JSON text as values that `toJsonText` writes back alike: floats as `PyFloat`, big integers as `bigint`, objects without prototype.
 * (Keys that look like array indexes come first in JavaScript objects, so their place is not kept.)
 * @throws DeserializationError when the text is not JSON
 */
export function parseWire(text: string): WireValue {
  const scanner = new Scanner(text);
  const value = scanner.wireValue(1);
  scanner.end();
  return value;
}

/**
 * JSON text as Python's `json.dumps` writes it: separators `", "` and `": "`, ASCII only, keys in their order.
 *
 * A number prints as an integer when it is a safe one, else as a float; `PyFloat` always as a float; `bigint` as digits.
 * @throws InvalidDataError for what JSON can't hold (undefined, functions, dates, NaN, infinities) and beyond 64 levels
 */
export function toJsonText(value: WireValue): string {
  return write(value, "", 1);
}

function write(value: unknown, path: string, depth: number): string {
  switch (typeof value) {
    case "string":
      return pythonString(value);
    case "number":
      if (Number.isSafeInteger(value)) return value === 0 ? "0" : String(value);
      return finite(value, path);
    case "boolean":
      return value ? "true" : "false";
    case "bigint":
      return value.toString();
    case "object":
      break;
    default:
      throw new InvalidDataError(`${path || "value"}: ${typeof value} can't be written as JSON`);
  }
  if (value === null) return "null";
  if (value instanceof PyFloat) return finite(value.value, path);
  if (depth > JSON_MAX_DEPTH) throw new InvalidDataError(`${path || "value"}: nested deeper than ${JSON_MAX_DEPTH} levels`);
  if (Array.isArray(value)) return `[${value.map((element, index) => write(element, `${path}[${index}]`, depth + 1)).join(", ")}]`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && prototype !== Object.prototype) {
    throw new InvalidDataError(`${path || "value"}: an instance of ${value.constructor?.name ?? "a class"} can't be written as JSON`);
  }
  let out = "";
  for (const key of Object.keys(value)) {
    const member = write((value as Record<string, unknown>)[key], path === "" ? key : `${path}.${key}`, depth + 1);
    out += `${out === "" ? "" : ", "}${pythonString(key)}: ${member}`;
  }
  return `{${out}}`;
}

function finite(value: number, path: string): string {
  if (!Number.isFinite(value)) throw new InvalidDataError(`${path || "value"}: ${value} can't be written as JSON`);
  return pythonFloat(value);
}
