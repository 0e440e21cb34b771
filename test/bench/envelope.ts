import { encodePayload } from "../../src/messages/checksum.ts";
import { encodeMessage } from "../../src/messages/envelope.ts";
import { PyFloat } from "../../src/messages/python-number.ts";

const ACCOUNTS = 100;
const uuidOf = (number: number): string => `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`;

/** Message number `index` of the workloads: Python Protean's own envelope, about 920 bytes, with a checksum that verifies. */
export function benchMessage(index: number): string {
  const accountId = uuidOf(index % ACCOUNTS);
  const { dataText, checksum } = encodePayload({
    account_id: accountId,
    amount: new PyFloat(500 + (index % 7)),
    currency: "EUR",
    reference: `reference-${index}`,
    note: `note ${index}`,
    sent_us: 1_795_308_621_000_000 + index,
  });
  const stream = `bench::account-${accountId}`;
  const sequence = `${Math.floor(index / ACCOUNTS)}.1`;
  return encodeMessage({
    dataText,
    metadata: {
      headers: {
        id: `${stream}-${sequence}`,
        time: "2026-11-22T01:00:23.007046+00:00",
        type: "Bench.AccountCredited.v1",
        stream,
        traceparent: null,
        idempotency_key: null,
        deadline: null,
      },
      envelope: { specversion: "1.0", checksum },
      domain: {
        fqn: "bench_domain.AccountCredited",
        kind: "EVENT",
        origin_stream: null,
        stream_category: "bench::account",
        version: 1,
        sequence_id: sequence,
        asynchronous: true,
        expected_version: null,
        priority: 0,
        correlation_id: uuidOf(index).replaceAll("-", ""),
        causation_id: null,
      },
      event_store: null,
      extensions: {},
    },
  });
}
