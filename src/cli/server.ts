import type { ConnectedStores } from "../compose/connect.ts";
import type { ComposedEngine } from "../compose/engine.ts";
import type { EngineSummary } from "../engine/engine.ts";
import type { Registered } from "../engine/subscription-plan.ts";
import { ConfigurationError, ConnectionError } from "../errors.ts";
import type { Log } from "../ports/log.ts";
import { environmentVariables, runtimeOverrides, workingDirectory, writeOut } from "../runtime/environment.ts";
import type { HttpServer } from "../runtime/http.ts";
import { onStrayErrors, type StrayKind } from "../runtime/stray-errors.ts";
import { terminal } from "../runtime/terminal.ts";
import type { Values } from "./arguments.ts";
import type { Command, FlagSpec, Invocation } from "./command.ts";
import { READY_WORD } from "./dev-words.ts";
import { durationText } from "./duration.ts";
import { FrontDoor, httpFlag, logFormatOf } from "./front-door.ts";
import { MessageLines } from "./message-lines.ts";
import type { Outcome } from "./output.ts";
import { StoppedWaiting } from "./patience.ts";
import { subscriptionFindings } from "./plan.ts";
import { asFinding, CommandError, EXIT, type Finding, findingLine, usageError } from "./problem.ts";
import { describeHandlers, loadProject, logOf, type OpenProject, openProject, requireTables, shortPath } from "./project.ts";
import { userLog } from "./user-log.ts";

const MAX_WAIT_ms = 5_000;
/** A backend that doesn't answer the banner within this is shown as away; the engine keeps trying. */
const PROBE_ms = 700;

export const SERVER_FLAGS = {
  "test-mode": { type: "boolean", description: "Handle what is there, then end: exit 1 when something could not be settled" },
  "max-wait": { type: "text", hint: "DURATION", description: "Longest time of --test-mode (5s)" },
  http: { type: "text", hint: "[HOST:]PORT|off", description: "Address of the probes (else [server.health])" },
  setup: { type: "boolean", description: "Run db setup first" },
  "drain-timeout": { type: "text", hint: "DURATION", description: "How long running handlers may take to end at a stop" },
  only: { type: "text", hint: "NAME", repeatable: true, description: "Only these handlers, categories, or outbox" },
  except: { type: "text", hint: "NAME", repeatable: true, description: "All but these" },
  strict: { type: "boolean", description: "Configuration keys nobody reads are errors" },
  "fail-fast": { type: "boolean", description: "End with 2 when a broker or store can't be reached" },
  "no-banner": { type: "boolean", description: "Don't show what runs" },
} as const satisfies Readonly<Record<string, FlagSpec>>;

