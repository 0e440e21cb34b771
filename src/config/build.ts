/** From checked values to `Config`: the embedded defaults, addresses of adapters, and rules that span several keys. */
import { isAbsolute, join, resolve } from "node:path";
import { ConfigurationError } from "../errors.ts";
import type {
  BackoffKind,
  BrokerConfig,
  CacheConfig,
  Config,
  DatabaseConfig,
  EventStoreConfig,
  HandlerSection,
  LoggingConfig,
  LogLevel,
  OnGroupLost,
  ProcessingMode,
  ProfileSection,
  ServerConfig,
  StartFrom,
  SubscriptionType,
} from "./config.ts";
import { type Diagnostic, formatPath, isTable, type Table } from "./diagnostic.ts";
import { maskUrl } from "./mask.ts";
import { notYetWarnings, refusedFeatures, requireProvider } from "./not-yet.ts";
import { BUILT_IN_PROFILES, profileFields } from "./profiles.ts";
import { shadowedProfile } from "./resolve-subscription.ts";
import { handlerSection, milliseconds, profileSection } from "./sections.ts";
import type { Environment } from "./substitute.ts";
import { parseDuration_s } from "./values.ts";

/** Everything that building needs; see load.ts for how it comes about. */
export interface BuildInput {
  readonly file: string | null;
  readonly directory: string;
  readonly environment: Environment;
  readonly environmentName: string | null;
  readonly overlay: string | null;
  /** The merged table, flags included. */
  readonly table: Table;
  /** Top-level keys that the file (with its overlay) holds, flags not included: rulings 35 asks for these. */
  readonly sectionsInFile: ReadonlySet<string>;
  readonly values: Map<string, unknown>;
  readonly given: ReadonlySet<string>;
  readonly origins: Map<string, string>;
  readonly problems: ConfigurationError[];
  readonly diagnostics: Diagnostic[];
}

