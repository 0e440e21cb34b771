import type { Reaction } from "../domain/reaction.ts";

/** How one stream subscription (or subscriber) runs; resolved by configuration.md §7 and rulings 47, 71. */
export interface StreamSettings {
  /** Largest batch of one read. */
  readonly messagesPerTick: number;
  /** Upper limit of a wait for new entries before the stream is looked at again, besides being woken. */
  readonly blockingTimeout_ms: number;
  /** Runs in all, the first included. 0 behaves as 1. */
  readonly maxRetries: number;
  readonly retryDelay_ms: number;
  readonly enableDeadLetters: boolean;
  /** null = no trimming by length. */
  readonly retentionMaxLength: number | null;
  readonly breakerThreshold: number;
  readonly breakerReset_ms: number;
  /** Runs at once, never two of one source stream. */
  readonly concurrency: number;
  /** false: read by one engine at a time, by lease. */
  readonly shared: boolean;
  readonly claimIdle_ms: number;
  /** Entries of consumers that aren't ours; 0 = never taken over. */
  readonly claimForeignIdle_ms: number;
  /** Limit of one run; 0 = none. */
  readonly timeout_ms: number;
  readonly deadLetterAtOnce: readonly string[];
  readonly onGroupLost: "start" | "tail" | "stop";
  readonly startFrom: "start" | "now";
  /** Only messages whose `domain.origin_stream` is of this category. */
  readonly originCategory: string | null;
}

export interface EventStoreSettings {
  readonly messagesPerTick: number;
  /** Pause between two empty looks when the store wakes nobody; at least 5 s is used, because the store does wake (rulings 32). */
  readonly tickInterval_ms: number;
  readonly positionUpdateInterval: number;
  /** Retries after the first run. */
  readonly maxRetries: number;
  readonly retryDelay_ms: number;
  readonly enableRecovery: boolean;
  readonly recoveryInterval_ms: number;
  readonly gapTimeout_ms: number;
  readonly timeout_ms: number;
  readonly deadLetterAtOnce: readonly string[];
  readonly originCategory: string | null;
}

export type SubscriptionSettings =
  | { readonly type: "stream"; readonly stream: StreamSettings }
  | { readonly type: "event_store"; readonly eventStore: EventStoreSettings };

export interface OutboxSettings {
  readonly enabled: boolean;
  readonly broker: string;
  readonly externalBrokers: readonly string[];
  readonly messagesPerTick: number;
  readonly tickInterval_ms: number;
  readonly lock_ms: number;
  readonly retry: {
    readonly maxAttempts: number;
    readonly baseDelay_ms: number;
    readonly maxBackoff_ms: number;
    readonly multiplier: number;
    /** 0 = none; 0.25 = ± 25 %. */
    readonly jitterFactor: number;
  };
  readonly cleanup: { readonly published_ms: number; readonly abandoned_ms: number; readonly interval_ms: number; readonly batch: number };
}

export interface EngineSettings {
  /** For a handler that isn't a subscriber. All command handlers of one category are asked for with any of them. */
  subscription(reaction: Reaction): SubscriptionSettings;
  /** For a subscriber. */
  subscriber(reaction: Reaction): StreamSettings;
  readonly outbox: OutboxSettings;
  readonly deadLetters: {
    /** Maintenance on: trim and depth alarm. */
    readonly enabled: boolean;
    readonly retention_ms: number;
    readonly alertThreshold: number;
    readonly checkInterval_ms: number;
  };
  /** Age after which entries that every group has acknowledged are removed; null = never (rulings 50). */
  readonly retention_ms: number | null;
  readonly drainTimeout_ms: number;
  /** 0 = no trace stream. */
  readonly traceRetention_days: number;
  /** Names of handlers, categories, or `outbox`; empty = all. */
  readonly only: readonly string[];
  readonly except: readonly string[];
}
