import { describe, expect, test } from "bun:test";
import { DeserializationError } from "../../src/errors.ts";
import { checksumOfText } from "../../src/messages/checksum.ts";
import { formatDateTime, normalisedDateTime, parseDateTime } from "../../src/messages/datetime.ts";
import { decodeDeadLetter, encodeDeadLetter, restoreOriginal } from "../../src/messages/dead-letter.ts";
import type { DecodedMessage } from "../../src/messages/envelope.ts";
import { decodeMessage, decodeRow, encodeExternal, encodeMessage, encodeMetadata, peekType } from "../../src/messages/envelope.ts";
import { canonicalTextOf, memberText, parseWire, toJsonText } from "../../src/messages/json.ts";
import {
  camelCaseDomainName,
  categoryOf,
  eventId,
  normalisedDomainName,
  parseType,
  streamCategory,
  typeString,
  underscore,
} from "../../src/messages/names.ts";
import type { TraceEvent } from "../../src/messages/trace-event.ts";
import { decodeTraceEvent, encodeTraceEvent } from "../../src/messages/trace-event.ts";
import type { TraceParent } from "../../src/messages/traceparent.ts";
import { formatTraceparent, parseTraceparent } from "../../src/messages/traceparent.ts";
import type { RecordedEntry } from "./fixtures.ts";
import { readFixture, readFixtureLines, readFixtureRecords } from "./fixtures.ts";

describe("checksums", () => {
  const vectors = readFixture<{ wire_json: string; canonical: string; checksum: string }[]>("checksum-vectors.json");

  test("there are all recorded vectors", () => expect(vectors.length).toBeGreaterThan(27));

  test.each(vectors.map((vector, index) => [index, vector] as const))("vector %d has Python's canonical text and checksum", (_, vector) => {
    expect(canonicalTextOf(vector.wire_json)).toBe(vector.canonical);
    expect(checksumOfText(vector.wire_json)).toBe(vector.checksum);
  });

  test.each(vectors.map((vector, index) => [index, vector] as const))("vector %d is written again as Python wrote it", (_, vector) => {
    // Keys like "10" come first in JavaScript objects: only their order differs then.
    if (/"\d+": /.test(vector.wire_json)) expect(canonicalTextOf(toJsonText(parseWire(vector.wire_json)))).toBe(vector.canonical);
    else expect(toJsonText(parseWire(vector.wire_json))).toBe(vector.wire_json);
  });
});

describe("names", () => {
  const recorded = readFixture<{
    domains: { domain_name: string; normalized_name: string; camel_case_name: string }[];
    aggregates_in_domain_Corner_Bank: {
      class_name: string;
      options: { stream_category?: string; schema_name?: string };
      stream_category: string;
      schema_name: string;
    }[];
    ids_and_types_seen: { kind: string; stream: string; type: string; id: string; sequence_id: string | null }[];
  }>("stream-names.json");

  test.each(recorded.domains)("domain $domain_name", ({ domain_name, normalized_name, camel_case_name }) => {
    expect(normalisedDomainName(domain_name)).toBe(normalized_name);
    expect(camelCaseDomainName(domain_name)).toBe(camel_case_name);
  });

  test.each(recorded.aggregates_in_domain_Corner_Bank)("aggregate $class_name", ({ class_name, options, ...expected }) => {
    expect(streamCategory("Corner Bank", options.stream_category ?? underscore(class_name))).toBe(expected.stream_category);
    expect(options.schema_name ?? underscore(class_name)).toBe(expected.schema_name);
  });

  test("ids and type strings of all recorded events can be built from their parts", () => {
    for (const { kind, stream, type, id, sequence_id } of recorded.ids_and_types_seen) {
      if (kind === "READ_POSITION") {
        expect(parseType(type)).toBeNull();
        continue;
      }
      const parts = parseType(type);
      expect(parts?.domain).toBe("CornerBank");
      expect(typeString("Corner Bank", parts?.name ?? "", parts?.version ?? 0)).toBe(type);
      if (sequence_id === null) expect(stream.endsWith(`:command-${id}`)).toBe(true);
      else expect(eventId(stream, sequence_id)).toBe(id);
      expect(categoryOf(stream)).toMatch(/^corner_bank::\w+(:command)?$/);
    }
  });
});