/** Builds the configuration. Problems are added to `input.problems`; the caller throws them. */
export function buildConfig(input: BuildInput): Config {
  const { values, origins, problems, diagnostics, environment } = input;
  const read = reader(values);
  const locate = (path: string): string | undefined => origins.get(path) ?? path;
  const guard = (check: () => void): void => {
    try {
      check();
    } catch (error) {
      if (!(error instanceof ConfigurationError)) throw error;
      problems.push(error);
    }
  };
  const setDefault = (path: string, value: unknown, origin = "default"): void => {
    values.set(path, value);
    origins.set(path, origin);
  };

  // The embedded default: D10, rulings 35, 38, 54.
  const dataFromEnvironment = environment["PROTEAN_DATA"] || null;
  const dataDir = resolve(input.directory, dataFromEnvironment ?? read.textOrNull("protean.data_dir") ?? ".protean");
  const dataFile = join(dataDir, "protean.db");
  if (dataFromEnvironment !== null) setDefault("protean.data_dir", dataDir, "environment PROTEAN_DATA");
  else if (!values.has("protean.data_dir")) setDefault("protean.data_dir", dataDir);
  const nothingGiven = !["databases", "event_store", "brokers", "server"].some((section) => input.sectionsInFile.has(section));
  if (nothingGiven && !input.given.has("server.default_subscription_type")) setDefault("server.default_subscription_type", "stream");

  const sqliteFile = (path: string): { file: string; embedded: boolean } | null => {
    const uri = read.textOrNull(path);
    if (uri === null || uri === "") return { file: dataFile, embedded: true };
    const file = sqlitePath(uri, input.directory);
    if (file !== null) return { file, embedded: false };
    problems.push(
      new ConfigurationError(`${path} = "${maskUrl(uri)}" is not an address of a SQLite file`, {
        code: "CONFIG_VALUE",
        at: locate(path),
        fix: "Write sqlite:///name.db (relative to this file) or sqlite:////absolute/path.db.",
      }),
    );
    return null;
  };
  const required = (path: string, why: string, example: string): string => {
    const value = read.textOrNull(path);
    if (value !== null && value !== "") return value;
    problems.push(
      new ConfigurationError(`${path} is missing: ${why}`, {
        code: "CONFIG_MISSING",
        at: sectionPlace(path, origins),
        fix: `Write ${example}.`,
      }),
    );
    return "";
  };

  // ---------------------------------------------------------------- databases
  const databases: Record<string, DatabaseConfig> = Object.create(null);
  databases["memory"] = { name: "memory", provider: "memory", managed: true };
  const databaseNames = namesUnder(input.table, "databases");
  if (databaseNames === null) {
    databases["default"] = { name: "default", provider: "sqlite", managed: true, file: dataFile, embedded: true };
    setDefault("databases.default.provider", "sqlite");
    setDefault("databases.default.database_uri", `sqlite:///${dataFile}`);
  } else {
    if (databaseNames.length > 0 && !databaseNames.includes("default")) {
      problems.push(
        new ConfigurationError("You must define a 'default' provider", {
          code: "CONFIG_MISSING",
          at: locate("databases"),
          fix: "Write a table [databases.default].",
        }),
      );
    }
    for (const name of databaseNames) {
      const base = formatPath(["databases", name]);
      // What is no table has been reported by the check of values.
      if (!isTable(dig(input.table, ["databases", name]))) continue;
      const managed = read.flag(`${base}.managed`);
      const provider =
        read.textOrNull(`${base}.provider`) ?? required(`${base}.provider`, "the database needs a provider", 'provider = "sqlite"');
      if (provider === "") continue;
      guard(() => {
        requireProvider("database", provider, locate(`${base}.provider`));
        if (provider === "memory") databases[name] = { name, provider, managed };
        else if (provider === "sqlite") {
          const place = sqliteFile(`${base}.database_uri`);
          if (place !== null) databases[name] = { name, provider, managed, ...place };
        } else if (provider === "postgresql") {
          databases[name] = {
            name,
            provider,
            managed,
            uri: required(`${base}.database_uri`, "PostgreSQL needs an address", 'database_uri = "postgresql://user@host:5432/name"'),
            schema: read.textOrNull(`${base}.schema`) ?? "public",
            poolMax: read.number(`${base}.pool_size`) + read.number(`${base}.max_overflow`),
            poolRecycle_ms: read.millisecondsOrNull(`${base}.pool_recycle`),
          };
          if (read.number(`${base}.pool_size`) < 5 && !["development", "testing"].includes(input.environmentName ?? "")) {
            diagnostics.push({
              code: "LOW_POOL_SIZE",
              level: "warning",
              message: `${base}.pool_size is below 5`,
              at: locate(`${base}.pool_size`),
            });
          }
        }
      });
      if (name !== "memory") warnOfMemory(databases[name], base);
    }
    if (databaseNames.length === 0)
      databases["default"] = { name: "default", provider: "sqlite", managed: true, file: dataFile, embedded: true };
  }

  function warnOfMemory(database: DatabaseConfig | undefined, base: string): void {
    if (database === undefined || (database.provider !== "memory" && !(database.provider === "sqlite" && database.file === ":memory:")))
      return;
    diagnostics.push({
      code: "CONFIG_MEMORY_NOT_SHARED",
      level: "warning",
      message: `[${base}] lives in the memory of one process: other processes can't see it, and it ends with the process`,
      at: locate(`${base}.provider`),
      fix: `Leave [${base}] out, or write provider = "sqlite", to keep it in ${dataFile}.`,
    });
  }

  // ---------------------------------------------------------------- event store
  let eventStore = embeddedStore(dataFile);
  if (!Object.hasOwn(input.table, "event_store")) {
    setDefault("event_store.provider", "sqlite");
    setDefault("event_store.database_uri", `sqlite:///${dataFile}`);
  } else {
    const provider = read.textOrNull("event_store.provider") ?? "memory";
    if (!values.has("event_store.provider")) setDefault("event_store.provider", provider);
    guard(() => {
      requireProvider("event store", provider, locate("event_store.provider"));
      if (provider === "memory") eventStore = { provider };
      else if (provider === "sqlite")
        eventStore = { provider, ...(sqliteFile("event_store.database_uri") ?? { file: dataFile, embedded: true }) };
      else if (provider === "message_db") {
        const uri = required(
          "event_store.database_uri",
          "Message DB needs an address",
          'database_uri = "postgresql://message_store@host:5432/message_store"',
        );
        eventStore = { provider, uri, maxConnections: read.numberOrNull("event_store.max_connections") };
      }
    });
    if (eventStore.provider === "memory" || (eventStore.provider === "sqlite" && eventStore.file === ":memory:")) {
      diagnostics.push({
        code: "CONFIG_MEMORY_STORE_VOLATILE",
        level: "warning",
        message: "[event_store] is in memory: a restart begins with an empty store, and other processes can't see it",
        at: locate("event_store.provider"),
        fix: `Leave [event_store] out, or write provider = "sqlite", to keep events in ${dataFile}.`,
      });
    }
  }

  // ---------------------------------------------------------------- brokers
  const brokers: Record<string, BrokerConfig> = Object.create(null);
  const brokerNames = namesUnder(input.table, "brokers");
  if (brokerNames === null) {
    if (!Object.hasOwn(input.table, "brokers")) {
      setDefault("brokers.default.provider", "sqlite");
      setDefault("brokers.default.URI", `sqlite:///${dataFile}`);
      setDefault("brokers.default.retention", "7d");
    }
    brokers["default"] = { name: "default", provider: "sqlite", retention_ms: 7 * 86_400_000, file: dataFile, embedded: true };
  } else {
    if (brokerNames.length === 0) {
      problems.push(
        new ConfigurationError("Configure at least one broker: [brokers] is empty", {
          code: "CONFIG_MISSING",
          at: locate("brokers"),
          fix: "Write a table [brokers.default], or leave [brokers] out.",
        }),
      );
    } else if (!brokerNames.includes("default")) {
      problems.push(
        new ConfigurationError("You must define a 'default' broker", {
          code: "CONFIG_MISSING",
          at: locate("brokers"),
          fix: "Write a table [brokers.default].",
        }),
      );
    }
    for (const name of brokerNames) {
      const base = formatPath(["brokers", name]);
      const provider = read.textOrNull(`${base}.provider`) ?? "inline";
      if (!values.has(`${base}.provider`)) setDefault(`${base}.provider`, provider);
      const retention_s = parseDuration_s(read.textOrNull(`${base}.retention`) ?? "7d") ?? null;
      const common = { name, retention_ms: retention_s === null ? null : retention_s * 1000 };
      guard(() => {
        // A broker that isn't the default one may go unused: rulings 63, not-yet.ts.
        if (name === "default" || provider !== "redis_pubsub") requireProvider("broker", provider, locate(`${base}.provider`));
        if (provider === "inline") {
          brokers[name] = {
            ...common,
            provider,
            maxRetries: read.number(`${base}.max_retries`),
            retryDelay_ms: read.milliseconds(`${base}.retry_delay`),
            backoffMultiplier: read.number(`${base}.backoff_multiplier`),
            messageTimeout_ms: read.milliseconds(`${base}.message_timeout`),
            enableDlq: read.flag(`${base}.enable_dlq`),
          };
          diagnostics.push({
            code: "CONFIG_MEMORY_NOT_SHARED",
            level: "warning",
            message: `[${base}] is inline: it lives in the memory of one process, and other processes can't see it`,
            at: locate(`${base}.provider`),
            fix: `Leave [brokers] out, or write provider = "sqlite", to keep messages in ${dataFile}.`,
          });
        } else if (provider === "sqlite") {
          const place = sqliteFile(`${base}.URI`);
          if (place !== null) brokers[name] = { ...common, provider, ...place };
        } else if (provider === "redis" || provider === "redis_pubsub") {
          brokers[name] = { ...common, provider, ...redisOptions(base) };
        }
      });
    }
  }

  function redisOptions(base: string): {
    uri: string;
    maxConnections: number | null;
    socketTimeout_ms: number | null;
    connectTimeout_ms: number | null;
  } {
    const uri = required(`${base}.URI`, "Redis needs an address", 'URI = "redis://localhost:6379/0"');
    checkRedisAddress(`${base}.URI`, uri);
    return {
      uri,
      maxConnections: read.numberOrNull(`${base}.max_connections`),
      socketTimeout_ms: read.millisecondsOrNull(`${base}.socket_timeout`),
      connectTimeout_ms: read.millisecondsOrNull(`${base}.socket_connect_timeout`),
    };
  }

  function checkRedisAddress(path: string, uri: string): void {
    if (uri === "" || /^(redis|rediss):\/\/\S+$/.test(uri) || /^unix:\/\/\S+$/.test(uri)) return;
    problems.push(
      new ConfigurationError(`${path} = "${maskUrl(uri)}" is not an address of a Redis server`, {
        code: "CONFIG_VALUE",
        at: locate(path),
        fix: "Write redis://host:6379/0, or rediss:// for TLS.",
      }),
    );
  }

  // ---------------------------------------------------------------- caches
  const caches: Record<string, CacheConfig> = Object.create(null);
  caches["default"] = { name: "default", provider: "memory", ttl_ms: 300_000 };
  for (const name of namesUnder(input.table, "caches") ?? []) {
    const base = formatPath(["caches", name]);
    const provider = read.text(`${base}.provider`);
    const ttl_ms = read.milliseconds(`${base}.TTL`);
    guard(() => {
      if (provider !== "redis") requireProvider("cache", provider, locate(`${base}.provider`));
      caches[name] = provider === "redis" ? { name, provider, ttl_ms, ...redisOptions(base) } : { name, provider: "memory", ttl_ms };
    });
  }

  // ---------------------------------------------------------------- server
  const subscriptions: Record<string, HandlerSection> = Object.create(null);
  for (const name of namesUnder(input.table, "server", "subscriptions") ?? []) {
    const base = formatPath(["server", "subscriptions", name]);
    subscriptions[name] = handlerSection((wire) => values.get(`${base}.${wire}`));
  }
  const profiles: Record<string, ProfileSection> = Object.create(null);
  for (const name of namesUnder(input.table, "server", "profiles") ?? []) {
    const base = formatPath(["server", "profiles", name]);
    const lower = name.toLowerCase();
    if (Object.hasOwn(BUILT_IN_PROFILES, lower)) {
      problems.push(
        new ConfigurationError(`[${base}] has the name of a built-in profile`, {
          code: "CONFIG_PROFILE",
          at: sectionPlace(`${base}.`, origins),
          fix: `Choose another name and write inherits = "${lower}".`,
        }),
      );
      continue;
    }
    profiles[lower] = profileSection((wire) => values.get(`${base}.${wire}`));
  }
  const server: ServerConfig = {
    defaultSubscriptionType: read.word<SubscriptionType>("server.default_subscription_type"),
    defaultSubscriptionProfile: read.textOrNull("server.default_subscription_profile") || null,
    messagesPerTick: read.number("server.messages_per_tick"),
    tickInterval_ms: read.milliseconds("server.tick_interval"),
    drainTimeout_ms: read.milliseconds("server.drain_timeout"),
    concurrency: read.number("server.concurrency"),
    streamSubscription: {
      blockingTimeout_ms: read.number("server.stream_subscription.blocking_timeout_ms"),
      maxRetries: read.number("server.stream_subscription.max_retries"),
      retryDelay_ms: read.milliseconds("server.stream_subscription.retry_delay_seconds"),
      enableDlq: read.flag("server.stream_subscription.enable_dlq"),
      circuitBreakerThreshold: read.numberOrNull("server.stream_subscription.circuit_breaker_threshold"),
      circuitBreakerReset_ms: read.millisecondsOrNull("server.stream_subscription.circuit_breaker_reset_seconds"),
      retentionMaxlen: read.numberOrNull("server.stream_subscription.retention_maxlen"),
      claimIdle_ms: read.milliseconds("server.stream_subscription.claim_idle_seconds"),
      claimForeignIdle_ms: read.milliseconds("server.stream_subscription.claim_foreign_idle_seconds"),
      onGroupLost: read.word<OnGroupLost>("server.stream_subscription.on_group_lost"),
      startFrom: read.word<StartFrom>("server.stream_subscription.start_from"),
      handlerTimeout_ms: read.milliseconds("server.stream_subscription.handler_timeout_seconds"),
      deadLetterAtOnce: read.list("server.stream_subscription.dead_letter_at_once"),
    },
    eventStoreSubscription: {
      positionUpdateInterval: read.number("server.event_store_subscription.position_update_interval"),
      maxRetries: read.number("server.event_store_subscription.max_retries"),
      retryDelay_ms: read.milliseconds("server.event_store_subscription.retry_delay_seconds"),
      enableRecovery: read.flag("server.event_store_subscription.enable_recovery"),
      recoveryInterval_ms: read.milliseconds("server.event_store_subscription.recovery_interval_seconds"),
      gapTimeout_ms: read.milliseconds("server.event_store_subscription.gap_timeout_seconds"),
      startFrom: read.word<StartFrom>("server.event_store_subscription.start_from"),
      handlerTimeout_ms: read.milliseconds("server.event_store_subscription.handler_timeout_seconds"),
      deadLetterAtOnce: read.list("server.event_store_subscription.dead_letter_at_once"),
    },
    brokerSubscription: {
      maxRetries: read.number("server.broker_subscription.max_retries"),
      retryDelay_ms: read.milliseconds("server.broker_subscription.retry_delay_seconds"),
      enableDlq: read.flag("server.broker_subscription.enable_dlq"),
      messagesPerTick: read.number("server.broker_subscription.messages_per_tick"),
      tickInterval_ms: read.milliseconds("server.broker_subscription.tick_interval"),
      handlerTimeout_ms: read.milliseconds("server.broker_subscription.handler_timeout_seconds"),
      deadLetterAtOnce: read.list("server.broker_subscription.dead_letter_at_once"),
    },
    versionRetry: {
      enabled: read.flag("server.version_retry.enabled"),
      maxRetries: read.number("server.version_retry.max_retries"),
      baseDelay_ms: read.milliseconds("server.version_retry.base_delay_seconds"),
      maxDelay_ms: read.milliseconds("server.version_retry.max_delay_seconds"),
    },
    transientRetry: {
      enabled: read.flag("server.transient_retry.enabled"),
      maxRetries: read.number("server.transient_retry.max_retries"),
      backoff: read.word<BackoffKind>("server.transient_retry.backoff"),
      baseDelay_ms: read.milliseconds("server.transient_retry.base_delay_seconds"),
      maxDelay_ms: read.milliseconds("server.transient_retry.max_delay_seconds"),
      exceptions: read.list("server.transient_retry.exceptions"),
    },
    subscriptions,
    profiles,
    dlq: {
      enabled: read.flag("server.dlq.enabled"),
      retention_hours: read.number("server.dlq.retention_hours"),
      alertThreshold: read.number("server.dlq.alert_threshold"),
      checkInterval_ms: read.milliseconds("server.dlq.check_interval_seconds"),
    },
    health: {
      enabled: read.flag("server.health.enabled"),
      host: read.text("server.health.host"),
      port: read.number("server.health.port"),
      portAutoIncrement: read.flag("server.health.port_auto_increment"),
    },
    priorityLanes: {
      enabled: false,
      threshold: read.number("server.priority_lanes.threshold"),
      backfillSuffix: read.text("server.priority_lanes.backfill_suffix"),
    },
  };
  if (server.priorityLanes.backfillSuffix === "") {
    problems.push(
      new ConfigurationError("server.priority_lanes.backfill_suffix must not be empty", {
        code: "CONFIG_VALUE",
        at: locate("server.priority_lanes.backfill_suffix"),
        fix: 'Write backfill_suffix = "backfill".',
      }),
    );
  }
  problems.push(
    ...refusedFeatures(
      {
        get: (path) => values.get(path),
        has: (prefix) => dig(input.table, prefix.split(".")) !== undefined,
      },
      (path) => origins.get(path) ?? sectionPlace(`${path}.`, origins),
    ),
  );

  // ---------------------------------------------------------------- outbox
  const enableOutbox = read.flag("enable_outbox");
  const hasOutbox = enableOutbox || server.defaultSubscriptionType === "stream";
  if (
    enableOutbox &&
    server.defaultSubscriptionType === "event_store" &&
    problems.every((problem) => problem.about.at !== locate("server.default_subscription_type"))
  ) {
    problems.push(
      new ConfigurationError('enable_outbox = true needs server.default_subscription_type = "stream"; it is "event_store"', {
        code: "CONFIG_CONTRADICTION",
        at: locate("enable_outbox"),
        fix: 'Write default_subscription_type = "stream" under [server], or remove enable_outbox.',
      }),
    );
  }
  const externalBrokers = read.list("outbox.external_brokers");
  for (const [path, name] of [
    ["outbox.broker", read.text("outbox.broker")],
    ...externalBrokers.map((broker) => ["outbox.external_brokers", broker]),
  ] as const) {
    if (name === undefined || path === undefined || (brokerNames ?? ["default"]).includes(name)) continue;
    problems.push(
      new ConfigurationError(`Broker \`${name}\` has not been configured.`, {
        code: "CONFIG_BROKER",
        at: locate(path),
        fix: `${path} names it; write a table [brokers.${name}], or one of: ${(brokerNames ?? ["default"]).join(", ")}.`,
      }),
    );
  }

  const logging = buildLogging(read, environment, input.environmentName, problems);
  const traceRetention_days = read.number("observatory.trace_retention_days");
  const redisUrl = read.textOrNull("idempotency.redis_url") || null;
  if (redisUrl !== null) checkRedisAddress("idempotency.redis_url", redisUrl);

  const config: Config = {
    file: input.file,
    directory: input.directory,
    environmentName: input.environmentName,
    overlay: input.overlay,
    production: [input.environmentName, environment["PYTHON_ENV"], environment["ENV"], environment["ENVIRONMENT"]].some((name) =>
      ["production", "prod", "prd"].includes((name ?? "").toLowerCase()),
    ),
    dataDir,
    dataFile,
    protean: {
      handlers: values.has("protean.handlers") ? read.list("protean.handlers") : null,
      domain: read.textOrNull("protean.domain"),
    },
    sourceUri: read.textOrNull("source_uri"),
    identityStrategy: read.word<"uuid" | "function">("identity_strategy"),
    identityType: read.word<"string" | "integer" | "uuid">("identity_type"),
    eventProcessing: read.word<ProcessingMode>("event_processing"),
    commandProcessing: read.word<ProcessingMode>("command_processing"),
    messageProcessing: read.word<ProcessingMode>("message_processing"),
    lenientDeserialization: read.flag("lenient_deserialization"),
    commandDefaultTimeout_ms: read.millisecondsOrNull("command_default_timeout"),
    snapshotThreshold: read.number("snapshot_threshold"),
    maxMessage_bytes: read.number("max_message_bytes"),
    enableOutbox,
    hasOutbox,
    sanitize: read.flag("field_defaults.sanitize"),
    custom: read.table("custom"),
    lint: read.table("lint"),
    databases,
    eventStore,
    brokers,
    caches,
    server,
    outbox: {
      broker: read.text("outbox.broker"),
      externalBrokers,
      messagesPerTick: read.number("outbox.messages_per_tick"),
      tickInterval_ms: read.milliseconds("outbox.tick_interval"),
      maxTickInterval_ms: read.millisecondsOrNull("outbox.max_tick_interval"),
      lock_ms: read.milliseconds("outbox.lock_seconds"),
      retry: {
        maxAttempts: read.number("outbox.retry.max_attempts"),
        baseDelay_ms: read.milliseconds("outbox.retry.base_delay_seconds"),
        maxBackoff_ms: read.milliseconds("outbox.retry.max_backoff_seconds"),
        backoffMultiplier: read.number("outbox.retry.backoff_multiplier"),
        jitter: read.flag("outbox.retry.jitter"),
        jitterFactor: read.number("outbox.retry.jitter_factor"),
      },
      cleanup: {
        publishedRetention_hours: read.number("outbox.cleanup.published_retention_hours"),
        abandonedRetention_hours: read.number("outbox.cleanup.abandoned_retention_hours"),
        intervalTicks: Math.min(read.number("outbox.cleanup.cleanup_interval_ticks"), 10_000),
        batchSize: read.number("outbox.cleanup.batch_size"),
      },
    },
    idempotency: { redisUrl, ttl_ms: read.milliseconds("idempotency.ttl"), errorTtl_ms: read.milliseconds("idempotency.error_ttl") },
    consumeIdempotency: {
      retention_hours: read.number("consume_idempotency.cleanup.retention_hours"),
      batchSize: read.number("consume_idempotency.cleanup.batch_size"),
    },
    observatory: { traceRetention_days: traceRetention_days > 0 ? traceRetention_days : null },
    telemetry: {
      enabled: read.flag("telemetry.enabled"),
      serviceName: read.textOrNull("telemetry.service_name"),
      exporter: read.word<"otlp" | "console">("telemetry.exporter"),
      endpoint: read.textOrNull("telemetry.endpoint"),
      resourceAttributes: read.table("telemetry.resource_attributes"),
    },
    logging,
    values,
    origins,
    diagnostics,
  };
  diagnostics.push(...notYetWarnings(config, (path) => origins.get(path)));
  guard(() => {
    for (const [name, section] of Object.entries(subscriptions)) {
      const path = `${formatPath(["server", "subscriptions", name])}.profile`;
      if (section.profile !== undefined) profileFields(section.profile, profiles, locate(path));
    }
    if (server.defaultSubscriptionProfile !== null) {
      profileFields(server.defaultSubscriptionProfile, profiles, locate("server.default_subscription_profile"));
      const note = shadowedProfile(config);
      if (note !== null) diagnostics.push(note);
    }
  });
  return config;
}

