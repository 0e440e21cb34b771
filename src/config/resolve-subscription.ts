/**
 * The precedence ladder: which settings a handler's subscription gets (configuration.md §7).
 *
 * Lowest to highest, a later step overwrites the fields it sets:
 * 1. the column "(none)" of the profiles
 * 2. the profile of `server.default_subscription_profile`, only if no profile is named at 4 or 5
 * 3. `[server]`, `[server.stream_subscription]`, `[server.event_store_subscription]`; their defaults fill almost every field
 * 4. `[server.subscriptions.H]`: its profile (unless the handler names one), then its other keys
 * 5. the handler's options: profile, then type, then `subscriptionConfig`, then `sourceStream`
 *
 * Then: an event-store subscription has no dead-letter stream and no stream to trim.
 */
import { ConfigurationError } from "../errors.ts";
import type {
  BackoffKind,
  Config,
  HandlerSection,
  OnGroupLost,
  StartFrom,
  SubscriptionFields,
  SubscriptionType,
  TransientRetry,
  VersionRetry,
} from "./config.ts";
import { allowedInWords } from "./describe-keys.ts";
import { type Diagnostic, formatPath, jsonText } from "./diagnostic.ts";
import { nearest } from "./nearest.ts";
import { refuseSequentialBy } from "./not-yet.ts";
import { NO_PROFILE, profileFields } from "./profiles.ts";
import { handlerSection, SECTION_FIELDS, sectionSpec } from "./sections.ts";
import { coerce } from "./values.ts";

/** The part of a handler's options that decides about its subscription. */
export interface SubscriptionOptions {
  readonly subscriptionType?: SubscriptionType | undefined;
  readonly subscriptionProfile?: string | undefined;
  /** Keys of `[server.subscriptions.H]`, in wire names (`messages_per_tick`) or as `messagesPerTick`. */
  readonly subscriptionConfig?: Readonly<Record<string, unknown>> | undefined;
  /** Only messages that a message of this stream caused. */
  readonly sourceStream?: string | undefined;
  readonly sequentialBy?: string | undefined;
  readonly concurrency?: number | undefined;
  readonly shared?: boolean | undefined;
  /** Limit of one run; 0 = none. */
  readonly timeout_ms?: number | undefined;
  /** Names or codes of errors. */
  readonly deadLetterAtOnce?: readonly string[] | undefined;
  /** Further runs after a passing fault; setting it turns `transient_retry` on for this handler. */
  readonly retries?: number | undefined;
  readonly backoff?: BackoffKind | undefined;
  /** Names or codes of errors. */
  readonly retryExceptions?: readonly string[] | undefined;
}

/** All settings of one subscription. */
export interface ResolvedSubscription extends SubscriptionFields {
  readonly handlerName: string;
  /** The profile that counted; null when none was named. */
  readonly profile: string | null;
  readonly concurrency: number;
  /** null = by the kind of handler: projectors and process managers false, others true (rulings 8). */
  readonly shared: boolean | null;
  readonly claimIdle_ms: number;
  /** null = entries of foreign consumers are never taken over. */
  readonly claimForeignIdle_ms: number | null;
  readonly onGroupLost: OnGroupLost;
  readonly startFrom: StartFrom;
  /** null = no limit. */
  readonly handlerTimeout_ms: number | null;
  readonly deadLetterAtOnce: readonly string[];
  /** Of this handler; null = `[server.dlq]` decides. */
  readonly dlqRetention_hours: number | null;
  readonly dlqAlertThreshold: number | null;
  /**
   * For event-store subscriptions these values of `[server.event_store_subscription]` count, and `maxRetries` and `retryDelay_ms`
   * above don't: the original reads them from the section only.
   */
  readonly eventStore: {
    readonly maxRetries: number;
    readonly retryDelay_ms: number;
    readonly enableRecovery: boolean;
    readonly recoveryInterval_ms: number;
    readonly gapTimeout_ms: number;
  };
  readonly versionRetry: VersionRetry;
  readonly transientRetry: TransientRetry;
  /** What should be said at start. */
  readonly notes: readonly Diagnostic[];
}

/** Settings of a subscriber's subscription (messages of other systems from a broker). */
export interface ResolvedBrokerSubscription {
  readonly handlerName: string;
  readonly maxRetries: number;
  readonly retryDelay_ms: number;
  readonly enableDlq: boolean;
  readonly messagesPerTick: number;
  readonly tickInterval_ms: number;
  readonly concurrency: number;
  readonly shared: boolean;
  readonly claimIdle_ms: number;
  readonly claimForeignIdle_ms: number | null;
  readonly onGroupLost: OnGroupLost;
  readonly startFrom: StartFrom;
  readonly handlerTimeout_ms: number | null;
  readonly deadLetterAtOnce: readonly string[];
  readonly transientRetry: TransientRetry;
}