export const server: Command = {
  description: "Run the engine: handle messages until stopped. The first Ctrl+C drains and stops, the second stops at once",
  flags: {
    ...SERVER_FLAGS,
    workers: { type: "text", hint: "N", description: "Worker processes; only 1 in this version" },
    reload: { type: "boolean", description: "Restart when files change: the same as protean dev" },
    fresh: { type: "boolean", hidden: true, description: "" },
    supervised: { type: "boolean", hidden: true, description: "" },
    dashboard: { type: "boolean", hidden: true, description: "" },
    "allow-event-store-multiworker": { type: "boolean", hidden: true, description: "", also: ["acknowledge-event-store-risk"] },
  },
  examples: ["protean server --handlers ./handlers", "protean server --domain=fidelis --http 127.0.0.1:8080"],
  async run(invocation) {
    const { values, output } = invocation;
    refuseLater(values);
    if (values.has("reload")) return await (await import("./dev.ts")).dev.run(invocation);
    if (values.has("allow-event-store-multiworker")) {
      output.hint("note: --allow-event-store-multiworker is no longer needed: event-store subscriptions have one owner by themselves");
    }
    const testMode = values.has("test-mode");
    const maxWait_ms = values.duration_ms("max-wait") ?? MAX_WAIT_ms;
    const drainTimeout_ms = values.duration_ms("drain-timeout");
    const http = httpFlag(values);
    for (const name of runtimeOverrides()) output.hint(`warning: ${name} is set; it changes what this program runs`);
    const strict = values.has("strict");
    const loaded = await loadProject(invocation, { strict });
    const door = new FrontDoor(invocation, http);
    let project: OpenProject | null = null;
    let forgetStrayErrors: (() => void) | null = null;
    try {
      project = await openProject(invocation, {
        role: "engine",
        setUp: true,
        tablesLater: values.has("setup"),
        strict,
        loaded,
        log: (config) =>
          values.has("supervised") && !values.has("debug") ? userLog(logOf(values, config, { stacks: true })) : logOf(values, config),
        ...(values.has("supervised") ? { wrap: (stores) => withMessageLines(invocation, stores) } : {}),
        opening: async (config, log) => {
          if (logFormatOf(values, config) === "json") output.recordsTo(log);
          if (!testMode) await door.open(config);
          const limit_ms = values.has("fail-fast") ? 0 : testMode ? maxWait_ms : Number.POSITIVE_INFINITY;
          return door.waitsFor(limit_ms, log);
        },
      });
      const { domain, stores } = project;
      const { files } = project;
      forgetStrayErrors = onStrayErrors((error, kind) => tellStrayError(stores.log, error, kind, files));
      warn(invocation, project);
      if (values.has("setup")) {
        await door.waitsFor(Number.POSITIVE_INFINITY, stores.log).reach(stores, () => setUp(stores));
        await requireTables(stores, true);
      }
      await requireUsableBrokers(stores);
      const { composeEngine } = await import("../compose/engine.ts");
      const composed = composeEngine({
        domain,
        stores,
        version: invocation.runtime.build.version,
        flags: {
          drainTimeout_ms,
          only: values.texts("only", { split: true }),
          except: values.texts("except", { split: true }),
          testMode,
        },
      });
      if (values.has("fail-fast")) await requireBackends(project);
      return testMode ? await runTestMode(invocation, composed, maxWait_ms) : await serve(invocation, project, composed, door);
    } catch (error) {
      if (error instanceof StoppedWaiting) return door.stoppedWaiting();
      if (error instanceof ConnectionError && testMode) {
        throw new CommandError(EXIT.found, "UNREACHABLE", error.message, { ...error.about, cause: error });
      }
      throw error;
    } finally {
      await project?.close();
      await door.close();
      forgetStrayErrors?.();
    }
  },
};

/** One handler's forgotten `await` must not end the work of all others; what was forgotten did not happen, and the log says so. */
function tellStrayError(log: Log, error: unknown, kind: StrayKind, files: readonly string[]): void {
  const frames = error instanceof Error ? (error.stack ?? "").split("\n") : [];
  const frame = frames.find((line) => files.some((file) => line.includes(file)));
  log.error("handler.stray_error", {
    kind,
    error: error instanceof Error ? error : String(error),
    at: frame?.trim().replace(/^at /, ""),
    fix:
      kind === "rejection"
        ? "A promise failed that nobody awaits. Await what handlers call; the lint rule no-floating-promises finds it."
        : "An error was thrown outside of every handler, in a timer or a callback. Catch it there.",
  });
}

/** Under `protean dev` every message is a line. */
function withMessageLines({ values, output }: Invocation, stores: ConnectedStores): ConnectedStores {
  const { colour } = terminal("stderr", { noColour: values.has("no-color") });
  return { ...stores, telemetry: new MessageLines(stores.telemetry, (line) => output.say(line), colour) };
}

function refuseLater(values: Values): void {
  const workers = values.text("workers");
  if (workers !== undefined && workers !== "1") {
    if (workers !== "auto" && values.integer("workers", { least: 1 }) === undefined) return;
    throw usageError(
      `--workers ${workers}: several workers in one command are not in this version`,
      "Start the command several times: they share the work.",
    );
  }
  if (values.has("dashboard"))
    throw usageError("--dashboard: the dashboard is not in this version", "protean subscriptions status shows the figures.");
}

/** What configuration and loading found, each once, before anything runs. */
function warn({ output, values }: Invocation, { config, domain, warnings }: OpenProject): void {
  const findings: Finding[] = [
    ...config.diagnostics.filter(({ level }) => level === "warning" || values.has("debug")).map(asFinding),
    ...subscriptionFindings(domain.reactions, config),
    ...warnings.map((message): Finding => ({ code: "HANDLERS", level: "warning", message })),
  ];
  const isSaid = (code: string) => findings.some((finding) => finding.code === code);
  if (config.eventStore.provider === "memory" && config.file !== null && !isSaid("CONFIG_MEMORY_EVENT_STORE")) {
    const said = findings.some(({ message }) => /event store|event_store/.test(message) && /memory/.test(message));
    if (!said) {
      findings.push({
        code: "CONFIG_MEMORY_EVENT_STORE",
        level: "warning",
        message: "the event store is in memory: a restart begins with an empty one",
        suggestion: 'Write [event_store] provider = "sqlite" to keep it.',
      });
    }
  }
  // One line each: what was found and what to write (the bank's chapter 8 has four of them).
  for (const finding of findings) output.hint(findingLine(finding));
}

