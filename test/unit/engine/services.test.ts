import { LeaseKeeper } from "../../../src/engine/lease-keeper.ts";
import { StreamMaintenance } from "../../../src/engine/stream-maintenance.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { silentTelemetry } from "../../../src/ports/telemetry.ts";
import { serviceConformance } from "../../conformance/service.ts";
import { CATEGORY, streamBench } from "../../support/stream-bench.ts";

for (const shared of [true, false]) {
  serviceConformance(`a stream subscription, shared = ${shared}`, async () => {
    const bench = await streamBench();
    const { subscription } = await bench.engine(() => {}, { settings: { shared }, start: false });
    return { service: subscription, settle: () => bench.clock.advance(100), close: bench.close };
  });
}

serviceConformance("stream maintenance", async () => {
  const bench = await streamBench();
  const service = new StreamMaintenance({
    broker: bench.broker,
    domain: "Bank",
    streams: [CATEGORY],
    deadLetters: { enabled: true, retention_ms: 1_000, alertThreshold: 1, checkInterval_ms: 10 },
    retention_ms: 1_000,
    keeper: new LeaseKeeper({ owner: "0123456789ab", clock: bench.clock, log: silentLog }),
    clock: bench.clock,
    log: silentLog,
    telemetry: silentTelemetry,
  });
  // The first look comes after one interval.
  return { service, settle: () => bench.clock.advance(100), close: bench.close };
});
