import { maskUrl } from "../config/mask.ts";
import type { Command } from "./command.ts";
import { CommandError, EXIT, usageError } from "./problem.ts";
import { configOf, placeOf } from "./project.ts";

const TIMEOUT_ms = 10_000;

/** A server listens on all addresses by these; not every system lets one connect to them. */
const LOOPBACK_OF: Readonly<Record<string, string>> = { "0.0.0.0": "127.0.0.1", "::": "::1" };

/** Made for `HEALTHCHECK` in images without curl: 0 ready, 1 up but not ready, 2 no answer. */
export const health: Command = {
  description: "Ask a running server whether it is ready: exit 0 ready, 1 not ready, 2 no answer",
  positionals: [{ name: "URL", description: "address of the server (else [server.health] of domain.toml)" }],
  examples: ["protean health http://127.0.0.1:8080"],
  async run({ values }) {
    const given = values.positional(0);
    let base = given;
    if (base === undefined) {
      const { health: settings } = (await configOf(values, await placeOf(values))).server;
      const host = LOOPBACK_OF[settings.host] ?? settings.host;
      base = `http://${host.includes(":") ? `[${host}]` : host}:${settings.port}`;
    }
    const address = URL.canParse(base) ? new URL(base) : null;
    if (address === null || !/^https?:$/.test(address.protocol)) throw usageError(`"${maskUrl(base)}" is no http address`);
    const url = new URL(address.pathname === "/" ? "/readyz" : address.pathname, address);
    const timeout_ms = values.duration_ms("timeout") ?? TIMEOUT_ms;
    let response: Response;
    let body: unknown;
    try {
      response = await fetch(url, { signal: AbortSignal.timeout(timeout_ms) });
      body = await response.json();
    } catch (cause) {
      const why = cause instanceof Error && cause.name === "TimeoutError" ? `within ${timeout_ms} ms` : "";
      throw new CommandError(EXIT.usage, "NO_ANSWER", `no answer from ${maskUrl(url.href)} ${why}`.trim(), {
        fix: "Is the server running, and is its --http address this one?",
        cause,
      });
    }
    const state = body as { readonly status?: unknown; readonly checks?: Readonly<Record<string, unknown>> };
    const checks = state.checks ?? {};
    const rows = Object.entries(checks).flatMap(([name, value]): { check: string; state: string }[] => {
      if (name === "subscriptions") return [];
      if (typeof value === "object" && value !== null && !Array.isArray(value)) {
        return Object.entries(value).map(([part, word]) => ({ check: `${name}.${part}`, state: String(word) }));
      }
      return [{ check: name, state: Array.isArray(value) ? value.join("; ") : String(value) }];
    });
    return {
      exitCode: response.ok ? EXIT.good : EXIT.found,
      data: body,
      list: {
        columns: [
          { key: "check", title: "CHECK" },
          { key: "state", title: "STATE" },
        ],
        rows: [{ check: "status", state: String(state.status ?? response.status) }, ...rows],
        empty: "",
      },
    };
  },
};
