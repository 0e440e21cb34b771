/**
 * Every key of domain.toml, once. Validation, defaults, `config show` and the table in the documentation read this table; nothing
 * else knows a key's name, type or default.
 *
 * A path segment `*` stands for a name that the user chooses (`databases.*.provider`). A key of type `table` is open: its content
 * is the user's own. Sources: configuration.md §3–§10; keys with `ours: true` are new in this implementation (D17).
 */

export type KeyType = "string" | "boolean" | "integer" | "number" | "list" | "table" | "duration" | "any";

export interface KeySpec {
  readonly path: string;
  readonly type: KeyType;
  /** Effective value when the key isn't written; undefined = none. */
  readonly default?: unknown;
  /** Extra words on the default for the documentation, where it depends on something. */
  readonly defaultNote?: string;
  /** Allowed words of a string key. */
  readonly allowed?: readonly string[];
  /** Words are compared without regard to case, and kept as `allowed` spells them. */
  readonly ignoreCase?: true;
  readonly minimum?: number;
  /** Exclusive lower bound. */
  readonly above?: number;
  readonly maximum?: number;
  readonly unit?: "seconds" | "milliseconds" | "bytes" | "messages" | "hours" | "days" | "ticks" | "rows" | "characters";
  /** One sentence. */
  readonly doc: string;
  /** New in this implementation: the Python original ignores it. */
  readonly ours?: true;
  /** Accepted and validated, but without effect so far; the text says which part is missing. */
  readonly later?: string;
  /** Values are never printed. */
  readonly secret?: true;
  /** Other spellings that are understood, with a warning that names this one. */
  readonly aliases?: readonly string[];
  /**
   * What a bad value does where the original does not refuse it: `default` takes the default with a warning, `section` takes the
   * defaults of the whole section. Without it a bad value is a ConfigurationError.
   */
  readonly onBadValue?: "default" | "section";
  /** An empty string counts as not written. */
  readonly emptyIsDefault?: true;
}

const MIB = 1024 * 1024;
type More = Omit<KeySpec, "path" | "type" | "doc">;

const key = (path: string, type: KeyType, doc: string, more: More = {}): KeySpec => ({ path, type, doc, ...more });

/** What each of the three subscription sections and `[server.subscriptions.H]` offer alike. */
const handlerLimits = (section: string, defaults: boolean): readonly KeySpec[] => [
  key(
    `${section}.handler_timeout_seconds`,
    "number",
    "Longest run of one handler; then its signal aborts and the run counts as failed. 0 = no limit.",
    {
      ...(defaults ? { default: 300 } : {}),
      minimum: 0,
      unit: "seconds",
      ours: true,
    },
  ),
  key(`${section}.dead_letter_at_once`, "list", "Names or codes of errors that go to the dead letters without further attempts.", {
    ...(defaults ? { default: ["DeserializationError"] } : {}),
    ours: true,
  }),
];

/** Claiming and group policy: `[server.stream_subscription]` and per handler. */
const claiming = (section: string, defaults: boolean): readonly KeySpec[] => [
  key(
    `${section}.claim_idle_seconds`,
    "number",
    "Entries of a dead consumer of ours are taken over after this long without its refreshing them.",
    {
      ...(defaults ? { default: 30 } : {}),
      above: 0,
      unit: "seconds",
      ours: true,
    },
  ),
  key(
    `${section}.claim_foreign_idle_seconds`,
    "number",
    "Entries of consumers that are not ours (Python never refreshes) are taken over after this long. 0 = never.",
    { ...(defaults ? { default: 600 } : {}), minimum: 0, unit: "seconds", ours: true },
  ),
  key(
    `${section}.on_group_lost`,
    "string",
    "What to do when the consumer group vanished: read again from the start, only new messages, or stop.",
    {
      ...(defaults ? { default: "start" } : {}),
      allowed: ["start", "tail", "stop"],
      ours: true,
    },
  ),
];

const startFrom = (section: string, defaults: boolean): KeySpec =>
  key(`${section}.start_from`, "string", "Where a handler seen for the first time begins in a stream that has history.", {
    ...(defaults ? { default: "start" } : {}),
    allowed: ["start", "now"],
    ours: true,
  });

const FLOW_TYPES = ["stream", "event_store"] as const;