async function setUp(stores: ConnectedStores): Promise<void> {
  for (const database of stores.databases.values()) await database.setup();
  await stores.eventStore.setup();
  for (const broker of stores.brokers.values()) await broker.setup();
}

interface Probe {
  readonly what: string;
  readonly provider: string;
  readonly address: string;
  readonly state: string;
  readonly isUp: boolean;
}

async function probeBackends({ stores }: OpenProject, limit_ms: number): Promise<readonly Probe[]> {
  const parts = [
    ...[...stores.brokers.values()].map((broker) => ({ what: labelOf("broker", broker.name), part: broker, ping: () => broker.ping() })),
    { what: "store", part: stores.eventStore, ping: () => stores.eventStore.ping().then(() => "") },
    ...[...stores.databases.values()].map((database) => ({
      what: labelOf("database", database.name),
      part: database,
      ping: () => database.ping().then(() => ""),
    })),
  ];
  return await Promise.all(
    parts.map(async ({ what, part: { provider, address }, ping }) => {
      const late = new AbortController();
      try {
        const version = await Promise.race([ping(), stores.clock.sleep(limit_ms, late.signal).then(() => null)]);
        if (version === null) return { what, provider, address, state: "no answer yet, keeps trying", isUp: false };
        return { what, provider, address, state: `ok ${version}`.trim(), isUp: true };
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        return { what, provider, address, state: `unreachable, keeps trying: ${why}`, isUp: false };
      } finally {
        late.abort();
      }
    }),
  );
}

function labelOf(kind: string, name: string): string {
  return name === "default" ? kind : `${kind} ${name}`;
}

/** A broker that is away is waited for; one that a newer program has changed ends the start (rulings 51). @throws ConfigurationError */
async function requireUsableBrokers({ brokers, clock }: ConnectedStores): Promise<void> {
  const late = new AbortController();
  const asked = [...brokers.values()].map(async (broker) => {
    try {
      await broker.ping();
    } catch (error) {
      if (error instanceof ConfigurationError) throw error;
    }
  });
  try {
    await Promise.race([Promise.all(asked), clock.sleep(PROBE_ms, late.signal)]);
  } finally {
    late.abort();
  }
}

async function requireBackends(project: OpenProject): Promise<void> {
  const away = (await probeBackends(project, 5_000)).filter(({ isUp }) => !isUp);
  const [first] = away;
  if (first === undefined) return;
  throw new CommandError(EXIT.usage, "UNREACHABLE", `${first.what} ${first.address} can't be reached`, {
    fix: "Start it, or leave out --fail-fast: the server then keeps trying.",
  });
}

async function runTestMode({ output }: Invocation, { engine, close }: ComposedEngine, maxWait_ms: number): Promise<Outcome> {
  const report = await engine.runUntilQuiet({ maxWait_ms });
  close();
  const { summary, unsettled, unreachable } = report;
  // One away is many services': a line for each reason.
  for (const reason of new Set(unreachable.map((one) => one.slice(one.indexOf(": ") + 2)))) output.say(`unreachable: ${reason}`);
  for (const { name, inFlight, parked } of unsettled) output.say(`unsettled: ${name} holds ${inFlight + parked} messages`);
  const givenUp = engine.status().services.filter(({ deadLettered }) => deadLettered > 0);
  const failures: Finding[] = [
    ...givenUp.map(
      ({ handler, deadLettered, lastError }): Finding => ({
        code: "DEAD_LETTERED",
        level: "error",
        message: `${handler}: ${deadLettered} given up${lastError === null ? "" : `, last ${lastError}`}`,
      }),
    ),
    ...unreachable.map((message): Finding => ({ code: "UNREACHABLE", level: "error", message })),
    ...unsettled.map(
      ({ name, inFlight, parked }): Finding => ({
        code: "UNSETTLED",
        level: "error",
        message: `${name} holds ${inFlight + parked} messages`,
      }),
    ),
  ];
  return {
    exitCode: report.failed ? EXIT.found : EXIT.good,
    data: {
      handled: summary.handled,
      failed: summary.failed,
      retried: summary.retried,
      dead_lettered: summary.deadLettered,
      published: summary.published,
      duration_ms: Math.round(report.took_ms),
      timed_out: !report.quiet,
      failures: failures.map(({ message }) => message),
    },
    diagnostics: failures,
    text: `${report.quiet ? "Quiet" : "Not quiet"} after ${durationText(report.took_ms)}: ${summaryText(summary)}`,
  };
}

