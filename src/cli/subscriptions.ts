import { isBookkeeping } from "../engine/recovery-ledger.ts";
import type { SubscriptionPlan } from "../engine/subscription-plan.ts";
import { DeserializationError } from "../errors.ts";
import { decodeDeadLetter, type RawFields } from "../messages/dead-letter.ts";
import { parseJson } from "../messages/json.ts";
import { deadLetterStream, failedStream, positionStream, recoveryCheckpointStream } from "../messages/names.ts";
import type { Broker } from "../ports/broker.ts";
import { ALL_STREAMS, type EventStore } from "../ports/event-store.ts";
import type { Command } from "./command.ts";
import { exhaustedPositions } from "./exhausted.ts";
import type { Outcome } from "./output.ts";
import { plansOf } from "./plan.ts";
import { EXIT, type Finding, usageError } from "./problem.ts";
import { loadProject, openProject, withoutMissingFiles } from "./project.ts";

const FLAGS = {
  output: {
    type: "text",
    short: "o",
    hint: "FORMAT",
    choices: ["table", "json", "jsonl", "csv"],
    description: "table, json, jsonl or csv",
  },
  handler: { type: "text", hint: "NAME", description: "Only this handler" },
} as const;

const COUNT_CAP = 10_000;
const PAGE = 500;

/** The keys of the original. */
interface StatusRow extends Record<string, unknown> {
  readonly name: string;
  readonly handler_name: string;
  readonly subscription_type: string;
  readonly stream_category: string;
  readonly lag: number | null;
  readonly status: "ok" | "lagging" | "empty" | "unknown";
  readonly dlq_depth: number | null;
}

export const subscriptionsStatus: Command = {
  description: "Lag, pending messages and dead letters of every subscription; looks only, needs no server",
  flags: {
    ...FLAGS,
    "fail-on": { type: "text", hint: "RULE", repeatable: true, description: "Exit 1 when lag>N, pending>N or dlq>N somewhere" },
  },
  async run(invocation) {
    const { values, output } = invocation;
    const rules = values.texts("fail-on", { split: true }).map(ruleIn);
    const loaded = await loadProject(invocation);
    // Looking makes no file, table, group or stream (cli.md 2.1): what was never used is simply empty.
    const looked = await withoutMissingFiles(loaded.config);
    let rows: StatusRow[];
    if (looked === null) {
      loaded.domain.freeze();
      const { buildReactions } = await import("../domain/run-reaction.ts");
      rows = plansOf(buildReactions(loaded.domain), loaded.config).map((plan) => ({
        ...baseOf(plan),
        lag: 0,
        pending: 0,
        status: "empty",
        dlq_depth: 0,
      }));
    } else {
      const project = await openProject(invocation, {
        role: "engine",
        setUp: false,
        loaded: { ...loaded, config: looked },
        tablesLater: true,
        unsettled: true,
      });
      try {
        const { stores, config, domain } = project;
        rows = await Promise.all(
          plansOf(domain.reactions, config).map(async (plan) =>
            plan.kind === "event_store"
              ? await fromStore(plan, stores.eventStore)
              : await fromBroker(plan, stores.brokers.get(plan.broker)),
          ),
        );
        if (config.hasOutbox) {
          for (const { name, outbox } of stores.databases.values()) {
            const counts = await outbox.counts();
            const lag = counts.pending + counts.processing + counts.failed;
            rows.push({
              name: `outbox-${name}`,
              handler_name: "OutboxProcessor",
              subscription_type: "outbox",
              stream_category: name,
              lag,
              pending: counts.processing,
              status: lag === 0 ? "ok" : "lagging",
              dlq_depth: counts.abandoned,
            });
          }
        }
      } finally {
        await project.close();
      }
    }
    const handler = values.text("handler");
    for (const reason of new Set(rows.map((row) => row.reason))) if (reason !== undefined) output.hint(`unknown: ${reason}`);
    return statusOutcome(handler === undefined ? rows : rows.filter((row) => row.handler_name.split(", ").includes(handler)), rules);
  },
};

export const subscriptionsList: Command = {
  description: "Every subscription with its stream and group",
  flags: FLAGS,
  async run(invocation) {
    const { domain, config } = await loadProject(invocation);
    domain.freeze();
    const { buildReactions } = await import("../domain/run-reaction.ts");
    const handler = invocation.values.text("handler");
    const rows = plansOf(buildReactions(domain), config)
      .filter((plan) => handler === undefined || plan.reactions.some(({ name }) => name === handler))
      .map((plan) => ({ ...baseOf(plan), group: plan.group, kind: plan.reactions[0]?.kind ?? "" }));
    return {
      data: { subscriptions: rows },
      list: {
        columns: [
          { key: "handler_name", title: "HANDLER" },
          { key: "subscription_type", title: "TYPE" },
          { key: "stream_category", title: "STREAM" },
          { key: "group", title: "GROUP", rank: 1 },
        ],
        rows,
        empty: "No subscriptions: no handler is declared.",
      },
    };
  },
};

