import { describe, expect, test } from "bun:test";
import { type HealthFacts, type HealthSource, healthHandler } from "../../../src/observatory/health.ts";

const FACTS: HealthFacts = {
  phase: "running",
  providers: { default: true },
  brokers: { default: true },
  eventStore: true,
  services: [],
  reasons: [],
};

function server(changed: Partial<HealthFacts> = {}) {
  let drained = 0;
  const source: HealthSource = {
    facts: () => ({ ...FACTS, ...changed }),
    backlog: () => null,
    drain: () => {
      drained += 1;
    },
    pid: 47,
  };
  const handle = healthHandler(source);
  const ask = async (path: string, method = "GET") => {
    const response = handle(new Request(`http://localhost${path}`, { method }));
    return { code: response.status, body: await response.json() };
  };
  return { ask, drained: () => drained };
}

const ALIVE = { code: 200, body: { status: "ok", checks: { event_loop: "responsive" } } };

describe("the probes of engine.md §9", () => {
  test("livez and healthz answer without looking at anything", async () => {
    const { ask } = server({ phase: "stopping" });
    expect(await ask("/livez")).toEqual(ALIVE);
    expect(await ask("/healthz")).toEqual(ALIVE);
  });

  test("readyz is 200 with everything up and 503 with the part that is away", async () => {
    expect((await server().ask("/readyz")).code).toBe(200);
    expect(await server({ brokers: { default: false } }).ask("/readyz")).toMatchObject({
      code: 503,
      body: { status: "degraded", checks: { brokers: { default: "unavailable" }, event_store: "ok" } },
    });
  });

  test("what a driver says of an address is shown without its password", async () => {
    const { body } = await server({ reasons: ["broker default: redis://app:canary@cache/0 refused"] }).ask("/readyz");
    expect(JSON.stringify(body)).toContain("redis://app:***@cache/0");
  });

  test("readyz says draining and shutting down and nothing else", async () => {
    expect(await server({ phase: "draining" }).ask("/readyz")).toEqual({
      code: 503,
      body: { status: "unavailable", checks: { draining: true } },
    });
    expect(await server({ phase: "stopping" }).ask("/readyz")).toEqual({
      code: 503,
      body: { status: "unavailable", checks: { shutting_down: true } },
    });
  });

  test("POST /drainz drains this process, no other method does", async () => {
    const { ask, drained } = server();
    expect((await ask("/drainz")).code).toBe(405);
    expect(drained()).toBe(0);
    expect(await ask("/drainz", "POST")).toEqual({ code: 200, body: { status: "draining", pid: 47 } });
    expect(drained()).toBe(1);
  });

  test("other methods are 405, other paths and query strings 404", async () => {
    const { ask } = server();
    for (const method of ["POST", "PUT", "DELETE"]) {
      expect(await ask("/livez", method)).toEqual({ code: 405, body: { error: "Method Not Allowed" } });
    }
    for (const path of ["/", "/livez/", "/livez?x=1", "/nope"]) {
      expect(await ask(path)).toEqual({ code: 404, body: { error: "Not Found" } });
    }
  });
});