/** The fields of a profile; `[server.subscriptions.H]` has them too. configuration.md §6. */
const profileFields = (section: string): readonly KeySpec[] => [
  key(`${section}.subscription_type`, "string", "Where messages come from: the broker's stream or the event store.", {
    allowed: FLOW_TYPES,
  }),
  key(`${section}.messages_per_tick`, "integer", "Messages read at once.", { above: 0, unit: "messages" }),
  key(`${section}.tick_interval`, "number", "Pause between two reads.", { minimum: 0, unit: "seconds" }),
  key(`${section}.blocking_timeout_ms`, "integer", "How long a read of the broker waits for messages.", { above: 0, unit: "milliseconds" }),
  key(`${section}.max_retries`, "integer", "Runs of a failing message before it is given up.", { minimum: 0 }),
  key(`${section}.retry_delay_seconds`, "number", "Wait between two runs of a failing message.", { minimum: 0, unit: "seconds" }),
  key(`${section}.enable_dlq`, "boolean", "Keep a given-up message as a dead letter; false discards it."),
  key(`${section}.position_update_interval`, "integer", "Event-store kind: messages between two checkpoints.", {
    above: 0,
    unit: "messages",
  }),
  key(`${section}.retention_maxlen`, "integer", "Stream kind: the stream is trimmed to about this many entries.", {
    above: 0,
    unit: "messages",
  }),
  key(`${section}.circuit_breaker_threshold`, "integer", "Given-up messages in a row that open the breaker.", { minimum: 1 }),
  key(`${section}.circuit_breaker_reset_seconds`, "number", "How long an open breaker waits before it lets one message try.", {
    above: 0,
    unit: "seconds",
  }),
  key(`${section}.origin_stream`, "string", "Only messages that a message of this stream caused."),
];

const retention = (path: string): KeySpec =>
  key(
    path,
    "duration",
    'Embedded broker, and Redis streams that we created: entries acknowledged by all are trimmed when older. "off" = never.',
    {
      default: "7d",
      ours: true,
    },
  );

