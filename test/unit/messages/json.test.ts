import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeserializationError, InvalidDataError } from "../../../src/errors.ts";
import { canonicalText, checksumOfText, encodePayload } from "../../../src/messages/checksum.ts";
import type { WireValue } from "../../../src/messages/json.ts";
import {
  canonicalTextOf,
  compareCodePoints,
  memberText,
  objectMembers,
  openObject,
  parseJson,
  parseWire,
  pythonString,
  toJsonText,
} from "../../../src/messages/json.ts";
import { normalisedNumberToken, PyFloat, pythonFloat } from "../../../src/messages/python-number.ts";

/** Values with floats, big integers and any text; keys that don't look like array indexes, which JavaScript would move. */
const wireValue = fc.letrec<{ value: WireValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.string({ unit: "binary" }),
    fc.maxSafeInteger(),
    fc.bigInt({ min: 2n ** 53n, max: 2n ** 90n }),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => new PyFloat(value)),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(
      fc.string({ unit: "binary" }).map((key) => `k${key}`),
      tie("value"),
      { maxKeys: 4 },
    ),
  ),
})).value;

describe("canonical text", () => {
  test("doing it twice changes nothing, and order and spacing of the source don't matter", () => {
    fc.assert(
      fc.property(wireValue, (value) => {
        const text = toJsonText(value);
        const canonical = canonicalTextOf(text);
        expect(canonicalTextOf(canonical)).toBe(canonical);
        expect(canonicalTextOf(toJsonText(parseWire(canonical)))).toBe(canonical);
        expect(canonical).toMatch(/^[\x20-\x7e]*$/);
      }),
    );
  });

  test("keys are sorted by code point at every level, the last of equal keys counts", () => {
    expect(canonicalTextOf('{"b": {"z": 1, "a": 2}, "a": [ {"d":1,"c":2} ], "b": 3}')).toBe('{"a":[{"c":2,"d":1}],"b":3}');
    expect(canonicalTextOf('{"😀": 1, "\uffff": 2}')).toBe('{"\\uffff":2,"\\ud83d\\ude00":1}');
  });

  test("raw UTF-8, escapes and DEL are written as Python writes them", () => {
    expect(canonicalTextOf('"\\u00E9é\\/\u007f\\u0041"')).toBe('"\\u00e9\\u00e9/\\u007fA"');
  });

  test("a payload's checksum is the same however its text is laid out", () => {
    const { dataText, checksum } = encodePayload({ deposit: new PyFloat(10), holder: "Zoë" });
    expect(dataText).toBe('{"deposit": 10.0, "holder": "Zo\\u00eb"}');
    expect(checksumOfText(' {"holder":"Zoë",\n"deposit":1.00e1} ')).toBe(checksum);
    expect(checksumOfText('{"holder":"Zoë","deposit":10}')).not.toBe(checksum);
    expect(canonicalText({ b: 1, a: new PyFloat(-0) })).toBe('{"a":-0.0,"b":1}');
  });

  test.each([
    "",
    " ",
    "{",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    "[1,]",
    "[1 2]",
    "01",
    "1.",
    ".5",
    "1e",
    "-",
    "+1",
    "nul",
    "NaN",
    "-Infinity",
    '"a\nb"',
    '"\\x"',
    '"\\u12g4"',
    '"open',
    "{} {}",
    "\ufeff{}",
    "{'a':1}",
  ])("%j is refused, by all readers alike", (text) => {
    for (const read of [canonicalTextOf, parseJson, parseWire, objectMembers]) expect(() => read(text)).toThrow(DeserializationError);
  });

  test("our scanner accepts exactly what the runtime's parser accepts", () => {
    const piece = fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      '"',
      "\\",
      "a",
      "\\u00e9",
      "1",
      "-",
      ".",
      "e",
      "0",
      "true",
      "null",
      " ",
      '"k":',
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const text = pieces.join("");
        let valid = true;
        try {
          JSON.parse(text);
        } catch {
          valid = false;
        }
        // Python has no integer -0.
        const withoutMinusZero = (_key: string, value: unknown) => (value === 0 ? 0 : value);
        if (valid) expect(JSON.parse(canonicalTextOf(text))).toEqual(JSON.parse(text, withoutMinusZero));
        else expect(() => canonicalTextOf(text)).toThrow(DeserializationError);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("opening a message", () => {
  test("in the form in which it is written, or nearly so, gives the same members as walking over it", () => {
    const name = fc.constantFrom("data", "metadata", "a", "b", "é", 'q"', "__proto__", "2");
    const value = fc.letrec<{ value: unknown; object: Record<string, unknown> }>((tie) => ({
      value: fc.oneof(
        fc.constantFrom(1, 1.5, null, true, "data", "metadata", ', "metadata": {', "x y"),
        tie("object"),
        fc.array(tie("value"), { maxLength: 2 }),
      ),
      object: fc.dictionary(name, tie("value"), { maxKeys: 3 }),
    }));
    const written = (data: string, metadata: string) => `{"data": ${data}, "metadata": ${metadata}}`;
    const spaced = (json: unknown) => JSON.stringify(json, null, 1).replaceAll(/\n */g, " ");
    fc.assert(
      fc.property(
        value.object,
        value.object,
        fc.constantFrom("", ', "c": 1', ', "data": {}', ', "metadata": {}', " "),
        (data, metadata, rest) => {
          const text = written(spaced(data), spaced(metadata)).replace(/\}$/, `${rest}}`);
          const { values, members } = openObject(text, 0);
          expect(members).toEqual(objectMembers(text, 0));
          expect(JSON.stringify(values)).toBe(JSON.stringify(parseJson(text, 0)));
        },
      ),
      { numRuns: 2_000 },
    );
  });

  test("repairs what needs it and refuses what is too deep, also in that form", () => {
    const { values } = openObject('{"data": {"n": 9007199254740993, "__proto__": {}}, "metadata": {"m": [-9007199254740993]}}', 0);
    expect(values).toMatchObject({ data: { n: 9007199254740993n }, metadata: { m: [-9007199254740993n] } });
    expect(Object.getPrototypeOf(values["data"])).toBeNull();
    const nested = (levels: number) => `{"data": ${'{"a": '.repeat(levels)}1${"}".repeat(levels)}, "metadata": {}}`;
    expect(() => openObject(nested(64), 0)).not.toThrow();
    expect(() => openObject(nested(65), 0)).toThrow(DeserializationError);
  });
});

describe("code point order", () => {
  test("is that of the lists of code points", () => {
    const points = (text: string): number[] => Array.from(text, (character) => character.codePointAt(0) ?? 0);
    const text = fc
      .array(fc.constantFrom("a", "b", "\ud83d", "\ude00", "😀", "\ue000", "\uffff"), { maxLength: 5 })
      .map((parts) => parts.join(""));
    fc.assert(
      fc.property(text, text, (left, right) => {
        const [a, b] = [points(left), points(right)];
        let expected = a.length - b.length;
        for (let index = 0; index < Math.min(a.length, b.length); index += 1) {
          const difference = (a[index] ?? 0) - (b[index] ?? 0);
          if (difference !== 0) {
            expected = difference;
            break;
          }
        }
        expect(Math.sign(compareCodePoints(left, right))).toBe(Math.sign(expected));
      }),
      { numRuns: 2000 },
    );
  });
});

describe("writing JSON", () => {
  test("text written and read again is the same text", () => {
    fc.assert(
      fc.property(wireValue, (value) => {
        const text = toJsonText(value);
        expect(toJsonText(parseWire(text))).toBe(text);
        JSON.parse(text);
      }),
    );
  });

  test("plain numbers print as integers where they are, as floats else", () => {
    expect(toJsonText([1, -0, 1.5, 2 ** 53, 12345678901234567890n, new PyFloat(3)])).toBe(
      "[1, 0, 1.5, 9007199254740992.0, 12345678901234567890, 3.0]",
    );
  });

  test.each([
    ["NaN", { a: [Number.NaN] }, "a[0]: NaN"],
    ["an infinite float", { a: { b: new PyFloat(Number.POSITIVE_INFINITY) } }, "a.b: Infinity"],
    ["undefined", { a: undefined }, "a: undefined"],
    ["a date", { a: new Date(0) }, "a: an instance of Date"],
    ["a function", () => 1, "value: function"],
  ])("%s is refused with its place", (_, value, message) => {
    expect(() => toJsonText(value as unknown as WireValue)).toThrow(InvalidDataError);
    expect(() => toJsonText(value as unknown as WireValue)).toThrow(message);
  });

  test("a value that holds itself is refused", () => {
    const loop: Record<string, WireValue> = {};
    loop["again"] = loop;
    expect(() => toJsonText(loop)).toThrow("nested deeper than 64 levels");
  });

  test("lone surrogates survive", () => {
    expect(pythonString("\ud800x")).toBe('"\\ud800x"');
    expect(canonicalTextOf('"\\ud800"')).toBe('"\\ud800"');
  });
});

describe("reading JSON", () => {
  test("integers beyond 2^53 keep their digits, all other numbers are numbers", () => {
    expect(
      parseJson('{"a": 9007199254740993, "b": -123456789012345678901, "c": 9007199254740991, "d": 1e20, "e": 1234567890123456.5}'),
    ).toEqual({
      a: 9007199254740993n,
      b: -123456789012345678901n,
      c: 9007199254740991,
      d: 1e20,
      e: 1234567890123456.5,
    });
    expect(parseJson("9007199254740993")).toBe(9007199254740993n);
    expect(parseJson("[\t9007199254740993]")).toEqual([9007199254740993n]);
  });

  test.each(['{"__proto__": {"admin": true}, "a": 1}', '{"\\u005f_proto__": {"admin": true}, "a": 1}'])(
    "%s swaps no prototype, also when copied (known-traps C9)",
    (text) => {
      const value = parseJson(text) as Record<string, unknown>;
      expect(Object.getPrototypeOf(value)).toBeNull();
      expect(value["admin"]).toBeUndefined();
      expect(Object.keys(value)).toEqual(["__proto__", "a"]);
      const wire = parseWire(text) as Record<string, WireValue>;
      expect(toJsonText(wire)).toBe('{"__proto__": {"admin": true}, "a": 1}');
    },
  );

  test("64 levels are read, 65 are not", () => {
    const nested = (levels: number): string => `${"[".repeat(levels)}${"]".repeat(levels)}`;
    for (const read of [canonicalTextOf, parseJson, parseWire]) {
      read(nested(64));
      expect(() => read(nested(65))).toThrow("nested deeper than 64 levels");
      expect(() => read(nested(100_000))).toThrow(DeserializationError);
    }
    expect(() => parseJson("[".repeat(100_000))).toThrow(DeserializationError);
  });

  test("members are found with their source text, whatever their strings hold", () => {
    const text = '{ "x" : "}\\\\\\"{" , "data":{"a":"\\\\","b":[1.0,{}]},"\\u006detadata": null}';
    expect(memberText(text, "x")).toBe('"}\\\\\\"{"');
    expect(memberText(text, "data")).toBe('{"a":"\\\\","b":[1.0,{}]}');
    expect(memberText(text, "metadata")).toBe("null");
    expect(memberText(text, "other")).toBeNull();
    expect(memberText('{"a": 1, "a": 2}', "a")).toBe("2");
    expect(() => memberText("[1]", "a")).toThrow("no object");
  });

  test("the source texts of all members are those of any object", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue({ maxDepth: 3 })),
        fc.constantFrom(undefined, 1),
        (object, indent) => {
          const text = JSON.stringify(object, null, indent);
          const read = objectMembers(text).map(({ key, from, to }) => [key, JSON.parse(text.slice(from, to))]);
          expect(read).toEqual(Object.entries(JSON.parse(text) as object));
        },
      ),
    );
  });
});

