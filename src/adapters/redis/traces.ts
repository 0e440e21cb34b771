import { Buffer } from "node:buffer";
import type { WireObject } from "../../messages/json.ts";
import { encodeTraceEvent, TRACE_CHANNEL, TRACE_STREAM } from "../../messages/trace-event.ts";
import type { Clock } from "../../ports/clock.ts";
import type { TraceEvent } from "../../ports/telemetry.ts";
import type { Connection } from "./connection.ts";
import { listOf, numberOf } from "./replies.ts";
import { TRACE, TRACE_SEPARATOR } from "./scripts.ts";

const DAY_ms = 86_400_000;
/** How often we ask whether somebody listens. */
const ASK_ms = 2_000;

/** Writes trace events (wire-format §12). A broken observer never holds up a message: whatever fails here is dropped. */
export class Traces {
  readonly #connection: Connection;
  readonly #clock: Clock;
  #listened = false;
  #asked_ms = Number.NEGATIVE_INFINITY;

  constructor(connection: Connection, clock: Clock) {
    this.#connection = connection;
    this.#clock = clock;
  }

  /** Answers whether somebody listens on the channel, asked at most every 2 s. */
  async write(domain: string, events: readonly (TraceEvent & { readonly timestamp: string })[], retention_days: number): Promise<boolean> {
    try {
      if (this.#clock.monotonic_ms() - this.#asked_ms >= ASK_ms) {
        this.#asked_ms = this.#clock.monotonic_ms();
        const reply = listOf(await this.#connection.call("pubsub", ["NUMSUB", TRACE_CHANNEL]));
        this.#listened = numberOf(reply[1]) > 0;
      }
      if (events.length > 0 && (retention_days > 0 || this.#listened)) {
        const oldest_ms = Math.max(0, Math.floor(this.#clock.now_ms() - retention_days * DAY_ms));
        // One argument in bytes: the driver measures and copies each text argument for itself, which took as long as encoding them.
        const texts = Buffer.from(events.map((event) => textOf(domain, event)).join(TRACE_SEPARATOR));
        const channel = this.#listened ? TRACE_CHANNEL : "";
        await this.#connection.run(TRACE, [TRACE_STREAM], [retention_days > 0 ? oldest_ms : "", channel, texts]);
      }
    } catch {
      // Dropped: the engine's own counters don't depend on traces, and the connection logs its own loss.
    }
    return this.#listened;
  }
}

function textOf(domain: string, event: TraceEvent & { readonly timestamp: string }): string {
  return encodeTraceEvent(
    {
      event: event.event,
      domain,
      stream: event.stream,
      message_id: event.message_id,
      message_type: event.message_type,
      status: event.status,
      handler: event.handler ?? null,
      duration_ms: event.duration_ms ?? null,
      error: event.error ?? null,
      metadata: (event.metadata ?? {}) as WireObject,
      worker_id: event.worker_id ?? null,
      correlation_id: event.correlation_id ?? null,
      causation_id: event.causation_id ?? null,
      timestamp: event.timestamp,
    },
    event.payload ?? null,
  );
}
