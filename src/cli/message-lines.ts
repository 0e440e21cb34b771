import type { Labels, Telemetry, TraceEvent } from "../ports/telemetry.ts";

/** Passes everything on, and says one line for every message that a handler finished: the log of `protean dev`. */
export class MessageLines implements Telemetry {
  readonly #inner: Telemetry;
  readonly #say: (line: string) => void;
  readonly #colour: boolean;

  constructor(inner: Telemetry, say: (line: string) => void, colour: boolean) {
    this.#inner = inner;
    this.#say = say;
    this.#colour = colour;
  }

  trace(event: TraceEvent): void {
    this.#inner.trace(event);
    const line = this.#lineOf(event);
    if (line !== null) this.#say(line);
  }

  count(name: string, labels?: Labels, by?: number): void {
    this.#inner.count(name, labels, by);
  }

  observe(name: string, value: number, labels?: Labels): void {
    this.#inner.observe(name, value, labels);
  }

  #lineOf({ event, handler, message_type, message_id, duration_ms, error }: TraceEvent): string | null {
    const paint = (code: string, text: string) => (this.#colour ? `\x1b[${code}m${text}\x1b[0m` : text);
    const type = message_type.replace(/^[^.]+\.(.+)\.v\d+$/, "$1");
    const rest = `${handler ?? ""}  ${type}  ${paint("90", message_id)}`;
    const took = duration_ms == null ? "" : `  ${duration_ms < 10 ? duration_ms.toFixed(1) : Math.round(duration_ms)} ms`;
    if (event === "handler.completed") return `${paint("32", "✓")} ${rest}${took}`;
    if (event === "handler.failed") return `${paint("31", "✗")} ${rest}${took}  ${paint("31", error ?? "")}`;
    if (event === "message.dlq") return `${paint("31", "✗")} ${rest}  given up: protean dlq list`;
    return null;
  }
}
