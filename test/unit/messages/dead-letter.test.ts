import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeserializationError, ValidationError } from "../../../src/errors.ts";
import type { DeadLetterInput } from "../../../src/messages/dead-letter.ts";
import { decodeDeadLetter, describeError, encodeDeadLetter, redact, restoreOriginal } from "../../../src/messages/dead-letter.ts";
import { MESSAGE_MAX_BYTES } from "../../../src/messages/limits.ts";

const attempt = { time: "2026-01-02T03:04:05+00:00", worker: "AuditTrail-vm-1-abcdef" };

const input = (part: Partial<DeadLetterInput>): DeadLetterInput => ({
  originalText: '{"data": {"a": 10.0}, "metadata": {}}',
  originalStream: "bank::account",
  originalId: "1-0",
  consumerGroup: "bank.AuditTrail",
  consumer: "AuditTrail-vm-1-abcdef",
  failedAt: "2026-01-02T03:04:06+00:00",
  retryCount: 3,
  error: describeError(new ValidationError({ amount: ["is required"] }), [attempt]),
  ...part,
});

describe("dead letters", () => {
  test("carry the message as Python does, and beside it what went wrong", () => {
    const fields = encodeDeadLetter(input({}));
    expect(fields.data).toBe(
      '{"data": {"a": 10.0}, "metadata": {}, "_dlq_metadata": {"original_stream": "bank::account", "original_id": "1-0", ' +
        '"consumer_group": "bank.AuditTrail", "consumer": "AuditTrail-vm-1-abcdef", "failed_at": "2026-01-02T03:04:06+00:00", "retry_count": 3}}',
    );
    expect(fields.raw).toBeUndefined();
    const record = decodeDeadLetter(fields);
    expect(record).toMatchObject({ originalStream: "bank::account", originalId: "1-0", consumerGroup: "bank.AuditTrail", retryCount: 3 });
    expect(record.error).toMatchObject({
      class: "ValidationError",
      message: "amount: is required",
      attempts: [attempt],
      failed_at: record.failedAt ?? "",
    });
  });

  test("give back any original JSON object character by character", () => {
    const value = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 2 }));
    const layout = fc.constantFrom<((text: string) => string)[]>(
      (text) => text,
      (text) => ` \n${text}\t`,
      (text) => text.replace(/\}$/, " \n}"),
      (text) => text.replace(/^\{/, "{ "),
    );
    fc.assert(
      fc.property(value, layout, fc.constantFrom(undefined, 2), (object, lay, indent) => {
        const originalText = lay(JSON.stringify(object, null, indent));
        const fields = encodeDeadLetter(input({ originalText }));
        expect(fields.raw).toBeUndefined();
        expect(JSON.parse(fields.data)).toHaveProperty("_dlq_metadata");
        expect(restoreOriginal(fields)).toEqual({ data: originalText });
      }),
    );
  });

  test.each([
    ["text that is no JSON", "{nope"],
    ["an array", "[1]"],
    ["an object nested too deep", `${'{"a":'.repeat(80)}1${"}".repeat(80)}`],
    ["a message that was a dead letter before", '{"_dlq_metadata": {"original_stream": "old"}, "data": {}, "_dlq_metadata": 1}'],
  ])("%s comes back too", (_, originalText) => {
    const fields = encodeDeadLetter(input({ originalText }));
    const restored = restoreOriginal(fields)["data"];
    expect(new TextDecoder().decode(restored as Uint8Array)).toBe(originalText);
    expect(decodeDeadLetter(fields).originalStream).toBe("bank::account");
    expect(Object.keys(JSON.parse(fields.data) as object).filter((key) => key === "_dlq_metadata")).toEqual(["_dlq_metadata"]);
  });

  test("of an undecodable original every field comes back byte for byte", () => {
    const rawFields = { data: new Uint8Array([0x7b, 0xff, 0x00]), other: "é" };
    const fields = encodeDeadLetter(input({ originalText: null, rawFields }));
    expect(JSON.parse(fields.data)).toHaveProperty("_dlq_metadata");
    expect(restoreOriginal(fields)).toEqual({ data: rawFields.data, other: new TextEncoder().encode("é") });
  });

  test("an original above the limit is kept by id, size and hash only, and can't be replayed (rulings 57)", () => {
    const originalText = `{"data": "${"x".repeat(MESSAGE_MAX_BYTES)}"}`;
    const fields = encodeDeadLetter(input({ originalText, rawFields: { data: originalText } }));
    expect(fields.raw).toBeUndefined();
    expect(fields.data.length + fields.error.length).toBeLessThan(10_000);
    expect(decodeDeadLetter(fields)).toMatchObject({
      originalText: null,
      reference: { id: "1-0", size_bytes: originalText.length, sha256: new Bun.CryptoHasher("sha256").update(originalText).digest("hex") },
    });
    expect(() => restoreOriginal(fields)).toThrow(DeserializationError);
    expect(() => restoreOriginal(fields)).toThrow("too large to be kept");
  });

  test.each([
    {},
    { data: "{" },
    { data: "[]" },
    { data: "{}", error: "{" },
    { data: '{"_dlq_metadata": 7}', error: "[]" },
    { error: '{"attempts": [null, 3]}' },
  ])("foreign fields %j are read without a complaint", (fields) => {
    const record = decodeDeadLetter(fields as Record<string, string>);
    expect(record.originalStream).toBeNull();
    expect(record.retryCount).toBeNull();
  });

  test("without any message there is nothing to restore", () => expect(() => restoreOriginal({})).toThrow(DeserializationError));
});

describe("what a dead letter says about an error", () => {
  test("has no passwords in it", () => {
    const error = new Error("connect redis://user:hunter2@cache:6379 failed; password=hunter2, Authorization: Bearer hunter2hunter2");
    const described = JSON.stringify(describeError(error, [{ ...attempt, error: "api_key: hunter2" }]));
    expect(described).not.toContain("hunter2");
    expect(described).toContain("redis://user:***@cache:6379");
  });

  test("leaves harmless text alone", () => {
    for (const text of ["token expired", "the password is missing", "see http://host:80/a", "secretary: Ann"])
      expect(redact(text)).toBe(text);
  });

  test("is cut, and keeps only the newest attempts", () => {
    const attempts = Array.from({ length: 30 }, (_, index) => ({ ...attempt, worker: String(index) }));
    const described = describeError(new Error("x".repeat(100_000)), attempts);
    expect(described.message.length).toBeLessThan(2_100);
    expect(described.stack?.length ?? 0).toBeLessThan(4_100);
    expect(described.attempts.map(({ worker }) => worker)).toEqual(attempts.slice(10).map(({ worker }) => worker));
  });

  test("takes whatever was thrown", () => {
    expect(describeError("boom", [])).toMatchObject({ class: "string", message: "boom", stack: null });
    expect(describeError(undefined, []).class).toBe("undefined");
    expect(describeError(new RangeError("r"), []).class).toBe("RangeError");
  });
});
