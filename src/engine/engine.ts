import type { Reaction } from "../domain/reaction.ts";
import type { DomainStores } from "../domain/stores.ts";
import { ConfigurationError } from "../errors.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { InstanceRecord } from "../ports/instances.ts";
import type { Log } from "../ports/log.ts";
import type { Random } from "../ports/random.ts";
import type { Telemetry } from "../ports/telemetry.ts";
import { ActivityBoard } from "./activity-board.ts";
import { Delivery, nameAndMessage } from "./delivery.ts";
import { Heartbeat } from "./heartbeat.ts";
import { consumerName, InstanceWatch } from "./instance-watch.ts";
import { LeaseKeeper } from "./lease-keeper.ts";
import { Reachability } from "./reachability.ts";
import { ReconnectPause } from "./reconnect-pause.ts";
import type { Activity, Service, ServiceStatus } from "./service.ts";
import { noActivity } from "./service.ts";
import type { EngineSettings } from "./settings.ts";
import { StoreOutage } from "./store-outage.ts";
import { StreamMaintenance } from "./stream-maintenance.ts";
import { StreamReader } from "./stream-reader.ts";
import { StreamSubscription } from "./stream-subscription.ts";
import type { EventStorePlan, Registered, StreamPlan, SubscriptionPlan } from "./subscription-plan.ts";
import { isWanted, planSubscriptions } from "./subscription-plan.ts";
import { Suspects } from "./suspects.ts";

/** Loops come round this often in test mode (engine.md §4). */
const TEST_MODE_NET_ms = 10;
/** `start` doesn't wait longer for services whose store or broker is away. */
const START_ms = 1_000;
/** What needs no broker doesn't wait longer for our first heartbeat there. */
const KNOWN_ms = 300;
/** Beyond the drain timeout the stop of a service is no longer waited for (G46: 2 s). */
const GRACE_ms = 1_500;
/** A loop that didn't come round for this long is named in the status. */
const STUCK_ms = 60_000;

/** The parts of a domain that an engine works with. */
export interface EngineDomain {
  readonly name: string;
  readonly reactions: readonly Reaction[];
  readonly stores: DomainStores;
}

/** Facts about this process (rulings 7); `id` is new at every start. */
export type EngineInstance = Omit<InstanceRecord, "domain" | "subscriptions" | "state">;

/** An event-store subscription to be made, with the delivery it ends in. */
export interface EventStoreWork extends EventStorePlan {
  readonly delivery: Delivery;
  /** Consumer name, for traces and bookkeeping. */
  readonly workerId: string;
}

/** What services made outside of this file get. */
export interface EngineContext {
  readonly domain: EngineDomain;
  readonly settings: EngineSettings;
  readonly instanceId: string;
  readonly eventStoreSubscriptions: readonly EventStoreWork[];
  /** Whether `--only` and `--except` leave the outbox in. */
  readonly wantsOutbox: boolean;
  readonly keeper: LeaseKeeper;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly telemetry: Telemetry;
  readonly activity: Activity;
  /** In test mode an idle loop must come round at least this often, so that quiet is noticed; else null: as the service likes. */
  readonly idlePause_ms: number | null;
}

export interface EngineOptions {
  readonly domain: EngineDomain;
  readonly settings: EngineSettings;
  readonly instance: EngineInstance;
  /** Whether a process of our own pid namespace exists. */
  readonly processExists: (pid: number) => boolean;
  /** Event-store subscriptions and outbox processors. */
  readonly moreServices?: (context: EngineContext) => readonly Service[];
  /** For `runUntilQuiet`: loops come round every 10 ms, no maintenance. */
  readonly testMode?: boolean;
}

/** Sums since the start of this process. */
export interface EngineSummary {
  readonly handled: number;
  readonly failed: number;
  readonly retried: number;
  readonly deadLettered: number;
  readonly published: number;
  /** Runs that a stop did not wait for; they were handed back. */
  readonly interrupted: number;
}

/** All of it is read from memory. */
export interface EngineStatus {
  readonly phase: "starting" | "running" | "draining" | "stopping";
  readonly instance: InstanceRecord;
  /** By the names under `[databases]`. */
  readonly providers: Readonly<Record<string, boolean>>;
  readonly brokers: Readonly<Record<string, boolean>>;
  readonly eventStore: boolean;
  readonly ready: boolean;
  /** Why it isn't ready, one sentence each. */
  readonly reasons: readonly string[];
  readonly services: readonly ServiceStatus[];
  /** Loops that haven't come round for a minute. */
  readonly stuck: readonly string[];
  readonly summary: EngineSummary;
}