describe("times", () => {
  const vectors = readFixture<{ value: string | number; serialized: string }[]>("datetime-vectors.json");

  test.each(vectors)("$value is stored as $serialized", ({ value, serialized }) => {
    if (typeof value === "string" && value.startsWith("datetime.")) {
      const parts = parseDateTime(serialized);
      expect(parts).not.toBeNull();
      if (parts !== null) expect(formatDateTime(parts)).toBe(serialized);
    } else {
      expect(normalisedDateTime(value)).toBe(serialized);
    }
  });
});

describe("trace parents", () => {
  const vectors = readFixture<{ header: string; stored: TraceParent | null; back: string | null }[]>("traceparent-vectors.json");

  test.each(vectors)("$header", ({ header, stored, back }) => {
    const read = parseTraceparent(header);
    expect(read).toEqual(stored);
    expect(read === null ? null : formatTraceparent(read)).toBe(back);
  });
});

describe("messages on streams", () => {
  for (const file of ["redis-stream-entries.jsonl", "redis-lane-entries.jsonl", "redis-partition-entries.jsonl"]) {
    // `wire_transfers` is a foreign stream: no envelopes.
    const entries = readFixtureRecords<RecordedEntry>(file).filter(({ stream }) => stream !== "wire_transfers");
    test.each(entries)(`${file}: entry $id is decoded and written again byte for byte`, ({ fields }) => {
      const message = decodeMessage(fields.data);
      expect(encodeMessage(message)).toBe(fields.data);
      expect(encodeMetadata(message.metadata)).toBe(message.metadataText ?? "");
      expect(toJsonText(parseWire(message.dataText))).toBe(message.dataText);
      expect(peekType(fields.data)).toBe(message.type);
      expect(message.metadata.envelope.checksum).toBe(checksumOfText(message.dataText));
    });
  }

  test("an entry of a foreign stream is no message, but keeps its text through parsing and writing", () => {
    const foreign = readFixtureRecords<RecordedEntry>("redis-stream-entries.jsonl").filter(({ stream }) => stream === "wire_transfers");
    expect(foreign.length).toBeGreaterThan(0);
    for (const { fields } of foreign) {
      expect(() => decodeMessage(fields.data)).toThrow(DeserializationError);
      expect(toJsonText(parseWire(fields.data))).toBe(fields.data);
    }
  });

  test.each(readFixtureRecords<RecordedEntry>("redis-external-entries.jsonl"))("external entry $id is written again", ({ fields }) => {
    const message = decodeMessage(fields.data);
    expect(message.metadata.envelope.checksum).toBeNull();
    expect(encodeExternal(message)).toBe(fields.data);
  });
});

describe("dead letters", () => {
  test.each(readFixtureRecords<RecordedEntry>("dlq-entries.jsonl"))("$stream $id is read, restored and written again", ({ fields }) => {
    const record = decodeDeadLetter(fields);
    expect(record.error).toBeNull();
    const original = restoreOriginal(fields)["data"];
    expect(typeof original).toBe("string");
    expect(original).not.toContain("_dlq_metadata");
    const again = encodeDeadLetter({
      originalText: String(original),
      originalStream: record.originalStream ?? "",
      originalId: record.originalId ?? "",
      consumerGroup: record.consumerGroup ?? "",
      consumer: record.consumer ?? "",
      failedAt: record.failedAt ?? "",
      retryCount: record.retryCount ?? 0,
      error: { class: "ValueError", message: "poison", stack: null, attempts: [] },
    });
    expect(again.data).toBe(fields.data);
    expect(again.raw).toBeUndefined();
  });

  test("a replay restores the text that Python's replay wrote", () => {
    const replay = readFixture<{ dlq_entry: RecordedEntry; entry_written_by_replay: RecordedEntry }>("dlq-replay.json");
    expect(restoreOriginal(replay.dlq_entry.fields)).toEqual(replay.entry_written_by_replay.fields);
    expect(decodeDeadLetter(replay.dlq_entry.fields).originalStream).toBe(replay.entry_written_by_replay.stream);
  });
});

describe("trace events", () => {
  const texts = readFixtureRecords<RecordedEntry>("traces-stream-entries.jsonl").map(({ fields }) => fields.data);

  test("every recorded trace is written again byte for byte", () => {
    expect(texts.length).toBeGreaterThan(50);
    for (const text of texts) {
      const trace: TraceEvent = decodeTraceEvent(text);
      const payload = memberText(text, "payload");
      expect(encodeTraceEvent(trace, payload === "null" ? null : payload)).toBe(text);
    }
  });
});