function buildLogging(
  read: Reader,
  environment: Environment,
  environmentName: string | null,
  problems: ConfigurationError[],
): LoggingConfig {
  const levels: readonly LogLevel[] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
  const name = (environmentName || environment["ENV"] || environment["ENVIRONMENT"] || "").toLowerCase();
  const byEnvironment: LogLevel = name.startsWith("dev") ? "DEBUG" : name.startsWith("test") ? "WARNING" : "INFO";
  const wanted = environment["PROTEAN_LOG_LEVEL"] || null;
  const fromEnvironment = wanted === null ? null : (levels.find((level) => level === wanted.toUpperCase()) ?? null);
  if (wanted !== null && fromEnvironment === null) {
    problems.push(
      new ConfigurationError(`PROTEAN_LOG_LEVEL = "${wanted}" is not allowed: it must be one of ${levels.join(", ")}`, {
        code: "CONFIG_VALUE",
        at: "environment PROTEAN_LOG_LEVEL",
        fix: `Write one of ${levels.join(", ")}.`,
      }),
    );
  }
  const inFile = levels.find((level) => level === read.textOrNull("logging.level")) ?? null;
  const format = read.word<"auto" | "console" | "json">("logging.format");
  return {
    level: fromEnvironment ?? inFile ?? byEnvironment,
    format: format !== "auto" ? format : ["production", "staging", "prod", "prd"].includes(name) ? "json" : "console",
    slowHandlerThreshold_ms: read.number("logging.slow_handler_threshold_ms"),
    slowQueryThreshold_ms: read.number("logging.slow_query_threshold_ms"),
    slowQueryTruncate_chars: read.number("logging.slow_query_truncate_chars"),
    redact: read.list("logging.redact"),
    perLogger: read.table("logging.per_logger"),
  };
}

