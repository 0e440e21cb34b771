import type { Config } from "../config/config.ts";
import type { Diagnostic } from "../config/diagnostic.ts";
import {
  commandSubscriptionName,
  commandSubscriptionType,
  requireOutbox,
  resolveBrokerSubscription,
  resolveCommandSubscription,
  resolveSubscription,
  unmatchedSections,
} from "../config/resolve-subscription.ts";
import type { Reaction, SubscriptionOptions } from "../domain/reaction.ts";
import type { DomainSettings } from "../domain/stores.ts";
import type { EngineSettings, EventStoreSettings, StreamSettings, SubscriptionSettings } from "../engine/settings.ts";
import { ALL_STREAMS } from "../ports/event-store.ts";

const HOUR_ms = 3_600_000;
const COMMAND_SUFFIX = ":command";
/** The original cleans up every `cleanup_interval_ticks` turns of `tick_interval`; ours goes by time, never more often than this. */
const CLEANUP_LEAST_ms = 10_000;

/** What the domain layer needs to know of the configuration. */
export function domainSettings(config: Config): DomainSettings {
  const { versionRetry, transientRetry } = config.server;
  return {
    eventProcessing: config.eventProcessing,
    commandProcessing: config.commandProcessing,
    messageProcessing: config.messageProcessing,
    lenientDeserialization: config.lenientDeserialization,
    snapshotThreshold: config.snapshotThreshold,
    commandDefaultTimeout_ms: config.commandDefaultTimeout_ms,
    outbox: {
      enabled: config.hasOutbox,
      broker: config.outbox.broker,
      externalBrokers: config.outbox.externalBrokers,
      maxAttempts: config.outbox.retry.maxAttempts,
    },
    commandSubscriptionType: (category, handlers) =>
      config.hasOutbox ? commandSubscriptionType(config, category, handlers) : "event_store",
    idempotency: { ttl_ms: config.idempotency.ttl_ms, errorTtl_ms: config.idempotency.errorTtl_ms },
    versionRetry: { ...versionRetry, backoff: "exponential", exceptions: [] },
    transientRetry,
    maxMessage_bytes: config.maxMessage_bytes,
  };
}

/** What the engine needs to know of it. `reactions` are all of the domain's: merged command subscriptions are resolved from all of their handlers. */
export function engineSettings(
  config: Config,
  reactions: readonly Reaction[],
  flags: { readonly drainTimeout_ms?: number | undefined; readonly only?: readonly string[]; readonly except?: readonly string[] } = {},
): EngineSettings {
  const { outbox, server } = config;
  const retention = Object.values(config.brokers).find((broker) => broker.name === "default")?.retention_ms ?? null;
  return {
    subscription: (reaction) => (reaction.kind === "commandHandler" ? commands(config, reaction, reactions) : single(config, reaction)),
    subscriber: (reaction) => subscriber(config, reaction),
    outbox: {
      enabled: config.hasOutbox,
      broker: outbox.broker,
      externalBrokers: outbox.externalBrokers,
      messagesPerTick: outbox.messagesPerTick,
      tickInterval_ms: outbox.tickInterval_ms,
      lock_ms: outbox.lock_ms,
      retry: {
        maxAttempts: outbox.retry.maxAttempts,
        baseDelay_ms: outbox.retry.baseDelay_ms,
        maxBackoff_ms: outbox.retry.maxBackoff_ms,
        multiplier: outbox.retry.backoffMultiplier,
        jitterFactor: outbox.retry.jitter ? outbox.retry.jitterFactor : 0,
      },
      cleanup: {
        published_ms: outbox.cleanup.publishedRetention_hours * HOUR_ms,
        abandoned_ms: outbox.cleanup.abandonedRetention_hours * HOUR_ms,
        interval_ms: Math.max(CLEANUP_LEAST_ms, outbox.cleanup.intervalTicks * outbox.tickInterval_ms),
        batch: outbox.cleanup.batchSize,
      },
    },
    deadLetters: {
      enabled: server.dlq.enabled,
      retention_ms: server.dlq.retention_hours * HOUR_ms,
      alertThreshold: server.dlq.alertThreshold,
      checkInterval_ms: server.dlq.checkInterval_ms,
    },
    retention_ms: retention,
    drainTimeout_ms: flags.drainTimeout_ms ?? server.drainTimeout_ms,
    traceRetention_days: config.observatory.traceRetention_days ?? 0,
    only: flags.only ?? [],
    except: flags.except ?? [],
  };
}

/**
 * What should be said at start about the subscriptions of these handlers: sections under `[server.subscriptions]` that are nobody's, and what
 * the ladder noticed.
 */
export function subscriptionNotes(config: Config, reactions: readonly Reaction[]): readonly Diagnostic[] {
  const known = new Set<string>();
  const notes: Diagnostic[] = [];
  for (const reaction of reactions) {
    known.add(reaction.name);
    if (reaction.kind === "queryHandler" || reaction.kind === "subscriber") continue;
    if (reaction.kind !== "commandHandler") notes.push(...resolvedSingle(config, reaction).notes);
    else {
      const name = commandSubscriptionName(categoryOfCommands(reaction));
      if (!known.has(name)) notes.push(...resolvedCommands(config, reaction, reactions).notes);
      known.add(name);
    }
  }
  return [...unmatchedSections(config, known), ...notes];
}

function single(config: Config, reaction: Reaction): SubscriptionSettings {
  return settingsOf(config, resolvedSingle(config, reaction), reaction, reaction.categories[0] ?? reaction.name);
}

