/** Keys of `[server.subscriptions.H]` and `[server.profiles.NAME]`, and the fields that they become. */
import type { HandlerSection, ProfileSection, SubscriptionExtras, SubscriptionFields } from "./config.ts";
import { type KeySpec, SCHEMA } from "./schema.ts";

/** The ladder's fields and their keys. */
export const SECTION_FIELDS: readonly { readonly wire: string; readonly field: keyof SubscriptionFields }[] = [
  { wire: "subscription_type", field: "subscriptionType" },
  { wire: "messages_per_tick", field: "messagesPerTick" },
  { wire: "tick_interval", field: "tickInterval_ms" },
  { wire: "blocking_timeout_ms", field: "blockingTimeout_ms" },
  { wire: "max_retries", field: "maxRetries" },
  { wire: "retry_delay_seconds", field: "retryDelay_ms" },
  { wire: "enable_dlq", field: "enableDlq" },
  { wire: "position_update_interval", field: "positionUpdateInterval" },
  { wire: "retention_maxlen", field: "retentionMaxlen" },
  { wire: "circuit_breaker_threshold", field: "circuitBreakerThreshold" },
  { wire: "circuit_breaker_reset_seconds", field: "circuitBreakerReset_ms" },
  { wire: "origin_stream", field: "originStream" },
];

const EXTRAS: readonly { readonly wire: string; readonly field: keyof SubscriptionExtras }[] = [
  { wire: "concurrency", field: "concurrency" },
  { wire: "shared", field: "shared" },
  { wire: "claim_idle_seconds", field: "claimIdle_ms" },
  { wire: "claim_foreign_idle_seconds", field: "claimForeignIdle_ms" },
  { wire: "on_group_lost", field: "onGroupLost" },
  { wire: "start_from", field: "startFrom" },
  { wire: "handler_timeout_seconds", field: "handlerTimeout_ms" },
  { wire: "dead_letter_at_once", field: "deadLetterAtOnce" },
  { wire: "dlq_retention_hours", field: "dlqRetention_hours" },
  { wire: "dlq_alert_threshold", field: "dlqAlertThreshold" },
];

const SPECS: ReadonlyMap<string, KeySpec> = new Map(
  SCHEMA.filter((spec) => spec.path.startsWith("server.subscriptions.*.")).map((spec) => [
    spec.path.slice("server.subscriptions.*.".length),
    spec,
  ]),
);

/** The schema's row of a key of a handler's section. */
export function sectionSpec(wire: string): KeySpec | undefined {
  return SPECS.get(wire);
}

/** Seconds as domain.toml writes them, in milliseconds; without the dust of binary fractions (0.1 s is 100 ms). */
export function milliseconds(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e3;
}

function read(
  names: readonly { readonly wire: string; readonly field: string }[],
  lookUp: (wire: string) => unknown,
): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const { wire, field } of names) {
    const value = lookUp(wire);
    if (value === undefined || value === null) continue;
    fields[field] = typeof value === "number" && SPECS.get(wire)?.unit === "seconds" ? milliseconds(value) : value;
  }
  return fields;
}

/** A handler's section from checked values: only what was written. The schema has checked the types. */
export function handlerSection(lookUp: (wire: string) => unknown): HandlerSection {
  const profile = lookUp("profile");
  return {
    ...(read([...SECTION_FIELDS, ...EXTRAS], lookUp) as Partial<SubscriptionFields> & Partial<SubscriptionExtras>),
    ...(typeof profile === "string" ? { profile } : {}),
  };
}

/** A profile's section from checked values. */
export function profileSection(lookUp: (wire: string) => unknown): ProfileSection {
  const inherits = lookUp("inherits");
  return { ...(read(SECTION_FIELDS, lookUp) as Partial<SubscriptionFields>), ...(typeof inherits === "string" ? { inherits } : {}) };
}