export const SCHEMA: readonly KeySpec[] = [
  // ---------------------------------------------------------------- top level
  key("env", "any", "Informational; the overlay is chosen by PROTEAN_ENV only."),
  key("testing", "any", "Informational."),
  key("debug", "any", "Informational."),
  key("secret_key", "any", "Informational.", { secret: true }),
  key("source_uri", "string", "CloudEvents source of published messages.", { defaultNote: "urn:protean:<domain>" }),
  key("identity_strategy", "string", "How identities are made: UUIDs, or a function given in code.", {
    default: "uuid",
    allowed: ["uuid", "function"],
  }),
  key("identity_type", "string", "Type of identity values.", { default: "string", allowed: ["string", "integer", "uuid"] }),
  key("event_processing", "string", "async leaves events to the engine; sync runs their handlers inside the commit.", {
    default: "async",
    allowed: ["sync", "async"],
  }),
  key("command_processing", "string", "Default of domain.process(); sync also runs commands inline that were sent as asynchronous.", {
    default: "async",
    allowed: ["sync", "async"],
  }),
  key("message_processing", "string", "sync: publishing to a broker also runs this process's subscribers inline.", {
    default: "async",
    allowed: ["sync", "async"],
  }),
  key("lenient_deserialization", "boolean", "Drop unknown fields of a payload instead of failing.", { default: false }),
  key("command_default_timeout", "number", "Deadline of a command that names none.", { above: 0, unit: "seconds" }),
  key("snapshot_threshold", "integer", "Events after which an event-sourced aggregate gets a snapshot.", { default: 10, above: 0 }),
  key("max_message_bytes", "integer", "Largest message that is written or read.", {
    default: 4 * MIB,
    minimum: 1024,
    unit: "bytes",
    ours: true,
  }),
  key("enable_outbox", "boolean", 'Older way to turn the outbox on; needs server.default_subscription_type = "stream".', {
    default: false,
  }),
  key("field_defaults.sanitize", "boolean", "Whether text fields are cleaned of HTML by default.", { default: false }),
  key("custom", "table", "Your own values; each also becomes an attribute of the domain."),
  key("email_providers", "table", "Deprecated in the original; accepted, without effect.", { later: "e-mail is not part of this version" }),
  key("lint", "table", "Options of `protean check`."),

  // ---------------------------------------------------------------- [protean]
  key("protean.handlers", "list", "Folders, files or globs of handler modules, relative to this file.", {
    defaultNote: "./handlers, then ./src",
    ours: true,
  }),
  key("protean.domain", "string", "Name of the domain, or the module (and export) that holds it.", { ours: true }),
  key("protean.data_dir", "string", "Folder of the embedded database, relative to this file; PROTEAN_DATA wins.", {
    defaultNote: ".protean beside domain.toml",
    ours: true,
  }),

  // ---------------------------------------------------------------- adapters
  key("databases.*.provider", "string", "memory, sqlite or postgresql.", { defaultNote: "sqlite when [databases] is absent" }),
  key("databases.*.database_uri", "string", "Address, such as sqlite:///bank.db (relative to this file) or sqlite:////var/lib/bank.db.", {
    aliases: ["URI", "uri", "url"],
  }),
  key("databases.*.schema", "string", "Schema of the tables (PostgreSQL).", { defaultNote: "public" }),
  key("databases.*.managed", "boolean", "false: no tables are created, no outbox, no markers.", {
    default: true,
    later: "databases that are not managed come in a later version",
  }),
  key("databases.*.pool_size", "integer", "Connections kept open.", { default: 5, minimum: 1 }),
  key("databases.*.max_overflow", "integer", "Further connections under load.", { default: 10, minimum: 0 }),
  key("databases.*.pool_recycle", "integer", "Age at which a connection is replaced.", { above: 0, unit: "seconds" }),

  key("event_store.provider", "string", "memory, sqlite or message_db.", {
    defaultNote: "sqlite when [event_store] is absent, else memory",
  }),
  key("event_store.database_uri", "string", "Address of the store.", { aliases: ["URI", "uri", "url"] }),
  key("event_store.max_connections", "integer", "Largest number of connections.", { minimum: 1 }),

  key("brokers.*.provider", "string", "inline, sqlite, redis or redis_pubsub.", {
    defaultNote: "sqlite when [brokers] is absent, else inline",
  }),
  key("brokers.*.URI", "string", "Address, such as redis://localhost:6379/0.", { aliases: ["uri", "url", "redis_url", "database_uri"] }),
  key("brokers.*.max_connections", "integer", "Accepted for the original's sake: connections do not grow with subscriptions here.", {
    minimum: 1,
  }),
  key("brokers.*.socket_timeout", "number", "Deadline of one command.", { above: 0, unit: "seconds" }),
  key("brokers.*.socket_connect_timeout", "number", "Deadline of connecting.", { above: 0, unit: "seconds" }),
  key("brokers.*.retry_on_timeout", "boolean", "Accepted for the original's sake: reconnecting is always on."),
  key("brokers.*.max_retries", "integer", "inline: runs of a message before it is given up, for groups without a subscription.", {
    default: 3,
    minimum: 0,
  }),
  key("brokers.*.retry_delay", "number", "inline: first wait between two runs.", { default: 1, minimum: 0, unit: "seconds" }),
  key("brokers.*.backoff_multiplier", "number", "inline: growth of the wait.", { default: 2, minimum: 1 }),
  key("brokers.*.message_timeout", "number", "inline: a message not acknowledged for this long is handed out again.", {
    default: 300,
    above: 0,
    unit: "seconds",
  }),
  key("brokers.*.enable_dlq", "boolean", "inline: keep given-up messages.", { default: true }),
  retention("brokers.*.retention"),

  key("caches.*.provider", "string", "memory or redis.", { default: "memory" }),
  key("caches.*.URI", "string", "Address of the cache.", { aliases: ["uri", "url", "redis_url"] }),
  key("caches.*.TTL", "number", "Life of an entry.", { default: 300, above: 0, unit: "seconds", emptyIsDefault: true }),
  key("caches.*.max_connections", "integer", "Largest number of connections.", { minimum: 1 }),
  key("caches.*.socket_timeout", "number", "Deadline of one command.", { above: 0, unit: "seconds" }),
  key("caches.*.socket_connect_timeout", "number", "Deadline of connecting.", { above: 0, unit: "seconds" }),
  key("caches.*.retry_on_timeout", "boolean", "Accepted for the original's sake."),

  // ---------------------------------------------------------------- [server]
  key("server.default_subscription_type", "string", "Where handlers get their messages; stream also turns the outbox on.", {
    default: "event_store",
    defaultNote: "stream when none of [databases], [event_store], [brokers], [server] is in the file",
    allowed: FLOW_TYPES,
  }),
  key("server.default_subscription_profile", "string", "Profile of handlers that name none; [server] overwrites most of it."),
  key("server.messages_per_tick", "integer", "Messages read at once.", { default: 100, above: 0, unit: "messages" }),
  key("server.tick_interval", "number", "Event-store kind: pause between two reads.", { default: 0, minimum: 0, unit: "seconds" }),
  key("server.drain_timeout", "number", "How long running handlers may go on after a stop was asked for.", {
    default: 10,
    above: 0,
    unit: "seconds",
    onBadValue: "default",
  }),
  key("server.concurrency", "integer", "Messages of different source streams that one subscription runs at once.", {
    default: 1,
    minimum: 1,
    maximum: 1000,
    ours: true,
  }),

  key("server.stream_subscription.blocking_timeout_ms", "integer", "How long a read of the broker waits; at most 1000 takes effect.", {
    default: 100,
    above: 0,
    unit: "milliseconds",
  }),
  key("server.stream_subscription.max_retries", "integer", "Runs of a failing message before it is given up.", { default: 3, minimum: 0 }),
  key("server.stream_subscription.retry_delay_seconds", "number", "Wait between two runs of a failing message.", {
    default: 1,
    minimum: 0,
    unit: "seconds",
  }),
  key("server.stream_subscription.enable_dlq", "boolean", "Keep a given-up message as a dead letter; false discards it.", {
    default: true,
  }),
  key("server.stream_subscription.circuit_breaker_threshold", "integer", "Given-up messages in a row that open the breaker.", {
    defaultNote: "10",
    minimum: 1,
  }),
  key(
    "server.stream_subscription.circuit_breaker_reset_seconds",
    "number",
    "How long an open breaker waits before it lets one message try.",
    {
      defaultNote: "60",
      above: 0,
      unit: "seconds",
    },
  ),
  key("server.stream_subscription.retention_maxlen", "integer", "Streams are trimmed to about this many entries.", {
    above: 0,
    unit: "messages",
  }),
  ...claiming("server.stream_subscription", true),
  startFrom("server.stream_subscription", true),
  ...handlerLimits("server.stream_subscription", true),

  key("server.event_store_subscription.position_update_interval", "integer", "Messages between two checkpoints.", {
    default: 10,
    above: 0,
    unit: "messages",
  }),
  key("server.event_store_subscription.max_retries", "integer", "Runs of a failing message before it is given up.", {
    default: 3,
    minimum: 0,
  }),
  key("server.event_store_subscription.retry_delay_seconds", "number", "Wait between two runs of a failing message.", {
    default: 1,
    minimum: 0,
    unit: "seconds",
  }),
  key("server.event_store_subscription.enable_recovery", "boolean", "Run failed messages again from the recovery stream.", {
    default: true,
  }),
  key("server.event_store_subscription.recovery_interval_seconds", "number", "Pause between two looks at the recovery stream.", {
    default: 30,
    minimum: 0,
    unit: "seconds",
  }),
  key("server.event_store_subscription.gap_timeout_seconds", "number", "How long a hole in the positions of $all is waited for.", {
    default: 5,
    minimum: 0,
    unit: "seconds",
  }),
  startFrom("server.event_store_subscription", true),
  ...handlerLimits("server.event_store_subscription", true),

  key("server.broker_subscription.max_retries", "integer", "Runs of a failing message before it is given up.", { default: 3, minimum: 0 }),
  key("server.broker_subscription.retry_delay_seconds", "number", "Wait between two runs of a failing message.", {
    default: 1,
    minimum: 0,
    unit: "seconds",
  }),
  key("server.broker_subscription.enable_dlq", "boolean", "Keep a given-up message as a dead letter; false discards it.", {
    default: true,
  }),
  key("server.broker_subscription.messages_per_tick", "integer", "Messages a subscriber reads at once (fixed at 10 in the original).", {
    default: 100,
    above: 0,
    unit: "messages",
    ours: true,
  }),
  key("server.broker_subscription.tick_interval", "number", "Pause between two reads (fixed at 1 in the original).", {
    default: 0,
    minimum: 0,
    unit: "seconds",
    ours: true,
  }),
  ...handlerLimits("server.broker_subscription", true),

  key("server.version_retry.enabled", "boolean", "Run a handler again when another writer was faster.", {
    default: true,
    onBadValue: "section",
  }),
  key("server.version_retry.max_retries", "integer", "Further runs after a version conflict.", {
    default: 3,
    minimum: 0,
    onBadValue: "section",
  }),
  key("server.version_retry.base_delay_seconds", "number", "First wait; doubles each time.", {
    default: 0.05,
    minimum: 0,
    unit: "seconds",
    onBadValue: "section",
  }),
  key("server.version_retry.max_delay_seconds", "number", "Longest wait.", {
    default: 1,
    minimum: 0,
    unit: "seconds",
    onBadValue: "section",
  }),

  key("server.transient_retry.enabled", "boolean", "Run a handler again at once after a passing fault.", {
    default: false,
    onBadValue: "section",
  }),
  key("server.transient_retry.max_retries", "integer", "Further runs after a passing fault.", {
    default: 3,
    minimum: 0,
    onBadValue: "section",
  }),
  key("server.transient_retry.backoff", "string", "How the wait grows.", {
    default: "exponential",
    allowed: ["exponential", "linear", "fixed"],
  }),
  key("server.transient_retry.base_delay_seconds", "number", "First wait.", {
    default: 0.1,
    minimum: 0,
    unit: "seconds",
    onBadValue: "section",
  }),
  key("server.transient_retry.max_delay_seconds", "number", "Longest wait.", {
    default: 5,
    minimum: 0,
    unit: "seconds",
    onBadValue: "section",
  }),
  key("server.transient_retry.exceptions", "list", "Names or codes of errors that count as passing faults.", {
    default: ["ConnectionError", "TimeoutError", "SendError"],
  }),

  key("server.subscriptions.*.profile", "string", "Profile of this handler, built-in or of your own."),
  ...profileFields("server.subscriptions.*"),
  key("server.subscriptions.*.dlq_retention_hours", "number", "Dead letters of this handler's streams are kept this long.", {
    above: 0,
    unit: "hours",
  }),
  key("server.subscriptions.*.dlq_alert_threshold", "integer", "Dead letters of this handler's streams that raise an alert.", { above: 0 }),
  key("server.subscriptions.*.concurrency", "integer", "Messages of different source streams that this handler runs at once.", {
    minimum: 1,
    maximum: 1000,
    ours: true,
  }),
  key("server.subscriptions.*.shared", "boolean", "true: engines compete for messages; false: one engine at a time reads, in order.", {
    defaultNote: "false for projectors and process managers, true for others",
    ours: true,
  }),
  ...claiming("server.subscriptions.*", false),
  startFrom("server.subscriptions.*", false),
  ...handlerLimits("server.subscriptions.*", false),

  key("server.profiles.*.inherits", "string", "Built-in profile that this one begins with.", {
    allowed: ["production", "fast", "batch", "debug", "projection"],
    ignoreCase: true,
  }),
  ...profileFields("server.profiles.*"),

  key("server.dlq.enabled", "boolean", "Trim dead letters and watch their number.", { default: false }),
  key("server.dlq.retention_hours", "number", "Dead letters are kept this long.", { default: 168, above: 0, unit: "hours" }),
  key("server.dlq.alert_threshold", "integer", "Dead letters of one stream that raise an alert.", { default: 100, above: 0 }),
  key("server.dlq.alert_callback", "string", "Accepted for the original's sake: names a Python function.", {
    later: "alerts are log lines and metrics",
  }),
  key("server.dlq.check_interval_seconds", "number", "Pause between two looks.", { default: 60, above: 0, unit: "seconds" }),

  key("server.health.enabled", "boolean", "Serve /livez, /readyz, /healthz.", { default: true }),
  key("server.health.host", "string", "Address to listen on; beyond loopback the probes are open to the network.", {
    default: "127.0.0.1",
  }),
  key("server.health.port", "integer", "Port to listen on; 0 = any free one, the banner says which.", {
    default: 8080,
    minimum: 0,
    maximum: 65535,
  }),
  key("server.health.port_auto_increment", "boolean", "Take the next port when this one is taken; false makes a taken port an error.", {
    default: true,
    defaultNote: "true here, false in the original (D39)",
  }),

  key("server.priority_lanes.enabled", "boolean", "A second stream for messages of low priority.", { default: false }),
  key("server.priority_lanes.threshold", "number", "Messages below this priority take the second stream.", { default: 0 }),
  key("server.priority_lanes.backfill_suffix", "string", "Suffix of the second stream; never empty.", { default: "backfill" }),
  key("server.partitioning.lease_ttl_ms", "integer", "Life of a partition's lease.", { above: 0, unit: "milliseconds" }),
  key("server.partitioning.heartbeat_interval_seconds", "number", "Pause between two renewals of a lease.", { above: 0, unit: "seconds" }),
  key("server.partitioning.poll_interval_seconds", "number", "Pause between two looks for partitions.", { above: 0, unit: "seconds" }),
  key("server.partitioning.reap_idle_ms", "integer", "Age at which an empty partition is removed.", { above: 0, unit: "milliseconds" }),

  // ---------------------------------------------------------------- [outbox]
  key("outbox.broker", "string", "Broker of published messages; stream subscriptions read the broker named default.", {
    default: "default",
  }),
  key("outbox.external_brokers", "list", "Brokers that get published events for other systems.", { default: [] }),
  key("outbox.messages_per_tick", "integer", "Rows claimed at once.", { default: 50, above: 0, unit: "messages" }),
  key("outbox.tick_interval", "number", "Pause between two looks for rows.", { default: 0.01, minimum: 0, unit: "seconds" }),
  key("outbox.max_tick_interval", "number", "Longest pause when nothing comes.", { above: 0, unit: "seconds" }),
  key("outbox.lock_seconds", "number", "How long a claimed row belongs to its claimer; after a kill rows wait this long.", {
    default: 300,
    above: 0,
    unit: "seconds",
    ours: true,
  }),
  key("outbox.retry.max_attempts", "integer", "Attempts before a row is given up.", { default: 3, minimum: 1 }),
  key("outbox.retry.base_delay_seconds", "number", "First wait after a failed attempt.", { default: 1, minimum: 0, unit: "seconds" }),
  key("outbox.retry.max_backoff_seconds", "number", "Longest wait.", { default: 60, minimum: 0, unit: "seconds" }),
  key("outbox.retry.backoff_multiplier", "number", "Growth of the wait.", { default: 2, minimum: 1 }),
  key("outbox.retry.jitter", "boolean", "Spread the waits.", { default: true }),
  key("outbox.retry.jitter_factor", "number", "How far, as a part of the wait.", { default: 0.25, minimum: 0, maximum: 1 }),
  key("outbox.cleanup.published_retention_hours", "number", "Published rows are kept this long.", {
    default: 168,
    minimum: 0,
    unit: "hours",
  }),
  key("outbox.cleanup.abandoned_retention_hours", "number", "Given-up rows are kept this long.", {
    default: 720,
    minimum: 0,
    unit: "hours",
  }),
  key("outbox.cleanup.cleanup_interval_ticks", "integer", "Turns between two cleanings; at most 10000 takes effect.", {
    default: 86400,
    above: 0,
    unit: "ticks",
  }),
  key("outbox.cleanup.batch_size", "integer", "Rows deleted at once.", { default: 5000, above: 0, unit: "rows" }),

  // ---------------------------------------------------------------- others
  key("observatory.trace_retention_days", "number", "Traces are kept this long; 0 or less = no trace stream.", {
    default: 7,
    unit: "days",
    onBadValue: "default",
  }),
  key("idempotency.redis_url", "string", "Redis that remembers idempotency keys.", {
    defaultNote: "none (off)",
    aliases: ["URI", "uri", "url"],
  }),
  key("idempotency.ttl", "number", "How long a key of a success is remembered.", { default: 86400, above: 0, unit: "seconds" }),
  key("idempotency.error_ttl", "number", "How long a key of a failure is remembered.", { default: 60, above: 0, unit: "seconds" }),
  key("consume_idempotency.cleanup.retention_hours", "number", "Markers of handled messages are kept this long.", {
    default: 168,
    above: 0,
    unit: "hours",
  }),
  key("consume_idempotency.cleanup.batch_size", "integer", "Markers deleted at once.", { default: 5000, above: 0, unit: "rows" }),

  key("telemetry.enabled", "boolean", "Send traces and metrics by OpenTelemetry.", { default: false }),
  key("telemetry.service_name", "string", "Name of the service.", { defaultNote: "the domain's name" }),
  key("telemetry.exporter", "string", "Where to.", { default: "otlp", allowed: ["otlp", "console"] }),
  key("telemetry.endpoint", "string", "Address of the collector.", { defaultNote: "the exporter's own" }),
  key("telemetry.resource_attributes", "table", "Further attributes of the service."),

  key("logging.level", "string", "Least severe line that is written.", {
    defaultNote: "INFO; DEBUG under development, WARNING under test",
    allowed: ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    ignoreCase: true,
    emptyIsDefault: true,
  }),
  key("logging.format", "string", "auto writes JSON under production and staging, else lines for people.", {
    default: "auto",
    allowed: ["auto", "console", "json"],
    emptyIsDefault: true,
  }),
  key("logging.log_dir", "string", "Folder of log files.", {
    emptyIsDefault: true,
    later: "log files come in a later version; lines go to stderr",
  }),
  key("logging.log_file_prefix", "string", "Name of log files.", { default: "protean", later: "log files come in a later version" }),
  key("logging.max_bytes", "integer", "Size at which a log file is closed.", {
    default: 10485760,
    above: 0,
    unit: "bytes",
    later: "log files come in a later version",
  }),
  key("logging.backup_count", "integer", "Closed log files that are kept.", {
    default: 5,
    minimum: 0,
    later: "log files come in a later version",
  }),
  key("logging.slow_handler_threshold_ms", "number", "A handler slower than this is logged; 0 = never.", {
    default: 500,
    minimum: 0,
    unit: "milliseconds",
  }),
  key("logging.slow_query_threshold_ms", "number", "A query slower than this is logged; 0 = never.", {
    default: 100,
    minimum: 0,
    unit: "milliseconds",
  }),
  key("logging.slow_query_truncate_chars", "integer", "Length at which a logged query is cut.", {
    default: 500,
    minimum: 0,
    unit: "characters",
  }),
  key("logging.redact", "list", "Further keys whose values are never logged, beside the built-in ones.", { default: [] }),
  key("logging.per_logger", "table", "Levels of single loggers."),
  key("logging.sampling.enabled", "boolean", "Write only a part of the lines about handled messages.", {
    default: false,
    later: "sampling comes in a later version",
  }),
  key("logging.sampling.default_rate", "number", "Part that is written.", {
    default: 0.05,
    minimum: 0,
    maximum: 1,
    later: "sampling comes in a later version",
  }),
  key("logging.sampling.always_keep_errors", "boolean", "Errors are always written.", {
    default: true,
    later: "sampling comes in a later version",
  }),
  key("logging.sampling.always_keep_slow", "boolean", "Slow handlers are always written.", {
    default: true,
    later: "sampling comes in a later version",
  }),
  key("logging.sampling.critical_streams", "list", "Message types (globs) that are always written.", {
    default: [],
    later: "sampling comes in a later version",
  }),
  key("logging.http", "table", "Options of the original's web middleware; accepted, without effect.", {
    later: "there is no web middleware",
  }),
];