/**
 * Settings of an event handler's, projector's or process manager's subscription.
 * @throws ConfigurationError for unknown profiles and values out of range ("Invalid subscription configuration: a; b")
 */
export function resolveSubscription(
  config: Config,
  handler: { readonly handlerName: string; readonly options?: SubscriptionOptions | undefined },
): ResolvedSubscription {
  const { handlerName, options = {} } = handler;
  return climb(config, handlerName, ownSection(config, handlerName) ?? {}, `server.subscriptions.${formatPath([handlerName])}`, options);
}

/** Name of the subscription, section and group that all command handlers of a category share (rulings 70). */
export function commandSubscriptionName(category: string): string {
  return `Commands:${category}:command`;
}

/**
 * Where the commands of a category travel. From domain.toml only, so that a process that merely sends commands decides alike
 * (rulings 36). Section: `[server.subscriptions."Commands:<category>:command"]`, or that of one of the category's handlers.
 * @param handlerNames handlers of the category as far as this process knows them
 * @throws ConfigurationError when two sections disagree
 */
export function commandSubscriptionType(config: Config, category: string, handlerNames: readonly string[] = []): SubscriptionType {
  const name = commandSubscriptionName(category);
  const { section, place } = commandSection(config, name, handlerNames);
  return climb(config, name, section, place, {}).subscriptionType;
}

/**
 * Settings of the one subscription that all command handlers of a category share.
 * @throws ConfigurationError when sections or handlers disagree, or a handler tries to choose the type
 */
export function resolveCommandSubscription(
  config: Config,
  command: {
    readonly category: string;
    readonly handlers: readonly { readonly handlerName: string; readonly options?: SubscriptionOptions | undefined }[];
  },
): ResolvedSubscription {
  const name = commandSubscriptionName(command.category);
  const key = `[server.subscriptions.${JSON.stringify(name)}]`;
  const { section, place } = commandSection(
    config,
    name,
    command.handlers.map((handler) => handler.handlerName),
  );
  const type = climb(config, name, section, place, {}).subscriptionType;
  let chosen: { handlerName: string; options: SubscriptionOptions } | null = null;
  for (const { handlerName, options } of command.handlers) {
    const settings = settingsOnly(options);
    if (settings === null) continue;
    if (settings.subscriptionType !== undefined || settings.subscriptionConfig?.["subscription_type"] !== undefined) {
      throw commandTypeError(handlerName, settings.subscriptionType ?? type, key);
    }
    if (chosen !== null && JSON.stringify(chosen.options) !== JSON.stringify(settings)) {
      throw new ConfigurationError(
        `${chosen.handlerName} and ${handlerName} handle commands of ${command.category} in one subscription and ask for different settings`,
        { code: "CONFIG_CONTRADICTION", at: handlerName, fix: `Give both the same options, or write them under ${key}.` },
      );
    }
    chosen ??= { handlerName, options: settings };
  }
  const resolved = climb(config, name, section, place, chosen?.options ?? {});
  if (chosen !== null && resolved.subscriptionType !== type) throw commandTypeError(chosen.handlerName, resolved.subscriptionType, key);
  return resolved;
}

/** Settings of a subscriber. Retries and dead letters come from `[server.broker_subscription]` only, as in the original. */
export function resolveBrokerSubscription(
  config: Config,
  handler: { readonly handlerName: string; readonly options?: SubscriptionOptions | undefined },
): ResolvedBrokerSubscription {
  const { handlerName, options = {} } = handler;
  const own = ownSection(config, handlerName) ?? {};
  const { server } = config;
  const stream = server.streamSubscription;
  const foreign = own.claimForeignIdle_ms ?? stream.claimForeignIdle_ms;
  const timeout = options.timeout_ms ?? own.handlerTimeout_ms ?? server.brokerSubscription.handlerTimeout_ms;
  return {
    handlerName,
    maxRetries: server.brokerSubscription.maxRetries,
    retryDelay_ms: server.brokerSubscription.retryDelay_ms,
    enableDlq: server.brokerSubscription.enableDlq,
    messagesPerTick: server.brokerSubscription.messagesPerTick,
    tickInterval_ms: server.brokerSubscription.tickInterval_ms,
    concurrency: options.concurrency ?? own.concurrency ?? server.concurrency,
    shared: options.shared ?? own.shared ?? true,
    claimIdle_ms: own.claimIdle_ms ?? stream.claimIdle_ms,
    claimForeignIdle_ms: foreign === 0 ? null : foreign,
    onGroupLost: own.onGroupLost ?? stream.onGroupLost,
    startFrom: own.startFrom ?? stream.startFrom,
    handlerTimeout_ms: timeout === 0 ? null : timeout,
    deadLetterAtOnce: options.deadLetterAtOnce ?? own.deadLetterAtOnce ?? server.brokerSubscription.deadLetterAtOnce,
    transientRetry: resolveTransientRetry(config, options),
  };
}

