import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeserializationError, InvalidDataError } from "../../../src/errors.ts";
import { toJsonText, type WireValue } from "../../../src/messages/json.ts";
import { metadataOfPickle, pickleOfMetadata } from "../../../src/messages/pickle.ts";
import { PyFloat } from "../../../src/messages/python-number.ts";
import { readFixture, readFixtureRecords } from "../../golden/fixtures.ts";

interface Vectors {
  readonly vectors: readonly { readonly pickle_base64: string; readonly decoded: unknown }[];
}

const bytes = (...parts: readonly (number | string)[]) =>
  Buffer.concat(parts.map((part) => (typeof part === "number" ? Buffer.from([part]) : Buffer.from(part, "latin1"))));
const short = (text: string) => bytes(0x8c, text.length, text);
const pickle = (...parts: readonly Uint8Array[]) => Buffer.concat([bytes(0x80, 4), ...parts, bytes(".")]);

describe("reading a pickle", () => {
  test("every pickle that Python wrote gives the metadata that Python reads", () => {
    const { vectors } = readFixture<Vectors>("outbox-pickle-vectors.json");
    expect(vectors.length).toBeGreaterThan(5);
    for (const { pickle_base64, decoded } of vectors) {
      expect(JSON.parse(metadataOfPickle(Buffer.from(pickle_base64, "base64")))).toEqual(decoded);
    }
  });

  test("one that calls something else is refused, and nothing is called", () => {
    const system = pickle(short("posix"), short("system"), bytes(0x93), short("touch x"), bytes(0x85, "R"));
    expect(() => metadataOfPickle(system)).toThrow("names posix.system");
    const global = bytes(0x80, 2, "cos\nsystem\n", "(S'id'\ntR.");
    expect(() => metadataOfPickle(global)).toThrow("opcode 0x63");
    const other = pickle(short("protean.utils.eventing"), short("Message"), bytes(0x93, ")", 0x81));
    expect(() => metadataOfPickle(other)).toThrow(DeserializationError);
  });

  test("a known class is only made as metadata is made", () => {
    const callModel = pickle(short("protean.utils.eventing"), short("Metadata"), bytes(0x93, ")R"));
    expect(() => metadataOfPickle(callModel)).toThrow("calls protean.utils.eventing.Metadata");
    const newDate = pickle(short("datetime"), short("datetime"), bytes(0x93, ")", 0x81));
    expect(() => metadataOfPickle(newDate)).toThrow("no metadata class");
  });

  test("text, an unfinished pickle and one that goes on are refused", () => {
    expect(() => metadataOfPickle(Buffer.from('{"headers": {}}'))).toThrow(DeserializationError);
    expect(() => metadataOfPickle(Buffer.alloc(0))).toThrow("ends in the middle");
    const good = pickleOfMetadata('{"a": 1}');
    for (let length = 0; length < good.length; length += 1) expect(() => metadataOfPickle(good.subarray(0, length))).toThrow();
    expect(() => metadataOfPickle(Buffer.concat([good, good]))).toThrow("goes on");
    expect(() => metadataOfPickle(pickle(short("just text")))).toThrow("no metadata");
  });

  test("a small pickle that doubles itself many times, or holds itself, ends soon", () => {
    const doubling = [bytes("}", 0x94), short("a"), bytes("]", 0x94)];
    for (let level = 0; level < 40; level += 1) doubling.push(bytes("]", 0x94, "(", "h", level + 1, "h", level + 1, "e"));
    expect(() => metadataOfPickle(pickle(...doubling, bytes("s")))).toThrow(DeserializationError);
    expect(() => metadataOfPickle(pickle(bytes("}", 0x94), short("me"), bytes("h", 0, "s")))).toThrow("deeper than");
  });
});

describe("writing a pickle", () => {
  test("it is the dict at protocol 2 that Python was seen to accept", () => {
    const { hand_made_protocol_2_dict: recorded } = readFixture<Record<string, { blob_base64: string }>>("outbox-pickle-acceptance.json");
    const blob = Buffer.from(recorded?.blob_base64 ?? "", "base64");
    expect(Buffer.from(pickleOfMetadata(metadataOfPickle(blob))).toString("hex")).toBe(blob.toString("hex"));
  });

  test("what is written is read back the same, text for text", () => {
    for (const { metadata } of readFixtureRecords<{ metadata: unknown }>("message-db-rows.jsonl")) {
      const text = metadataOfPickle(pickleOfMetadata(JSON.stringify(metadata)));
      expect(JSON.parse(text)).toEqual(metadata);
    }
    const odd =
      '{"f": 10.0, "n": -3, "big": 12345678901234567890123, "neg": -9007199254740993, "t": "\\u0000 \\ud83d\\ude80", "l": [true, null, 1e-05]}';
    expect(metadataOfPickle(pickleOfMetadata(odd))).toBe(odd);
  });

  test("what is no object, or has half a character, is refused", () => {
    expect(() => pickleOfMetadata("[]")).toThrow(InvalidDataError);
    expect(() => pickleOfMetadata('{"a": "\\ud83d"}')).toThrow("surrogate");
  });
});

describe("the short ways", () => {
  const json = fc.letrec<{ value: unknown; object: unknown }>((tie) => ({
    object: fc.dictionary(
      fc.string({ unit: "binary" }).filter((key) => key !== "__proto__" && !/^\d+$/.test(key)),
      tie("value"),
      { maxKeys: 5 },
    ),
    value: fc.oneof(
      { depthSize: "small" },
      fc.constantFrom(null, true, false, "2026-11-22T01:00:23.007046+00:00", 'a "quoted": 1.5, [2.5', "�"),
      fc.string({ unit: "binary" }),
      fc.integer(),
      fc.bigInt(),
      fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => new PyFloat(value)),
      fc.array(tie("value"), { maxLength: 4 }),
      tie("object"),
    ),
  })).object as fc.Arbitrary<WireValue>;

  test("write and read any JSON text for text, as the exact reader reads it", () => {
    fc.assert(
      fc.property(json, (value) => {
        const text = toJsonText(value);
        const written = pickleOfMetadata(text);
        expect(metadataOfPickle(written)).toBe(text);
        // Another protocol's number: read by the reader that knows Python's pickles.
        const asOthers = Buffer.from(written);
        asOthers[1] = 3;
        expect(metadataOfPickle(asOthers)).toBe(text);
      }),
      { numRuns: 500 },
    );
  });

  test("leave what isn't written so to the exact reader", () => {
    const dict = (...inner: readonly (number | string)[]) => bytes(0x80, 2, "}(", ...inner, "u.");
    const key = bytes("X", 1, 0, 0, 0, "k").toString("latin1");
    expect(() => metadataOfPickle(dict(key, "G", "\x7f\xf0\0\0\0\0\0\0"))).toThrow("Infinity");
    expect(() => metadataOfPickle(dict(key, "X", 1, 0, 0, 0, 0xff))).toThrow("UTF-8");
    expect(() => metadataOfPickle(dict(key, "X", 9, 0, 0, 0, "short"))).toThrow("ends in the middle");
    expect(() => metadataOfPickle(dict("N", "N"))).toThrow("no text");
    expect(metadataOfPickle(dict(key, "K", 7))).toBe('{"k": 7}');
  });

  test("refuse what is nested too deep", () => {
    const deep = `{"a": ${"[".repeat(70)}${"]".repeat(70)}}`;
    expect(() => pickleOfMetadata(deep)).toThrow("deeper than 64");
  });
});
