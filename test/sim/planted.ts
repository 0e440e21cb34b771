/** Known bugs, planted between the engine and its stores: each breaks one rule, and the simulation must find it. */
import type { Broker, ReadRequest, ReadResult } from "../../src/ports/broker.ts";
import type { CommitSet } from "../../src/ports/database.ts";
import type { Append } from "../../src/ports/event-store.ts";
import type { OutboxOutcome, OutboxRow, OutboxStore } from "../../src/ports/outbox-store.ts";
import type { Sabotage } from "./network.ts";
import type { Layout, Profile } from "./simulation.ts";

export interface PlantedBug {
  readonly name: string;
  /** Where it does harm. */
  readonly profile: Profile;
  readonly layout: Layout;
  readonly sabotage: Sabotage;
}

const FOR_EVER_ms = 1e12;
const LATE_ms = 2_000;

export const PLANTED: readonly PlantedBug[] = [
  {
    name: "entries are acknowledged before their handler runs",
    profile: "kills",
    layout: "two",
    sabotage: {
      "broker.read": async (next, given, { call }) => {
        const results = (await next(...given)) as readonly ReadResult[];
        for (const [at, request] of (given[0] as readonly ReadRequest[]).entries()) {
          const result = results[at];
          if (result?.kind !== "entries" || result.entries.length === 0) continue;
          await call("broker", "acknowledge", [request.stream, request.group, result.entries.map(({ id }) => id)]);
        }
        return results;
      },
    },
  },
  {
    name: "a stop hands nothing back",
    profile: "calm",
    layout: "two",
    sabotage: { "broker.handBack": () => Promise.resolve() },
  },
  {
    name: "entries are taken over without looking at heartbeats",
    profile: "calm",
    layout: "two",
    sabotage: { "instances.alive": () => Promise.resolve([]) },
  },
  {
    name: "the cursor is written before the record of a failure",
    profile: "kills",
    layout: "two",
    sabotage: {
      "eventStore.append": (next, given, { process }) => {
        if ((given[0] as readonly Append[])[0]?.type !== "Failed") return next(...given);
        void process.sleep(LATE_ms).then(() => next(...given));
        return Promise.resolve([{ position: 0, globalPosition: 0 }]);
      },
    },
  },
  {
    name: "outbox rows are marked before they are published",
    profile: "kills",
    layout: "two",
    sabotage: {
      "outbox.claim": async (next, given, { call }) => {
        const rows = (await next(...given)) as readonly OutboxRow[];
        const { owner } = given[0] as Parameters<OutboxStore["claim"]>[0];
        const outcome: OutboxOutcome = {
          published: rows.map(({ id }) => ({ id, entryId: "0-0" })),
          failed: [],
          abandoned: [],
          released: [],
        };
        if (rows.length > 0) await call("outbox", "settle", [owner, outcome]);
        return rows;
      },
    },
  },
  {
    name: "markers are written after the commit",
    profile: "kills",
    layout: "two",
    sabotage: {
      "database.commit": async (next, given, { call }) => {
        const set = given[0] as CommitSet;
        const result = await next({ ...set, markers: [] });
        if (set.markers.length > 0) {
          const markers: CommitSet = { rows: [], appends: [], outbox: [], markers: set.markers, fences: [] };
          await call("database", "commit", [markers]);
        }
        return result;
      },
    },
  },
  {
    name: "outbox rows are claimed without regard to their order",
    profile: "network",
    layout: "two",
    sabotage: { "outbox.claim": async (next, given) => [...((await next(...given)) as readonly OutboxRow[])].reverse() },
  },
  {
    name: "leases never run out",
    profile: "kills",
    layout: "two",
    sabotage: {
      "leases.acquire": (next, [name, owner]) => next(name, owner, FOR_EVER_ms),
      "leases.renew": (next, [leases]) => next(leases, FOR_EVER_ms),
    },
  },
  {
    name: "what is held isn't refreshed",
    profile: "calm",
    layout: "two",
    sabotage: { "broker.refresh": (_next, given) => Promise.resolve((given as Parameters<Broker["refresh"]>)[3]) },
  },
  {
    name: "attempts aren't counted",
    profile: "kills",
    layout: "two",
    sabotage: { "broker.setAttempts": () => Promise.resolve() },
  },
];
