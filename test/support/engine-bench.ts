/** What tests of the engine's services need: real stores in memory, scripted handlers, and a way to wait until a loop is quiet. */
import { openSqlite } from "../../src/adapters/sqlite/mod.ts";
import type { Acceptance, Reaction, RunContext } from "../../src/domain/reaction.ts";
import type { Activity } from "../../src/engine/service.ts";
import { encodePayload } from "../../src/messages/checksum.ts";
import { type DecodedMessage, encodeMetadata, type Metadata } from "../../src/messages/envelope.ts";
import type { Append } from "../../src/ports/event-store.ts";
import { silentLog } from "../../src/ports/log.ts";
import { SystemClock } from "../../src/runtime/clock.ts";
import { SystemRandom } from "../../src/runtime/random.ts";

export const clock = new SystemClock();
export const random = new SystemRandom();

export async function memoryStores() {
  return await openSqlite({ file: ":memory:", clock, random, log: silentLog });
}

/** Waits for the loops: `quiet()` resolves at the next empty turn that begins after the call. */
export class QuietSignal implements Activity {
  /** Loops come round this often, as in test mode; the tests wait for turns, not for time. */
  readonly restMax_ms = 20;
  #waiting: { readonly when: (due_ms: number | null) => boolean; readonly resolve: () => void }[] = [];
  unknowns = 0;

  productive(): void {}

  empty(_loop: string, due_ms: number | null): void {
    const met = this.#waiting.filter((wait) => wait.when(due_ms));
    this.#waiting = this.#waiting.filter((wait) => !met.includes(wait));
    for (const wait of met) wait.resolve();
  }

  unknown(): void {
    this.unknowns += 1;
  }

  /** The next empty turn; with `settled`, the next one that waits for nothing. */
  async quiet(options: { readonly settled?: boolean } = {}): Promise<void> {
    await new Promise<void>((resolve) => this.#waiting.push({ when: (due_ms) => options.settled !== true || due_ms === null, resolve }));
  }
}

/** A handler made of one function; keeps what it was given. */
export function scriptedReaction(
  run: (message: DecodedMessage, context: RunContext) => unknown,
  options: { readonly accepts?: (type: string) => Acceptance } = {},
) {
  const runs: { readonly id: string | null; readonly attempt: number; readonly key: string }[] = [];
  const reaction: Reaction = {
    kind: "eventHandler",
    name: "Recorder",
    fqn: "test.Recorder",
    options: {},
    categories: ["test::thing"],
    broker: "default",
    accepts: options.accepts ?? (() => "handled"),
    async run(message, context) {
      runs.push({ id: message.id, attempt: context.attempt, key: context.deliveryKey });
      return await run(message, context);
    },
    async runPayload() {},
    async onFailure() {},
  };
  return { reaction, runs };
}

export function metadataOf(options: {
  readonly stream: string;
  readonly sequence: string;
  readonly checksum: string | null;
  readonly kind?: string;
  readonly asynchronous?: boolean;
  readonly origin?: string | null;
  readonly category?: string | null;
}): Metadata {
  return {
    headers: {
      id: `${options.stream}-${options.sequence}`,
      time: "2026-11-22T01:00:23.007046+00:00",
      type: "Test.Happened.v1",
      stream: options.stream,
      traceparent: null,
      idempotency_key: null,
      deadline: null,
    },
    envelope: { specversion: "1.0", checksum: options.checksum },
    domain: {
      fqn: "test.Happened",
      kind: options.kind ?? "EVENT",
      origin_stream: options.origin ?? null,
      stream_category: options.category === undefined ? (options.stream.split("-")[0] ?? null) : options.category,
      version: 1,
      sequence_id: options.sequence,
      asynchronous: options.asynchronous ?? true,
      expected_version: null,
      priority: 0,
      correlation_id: null,
      causation_id: null,
    },
    event_store: null,
    extensions: {},
  };
}

/** An event number `sequence` of stream `test::thing-<name>`, ready to append. */
export function event(
  name: string,
  sequence: number,
  options: Partial<Parameters<typeof metadataOf>[0]> & { readonly data?: string } = {},
): Append {
  const stream = options.stream ?? `test::thing-${name}`;
  const { dataText, checksum } = encodePayload({ name, number: sequence });
  const metadata = metadataOf({ stream, sequence: String(sequence), checksum, ...options });
  return {
    id: random.uuid(),
    stream,
    type: "Test.Happened.v1",
    data: options.data ?? dataText,
    metadata: encodeMetadata(metadata),
    expectedVersion: null,
  };
}