interface StreamVariant {
  readonly n: number;
  readonly change: string;
  readonly entry: { readonly data?: string };
  readonly handled: number;
  readonly handled_message: { readonly payload: unknown; readonly metadata: Record<string, unknown> } | null;
}

describe("what the original tolerates on streams", () => {
  const variants = readFixtureRecords<StreamVariant>("tolerance-stream.jsonl");

  test("there are 74 variants", () => expect(variants.length).toBe(74));

  // These can't be understood by anybody; all others, the original's wedges among them, are read.
  const undecodable = new Set([4, 20, 21, 22, 25, 28, 38, 71, 72, 73]);

  test.each(variants)("$n: $change", ({ n, entry, handled, handled_message }) => {
    const read = (): DecodedMessage => decodeMessage(entry.data ?? "{}");
    if (undecodable.has(n)) {
      expect(handled).toBe(0);
      expect(read).toThrow(DeserializationError);
      return;
    }
    const message = read();
    expect(peekType(entry.data ?? "")).toBe(message.type);
    if (handled_message === null) return;
    // What the handler saw in Python is what ours sees, apart from what Python makes anew with the event's class: defaults of absent
    // fields (16), converted values (17), upcast payloads (67), kind (47), priority (58), fqn and version.
    if (![16, 17, 67].includes(n)) expect(message.data as unknown).toEqual(handled_message.payload);
    const { domain, ...rest } = message.metadata;
    const { domain: seen, ...seenRest } = handled_message.metadata;
    if (n !== 67) expect(rest as unknown).toEqual(seenRest);
    const rebuilt = { fqn: null, version: 1, kind: "EVENT", ...(n === 58 ? { priority: 5 } : {}) };
    expect({ ...domain, ...rebuilt } as unknown).toEqual({ ...(seen as object), ...rebuilt });
  });
});

interface RowVariant {
  readonly n: number;
  readonly change: string;
  readonly row: { readonly stream: string; readonly type: string; readonly data: unknown; readonly metadata: unknown };
  readonly stored_data: string | null;
  readonly handled: number;
  readonly handled_message: { readonly metadata: { readonly headers: { readonly id: string | null; readonly type: string } } } | null;
}

describe("what the original tolerates in rows", () => {
  const rows = readFixtureLines("tolerance-message-db.jsonl").map((line) => ({
    ...(JSON.parse(line) as RowVariant),
    metadataText: memberText(memberText(line, "row") ?? "{}", "metadata"),
  }));
  const undecodable = new Set([9, 18, 19, 21, 23]);

  test.each(rows)("$n: $change", ({ n, row, stored_data, handled, handled_message, metadataText }) => {
    const id = "0cad4211-ee8c-4d59-aa62-224eaf69a792";
    const read = (): DecodedMessage =>
      decodeRow({
        type: row.type,
        dataText: stored_data,
        metadataText: metadataText === "null" ? null : metadataText,
        stream: row.stream,
        position: 0,
        globalPosition: 1,
        time: "2026-11-22 00:41:00.850427",
        id,
      });
    if (undecodable.has(n)) {
      expect(handled).toBe(0);
      expect(read).toThrow(DeserializationError);
      return;
    }
    const message = read();
    expect(message.metadata.event_store).toEqual({ global_position: 1, position: 0 });
    expect(message.stream).toBe(row.stream);
    if (handled_message === null) return;
    expect(message.type).toBe(handled_message.metadata.headers.type);
    const seenId = handled_message.metadata.headers.id;
    expect(message.id === null ? null : message.id.length).toBe(seenId === null ? null : seenId.length);
  });

  test("all recorded rows of the store are read and their checksums hold", () => {
    for (const file of ["message-db-rows.jsonl", "message-db-commands.jsonl"]) {
      for (const line of readFixtureLines(file)) {
        const row = JSON.parse(line) as {
          type: string;
          stream_name: string;
          position: number;
          global_position: number;
          time: string;
          id: string;
        };
        const message = decodeRow({
          type: row.type,
          dataText: memberText(line, "data"),
          metadataText: memberText(line, "metadata"),
          stream: row.stream_name,
          position: row.position,
          globalPosition: row.global_position,
          time: row.time,
          id: row.id,
        });
        expect(message.type).toBe(row.type);
        expect(message.metadata.headers.stream).toBe(row.stream_name);
      }
    }
  });
});
