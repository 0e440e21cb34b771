import { expect, test } from "bun:test";
import { Reachability } from "../../../src/engine/reachability.ts";
import { ReconnectPause } from "../../../src/engine/reconnect-pause.ts";
import { ConnectionError, DatabaseError } from "../../../src/errors.ts";
import type { Log } from "../../../src/ports/log.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { until } from "../../support/until.ts";

/** What is written at level info and above. */
function lines(): { readonly log: Log; readonly told: string[] } {
  const told: string[] = [];
  const at =
    (level: string) =>
    (event: string, fields: Readonly<Record<string, unknown>> = {}) =>
      void told.push(`${level} ${event} ${fields["service"] ?? ""}`.trim());
  const log: Log = { debug() {}, info: at("info"), warning: at("warning"), error: at("error"), with: () => log };
  return { log, told };
}

test("an outage of one server is two lines, though database and event store both meet it", async () => {
  const clock = new ManualClock();
  const { log, told } = lines();
  let isAway = true;
  const ping = async () => {
    if (isAway) throw new ConnectionError("connect ECONNREFUSED 127.0.0.1:1");
  };
  const reachability = new Reachability(clock, log);
  reachability.watch("database default", ping, true);
  reachability.watch("broker default", ping, false);
  reachability.watch("event store", ping, true);
  reachability.start();
  await until("all are away", () => reachability.reasons().every((reason) => reason.includes("ECONNREFUSED")));
  for (let round = 0; round < 3; round++) await clock.advance(2_000);
  isAway = false;
  await until("all are back", async () => {
    await clock.advance(2_000);
    return reachability.reasons().length === 0;
  });
  reachability.stop();
  expect(told).toEqual(["warning service.unreachable database default", "info service.recovered database default"]);
});

test("a service leaves lost connections to those who tell them, and tells everything else", () => {
  const { log, told } = lines();
  const pause = new ReconnectPause({ random: { uuid: () => "", hex: () => "", float: () => 0.5 }, log, what: {}, isToldElsewhere: true });
  pause.failed_ms(new ConnectionError("away"));
  pause.failed_ms(new ConnectionError("away"));
  pause.succeeded();
  expect(told).toEqual([]);
  pause.failed_ms(new ConnectionError("away"));
  pause.failed_ms(new DatabaseError("no such table: outbox"));
  pause.failed_ms(new DatabaseError("no such table: outbox"));
  pause.succeeded();
  expect(told).toEqual(["warning service.unreachable", "info service.recovered"]);
});