/** Retry of passing faults for one handler: `retries`, `backoff`, `retryExceptions` win; `retries` also where the section is off. */
export function resolveTransientRetry(config: Config, options: SubscriptionOptions = {}): TransientRetry {
  const section = config.server.transientRetry;
  return {
    ...section,
    enabled: options.retries === undefined ? section.enabled : options.retries > 0,
    maxRetries: options.retries ?? section.maxRetries,
    backoff: options.backoff ?? section.backoff,
    exceptions: options.retryExceptions ?? section.exceptions,
  };
}

/**
 * Refuses a stream subscription that nobody feeds: the original lets it wait silently (W34).
 * @throws ConfigurationError when the outbox is off
 */
export function requireOutbox(config: Config, handlerName: string, stream: string): void {
  if (config.hasOutbox) return;
  throw new ConfigurationError(`${handlerName} reads broker stream ${stream} but the outbox is off`, {
    code: "CONFIG_OUTBOX_OFF",
    at: config.origins.get("server.default_subscription_type") ?? "server.default_subscription_type",
    fix: 'Write default_subscription_type = "stream" under [server], or give the handler the type event_store.',
  });
}

/**
 * Sections under `[server.subscriptions]` that belong to no handler.
 * @param known handler names, and `commandSubscriptionName` of each category with commands
 */
export function unmatchedSections(config: Config, known: Iterable<string>): Diagnostic[] {
  const names = [...known];
  return Object.keys(config.server.subscriptions)
    .filter((name) => !names.includes(name))
    .map((name) => {
      const near = nearest(name, names);
      return {
        code: "CONFIG_UNMATCHED_HANDLER",
        level: "warning" as const,
        message: `[server.subscriptions.${formatPath([name])}] matches no handler`,
        at: sectionPlace(config, name),
        fix: near === null ? `Handlers here: ${names.join(", ") || "none"}.` : `Did you mean "${near}"?`,
      };
    });
}

/** One line when `server.default_subscription_profile` is overwritten by `[server]` and its defaults, naming the fields; else null. */
export function shadowedProfile(config: Pick<Config, "server" | "origins">): Diagnostic | null {
  const name = config.server.defaultSubscriptionProfile;
  if (name === null) return null;
  const profile = profileFields(name, config.server.profiles);
  const server = serverFields(config.server);
  const shadowed = SECTION_FIELDS.filter(
    ({ field }) => profile[field] !== undefined && server[field] !== undefined && server[field] !== profile[field],
  );
  if (shadowed.length === 0) return null;
  return {
    code: "CONFIG_PROFILE_SHADOWED",
    level: "info",
    message: `server.default_subscription_profile = "${name}": [server] and its defaults overwrite ${shadowed.map(({ wire }) => wire).join(", ")}`,
    at: config.origins.get("server.default_subscription_profile"),
    fix: `Name the profile per handler (profile = "${name}" under [server.subscriptions.H]), or write these keys under [server].`,
  };
}

