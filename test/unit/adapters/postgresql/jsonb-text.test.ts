import { describe, expect, test } from "bun:test";
import { jsonbText, withoutChecksum } from "../../../../src/adapters/postgresql/jsonb-text.ts";
import { InvalidDataError } from "../../../../src/errors.ts";
import { checksumOfText } from "../../../../src/messages/checksum.ts";

describe("JSON text for a jsonb column", () => {
  test("floats with an exponent are written out and stay the same floats", () => {
    for (const token of ["1e+16", "1.5E16", "-2.5e+300", "1e-07", "1.25e-3", "5e-324", "1.7976931348623157e+308", "12.5e1", "0e5"]) {
      const { text, exact } = jsonbText(`{"a": ${token}}`, "data");
      expect(text).not.toMatch(/e[-+\d]/i);
      expect(text).toContain(".");
      expect(JSON.parse(text)).toEqual(JSON.parse(`{"a": ${token}}`));
      expect(exact).toBe(true);
      expect(checksumOfText(text)).toBe(checksumOfText(`{"a": ${token}}`));
    }
  });

  test("everything else is left as it is, also what only looks like a number", () => {
    for (const text of ['{"id": "e37a0f03-4e5-1e16", "n": 10.0, "big": 12345678901234567890, "t": "a\\"1e5\\\\"}', "{}", '{"n": -0}']) {
      expect(jsonbText(text, "data")).toEqual({ text, exact: true });
    }
  });

  test("a negative zero is stored, and said to break the checksum", () => {
    expect(jsonbText('{"a": -0.0}', "data").exact).toBe(false);
    expect(jsonbText('{"a": -0e3}', "data").exact).toBe(false);
    const metadata = `{"envelope": {"specversion": "1.0", "checksum": "${"ab".repeat(32)}"}}`;
    expect(JSON.parse(withoutChecksum(metadata))).toEqual({ envelope: { specversion: "1.0", checksum: null } });
  });

  test("U+0000 and half a surrogate pair are refused with the field's name", () => {
    expect(() => jsonbText('{"a": {"b": ["x", "\\u0000"]}}', "data of T.v1")).toThrow("data of T.v1: a.b[1] holds the character U+0000");
    expect(() => jsonbText('{"name": "\\ud83d"}', "data")).toThrow(InvalidDataError);
    expect(() => jsonbText('{"\\udc00": 1}', "data")).toThrow("half a surrogate pair");
    expect(jsonbText('{"name": "\\ud83d\\ude80 \\\\u0000"}', "data").exact).toBe(true);
  });

  test("a long text is read in one go", () => {
    const text = `{"a": "${"x\\n1e5 ".repeat(400_000)}", "b": 1e+20}`;
    expect(jsonbText(text, "data").text.endsWith('"b": 100000000000000000000.0}')).toBe(true);
  });
});
