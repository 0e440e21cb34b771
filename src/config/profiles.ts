import { ConfigurationError } from "../errors.ts";
import type { ProfileSection, SubscriptionFields } from "./config.ts";

/** Where the ladder begins: column "(none)" of configuration.md §6. */
export const NO_PROFILE: SubscriptionFields = {
  subscriptionType: "stream",
  messagesPerTick: 10,
  tickInterval_ms: 0,
  blockingTimeout_ms: 5000,
  maxRetries: 3,
  retryDelay_ms: 1000,
  enableDlq: true,
  positionUpdateInterval: 10,
  retentionMaxlen: null,
  circuitBreakerThreshold: 10,
  circuitBreakerReset_ms: 60_000,
  originStream: null,
};

/** The built-in profiles; a field that is absent leaves what is below it. */
export const BUILT_IN_PROFILES: Readonly<Record<string, Partial<SubscriptionFields>>> = {
  production: {
    subscriptionType: "stream",
    messagesPerTick: 100,
    tickInterval_ms: 0,
    blockingTimeout_ms: 5000,
    maxRetries: 3,
    retryDelay_ms: 1000,
    enableDlq: true,
    positionUpdateInterval: 10,
    retentionMaxlen: 100_000,
    circuitBreakerThreshold: 10,
    circuitBreakerReset_ms: 60_000,
  },
  fast: {
    subscriptionType: "stream",
    messagesPerTick: 10,
    tickInterval_ms: 0,
    blockingTimeout_ms: 100,
    maxRetries: 2,
    retryDelay_ms: 0,
    enableDlq: true,
    positionUpdateInterval: 5,
    retentionMaxlen: 100_000,
    circuitBreakerThreshold: 10,
    circuitBreakerReset_ms: 60_000,
  },
  batch: {
    subscriptionType: "stream",
    messagesPerTick: 500,
    tickInterval_ms: 0,
    blockingTimeout_ms: 10_000,
    maxRetries: 5,
    retryDelay_ms: 2000,
    enableDlq: true,
    positionUpdateInterval: 50,
    retentionMaxlen: 500_000,
    circuitBreakerThreshold: 10,
    circuitBreakerReset_ms: 60_000,
  },
  // Without dead letters: a message is discarded on its first failure.
  debug: {
    subscriptionType: "stream",
    messagesPerTick: 1,
    tickInterval_ms: 1000,
    blockingTimeout_ms: 1000,
    maxRetries: 1,
    retryDelay_ms: 0,
    enableDlq: false,
    positionUpdateInterval: 1,
    retentionMaxlen: 1000,
    circuitBreakerThreshold: 10,
    circuitBreakerReset_ms: 60_000,
  },
  projection: {
    subscriptionType: "event_store",
    messagesPerTick: 100,
    tickInterval_ms: 0,
    blockingTimeout_ms: 5000,
    maxRetries: 3,
    retryDelay_ms: 1000,
    enableDlq: false,
    positionUpdateInterval: 10,
    circuitBreakerThreshold: 10,
    circuitBreakerReset_ms: 60_000,
  },
};

/**
 * The fields of a profile, by name without regard to case.
 *
 * A profile of one's own lies on the built-in it inherits from, else on column "(none)".
 * @throws ConfigurationError when there is no such profile
 */
export function profileFields(name: string, own: Readonly<Record<string, ProfileSection>>, at?: string): Partial<SubscriptionFields> {
  const wanted = name.toLowerCase();
  const builtIn = Object.hasOwn(BUILT_IN_PROFILES, wanted) ? BUILT_IN_PROFILES[wanted] : undefined;
  if (builtIn !== undefined) return builtIn;
  const custom = Object.hasOwn(own, wanted) ? own[wanted] : undefined;
  if (custom === undefined) {
    const valid = [...Object.keys(BUILT_IN_PROFILES), ...Object.keys(own)].join(", ");
    throw new ConfigurationError(`Unknown subscription profile '${name}'. Valid profiles: ${valid}`, {
      code: "CONFIG_PROFILE",
      at,
      fix: `Name one of: ${valid}; or define [server.profiles.${wanted}].`,
    });
  }
  const { inherits, ...fields } = custom;
  const base = inherits === undefined ? NO_PROFILE : (BUILT_IN_PROFILES[inherits.toLowerCase()] ?? NO_PROFILE);
  return { ...base, ...fields };
}