function climb(
  config: Config,
  handlerName: string,
  section: HandlerSection,
  place: string,
  options: SubscriptionOptions,
): ResolvedSubscription {
  if (options.sequentialBy !== undefined) refuseSequentialBy(handlerName);
  const { server } = config;
  const { profile: inlineProfile, section: inline } = readSubscriptionConfig(handlerName, options.subscriptionConfig ?? {});
  const handlerProfile = inlineProfile ?? options.subscriptionProfile;
  const profile = handlerProfile ?? section.profile ?? server.defaultSubscriptionProfile;

  let fields: SubscriptionFields = NO_PROFILE;
  const lay = (step: Partial<SubscriptionFields>): void => {
    for (const { field } of SECTION_FIELDS) {
      const value = step[field];
      if (value !== undefined && value !== null) fields = { ...fields, [field]: value };
    }
  };
  if (handlerProfile === undefined && section.profile === undefined && server.defaultSubscriptionProfile !== null) {
    lay(profileFields(server.defaultSubscriptionProfile, server.profiles, config.origins.get("server.default_subscription_profile")));
  }
  lay(serverFields(server));
  if (handlerProfile === undefined && section.profile !== undefined) lay(profileFields(section.profile, server.profiles, `[${place}]`));
  lay(section);
  if (handlerProfile !== undefined) lay(profileFields(handlerProfile, server.profiles, handlerName));
  if (options.subscriptionType !== undefined) lay({ subscriptionType: options.subscriptionType });
  lay(inline);
  if (options.sourceStream !== undefined) lay({ originStream: options.sourceStream });

  const notes: Diagnostic[] = [];
  if (fields.subscriptionType === "event_store") {
    if (section.retentionMaxlen !== undefined || inline.retentionMaxlen !== undefined) {
      throw new ConfigurationError(
        `Invalid subscription configuration: ${handlerName} reads the event store, and retention_maxlen trims broker streams only`,
        { code: "CONFIG_SUBSCRIPTION", at: `[${place}]`, fix: 'Remove retention_maxlen, or set subscription_type = "stream".' },
      );
    }
    fields = { ...fields, enableDlq: false, retentionMaxlen: null };
    if (config.production) {
      notes.push({
        code: "EVENT_STORE_IN_PRODUCTION",
        level: "warning",
        message: `${handlerName} reads the event store, in production`,
        at: `[${place}]`,
        fix: 'Streams scale over several engines: subscription_type = "stream".',
      });
    }
  }

  const stream = server.streamSubscription;
  const store = server.eventStoreSubscription;
  const bySection = fields.subscriptionType === "stream" ? stream : store;
  const foreign = inline.claimForeignIdle_ms ?? section.claimForeignIdle_ms ?? stream.claimForeignIdle_ms;
  const timeout = options.timeout_ms ?? inline.handlerTimeout_ms ?? section.handlerTimeout_ms ?? bySection.handlerTimeout_ms;
  const concurrency = options.concurrency ?? inline.concurrency ?? section.concurrency ?? server.concurrency;
  const outOfRange = [
    Number.isInteger(concurrency) && concurrency >= 1 ? null : `concurrency = ${concurrency} must be a whole number ≥ 1`,
    timeout >= 0 ? null : `timeout_ms = ${timeout} must be ≥ 0`,
    options.retries === undefined || (Number.isInteger(options.retries) && options.retries >= 0)
      ? null
      : `retries = ${options.retries} must be a whole number ≥ 0`,
  ].filter((reason) => reason !== null);
  if (outOfRange.length > 0) throw invalidSubscription(handlerName, outOfRange);

  return {
    ...fields,
    handlerName,
    profile,
    concurrency,
    shared: options.shared ?? inline.shared ?? section.shared ?? null,
    claimIdle_ms: inline.claimIdle_ms ?? section.claimIdle_ms ?? stream.claimIdle_ms,
    claimForeignIdle_ms: foreign === 0 ? null : foreign,
    onGroupLost: inline.onGroupLost ?? section.onGroupLost ?? stream.onGroupLost,
    startFrom: inline.startFrom ?? section.startFrom ?? bySection.startFrom,
    handlerTimeout_ms: timeout === 0 ? null : timeout,
    deadLetterAtOnce: options.deadLetterAtOnce ?? inline.deadLetterAtOnce ?? section.deadLetterAtOnce ?? bySection.deadLetterAtOnce,
    dlqRetention_hours: inline.dlqRetention_hours ?? section.dlqRetention_hours ?? null,
    dlqAlertThreshold: inline.dlqAlertThreshold ?? section.dlqAlertThreshold ?? null,
    eventStore: {
      maxRetries: store.maxRetries,
      retryDelay_ms: store.retryDelay_ms,
      enableRecovery: store.enableRecovery,
      recoveryInterval_ms: store.recoveryInterval_ms,
      gapTimeout_ms: store.gapTimeout_ms,
    },
    versionRetry: server.versionRetry,
    transientRetry: resolveTransientRetry(config, options),
    notes,
  };
}

/** Step 3 of the ladder. */
function serverFields(server: Config["server"]): Partial<SubscriptionFields> {
  const stream = server.streamSubscription;
  return {
    subscriptionType: server.defaultSubscriptionType,
    messagesPerTick: server.messagesPerTick,
    tickInterval_ms: server.tickInterval_ms,
    blockingTimeout_ms: stream.blockingTimeout_ms,
    maxRetries: stream.maxRetries,
    retryDelay_ms: stream.retryDelay_ms,
    enableDlq: stream.enableDlq,
    ...(stream.circuitBreakerThreshold === null ? {} : { circuitBreakerThreshold: stream.circuitBreakerThreshold }),
    ...(stream.circuitBreakerReset_ms === null ? {} : { circuitBreakerReset_ms: stream.circuitBreakerReset_ms }),
    ...(stream.retentionMaxlen === null ? {} : { retentionMaxlen: stream.retentionMaxlen }),
    positionUpdateInterval: server.eventStoreSubscription.positionUpdateInterval,
  };
}

