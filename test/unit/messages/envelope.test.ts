import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeserializationError, InvalidDataError } from "../../../src/errors.ts";
import { encodePayload } from "../../../src/messages/checksum.ts";
import type { Metadata } from "../../../src/messages/envelope.ts";
import {
  decodeMessage,
  decodeMetadata,
  decodeRow,
  encodeExternal,
  encodeMessage,
  encodeMetadata,
  peekMessage,
  peekType,
} from "../../../src/messages/envelope.ts";
import { MESSAGE_MAX_BYTES } from "../../../src/messages/limits.ts";
import { PyFloat } from "../../../src/messages/python-number.ts";

const payload = encodePayload({ account_id: "a1", holder: "Zoë", deposit: new PyFloat(10), serial: 9007199254740993n });

const metadata = (): Metadata => ({
  headers: {
    id: "bank::account-a1-0.1",
    time: "2026-01-02T03:04:05.123456+00:00",
    type: "Bank.AccountOpened.v1",
    stream: "bank::account-a1",
    traceparent: { trace_id: "0af7651916cd43dd8448eb211c80319c", parent_id: "b7ad6b7169203331", sampled: true },
    idempotency_key: "key-1",
    deadline: "2026-01-02T04:00:00+00:00",
  },
  envelope: { specversion: "1.0", checksum: payload.checksum },
  domain: {
    fqn: "bank.AccountOpened",
    kind: "EVENT",
    origin_stream: null,
    stream_category: "bank::account",
    version: 1,
    sequence_id: "0.1",
    asynchronous: true,
    expected_version: -1,
    priority: 5,
    correlation_id: "c1",
    causation_id: "m0",
  },
  event_store: { global_position: 7, position: 0 },
  extensions: { tenant_id: "t-1" },
});

const text = encodeMessage({ dataText: payload.dataText, metadata: metadata() });

/** The message with its metadata changed in any way. */
const changed = (change: (metadata: Record<string, Record<string, unknown>>) => unknown): string => {
  const copy = JSON.parse(encodeMetadata(metadata())) as Record<string, Record<string, unknown>>;
  change(copy);
  return `{"data": ${payload.dataText}, "metadata": ${JSON.stringify(copy)}}`;
};

describe("writing and reading", () => {
  test("every part comes back", () => {
    const message = decodeMessage(new TextEncoder().encode(text));
    expect(message.metadata).toEqual(metadata());
    expect(message.data).toEqual({ account_id: "a1", holder: "Zoë", deposit: 10, serial: 9007199254740993n });
    expect([message.id, message.type, message.stream]).toEqual(["bank::account-a1-0.1", "Bank.AccountOpened.v1", "bank::account-a1"]);
    expect(message.dataText).toBe(payload.dataText);
    expect(encodeMessage(message)).toBe(text);
  });

  test("the external form has no checksum, no positions, no scheduling, and no empty extensions", () => {
    const external = encodeExternal({ dataText: payload.dataText, metadata: { ...metadata(), extensions: {} } });
    const { metadata: written } = JSON.parse(external) as { metadata: Record<string, Record<string, unknown>> };
    expect(Object.keys(written)).toEqual(["headers", "domain", "envelope"]);
    expect(written["envelope"]).toEqual({ specversion: "1.0" });
    for (const key of ["expected_version", "asynchronous", "priority"]) expect(written["domain"]).not.toHaveProperty(key);
    expect(decodeMessage(external).metadata.domain).toMatchObject({ asynchronous: true, priority: 0, expected_version: null });
  });

  test("a message and its payload can't be changed, a copy of the payload can", () => {
    const message = decodeMessage(`{"data": {"list": [{"a": 1}]}, "metadata": {"headers": {"type": "A.B.v1"}}}`);
    expect(() => Object.assign(message, { id: "x" })).toThrow(TypeError);
    expect(() => (message.data["list"] as { a: number }[]).push({ a: 2 })).toThrow(TypeError);
    expect(message.data).toBe(message.data);
    const copy = message.copyData();
    (copy["list"] as { a: number }[]).push({ a: 2 });
    expect(message.data).toEqual({ list: [{ a: 1 }] });
  });

  test("a payload with a __proto__ key swaps no prototype (known-traps C9)", () => {
    const { data } = decodeMessage(`{"data": {"__proto__": {"admin": true}}, "metadata": {"headers": {"type": "A.B.v1"}}}`);
    expect(data["admin"]).toBeUndefined();
    expect(Object.keys(data)).toEqual(["__proto__"]);
  });

  test("of parts given twice the last one counts, for the checksum too", () => {
    const twice = `{"data": {"no": 1}, ${text.slice(1)}`;
    expect(decodeMessage(twice).dataText).toBe(payload.dataText);
    expect(() => decodeMessage(`${text.slice(0, -1)}, "data": {"no": 1}}`)).toThrow("wrong checksum");
  });
});