function summaryText({ handled, failed, retried, deadLettered, published }: EngineSummary): string {
  return `handled ${handled}, failed ${failed}, retried ${retried}, dead-lettered ${deadLettered}, published ${published}`;
}

async function serve(invocation: Invocation, project: OpenProject, composed: ComposedEngine, door: FrontDoor): Promise<Outcome> {
  const { values, output } = invocation;
  const { engine } = composed;
  const { config, stores } = project;
  const { isBanner, isSupervised, http } = door;
  const banner = (line: string) => door.banner(line);
  try {
    door.hasEngine(composed);
    if (engine.registered.length === 0) output.hint("warning: no handler is declared; nothing will be handled");
    const began_ms = stores.clock.monotonic_ms();
    const [probes] = await Promise.all([probeBackends(project, PROBE_ms), engine.start()]);
    banner("Registered subscriptions:");
    for (const line of registeredLines(engine.registered)) banner(line);
    banner("Engine running. Press Ctrl+C to stop.");
    for (const line of bannerLines(invocation, project, probes, http)) banner(line);
    if (isSupervised) {
      writeOut(`${READY_WORD}\n`);
    } else if (!isBanner) {
      stores.log.info("server.running", {
        domain: project.domain.name,
        config: config.file,
        handlers: project.handlerPaths,
        backends: probes.map(({ what, provider, address, state }) => ({ what, provider, address, state })),
        http: http?.url ?? null,
        subscriptions: registeredLines(engine.registered),
        ready_in_ms: Math.round(stores.clock.monotonic_ms() - began_ms),
      });
    }
    const signal = await door.stopped.promise;
    const stopping_ms = stores.clock.monotonic_ms();
    if (!isSupervised)
      banner(
        `${signal}: finishing what is running, at most ${durationText(values.duration_ms("drain-timeout") ?? config.server.drainTimeout_ms)}. Once more stops at once.`,
      );
    const summary = await engine.stop(signal);
    const took = durationText(stores.clock.monotonic_ms() - stopping_ms);
    output.hint(`Stopped: ${summaryText(summary)}, interrupted ${summary.interrupted}; drained in ${took}.`);
    return { data: { ...summary, reason: signal } };
  } finally {
    composed.close();
  }
}

const KINDS = { stream: "StreamSubscription", event_store: "EventStoreSubscription", broker: "BrokerSubscription" } as const;

/** As the tutorial shows them; command handlers first. */
function registeredLines(registered: readonly Registered[]): readonly string[] {
  const rank = ({ kind }: Registered) => (kind === "commandHandler" ? 0 : kind === "subscriber" ? 2 : 1);
  return [...registered]
    .sort((one, other) => rank(one) - rank(other) || (one.handler < other.handler ? -1 : Number(one.handler > other.handler)))
    .map(({ handler, stream, type }) => `${handler} -> ${stream} (${KINDS[type]})`);
}

function bannerLines({ runtime }: Invocation, project: OpenProject, probes: readonly Probe[], http: HttpServer | null): readonly string[] {
  const { config, domain } = project;
  const environment = config.environmentName ?? environmentVariables()["PROTEAN_ENV"];
  const facts: (readonly [string, string])[] = [
    [
      "protean",
      `${runtime.build.version}  ${domain.name}${environment === undefined || environment === null ? "" : `  env ${environment}`}`,
    ],
    ["config", config.file === null ? `none (defaults, data in ${shortPath(config.dataDir)})` : shortPath(config.file)],
    ["handlers", describeHandlers(project)],
    ...probes.map(({ what, provider, address, state }) => [what, `${provider}  ${shortAddress(address)}  ${state}`] as const),
    ["http", http === null ? "off" : `${http.url}  /livez /readyz /healthz /drainz`],
  ];
  const width = Math.max(...facts.map(([name]) => name.length));
  return facts.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`);
}

function shortAddress(address: string): string {
  return address.startsWith(`${workingDirectory()}/`) ? shortPath(address) : address;
}