/** Reads the option `subscriptionConfig` as if its keys stood in the handler's section. */
function readSubscriptionConfig(
  handlerName: string,
  given: Readonly<Record<string, unknown>>,
): { profile: string | undefined; section: HandlerSection } {
  const values = new Map<string, unknown>();
  const problems: string[] = [];
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined) continue;
    const wire = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const spec = sectionSpec(wire);
    if (spec === undefined) {
      problems.push(`there is no ${name}`);
      continue;
    }
    const coerced = coerce(value, spec);
    if (coerced === undefined) problems.push(`${wire} = ${jsonText(value)} must be ${allowedInWords(spec)}`);
    else values.set(wire, coerced);
  }
  if (problems.length > 0) throw invalidSubscription(handlerName, problems);
  const section = handlerSection((wire) => values.get(wire));
  return { profile: section.profile, section };
}

function invalidSubscription(handlerName: string, reasons: readonly string[]): ConfigurationError {
  return new ConfigurationError(`Invalid subscription configuration: ${reasons.join("; ")}`, {
    code: "CONFIG_SUBSCRIPTION",
    at: handlerName,
    fix: `Correct the options of ${handlerName}.`,
  });
}

function ownSection(config: Config, name: string): HandlerSection | undefined {
  return Object.hasOwn(config.server.subscriptions, name) ? config.server.subscriptions[name] : undefined;
}

function sectionPlace(config: Config, name: string): string {
  const prefix = `server.subscriptions.${formatPath([name])}.`;
  for (const [path, origin] of config.origins) if (path.startsWith(prefix)) return origin;
  return `[${prefix.slice(0, -1)}]`;
}

/** The sections that speak for a category's commands, as one. */
function commandSection(config: Config, name: string, handlerNames: readonly string[]): { section: HandlerSection; place: string } {
  let section: HandlerSection = {};
  let place = `server.subscriptions.${JSON.stringify(name)}`;
  const saidBy = new Map<string, string>();
  for (const candidate of [name, ...handlerNames]) {
    const own = ownSection(config, candidate);
    if (own === undefined) continue;
    for (const [field, value] of Object.entries(own)) {
      const other = saidBy.get(field);
      if (other !== undefined && JSON.stringify(Reflect.get(section, field)) !== JSON.stringify(value)) {
        throw new ConfigurationError(
          `[server.subscriptions.${formatPath([other])}] and [server.subscriptions.${formatPath([candidate])}] speak for the same commands and disagree on ${field}`,
          {
            code: "CONFIG_CONTRADICTION",
            at: sectionPlace(config, candidate),
            fix: `Keep [server.subscriptions.${JSON.stringify(name)}] only.`,
          },
        );
      }
      saidBy.set(field, candidate);
    }
    if (saidBy.size > 0 && Object.keys(section).length === 0) place = `server.subscriptions.${formatPath([candidate])}`;
    section = { ...section, ...own };
  }
  return { section, place };
}

/** The options that shape the shared subscription; null when there are none. */
function settingsOnly(options: SubscriptionOptions | undefined): SubscriptionOptions | null {
  if (options === undefined) return null;
  const {
    subscriptionType,
    subscriptionProfile,
    subscriptionConfig,
    sourceStream,
    sequentialBy,
    concurrency,
    shared,
    timeout_ms,
    deadLetterAtOnce,
  } = options;
  const settings = {
    subscriptionType,
    subscriptionProfile,
    subscriptionConfig,
    sourceStream,
    sequentialBy,
    concurrency,
    shared,
    timeout_ms,
    deadLetterAtOnce,
  };
  return Object.values(settings).some((value) => value !== undefined) ? settings : null;
}

function commandTypeError(handlerName: string, type: string, key: string): ConfigurationError {
  return new ConfigurationError(
    `${handlerName}: a command handler can't choose the subscription type; a process that only sends commands could not see it`,
    {
      code: "CONFIG_COMMAND_TYPE",
      at: handlerName,
      fix: `Write subscription_type = "${type}" under ${key} in domain.toml.`,
    },
  );
}
