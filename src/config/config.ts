/**
 * The configuration as the rest of the product sees it: typed, complete, in camelCase with the unit at the end of each name.
 * Seconds of domain.toml become milliseconds here, so that the engine knows one unit; hours and days stay what they are.
 */
import type { Diagnostic, Table } from "./diagnostic.ts";

export type SubscriptionType = "stream" | "event_store";
export type ProcessingMode = "sync" | "async";
export type BackoffKind = "exponential" | "linear" | "fixed";
export type OnGroupLost = "start" | "tail" | "stop";
export type StartFrom = "start" | "now";

export type DatabaseConfig =
  | { readonly name: string; readonly provider: "memory"; readonly managed: boolean }
  /** `file` is absolute, or ":memory:". `embedded` = nobody wrote it: the default beside domain.toml. */
  | { readonly name: string; readonly provider: "sqlite"; readonly managed: boolean; readonly file: string; readonly embedded: boolean }
  | {
      readonly name: string;
      readonly provider: "postgresql";
      readonly managed: boolean;
      readonly uri: string;
      readonly schema: string;
      /** pool_size + max_overflow. */
      readonly poolMax: number;
      readonly poolRecycle_ms: number | null;
    };

export type EventStoreConfig =
  | { readonly provider: "memory" }
  | { readonly provider: "sqlite"; readonly file: string; readonly embedded: boolean }
  | { readonly provider: "message_db"; readonly uri: string; readonly maxConnections: number | null };

interface BrokerCommon {
  readonly name: string;
  /** Age at which entries acknowledged by all groups are trimmed; null = never (rulings 50). */
  readonly retention_ms: number | null;
}

/** Redis connection options as domain.toml gives them; null = the adapter's own. */
interface RedisOptions {
  readonly uri: string;
  readonly maxConnections: number | null;
  readonly socketTimeout_ms: number | null;
  readonly connectTimeout_ms: number | null;
}

export type BrokerConfig =
  | (BrokerCommon & {
      readonly provider: "inline";
      readonly maxRetries: number;
      readonly retryDelay_ms: number;
      readonly backoffMultiplier: number;
      readonly messageTimeout_ms: number;
      readonly enableDlq: boolean;
    })
  | (BrokerCommon & { readonly provider: "sqlite"; readonly file: string; readonly embedded: boolean })
  | (BrokerCommon & RedisOptions & { readonly provider: "redis" })
  | (BrokerCommon & RedisOptions & { readonly provider: "redis_pubsub" });

export type CacheConfig =
  | { readonly name: string; readonly provider: "memory"; readonly ttl_ms: number }
  | (RedisOptions & { readonly name: string; readonly provider: "redis"; readonly ttl_ms: number });

/** The fields of a subscription that profiles and the precedence ladder decide (configuration.md §6, §7). */
export interface SubscriptionFields {
  readonly subscriptionType: SubscriptionType;
  readonly messagesPerTick: number;
  readonly tickInterval_ms: number;
  readonly blockingTimeout_ms: number;
  /** Runs before a message is given up. */
  readonly maxRetries: number;
  readonly retryDelay_ms: number;
  readonly enableDlq: boolean;
  readonly positionUpdateInterval: number;
  readonly retentionMaxlen: number | null;
  readonly circuitBreakerThreshold: number;
  readonly circuitBreakerReset_ms: number;
  readonly originStream: string | null;
}

/** Ours, beside the ladder's fields: what one subscription section may say. */
export interface SubscriptionExtras {
  readonly concurrency: number;
  readonly shared: boolean;
  readonly claimIdle_ms: number;
  /** 0 = entries of foreign consumers are never taken over. */
  readonly claimForeignIdle_ms: number;
  readonly onGroupLost: OnGroupLost;
  readonly startFrom: StartFrom;
  /** 0 = no limit. */
  readonly handlerTimeout_ms: number;
  /** Error names or codes. */
  readonly deadLetterAtOnce: readonly string[];
  readonly dlqRetention_hours: number;
  readonly dlqAlertThreshold: number;
}