/**
 * The file behind a SQLite address: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` (memory), `:memory:`, or a plain
 * path. Relative ones start at `directory`, so that two terminals in different folders mean the same file.
 * @returns an absolute path, ":memory:", or null when the address belongs to something else
 */
export function sqlitePath(uri: string, directory: string): string | null {
  if (uri === ":memory:") return ":memory:";
  const parts = /^sqlite(?:\+\w+)?:\/\/(.*)$/.exec(uri);
  if (parts === null) return /^[a-z][a-z0-9+.-]*:\/\//i.test(uri) ? null : resolve(directory, uri);
  const rest = (parts[1] ?? "").split("?")[0] ?? "";
  if (rest === "" || rest === "/" || rest === "/:memory:" || rest === ":memory:") return ":memory:";
  if (!rest.startsWith("/")) return null;
  const path = rest.slice(1);
  return isAbsolute(path) ? resolve(path) : resolve(directory, path);
}

function embeddedStore(file: string): EventStoreConfig {
  return { provider: "sqlite", file, embedded: true };
}

/** Names of a table of tables; null when it isn't there (or isn't a table, which has been reported). */
function namesUnder(table: Table, ...path: readonly string[]): string[] | null {
  const found = dig(table, path);
  return isTable(found) ? Object.keys(found) : null;
}