describe("tolerance", () => {
  test("times of any form become Python's, versions and texts of the wrong kind are converted", () => {
    const message = decodeMessage(
      changed(({ headers, domain }) => {
        Object.assign(headers ?? {}, { time: "2026-01-02T03:04:05.1Z", traceparent: "junk", id: 7 });
        Object.assign(domain ?? {}, { version: "v3", correlation_id: 12, priority: null, sequence_id: 3, unknown: {} });
      }),
    );
    expect(message.metadata.headers).toMatchObject({ time: "2026-01-02T03:04:05.100000+00:00", traceparent: null, id: "7" });
    expect(message.metadata.domain).toMatchObject({ version: 3, correlation_id: "12", priority: 0, sequence_id: "3" });
    expect(message.metadata.domain).not.toHaveProperty("unknown");
  });

  test("an absent version is that of the type", () => {
    expect(decodeMessage(`{"data": {}, "metadata": {"headers": {"type": "A.B.v4"}}}`).metadata.domain.version).toBe(4);
  });

  const bare = (metadataText: string): string => `{"data": {}, "metadata": ${metadataText}}`;
  test.each([
    ["nothing", "", "not JSON"],
    ["no JSON", "{nope", "not JSON"],
    ["a cut message", text.slice(0, -1), "not JSON"],
    ["an array", "[1]", "no object"],
    ["null", "null", "no object"],
    ["no data", `{"metadata": {"headers": {"type": "A.B.v1"}}}`, "no data"],
    ["data null", `{"data": null, "metadata": {"headers": {"type": "A.B.v1"}}}`, "no data"],
    ["data an array", `{"data": [], "metadata": {"headers": {"type": "A.B.v1"}}}`, "data is no object"],
    ["no metadata", `{"data": {}}`, "no metadata"],
    ["metadata null", bare("null"), "no metadata"],
    ["metadata a text", bare('"x"'), "metadata is no object"],
    ["headers an array", bare("[]"), "metadata is no object"],
    ["no type", bare('{"headers": {"id": "x"}}'), "no type"],
    ["type an object", bare('{"headers": {"type": {}}}'), "headers.type is no text"],
    ["domain a text", bare('{"headers": {"type": "A.B.v1"}, "domain": "x"}'), "domain is no object"],
    ["envelope a number", bare('{"headers": {"type": "A.B.v1"}, "envelope": 1}'), "envelope is no object"],
    ["extensions an array", bare('{"headers": {"type": "A.B.v1"}, "extensions": []}'), "extensions is no object"],
    ["a version that is no number", bare('{"headers": {"type": "A.B.v1"}, "domain": {"version": "two"}}'), "domain.version is no integer"],
    ["a deadline that is no time", bare('{"headers": {"type": "A.B.v1", "deadline": true}}'), "headers.deadline is no time"],
    ["a wrong checksum", text.replace("Zo", "Za"), "wrong checksum"],
    ["10 for 10.0", text.replace("10.0", "10"), "wrong checksum"],
    [
      "a payload nested too deep",
      `{"data": ${'{"a":'.repeat(64)}1${"}".repeat(64)}, "metadata": {}}`.replace('{"a":', '{"b":[],"a":'),
      "no type",
    ],
    ["a payload nested deeper", `{"data": ${'{"a":'.repeat(65)}1${"}".repeat(65)}, "metadata": {}}`, "deeper than 64"],
  ])("%s is a DeserializationError", (_, message, reason) => {
    expect(() => decodeMessage(message)).toThrow(DeserializationError);
    expect(() => decodeMessage(message)).toThrow(reason);
  });

  test("bytes that are not UTF-8 are a DeserializationError", () => {
    expect(() => decodeMessage(new Uint8Array([0x7b, 0xff, 0x7d]))).toThrow("not UTF-8");
  });

  test("an error names the message", () => {
    try {
      decodeMessage(text.replace("Zo", "Za"));
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(DeserializationError);
      expect((error as DeserializationError).messageId).toBe("bank::account-a1-0.1");
    }
  });

  test("whatever is cut out of or put into a message, reading it gives a message or a DeserializationError, and peeking agrees", () => {
    const edit = fc.record({
      from: fc.nat(text.length),
      length: fc.nat(40),
      insert: fc.constantFrom("", "{", "}", '"', ",", "null", "1e5", "[]", '{"a":1}', "\\", "\ud800", '"type": "X.Y.v1", '),
    });
    fc.assert(
      fc.property(edit, ({ from, length, insert }) => {
        const edited = text.slice(0, from) + insert + text.slice(from + length);
        let type: string | null = null;
        try {
          const message = decodeMessage(edited);
          type = message.type;
          void message.data;
        } catch (error) {
          expect(error).toBeInstanceOf(DeserializationError);
          return;
        }
        // A type that is a number, say: peeking doesn't convert, so that one is decoded.
        expect([type, null]).toContain(peekType(edited));
      }),
      { numRuns: 3000 },
    );
  });
});