describe("Python's floats", () => {
  test.each([
    [0, "0.0"],
    [-0, "-0.0"],
    [1, "1.0"],
    [-10, "-10.0"],
    [10000, "10000.0"],
    [0.1, "0.1"],
    [0.1 + 0.2, "0.30000000000000004"],
    [1e15, "1000000000000000.0"],
    [9999999999999998, "9999999999999998.0"],
    [1e16, "1e+16"],
    [-1.5e16, "-1.5e+16"],
    [123456789012345680000, "1.2345678901234568e+20"],
    [1e22, "1e+22"],
    [1e100, "1e+100"],
    [0.0001, "0.0001"],
    [0.00012345, "0.00012345"],
    [0.00001, "1e-05"],
    [-0.000012, "-1.2e-05"],
    [1e-7, "1e-07"],
    [5e-324, "5e-324"],
    [1.7976931348623157e308, "1.7976931348623157e+308"],
    [Number.POSITIVE_INFINITY, "Infinity"],
  ])("%d prints as %s", (value, text) => expect(pythonFloat(value)).toBe(text));

  test("any float is read back as itself and always looks like a float", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const text = pythonFloat(value);
        expect(Object.is(Number(text), value)).toBe(true);
        expect(text).toMatch(/^-?\d+(\.\d+)?(e[+-]\d{2,3})?$/);
        expect(text).toMatch(/[.e]/);
      }),
    );
  });

  test.each([
    ["10", "10"],
    ["-0", "0"],
    ["100000000000000000000", "100000000000000000000"],
    ["1.50", "1.5"],
    ["1E5", "100000.0"],
    ["1e400", "Infinity"],
    ["-0.0", "-0.0"],
  ])("the token %s becomes %s", (token, text) => expect(normalisedNumberToken(token)).toBe(text));
});
