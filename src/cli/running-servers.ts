import { InstanceWatch } from "../engine/instance-watch.ts";
import type { Broker } from "../ports/broker.ts";
import type { Clock } from "../ports/clock.ts";
import type { InstanceRecord } from "../ports/instances.ts";
import { hostIdentity, isProcessRunning } from "../runtime/host.ts";
import { CommandError, EXIT } from "./problem.ts";

/**
 * Refuses what must not happen beside a server of this domain. One that was killed on this machine is known to be gone, one of another machine for ten
 * seconds isn't.
 * @throws CommandError (exit 5) when an engine of this domain is alive
 */
export async function refuseWhileServersRun(
  stores: { readonly brokers: ReadonlyMap<string, Broker>; readonly clock: Clock },
  domainName: string,
  command: string,
  fix: string,
): Promise<void> {
  const broker = stores.brokers.get("default");
  if (broker === undefined) return;
  const own: InstanceRecord = {
    ...hostIdentity(),
    id: "",
    domain: domainName,
    version: "",
    http: null,
    subscriptions: [],
    state: "running",
  };
  const watch = new InstanceWatch({ instances: broker.instances, clock: stores.clock, own, processExists: isProcessRunning });
  const [first, ...more] = (await watch.others()).filter(({ domain }) => domain === domainName);
  if (first === undefined) return;
  const others = more.length === 0 ? "" : ` and ${more.length} more`;
  throw new CommandError(EXIT.conflict, "SERVERS_RUN", `${command}: a server runs (${first.host}, process ${first.pid})${others}`, { fix });
}