function statusOutcome(rows: readonly StatusRow[], rules: readonly Rule[]): Outcome {
  const diagnostics: Finding[] = [];
  for (const row of rows) {
    for (const { key, above } of rules) {
      const value = row[key];
      if (typeof value === "number" && value > above) {
        diagnostics.push({ code: "THRESHOLD", level: "error", message: `${row.handler_name}: ${key} is ${value}, above ${above}` });
      }
    }
  }
  const count = (status: string) => rows.filter((row) => row.status === status).length;
  const letters = rows.reduce((sum, { dlq_depth }) => sum + (dlq_depth ?? 0), 0);
  return {
    exitCode: diagnostics.length > 0 ? EXIT.found : EXIT.good,
    data: { subscriptions: rows, total: rows.length, ok: count("ok"), lagging: count("lagging"), unknown: count("unknown") },
    diagnostics,
    list: {
      columns: [
        { key: "handler_name", title: "HANDLER" },
        { key: "subscription_type", title: "TYPE" },
        { key: "stream_category", title: "STREAM" },
        { key: "status", title: "STATUS" },
        { key: "lag", title: "LAG" },
        { key: "pending", title: "PENDING" },
        { key: "dlq_depth", title: "DLQ" },
        { key: "consumer_count", title: "CONSUMERS", rank: 1 },
      ],
      rows,
      empty: "No subscriptions: no handler is declared.",
      ...(letters > 0 ? { hint: "Look at what was given up: protean dlq list" } : {}),
    },
  };
}

function baseOf(plan: SubscriptionPlan) {
  const isStore = plan.kind === "event_store";
  return {
    name: plan.name,
    handler_name: plan.handler,
    subscription_type: plan.kind,
    stream_category: plan.stream,
    lag: null,
    lag_seconds: null,
    pending: null,
    current_position: null,
    head_position: null,
    status: "unknown" as const,
    consumer_count: null,
    dlq_depth: null,
    last_updated: null,
    position_stream: isStore ? positionStream(plan.group, plan.stream) : null,
    recovery_checkpoint_stream: isStore ? recoveryCheckpointStream(plan.group, plan.stream) : null,
    failed_positions_stream: isStore ? failedStream(plan.group, plan.stream) : null,
  };
}

async function fromBroker(plan: SubscriptionPlan, broker: Broker | undefined): Promise<StatusRow> {
  const base = baseOf(plan);
  if (broker === undefined) return base;
  try {
    const [groups, length, letters] = await Promise.all([
      broker.groups(plan.stream),
      broker.length(plan.stream),
      lettersOf(broker, plan.stream, plan.group),
    ]);
    const group = groups.find(({ name }) => name === plan.group);
    if (group === undefined) return { ...base, lag: length, pending: 0, status: "empty", dlq_depth: letters, consumer_count: 0 };
    const lag = group.lag === null ? null : group.lag + group.pending;
    return {
      ...base,
      lag,
      lag_seconds: lag === 0 ? 0 : null,
      pending: group.pending,
      current_position: group.lastDeliveredId,
      status: lag === null ? "unknown" : lag === 0 ? "ok" : "lagging",
      consumer_count: group.consumers,
      dlq_depth: letters,
    };
  } catch (error) {
    return { ...base, reason: error instanceof Error ? error.message : String(error) };
  }
}

/** Dead letters of this group only: the stream of them is shared by all groups of the category. */
async function lettersOf(broker: Broker, stream: string, group: string): Promise<number> {
  const letters = deadLetterStream(stream);
  let count = 0;
  for (let from = "-"; ; ) {
    const entries = await broker.range(letters, { from, count: PAGE });
    for (const { id, fields } of entries) {
      if (id === from) continue;
      if (decodeDeadLetter(Object.fromEntries(fields) as RawFields).consumerGroup === group) count += 1;
    }
    const last = entries.at(-1);
    if (last === undefined || entries.length < PAGE || last.id === from) return count;
    from = last.id;
  }
}

async function fromStore(plan: SubscriptionPlan, store: EventStore): Promise<StatusRow> {
  const base = baseOf(plan);
  const [last, head, exhausted] = await Promise.all([
    store.lastOfStream(positionStream(plan.group, plan.stream)),
    store.lastOfCategory(plan.stream),
    exhaustedPositions(store, failedStream(plan.group, plan.stream)),
  ]);
  const cursor = last === null ? -1 : positionIn(last.data);
  const lag = await waitingAfter(store, plan.stream, cursor);
  const head_position = head?.globalPosition ?? -1;
  return {
    ...base,
    lag,
    lag_seconds: lag === 0 ? 0 : null,
    pending: 0,
    current_position: cursor,
    head_position,
    position_lag: Math.max(0, head_position - cursor),
    status: last === null && lag === 0 ? "empty" : lag === 0 ? "ok" : "lagging",
    dlq_depth: exhausted.length,
    last_updated: last?.time ?? null,
  };
}

/** Messages after the position. Our own records are stored among all, and wait for nobody. */
async function waitingAfter(store: EventStore, category: string, cursor: number): Promise<number> {
  const count = await store.countAfter(category, cursor, COUNT_CAP);
  if (category !== ALL_STREAMS || count === 0 || count > PAGE) return count;
  const rows = await store.readCategory(category, cursor + 1, count);
  return rows.filter((row) => !isBookkeeping(row)).length;
}

function positionIn(data: string): number {
  try {
    const { position } = parseJson(data) as { readonly position?: unknown };
    return typeof position === "number" ? position : -1;
  } catch (error) {
    if (error instanceof DeserializationError) return -1;
    throw error;
  }
}

interface Rule {
  readonly key: "lag" | "pending" | "dlq_depth";
  readonly above: number;
}

function ruleIn(text: string): Rule {
  const match = /^(lag|pending|dlq)>(\d+)$/.exec(text);
  if (match === null) throw usageError(`--fail-on: "${text}" is none of lag>N, pending>N, dlq>N`);
  return { key: match[1] === "dlq" ? "dlq_depth" : (match[1] as "lag" | "pending"), above: Number(match[2]) };
}
