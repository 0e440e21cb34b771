/**
 * Numbers as Python prints them. Python tells `10` from `10.0`, and the checksum is over its text, so a float has to be written
 * exactly as Python's `repr` would.
 */

/**
 * Text of a float as Python's `repr` (and so `json.dumps`) gives it: shortest digits that read back to the same value, plain notation
 * for decimal exponents -4 to 15, else an exponent of at least two digits.
 *
 * Infinite values and NaN give `Infinity`, `-Infinity`, `NaN`, as `json.dumps` does; writers of messages refuse them before.
 * @example pythonFloat(10) // "10.0"
 * @example pythonFloat(1e16) // "1e+16"
 */
export function pythonFloat(value: number): string {
  if (Number.isInteger(value)) {
    if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
    if (value < 1e16 && value > -1e16) return `${value}.0`;
    return withTwoExponentDigits(value.toExponential());
  }
  if (!Number.isFinite(value)) return String(value);
  if (value < 1e-4 && value > -1e-4) return withTwoExponentDigits(value.toExponential());
  return String(value);
}

function withTwoExponentDigits(text: string): string {
  const sign = text.indexOf("e") + 1;
  return text.length - sign === 2 ? `${text.slice(0, sign + 1)}0${text.slice(sign + 1)}` : text;
}

/**
 * What `json.dumps(json.loads(token))` gives for a number token: with `.`, `e` or `E` it is a float and printed as one, else an
 * integer, whose digits stay whatever its size. `-0` is the integer 0 in Python.
 * @param token a valid JSON number
 */
export function normalisedNumberToken(token: string): string {
  return isFloatToken(token) ? pythonFloat(Number(token)) : token === "-0" ? "0" : token;
}

/** True when Python reads this JSON number as a float. */
export function isFloatToken(token: string): boolean {
  return /[.eE]/.test(token);
}

/**
 * A number that is written as a Python float: `new PyFloat(10)` prints `10.0`. The domain layer wraps the values of Float fields
 * in it. A plain number that is a safe integer prints as an integer.
 */
export class PyFloat {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}