/** `[server.subscriptions.H]`: only what was written. */
export type HandlerSection = Partial<SubscriptionFields> & Partial<SubscriptionExtras> & { readonly profile?: string };

/** `[server.profiles.NAME]`: only what was written. */
export type ProfileSection = Partial<SubscriptionFields> & { readonly inherits?: string };

export interface VersionRetry {
  readonly enabled: boolean;
  readonly maxRetries: number;
  readonly baseDelay_ms: number;
  readonly maxDelay_ms: number;
}

export interface TransientRetry extends VersionRetry {
  readonly backoff: BackoffKind;
  /** Error names or codes. */
  readonly exceptions: readonly string[];
}

export interface ServerConfig {
  readonly defaultSubscriptionType: SubscriptionType;
  readonly defaultSubscriptionProfile: string | null;
  readonly messagesPerTick: number;
  readonly tickInterval_ms: number;
  readonly drainTimeout_ms: number;
  readonly concurrency: number;
  readonly streamSubscription: {
    readonly blockingTimeout_ms: number;
    readonly maxRetries: number;
    readonly retryDelay_ms: number;
    readonly enableDlq: boolean;
    /** null = not written; 10 then, unless a profile says otherwise. */
    readonly circuitBreakerThreshold: number | null;
    readonly circuitBreakerReset_ms: number | null;
    readonly retentionMaxlen: number | null;
    readonly claimIdle_ms: number;
    readonly claimForeignIdle_ms: number;
    readonly onGroupLost: OnGroupLost;
    readonly startFrom: StartFrom;
    readonly handlerTimeout_ms: number;
    readonly deadLetterAtOnce: readonly string[];
  };
  readonly eventStoreSubscription: {
    readonly positionUpdateInterval: number;
    readonly maxRetries: number;
    readonly retryDelay_ms: number;
    readonly enableRecovery: boolean;
    readonly recoveryInterval_ms: number;
    readonly gapTimeout_ms: number;
    readonly startFrom: StartFrom;
    readonly handlerTimeout_ms: number;
    readonly deadLetterAtOnce: readonly string[];
  };
  readonly brokerSubscription: {
    readonly maxRetries: number;
    readonly retryDelay_ms: number;
    readonly enableDlq: boolean;
    readonly messagesPerTick: number;
    readonly tickInterval_ms: number;
    readonly handlerTimeout_ms: number;
    readonly deadLetterAtOnce: readonly string[];
  };
  readonly versionRetry: VersionRetry;
  readonly transientRetry: TransientRetry;
  readonly subscriptions: Readonly<Record<string, HandlerSection>>;
  /** Names in lower case. */
  readonly profiles: Readonly<Record<string, ProfileSection>>;
  readonly dlq: {
    readonly enabled: boolean;
    readonly retention_hours: number;
    readonly alertThreshold: number;
    readonly checkInterval_ms: number;
  };
  readonly health: { readonly enabled: boolean; readonly host: string; readonly port: number; readonly portAutoIncrement: boolean };
  readonly priorityLanes: { readonly enabled: false; readonly threshold: number; readonly backfillSuffix: string };
}

export interface OutboxConfig {
  readonly broker: string;
  readonly externalBrokers: readonly string[];
  readonly messagesPerTick: number;
  readonly tickInterval_ms: number;
  readonly maxTickInterval_ms: number | null;
  readonly lock_ms: number;
  readonly retry: {
    readonly maxAttempts: number;
    readonly baseDelay_ms: number;
    readonly maxBackoff_ms: number;
    readonly backoffMultiplier: number;
    readonly jitter: boolean;
    readonly jitterFactor: number;
  };
  readonly cleanup: {
    readonly publishedRetention_hours: number;
    readonly abandonedRetention_hours: number;
    /** At most 10000, as in the original. */
    readonly intervalTicks: number;
    readonly batchSize: number;
  };
}