export interface TestModeReport {
  /** Nothing was ready, running or due when it ended. */
  readonly quiet: boolean;
  readonly took_ms: number;
  readonly summary: EngineSummary;
  /** Services that still held work. */
  readonly unsettled: readonly { readonly name: string; readonly inFlight: number; readonly parked: number }[];
  /** What couldn't be reached. */
  readonly unreachable: readonly string[];
  /** Exit code 1: something was dead-lettered, is unsettled, or a backend is away (rulings 43). */
  readonly failed: boolean;
}

/** Everything that is made once for each broker. */
interface BrokerParts {
  readonly broker: Broker;
  readonly pause: ReconnectPause;
  readonly reader: StreamReader;
  readonly instances: InstanceWatch;
  readonly heartbeat: Heartbeat;
}

/**
 * One engine: a list of services over the stores of a domain.
 *
 * starting    heartbeats are written, services begin; those whose store or broker is away keep trying, the engine goes on
 * running     every service has begun
 * draining    intake has ended for good (`/drainz`), what is in hand ends, the outbox goes on publishing; the process stays
 * stopping    1. nothing new is taken, unbegun work is handed back
 *             2. what runs ends, for at most the drain timeout; then it is aborted and handed back with its attempt counted
 *             3. the outbox publishes what that left, then leases, heartbeats and readers end
 *             4. the stores are the caller's to close
 */
export class Engine {
  /** For the banner. */
  readonly registered: readonly Registered[];
  readonly #options: EngineOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #board: ActivityBoard | null;
  readonly #keeper: LeaseKeeper;
  readonly #reachability: Reachability;
  readonly #suspects: Suspects;
  readonly #outage: StoreOutage;
  readonly #parts = new Map<string, BrokerParts>();
  readonly #subscriptions: StreamSubscription[] = [];
  readonly #services: { readonly service: Service; readonly after: BrokerParts | null }[] = [];
  readonly #names: readonly string[];
  #http: string | null;
  #phase: EngineStatus["phase"] = "starting";
  #started: Promise<void> | null = null;
  #stopped: Promise<EngineSummary> | null = null;