function resolvedSingle(config: Config, reaction: Reaction): Resolved {
  // Nobody writes `$all` to a broker: it is always read from the store (rulings 45).
  const everything = reaction.categories.includes(ALL_STREAMS);
  const options = optionsOf(reaction.options);
  return resolveSubscription(config, {
    handlerName: reaction.name,
    options: everything ? { ...options, subscriptionType: "event_store" } : options,
  });
}

function categoryOfCommands({ categories: [stream = ""] }: Reaction): string {
  return stream.slice(0, -COMMAND_SUFFIX.length);
}

function resolvedCommands(config: Config, reaction: Reaction, reactions: readonly Reaction[]): Resolved {
  const handlers = reactions
    .filter((other) => other.kind === "commandHandler" && other.categories[0] === reaction.categories[0])
    .map((other) => ({ handlerName: other.name, options: optionsOf(other.options) }));
  return resolveCommandSubscription(config, { category: categoryOfCommands(reaction), handlers });
}

function commands(config: Config, reaction: Reaction, reactions: readonly Reaction[]): SubscriptionSettings {
  const [category = ""] = reaction.categories;
  const resolved = resolvedCommands(config, reaction, reactions);
  // Without an outbox nothing would ever be published to a command stream, so commands are read from the store (W21).
  const typed = config.hasOutbox ? resolved : { ...resolved, subscriptionType: "event_store" as const };
  return settingsOf(config, typed, reaction, category);
}

type Resolved = ReturnType<typeof resolveSubscription>;

function settingsOf(config: Config, resolved: Resolved, reaction: Reaction, stream: string): SubscriptionSettings {
  if (resolved.subscriptionType === "event_store") return { type: "event_store", eventStore: eventStoreSettings(resolved) };
  requireOutbox(config, reaction.name, stream);
  return { type: "stream", stream: streamSettings(resolved, reaction) };
}

function streamSettings(resolved: Resolved, reaction: Reaction): StreamSettings {
  return {
    messagesPerTick: resolved.messagesPerTick,
    blockingTimeout_ms: resolved.blockingTimeout_ms,
    maxRetries: resolved.maxRetries,
    retryDelay_ms: resolved.retryDelay_ms,
    enableDeadLetters: resolved.enableDlq,
    retentionMaxLength: resolved.retentionMaxlen,
    breakerThreshold: resolved.circuitBreakerThreshold,
    breakerReset_ms: resolved.circuitBreakerReset_ms,
    concurrency: resolved.concurrency,
    shared: resolved.shared ?? !(reaction.kind === "projector" || reaction.kind === "processManager"),
    claimIdle_ms: resolved.claimIdle_ms,
    claimForeignIdle_ms: resolved.claimForeignIdle_ms ?? 0,
    timeout_ms: resolved.handlerTimeout_ms ?? 0,
    deadLetterAtOnce: resolved.deadLetterAtOnce,
    onGroupLost: resolved.onGroupLost,
    startFrom: resolved.startFrom,
    originCategory: resolved.originStream,
  };
}

function eventStoreSettings(resolved: Resolved): EventStoreSettings {
  return {
    messagesPerTick: resolved.messagesPerTick,
    tickInterval_ms: resolved.tickInterval_ms,
    positionUpdateInterval: resolved.positionUpdateInterval,
    maxRetries: resolved.eventStore.maxRetries,
    retryDelay_ms: resolved.eventStore.retryDelay_ms,
    enableRecovery: resolved.eventStore.enableRecovery,
    recoveryInterval_ms: resolved.eventStore.recoveryInterval_ms,
    gapTimeout_ms: resolved.eventStore.gapTimeout_ms,
    timeout_ms: resolved.handlerTimeout_ms ?? 0,
    deadLetterAtOnce: resolved.deadLetterAtOnce,
    originCategory: resolved.originStream,
  };
}

function subscriber(config: Config, reaction: Reaction): StreamSettings {
  const resolved = resolveBrokerSubscription(config, { handlerName: reaction.name, options: optionsOf(reaction.options) });
  const { streamSubscription } = config.server;
  return {
    messagesPerTick: resolved.messagesPerTick,
    blockingTimeout_ms: resolved.tickInterval_ms,
    maxRetries: resolved.maxRetries,
    retryDelay_ms: resolved.retryDelay_ms,
    enableDeadLetters: resolved.enableDlq,
    retentionMaxLength: null,
    breakerThreshold: streamSubscription.circuitBreakerThreshold ?? Number.POSITIVE_INFINITY,
    breakerReset_ms: streamSubscription.circuitBreakerReset_ms ?? 60_000,
    concurrency: resolved.concurrency,
    shared: resolved.shared,
    claimIdle_ms: resolved.claimIdle_ms,
    claimForeignIdle_ms: resolved.claimForeignIdle_ms ?? 0,
    timeout_ms: resolved.handlerTimeout_ms ?? 0,
    deadLetterAtOnce: resolved.deadLetterAtOnce,
    onGroupLost: resolved.onGroupLost,
    startFrom: resolved.startFrom,
    originCategory: null,
  };
}

/** The options as configuration knows them: error classes by name, no partition key on process managers. */
function optionsOf(options: SubscriptionOptions): NonNullable<Parameters<typeof resolveSubscription>[1]["options"]> {
  return {
    subscriptionType: options.subscriptionType,
    subscriptionProfile: options.subscriptionProfile,
    subscriptionConfig: options.subscriptionConfig,
    sourceStream: options.sourceStream,
    sequentialBy: typeof options.sequentialBy === "string" ? options.sequentialBy : undefined,
    concurrency: options.concurrency,
    shared: options.shared,
    timeout_ms: options.timeout_ms,
    deadLetterAtOnce: options.deadLetterAtOnce,
    retries: options.retries,
    backoff: options.backoff,
    retryExceptions: options.retryExceptions?.map((errorClass) => errorClass.name),
  };
}
