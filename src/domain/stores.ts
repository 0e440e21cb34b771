import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { Database } from "../ports/database.ts";
import type { EventStore } from "../ports/event-store.ts";
import type { Idempotency } from "../ports/idempotency.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { Telemetry } from "../ports/telemetry.ts";

/** How often and how long to retry a handler inside one delivery (`[server.version_retry]`, `[server.transient_retry]`). */
export interface RetryPolicy {
  readonly enabled: boolean;
  /** Further tries after the first. */
  readonly maxRetries: number;
  readonly backoff: "exponential" | "linear" | "fixed";
  readonly baseDelay_ms: number;
  readonly maxDelay_ms: number;
  /** Names of error classes or `code` values; empty for version conflicts, which are known by class. */
  readonly exceptions: readonly string[];
}

/** What the domain layer needs to know of domain.toml. `src/compose/` makes it from the configuration. */
export interface DomainSettings {
  readonly eventProcessing: "sync" | "async";
  readonly commandProcessing: "sync" | "async";
  readonly messageProcessing: "sync" | "async";
  readonly lenientDeserialization: boolean;
  readonly snapshotThreshold: number;
  /** `command_default_timeout`; null = no deadline. */
  readonly commandDefaultTimeout_ms: number | null;
  readonly outbox: {
    readonly enabled: boolean;
    /** Target broker of internal rows. */
    readonly broker: string;
    readonly externalBrokers: readonly string[];
    readonly maxAttempts: number;
  };
  /**
   * How the merged subscription of a command category reads; `stream` means that commands also get an outbox row (D6).
   * @param handlerNames the category's command handlers that this process knows: a section of domain.toml may go by their names (rulings 70)
   */
  commandSubscriptionType(category: string, handlerNames: readonly string[]): "stream" | "event_store";
  readonly idempotency: { readonly ttl_ms: number; readonly errorTtl_ms: number };
  readonly versionRetry: RetryPolicy;
  readonly transientRetry: RetryPolicy;
  /** Larger payloads are refused by `raise` and `process` (rulings 57). */
  readonly maxMessage_bytes: number;
}

/** Everything outside that a domain works with once it is initialised. Closing it closes all of them. */
export interface DomainStores {
  readonly settings: DomainSettings;
  /** By the names under `[databases]`; `default` is always there. */
  readonly databases: ReadonlyMap<string, Database>;
  readonly eventStore: EventStore;
  /** By the names under `[brokers]`; `default` is always there. */
  readonly brokers: ReadonlyMap<string, Broker>;
  /** null when keys can't be kept anywhere; then keys have no effect and `process` says so once. */
  readonly idempotency: Idempotency | null;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly telemetry: Telemetry;
  close(): Promise<void>;
}

/** What `domain.init()` asks for. */
export interface ConnectRequest {
  readonly domainName: string;
  /** `new Domain(name, { config })`: a path, an object, or nothing (then domain.toml is searched upward from the working directory). */
  readonly config: string | Readonly<Record<string, unknown>> | undefined;
  /** Names under `[databases]` that the domain's elements are kept in. */
  readonly databases: ReadonlySet<string>;
  /** `client` connects only what writing needs. */
  readonly role: "client" | "engine";
}

export type Connector = (request: ConnectRequest) => Promise<DomainStores>;

let connector: Connector | null = null;

/** Called once by the composition root, so that the domain needs to know no adapter. */
export function provideConnector(connect: Connector): void {
  connector = connect;
}

export function currentConnector(): Connector | null {
  return connector;
}
