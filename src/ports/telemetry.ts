/** One stage in a message's life; wire-format §12 gives the stored form. Keys that are left out are written as null (`metadata` as {}). */
export interface TraceEvent {
  readonly event: string;
  readonly stream: string;
  readonly message_id: string;
  readonly message_type: string;
  readonly status: string;
  readonly handler?: string | null;
  readonly duration_ms?: number | null;
  readonly error?: string | null;
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** JSON text of the payload, passed on untouched. */
  readonly payload?: string | null;
  readonly worker_id?: string | null;
  readonly correlation_id?: string | null;
  readonly causation_id?: string | null;
}

export type Labels = Readonly<Record<string, string>>;

/**
 * Where counters and traces go. Nothing here throws, waits or is awaited: a broken observer must never hold up a message.
 * Trace events are collected and written in one pipeline per turn of the loop.
 */
export interface Telemetry {
  /** False while nobody wants trace events: callers then need not build them. Left out means true. */
  readonly isTracing?: boolean;
  trace(event: TraceEvent): void;
  /** Adds to a counter. */
  count(name: string, labels?: Labels, by?: number): void;
  /** Records one measured value (seconds, bytes, …; the unit is the name's last word). */
  observe(name: string, value: number, labels?: Labels): void;
}

export const silentTelemetry: Telemetry = { trace() {}, count() {}, observe() {} };