describe("size", () => {
  test("writing more than 4 MiB is refused and names the largest field", () => {
    const big = encodePayload({ small: "x", photo: "é".repeat(MESSAGE_MAX_BYTES / 6 + 1) });
    const write = (): string => encodeMessage({ dataText: big.dataText, metadata: metadata() });
    expect(write).toThrow(InvalidDataError);
    expect(write).toThrow('"photo"');
  });

  test("reading more than 4 MiB is refused before it is parsed, as bytes and as text", () => {
    const big = `{"data": "${"é".repeat(MESSAGE_MAX_BYTES / 2)}`;
    expect(() => decodeMessage(big)).toThrow(`more than the ${MESSAGE_MAX_BYTES} allowed`);
    expect(() => decodeMessage(new TextEncoder().encode(big))).toThrow(`more than the ${MESSAGE_MAX_BYTES} allowed`);
  });

  test("just under 4 MiB goes both ways", () => {
    const big = encodePayload({ photo: "x".repeat(MESSAGE_MAX_BYTES - 2_000) });
    const written = encodeMessage({
      dataText: big.dataText,
      metadata: { ...metadata(), envelope: { specversion: "1.0", checksum: big.checksum } },
    });
    expect(decodeMessage(written).dataText).toBe(big.dataText);
  });
});

describe("peeking at the type", () => {
  test("a type in the payload is not taken for the message's", () => {
    const message = `{"data": {"metadata": {"headers": {"type": "No.No.v1"}}, "type": "No.No.v1"}, "metadata": {"type": "No.No.v1", "headers": {"type": "Bank.A.v1"}}}`;
    expect(peekType(message)).toBe("Bank.A.v1");
    expect(decodeMessage(message).type).toBe("Bank.A.v1");
  });

  test("an undecodable payload doesn't hide the type of a message nobody here handles (D28)", () => {
    expect(peekType(text.replace("Zo", "Za"))).toBe("Bank.AccountOpened.v1");
  });

  test("a peeked message is decoded from the same parse, with the same result and the same refusals", () => {
    expect(peekMessage(text)?.decode()).toEqual(decodeMessage(text));
    expect(peekMessage(text)?.decode().data).toEqual(decodeMessage(text).data);
    expect(() => peekMessage(text.replace("Zo", "Za"))?.decode()).toThrow("wrong checksum");
    expect(() => peekMessage("[1]")?.decode()).toThrow(DeserializationError);
    expect(peekMessage("{")).toBeNull();
  });

  test.each([
    "",
    "{",
    "[]",
    "null",
    "1",
    '{"metadata": null}',
    '{"metadata": {"headers": []}}',
    '{"metadata": {"headers": {"type": 1}}}',
    '{"__proto__": {"metadata": {}}}',
  ])("%s has none", (message) => expect(peekType(message)).toBeNull());
});

describe("metadata alone", () => {
  test("is read and written again, floats of extensions included", () => {
    const written = encodeMetadata({ ...metadata(), extensions: { rate: new PyFloat(10), list: [1, { big: 9007199254740993n }] } });
    expect(written).toContain('"rate": 10.0');
    expect(encodeMetadata(decodeMetadata(written))).toBe(written);
    expect(decodeMetadata('{"headers": {"type": "A.B.v1"}, "extensions": null}').extensions).toEqual({});
    for (const text of ["", "[]", '{"extensions": 1}']) expect(() => decodeMetadata(text)).toThrow(DeserializationError);
  });
});

describe("rows of the store", () => {
  const row = {
    type: "SNAPSHOT",
    dataText: '{"balance": 10.0, "_version": 3}',
    metadataText: null,
    stream: "bank::account:snapshot-a1",
    position: 2,
    globalPosition: 40,
    time: "2026-11-22 00:41:00.850427",
    id: "0cad4211-ee8c-4d59-aa62-224eaf69a792",
  } as const;

  test("a snapshot without metadata is read with what the row says", () => {
    const message = decodeRow(row);
    expect(message.type).toBe("SNAPSHOT");
    expect(message.stream).toBe(row.stream);
    expect(message.metadata.headers).toMatchObject({ id: row.id, time: "2026-11-22T00:41:00.850427", stream: null });
    expect(message.metadata.event_store).toEqual({ global_position: 40, position: 2 });
    expect(message.data).toEqual({ balance: 10, _version: 3 });
  });

  test("an event read back from PostgreSQL's jsonb keeps its checksum though key order and spacing changed", () => {
    const jsonb = '{"holder": "Zoë", "serial": 9007199254740993, "deposit": 10.0, "account_id": "a1"}';
    const message = decodeRow({ ...row, type: "Bank.AccountOpened.v1", dataText: jsonb, metadataText: encodeMetadata(metadata()) });
    expect(message.dataText).toBe(jsonb);
    expect(message.metadata.headers.id).toBe("bank::account-a1-0.1");
  });

  test.each([
    ["no data", { dataText: null }],
    ["data that is no object", { dataText: "[1]" }],
    ["data that is no JSON", { dataText: "{" }],
    ["metadata that is no JSON", { metadataText: "{" }],
    ["metadata that is no object", { metadataText: '"x"' }],
  ])("%s is a DeserializationError", (_, part) => expect(() => decodeRow({ ...row, ...part })).toThrow(DeserializationError));
});