function dig(table: Table, path: readonly string[]): unknown {
  let found: unknown = table;
  for (const segment of path) found = isTable(found) ? found[segment] : undefined;
  return found;
}

/** Place of a key's section: that of its first written neighbour. */
function sectionPlace(path: string, origins: ReadonlyMap<string, string>): string {
  const section = path.slice(0, path.lastIndexOf(".") + 1);
  for (const [name, origin] of origins) if (name.startsWith(section) && origin !== "default") return origin;
  return section.replace(/\.$/, "") || path;
}

interface Reader {
  text(path: string): string;
  textOrNull(path: string): string | null;
  word<Word extends string>(path: string): Word;
  number(path: string): number;
  numberOrNull(path: string): number | null;
  /** Of a key in seconds. */
  milliseconds(path: string): number;
  millisecondsOrNull(path: string): number | null;
  flag(path: string): boolean;
  list(path: string): readonly string[];
  table(path: string): Table;
}

/** Reads values that the schema has checked; a key without default that is read as if it had one is a bug of ours. */
function reader(values: ReadonlyMap<string, unknown>): Reader {
  const fail = (path: string): never => {
    throw new Error(`assertion failed: ${path} has a value of its type`);
  };
  const reader: Reader = {
    text: (path) => reader.textOrNull(path) ?? fail(path),
    textOrNull: (path) => {
      const value = values.get(path);
      return typeof value === "string" ? value : null;
    },
    // The schema allows no other words.
    word: <Word extends string>(path: string) => reader.text(path) as Word,
    number: (path) => reader.numberOrNull(path) ?? fail(path),
    numberOrNull: (path) => {
      const value = values.get(path);
      return typeof value === "number" ? value : null;
    },
    milliseconds: (path) => milliseconds(reader.number(path)),
    millisecondsOrNull: (path) => {
      const value = reader.numberOrNull(path);
      return value === null ? null : milliseconds(value);
    },
    flag: (path) => {
      const value = values.get(path);
      return typeof value === "boolean" ? value : fail(path);
    },
    list: (path) => {
      const value = values.get(path);
      return Array.isArray(value) ? value : fail(path);
    },
    table: (path) => {
      const value = values.get(path);
      return isTable(value) ? value : {};
    },
  };
  return reader;
}