/** A place in the tree of keys: a key itself, a table with known keys, or both names and `*`. */
export interface SchemaNode {
  readonly spec: KeySpec | null;
  readonly children: ReadonlyMap<string, SchemaNode>;
  /** Content under a name that the user chooses. */
  readonly any: SchemaNode | null;
}

interface BuildNode {
  spec: KeySpec | null;
  children: Map<string, BuildNode>;
  any: BuildNode | null;
}

function buildTree(specs: readonly KeySpec[]): SchemaNode {
  const empty = (): BuildNode => ({ spec: null, children: new Map(), any: null });
  const root = empty();
  for (const spec of specs) {
    let node = root;
    for (const segment of spec.path.split(".")) {
      let next = segment === "*" ? node.any : node.children.get(segment);
      if (!next) {
        next = empty();
        if (segment === "*") node.any = next;
        else node.children.set(segment, next);
      }
      node = next;
    }
    node.spec = spec;
  }
  return root;
}

/** The same table as a tree. */
export const SCHEMA_TREE: SchemaNode = buildTree(SCHEMA);

/** Names of the top level: sections and single keys. */
export const TOP_LEVEL_KEYS: ReadonlySet<string> = new Set(SCHEMA_TREE.children.keys());

/** The names that a place in the tree knows as keys, other spellings not included. */
export function knownKeys(node: SchemaNode): string[] {
  return [...node.children.keys()];
}
