/**
 * What this version knows by name and does not offer yet. The one place to edit when a part arrives: remove its line.
 */
import { ConfigurationError } from "../errors.ts";
import type { Config } from "./config.ts";
import type { Diagnostic } from "./diagnostic.ts";

export type AdapterKind = "database" | "event store" | "broker" | "cache";

/** Providers of the product, in the order in which errors list them. Others are unknown. */
export const PROVIDERS = {
  database: ["memory", "sqlite", "postgresql"],
  "event store": ["memory", "sqlite", "message_db"],
  broker: ["inline", "sqlite", "redis", "redis_pubsub"],
  cache: ["memory", "redis"],
} as const satisfies Record<AdapterKind, readonly string[]>;

/** Providers that are named above and not in this version: kind and name → what to use instead. */
const PROVIDERS_NOT_YET: Readonly<Record<string, string>> = {
  "broker redis_pubsub": "use redis, sqlite or inline",
  "cache redis": "use memory",
};

/** Features whose keys are refused as soon as they are used. `used` says whether a configuration does. */
const FEATURES_NOT_YET: readonly {
  readonly key: string;
  readonly used: (values: { get(path: string): unknown; has(prefix: string): boolean }) => boolean;
  readonly message: string;
  readonly fix: string;
}[] = [
  {
    key: "server.priority_lanes.enabled",
    used: (values) => values.get("server.priority_lanes.enabled") === true,
    message: "priority lanes are not in this version (server.priority_lanes.enabled = true)",
    fix: "Write enabled = false under [server.priority_lanes]; priorities are still stamped on messages.",
  },
  {
    key: "server.partitioning",
    used: (values) => values.has("server.partitioning"),
    message: "partitioned streams are not in this version ([server.partitioning])",
    fix: "Remove [server.partitioning].",
  },
];

/**
 * Refuses a provider that is unknown or not in this version. Configuration calls it for databases, the event store and the default
 * broker; whoever opens another broker or a cache calls it then (rulings 63: accepted, refused where used).
 * @throws ConfigurationError naming what there is
 */
export function requireProvider(kind: AdapterKind, provider: string, at?: string): void {
  const known: readonly string[] = PROVIDERS[kind];
  if (!known.includes(provider)) {
    const label =
      kind === "broker"
        ? `Broker '${provider}' is not registered. Available brokers: `
        : `unknown ${kind} provider "${provider}"; use one of: `;
    throw new ConfigurationError(`${label}${availableProviders(kind).join(", ")}`, {
      code: "CONFIG_PROVIDER",
      at,
      fix:
        kind === "broker" && provider === "memory"
          ? 'A broker in memory is called "inline".'
          : `Write provider = "${availableProviders(kind)[0]}", or another of: ${availableProviders(kind).join(", ")}.`,
    });
  }
  const instead = PROVIDERS_NOT_YET[`${kind} ${provider}`];
  if (instead !== undefined) {
    throw new ConfigurationError(`provider ${provider} is not in this version; ${instead}`, {
      code: "CONFIG_NOT_YET",
      at,
      fix: `${upper(instead)}.`,
    });
  }
}

/** Providers that work in this version. */
export function availableProviders(kind: AdapterKind): readonly string[] {
  return PROVIDERS[kind].filter((provider) => !(`${kind} ${provider}` in PROVIDERS_NOT_YET));
}

/** Null when the provider works now, else the words on what to use instead. */
export function notYet(kind: AdapterKind, provider: string): string | null {
  return PROVIDERS_NOT_YET[`${kind} ${provider}`] ?? null;
}

/** Refusals of features that a configuration uses and this version lacks. */
export function refusedFeatures(
  values: { get(path: string): unknown; has(prefix: string): boolean },
  locate: (key: string) => string | undefined,
): ConfigurationError[] {
  return FEATURES_NOT_YET.filter((feature) => feature.used(values)).map(
    (feature) => new ConfigurationError(feature.message, { code: "CONFIG_NOT_YET", at: locate(feature.key), fix: feature.fix }),
  );
}

/**
 * Refuses the handler option `sequentialBy`, which needs partitioned streams.
 * @throws ConfigurationError
 */
export function refuseSequentialBy(handlerName: string): never {
  throw new ConfigurationError(`${handlerName}: sequentialBy is not in this version`, {
    code: "CONFIG_NOT_YET",
    at: handlerName,
    fix: "Leave it out: messages of one source stream are already run in order; shared = false keeps that order over several engines.",
  });
}

/** Warnings for what is configured but only refused where it is used. */
export function notYetWarnings(config: Pick<Config, "brokers" | "caches">, locate: (key: string) => string | undefined): Diagnostic[] {
  const warnings: Diagnostic[] = [];
  const add = (kind: "broker" | "cache", section: string, name: string, provider: string): void => {
    const instead = notYet(kind, provider);
    if (instead === null) return;
    const at = locate(`${section}.${name}.provider`);
    warnings.push({
      code: "CONFIG_NOT_YET",
      level: "warning",
      message: `[${section}.${name}]: provider ${provider} is not in this version; using this ${kind} fails`,
      at,
      fix: `${upper(instead)}.`,
    });
  };
  for (const [name, broker] of Object.entries(config.brokers)) add("broker", "brokers", name, broker.provider);
  for (const [name, cache] of Object.entries(config.caches)) add("cache", "caches", name, cache.provider);
  return warnings;
}

function upper(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
