import type { ServiceStatus } from "../engine/service.ts";
import { redact } from "../messages/dead-letter.ts";

/** What the probes answer from. Read from memory on every request; nothing here asks a store or broker (known-traps A28). */
export interface HealthFacts {
  readonly phase: "starting" | "running" | "draining" | "stopping";
  /** By the names under `[databases]`. */
  readonly providers: Readonly<Record<string, boolean>>;
  readonly brokers: Readonly<Record<string, boolean>>;
  readonly eventStore: boolean;
  readonly services: readonly ServiceStatus[];
  /** Why it isn't ready, one sentence each. */
  readonly reasons: readonly string[];
}

/** Figures per service that cost a look into store or broker; collected in the background. */
export interface Backlog {
  /** Messages not handled yet; null when it can't be known, never 0 instead. */
  readonly lag: number | null;
  readonly pending: number | null;
  readonly deadLetters: number | null;
}

export interface HealthSource {
  facts(): HealthFacts;
  /** By service name; null before the first collection. */
  backlog(): { readonly of: ReadonlyMap<string, Backlog>; readonly age_ms: number; readonly failed: boolean } | null;
  /** Stops intake for good; the process stays. */
  drain(): void;
  readonly pid: number;
}

const STALE_ms = 15_000;

/**
 * The probes of engine.md §9: `/livez`, `/healthz`, `/readyz` and `POST /drainz`. Lag, dead letters and open breakers are shown and never turn
 * readiness to 503.
 */
export function healthHandler(source: HealthSource): (request: Request) => Response {
  return (request) => {
    const url = new URL(request.url);
    // Exact: a path with a query string is another path, as in the original.
    const path = url.pathname + url.search;
    const drain = path === "/drainz";
    if (!drain && path !== "/livez" && path !== "/healthz" && path !== "/readyz") return json(404, { error: "Not Found" });
    if (request.method !== (drain ? "POST" : "GET")) return json(405, { error: "Method Not Allowed" });
    if (drain) {
      source.drain();
      return json(200, { status: "draining", pid: source.pid });
    }
    if (path !== "/readyz") return json(200, { status: "ok", checks: { event_loop: "responsive" } });
    return readiness(source);
  };
}

function readiness(source: HealthSource): Response {
  const facts = source.facts();
  if (facts.phase === "stopping") return json(503, { status: "unavailable", checks: { shutting_down: true } });
  if (facts.phase === "draining") return json(503, { status: "unavailable", checks: { draining: true } });
  const parts = [...Object.values(facts.providers), ...Object.values(facts.brokers), facts.eventStore];
  const ready = facts.phase === "running" && parts.every(Boolean);
  const word = (up: boolean) => (up ? "ok" : "unavailable");
  const words = (of: Readonly<Record<string, boolean>>) => Object.fromEntries(Object.entries(of).map(([name, up]) => [name, word(up)]));
  return json(ready ? 200 : 503, {
    status: ready ? "ok" : "degraded",
    checks: {
      shutting_down: false,
      draining: false,
      providers: words(facts.providers),
      brokers: words(facts.brokers),
      event_store: word(facts.eventStore),
      caches: {},
      subscriptions: subscriptions(facts.services, source.backlog()),
      // From drivers: what they say of an address may hold its password.
      reasons: facts.reasons.map(redact),
    },
  });
}

function subscriptions(services: readonly ServiceStatus[], backlog: ReturnType<HealthSource["backlog"]>): object {
  const notes =
    backlog === null
      ? { collection_pending: true }
      : {
          ...(backlog.failed ? { collection_error: true } : {}),
          ...(backlog.age_ms > STALE_ms ? { stale: true, age_seconds: Math.round(backlog.age_ms / 1000) } : {}),
        };
  return { total: services.length, details: services.map((service) => detail(service, backlog?.of.get(service.name))), ...notes };
}

function detail(service: ServiceStatus, backlog: Backlog | undefined): object {
  const lag = backlog?.lag ?? null;
  return {
    name: service.name,
    handler_name: service.handler,
    subscription_type: service.kind === "maintenance" ? "unknown" : service.kind,
    stream_category: service.stream,
    lag,
    pending: backlog?.pending ?? service.inFlight + service.parked,
    status: lag === null ? "unknown" : lag === 0 ? "ok" : "lagging",
    dlq_depth: backlog?.deadLetters ?? null,
    lag_seconds: lag === 0 ? 0 : null,
    ...(service.circuit === null ? {} : { circuit_state: service.circuit }),
    lag_drain_rate: null,
    state: service.state,
    reason: service.reason,
    slow: service.slow,
  };
}

function json(status: number, body: unknown): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: { "content-type": "application/json", "cache-control": "no-store", connection: "close" },
  });
}