  /** @throws ConfigurationError when a handler names a broker that isn't configured, or `--only` names nobody */
  constructor(options: EngineOptions) {
    this.#options = options;
    const { domain, settings, instance } = options;
    const { stores } = domain;
    this.#clock = stores.clock;
    this.#log = stores.log.with({ domain: domain.name, engine: instance.id });
    this.#http = instance.http;
    this.#board = options.testMode === true ? new ActivityBoard(stores.clock) : null;
    this.#keeper = new LeaseKeeper({
      owner: instance.id,
      clock: stores.clock,
      log: this.#log,
      gone: async () => (await this.#parts.get("default")?.instances.gone()) ?? new Set<string>(),
      others: async () =>
        this.#phase === "running"
          ? ((await this.#parts.get("default")?.instances.others()) ?? []).flatMap(({ id, domain: name, state, leases }) =>
              name === domain.name && state === "running" && leases !== undefined ? [{ id, leases }] : [],
            )
          : [],
    });
    this.#reachability = new Reachability(stores.clock, this.#log);
    this.#suspects = new Suspects(stores.clock);
    this.#outage = new StoreOutage({
      stores: [...stores.databases.values(), stores.eventStore],
      clock: stores.clock,
      random: stores.random,
    });
    for (const [name, database] of stores.databases) this.#reachability.watch(`database ${name}`, () => database.ping(), true);
    for (const [name, broker] of stores.brokers) this.#reachability.watch(`broker ${name}`, () => broker.ping(), false);
    this.#reachability.watch("event store", () => stores.eventStore.ping(), true);

    const plans = planSubscriptions(domain.reactions, settings);
    this.registered = plans.flatMap((plan) =>
      plan.reactions.map((reaction) => ({ handler: reaction.name, stream: plan.stream, kind: reaction.kind, type: plan.kind })),
    );
    this.#names = plans.map((plan) => plan.name);
    for (const plan of plans) if (plan.kind !== "event_store") this.#addStream(plan);
    const context: EngineContext = {
      domain,
      settings,
      instanceId: instance.id,
      eventStoreSubscriptions: plans.flatMap((plan) => (plan.kind === "event_store" ? [this.#eventStoreWork(plan)] : [])),
      wantsOutbox: settings.outbox.enabled && isWanted(settings, ["outbox"]),
      keeper: this.#keeper,
      clock: stores.clock,
      random: stores.random,
      log: this.#log,
      telemetry: stores.telemetry,
      activity: this.#board ?? noActivity,
      idlePause_ms: this.#board === null ? null : TEST_MODE_NET_ms,
    };
    for (const service of options.moreServices?.(context) ?? []) this.#services.push({ service, after: null });
    if (this.#board === null) this.#addMaintenance(plans);
    // Also an engine that reads no broker is seen by `status` and keeps its claims apart from the dead.
    if (stores.brokers.has("default")) this.#partsOf("default");
  }

  /** Resolves when all services have begun, or after a second: a store that is away holds up its own services only. */
  start(): Promise<void> {
    this.#started ??= this.#begin();
    return this.#started;
  }

  async #begin(): Promise<void> {
    if (this.#stopped !== null) return;
    if (this.#services.length === 0) this.#log.warning("engine.no_subscriptions");
    this.#reachability.start();
    for (const { service } of this.#services) this.#board?.expect(service.name);
    const heartbeats = new Map([...this.#parts.values()].map((parts) => [parts, parts.heartbeat.start()]));
    // Whoever holds leases should be known by then: after a kill the next one sees by the record that the owner is gone. A broker that is away holds up
    // nobody for long.
    const known = this.#atMost(KNOWN_ms, Promise.all(heartbeats.values()));
    const begun = Promise.all(
      this.#services.map(async ({ service, after }) => {
        try {
          await (after === null ? known : heartbeats.get(after));
          if (this.#stopped === null) await service.start();
        } catch (error) {
          this.#log.error("engine.service_failed", { service: service.name, error: nameAndMessage(error) });
        }
      }),
    );
    await this.#atMost(START_ms, begun);
    if (this.#phase !== "starting") return;
    this.#phase = "running";
    this.#log.info("engine.started", {
      subscription_count: this.registered.filter((one) => one.type !== "broker").length,
      broker_subscription_count: this.registered.filter((one) => one.type === "broker").length,
      outbox_enabled: this.#services.some(({ service }) => service.status().kind === "outbox"),
    });
  }

  /** Ends intake for good; the outbox goes on publishing and the process stays (`POST /drainz`). */
  drain(): void {
    if (this.#phase === "draining" || this.#phase === "stopping") return;
    this.#phase = "draining";
    this.#log.info("engine.drain_requested");
    for (const { service } of this.#services) if (service.status().kind !== "outbox") this.#quietly(service, () => service.quiesce());
    for (const { heartbeat } of this.#parts.values()) heartbeat.beat().catch(() => {}); // the next beat says it
  }

  /**
   * Ends everything; the stores stay open. Idle: at once. Busy: at most the drain timeout and 2 s. A second call waits for the first.
   * @param reason for the log: a signal's name
   */
  stop(reason: string): Promise<EngineSummary> {
    this.#stopped ??= this.#end(reason);
    return this.#stopped;
  }

  async #end(reason: string): Promise<EngineSummary> {
    this.#phase = "stopping";
    this.#log.info("engine.shutting_down", { signal: reason });
    const overtime = new AbortController();
    const cancelOvertime = this.#clock.timer(this.#options.settings.drainTimeout_ms, () => overtime.abort());
    const isOutbox = ({ service }: { readonly service: Service }) => service.status().kind === "outbox";
    await this.#stopServices(
      this.#services.filter((one) => !isOutbox(one)),
      overtime.signal,
    );
    // Last, so that what the handlers just wrote still goes out.
    await this.#stopServices(this.#services.filter(isOutbox), overtime.signal);
    cancelOvertime();
    this.#log.info("engine.subscriptions_stopped");
    this.#reachability.stop();
    await this.#bounded(
      Promise.allSettled([
        this.#keeper.stop(),
        ...[...this.#parts.values()].flatMap((parts) => [parts.reader.stop(), parts.heartbeat.stop()]),
      ]),
    );
    const summary = this.#summary();
    this.#log.info("engine.stopped", { ...summary });
    return summary;
  }

  async #stopServices(services: readonly { readonly service: Service }[], overtime: AbortSignal): Promise<void> {
    for (const { service } of services) this.#quietly(service, () => service.quiesce());
    const stopped = Promise.all(
      services.map(async ({ service }) => {
        try {
          await service.stop(overtime);
        } catch (error) {
          this.#log.error("engine.cleanup_failed", { service: service.name, error: nameAndMessage(error) });
        }
      }),
    );
    // Services end soon after `overtime` aborts; one that doesn't must not keep the process.
    let cancel: () => void = () => {};
    const tooLong = new Promise<void>((resolve) => {
      const wait = () => {
        cancel = this.#clock.timer(GRACE_ms, resolve);
      };
      if (overtime.aborted) wait();
      else overtime.addEventListener("abort", wait, { once: true });
    });
    await Promise.race([stopped, tooLong]);
    cancel();
  }

  #bounded(work: Promise<unknown>): Promise<void> {
    return this.#atMost(GRACE_ms, work);
  }

  async #atMost(limit_ms: number, work: Promise<unknown>): Promise<void> {
    const waiting = new AbortController();
    await Promise.race([work, this.#clock.sleep(limit_ms, waiting.signal)]);
    waiting.abort();
  }

  #quietly(service: Service, run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#log.error("engine.cleanup_failed", { service: service.name, error: nameAndMessage(error) });
    }
  }

  status(): EngineStatus {
    const { stores } = this.#options.domain;
    const up = (kind: string, names: Iterable<string>) =>
      Object.fromEntries([...names].map((name) => [name, this.#reachability.isUp(`${kind} ${name}`)]));
    const reasons = [...this.#reachability.reasons()];
    if (this.#phase === "draining") reasons.push("draining");
    if (this.#phase === "stopping") reasons.push("shutting down");
    return {
      phase: this.#phase,
      instance: this.#record(),
      providers: up("database", stores.databases.keys()),
      brokers: up("broker", stores.brokers.keys()),
      eventStore: this.#reachability.isUp("event store"),
      ready: this.#phase === "running" && reasons.length === 0,
      reasons,
      services: this.#services.map(({ service }) => service.status()),
      stuck: this.#services.flatMap(({ service }) => (service.idleFor_ms() > STUCK_ms ? [service.name] : [])),
      summary: this.#summary(),
    };
  }

  /** Address of the HTTP server, once it listens: others find it in our heartbeat. */
  listensAt(http: string | null): void {
    this.#http = http;
    for (const { heartbeat } of this.#parts.values()) heartbeat.beat().catch(() => {}); // the next beat says it
  }

  /**
   * Test mode: runs until nothing is ready, running or due within the time, then stops. Needs `testMode` at construction.
   * @param options.maxWait_ms upper limit of the whole
   */
  async runUntilQuiet(options: { readonly maxWait_ms: number }): Promise<TestModeReport> {
    if (this.#board === null) throw new ConfigurationError("runUntilQuiet needs an engine in test mode");
    const began_ms = this.#clock.monotonic_ms();
    await this.start();
    const quiet = await this.#board.quiet(began_ms + options.maxWait_ms);
    const services = this.#services.map(({ service }) => service.status());
    const unsettled = services.flatMap(({ name, inFlight, parked }) => (inFlight + parked > 0 ? [{ name, inFlight, parked }] : []));
    const unreachable = services.flatMap((service) =>
      service.state === "unreachable" ? [`${service.name}: ${service.reason ?? ""}`] : [],
    );
    unreachable.push(...this.#reachability.reasons());
    const summary = await this.stop("quiet");
    return {
      quiet,
      took_ms: this.#clock.monotonic_ms() - began_ms,
      summary,
      unsettled,
      unreachable,
      failed: !quiet || summary.deadLettered > 0 || unsettled.length > 0 || unreachable.length > 0,
    };
  }

  #summary(): EngineSummary {
    let handled = 0;
    let failed = 0;
    let retried = 0;
    let deadLettered = 0;
    let published = 0;
    for (const { service } of this.#services) {
      const status = service.status();
      if (status.kind === "maintenance") continue;
      if (status.kind === "outbox") published += status.handled;
      else {
        handled += status.handled;
        retried += status.retried;
      }
      failed += status.failed;
      deadLettered += status.deadLettered;
    }
    const interrupted = this.#subscriptions.reduce((sum, subscription) => sum + subscription.interrupted, 0);
    return { handled, failed, retried, deadLettered, published, interrupted };
  }

  // ------------------------------------------------------------------------------------------------------------ building

  #record(): InstanceRecord {
    return {
      ...this.#options.instance,
      http: this.#http,
      domain: this.#options.domain.name,
      subscriptions: this.#names,
      leases: this.#keeper.wanted,
      state: this.#phase === "draining" || this.#phase === "stopping" ? "draining" : "running",
    };
  }

  #partsOf(name: string): BrokerParts {
    const known = this.#parts.get(name);
    if (known !== undefined) return known;
    const { stores } = this.#options.domain;
    const broker = stores.brokers.get(name);
    if (broker === undefined) {
      throw new ConfigurationError(`broker "${name}" is not configured`, {
        at: `[brokers.${name}]`,
        fix: `Configured are: ${[...stores.brokers.keys()].join(", ")}.`,
      });
    }
    const clock = this.#clock;
    const pause = new ReconnectPause({
      random: stores.random,
      log: this.#log,
      what: { broker: name, address: broker.address },
      isToldElsewhere: true,
    });
    const parts: BrokerParts = {
      broker,
      pause,
      reader: new StreamReader({ broker, clock, pause, ...(this.#board === null ? {} : { net_ms: TEST_MODE_NET_ms }) }),
      instances: new InstanceWatch({
        instances: broker.instances,
        clock,
        own: { ...this.#options.instance, domain: this.#options.domain.name, subscriptions: [], state: "running" },
        processExists: this.#options.processExists,
      }),
      heartbeat: new Heartbeat({ broker, clock, pause, record: () => this.#record() }),
    };
    this.#parts.set(name, parts);
    return parts;
  }

  #addStream(plan: StreamPlan): void {
    const { stores } = this.#options.domain;
    const parts = this.#partsOf(plan.broker);
    const subscription = new StreamSubscription({
      name: plan.name,
      handler: plan.handler,
      kind: plan.kind,
      reactions: plan.reactions,
      broker: parts.broker,
      reader: parts.reader,
      instances: parts.instances,
      keeper: this.#keeper,
      pause: parts.pause,
      suspects: this.#suspects,
      outage: this.#outage,
      stream: plan.stream,
      group: plan.group,
      consumer: consumerName(plan.className, this.#options.instance),
      settings: plan.settings,
      fenced: [...stores.databases.values()].every((database) => database.identity === parts.broker.identity),
      clock: this.#clock,
      log: this.#log,
      telemetry: stores.telemetry,
      activity: this.#board ?? noActivity,
    });
    this.#subscriptions.push(subscription);
    this.#services.push({ service: subscription, after: parts });
  }

  #eventStoreWork(plan: EventStorePlan): EventStoreWork {
    const { stores } = this.#options.domain;
    return {
      ...plan,
      workerId: consumerName(plan.className, this.#options.instance),
      delivery: new Delivery({
        reactions: plan.reactions,
        name: plan.handler,
        clock: this.#clock,
        log: this.#log,
        telemetry: stores.telemetry,
        timeout_ms: plan.settings.timeout_ms,
        deadLetterAtOnce: plan.settings.deadLetterAtOnce,
        outage: this.#outage,
      }),
    };
  }

  #addMaintenance(plans: readonly SubscriptionPlan[]): void {
    const { settings, domain } = this.#options;
    if (!settings.deadLetters.enabled && settings.retention_ms === null) return;
    for (const [name, parts] of this.#parts) {
      const service = new StreamMaintenance({
        broker: parts.broker,
        domain: domain.name,
        streams: [...new Set(plans.flatMap((plan) => (plan.kind === "stream" && plan.broker === name ? [plan.stream] : [])))],
        deadLetters: settings.deadLetters,
        retention_ms: settings.retention_ms,
        keeper: this.#keeper,
        clock: this.#clock,
        log: this.#log,
        telemetry: domain.stores.telemetry,
      });
      this.#services.push({ service, after: parts });
    }
  }
}