export type LogLevel = "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL";

export interface LoggingConfig {
  /** Effective: PROTEAN_LOG_LEVEL, then `[logging].level`, then by environment. A flag of the CLI wins over it. */
  readonly level: LogLevel;
  /** Effective: never "auto". */
  readonly format: "console" | "json";
  readonly slowHandlerThreshold_ms: number;
  readonly slowQueryThreshold_ms: number;
  readonly slowQueryTruncate_chars: number;
  /** The user's words; the built-in ones are always added by the logger. */
  readonly redact: readonly string[];
  readonly perLogger: Readonly<Table>;
}

/** Everything domain.toml, the environment and the flags say, checked and complete. */
export interface Config {
  /** Absolute path of the file; null when there was none. */
  readonly file: string | null;
  /** Relative paths of the configuration start here: the file's folder, else the start directory. */
  readonly directory: string;
  /** Name given by PROTEAN_ENV or --env; null = none. */
  readonly environmentName: string | null;
  /** The overlay that was laid on top; null when there is none of that name. */
  readonly overlay: string | null;
  /** PROTEAN_ENV, PYTHON_ENV, ENV or ENVIRONMENT is production, prod or prd. */
  readonly production: boolean;
  /** Absolute folder of our own files. Created by whoever opens it first. */
  readonly dataDir: string;
  /** The embedded database inside it. */
  readonly dataFile: string;

  readonly protean: {
    readonly handlers: readonly string[] | null;
    readonly domain: string | null;
  };

  /** null = `urn:protean:<domain>`. */
  readonly sourceUri: string | null;
  readonly identityStrategy: "uuid" | "function";
  readonly identityType: "string" | "integer" | "uuid";
  readonly eventProcessing: ProcessingMode;
  readonly commandProcessing: ProcessingMode;
  readonly messageProcessing: ProcessingMode;
  readonly lenientDeserialization: boolean;
  readonly commandDefaultTimeout_ms: number | null;
  readonly snapshotThreshold: number;
  readonly maxMessage_bytes: number;
  readonly enableOutbox: boolean;
  /** default type is stream, or enable_outbox: units of work write outbox rows (outbox.md §1). */
  readonly hasOutbox: boolean;
  readonly sanitize: boolean;
  readonly custom: Readonly<Table>;
  readonly lint: Readonly<Table>;

  readonly databases: Readonly<Record<string, DatabaseConfig>>;
  readonly eventStore: EventStoreConfig;
  readonly brokers: Readonly<Record<string, BrokerConfig>>;
  readonly caches: Readonly<Record<string, CacheConfig>>;
  readonly server: ServerConfig;
  readonly outbox: OutboxConfig;
  readonly idempotency: { readonly redisUrl: string | null; readonly ttl_ms: number; readonly errorTtl_ms: number };
  readonly consumeIdempotency: { readonly retention_hours: number; readonly batchSize: number };
  /** null = no trace stream. */
  readonly observatory: { readonly traceRetention_days: number | null };
  readonly telemetry: {
    readonly enabled: boolean;
    /** null = the domain's name. */
    readonly serviceName: string | null;
    readonly exporter: "otlp" | "console";
    readonly endpoint: string | null;
    readonly resourceAttributes: Readonly<Table>;
  };
  readonly logging: LoggingConfig;

  /** Effective value of each key by its path, in the types of domain.toml, secrets included: print through `showConfig`. */
  readonly values: ReadonlyMap<string, unknown>;
  /** Where each of these values comes from: `domain.toml:12`, `domain.toml:30 (overlay prod)`, `environment PROTEAN_DATA`, `flag`, `default`. */
  readonly origins: ReadonlyMap<string, string>;
  readonly diagnostics: readonly Diagnostic[];
}
