/** `protean recover --verify-checkpoints [--reset-beyond-head]` as the original has it: the same keys, words and exit codes; numbers are text. */
import type { RecoveryReport } from "../compose/recover.ts";
import { recoveryCheckpointStream } from "../messages/names.ts";
import type { Invocation } from "./command.ts";
import type { Outcome } from "./output.ts";
import { EXIT } from "./problem.ts";
import type { OpenProject } from "./project.ts";
import { refuseWhileServersRun } from "./running-servers.ts";

type Checkpoints = Pick<RecoveryReport, "checkpoints" | "stale">;
type Plan = RecoveryReport["checkpoints"][number]["plan"];

export async function verifyCheckpoints({ values, output }: Invocation, { domain, stores }: OpenProject): Promise<Outcome> {
  const { compareCheckpoints, compareRecovery, forgetStale, recoverySources, resetCheckpoint } = await import("../compose/recover.ts");
  const { plans } = recoverySources(domain, stores);
  const { eventStore: store, clock, random, log } = stores;
  const tools = { store, clock, random, log };
  const checkpoints = await compareCheckpoints(
    plans.filter((plan) => plan.kind === "event_store"),
    null,
    tools,
  );
  const stale = await compareRecovery(checkpoints, tools);
  const found = { checkpoints, stale };
  const data = checkpointData(found);
  const isGood = data.summary.beyond_head === 0 && stale.every(({ verdict }) => verdict === "unknown");
  if (!values.has("reset-beyond-head") || values.has("dry-run"))
    return { ...outcomeOf(found, data), exitCode: isGood ? EXIT.good : EXIT.found };

  if (!values.has("force")) await refuseWhileServersRun(stores, domain.name, "recover", "Stop it first, or add --force.");
  const cursors = await attempted(
    checkpoints.filter(({ target }) => target !== null),
    async (status) => {
      await resetCheckpoint(status, tools);
      return { ...named(status.plan), previous_position: String(status.cursor), new_position: String(status.target) };
    },
  );
  const positions = await attempted(
    stale.filter(({ verdict }) => verdict === "stale"),
    async (one) => {
      await forgetStale(one, tools);
      return { ...named(one.plan), cleared_positions: one.positions };
    },
  );
  for (const { handler_name, stream_category, error } of [...cursors.failures, ...positions.failures]) {
    output.say(`error: ${handler_name} (${stream_category}): ${error}`);
  }
  const isDone = cursors.failures.length + positions.failures.length === 0;
  return {
    ...outcomeOf(found, {
      ...data,
      summary: {
        ...data.summary,
        reset: cursors.done.length,
        reset_failed: cursors.failures.length,
        ...(stale.length === 0
          ? {}
          : {
              recovery_reset: positions.done.flatMap((one) => one.cleared_positions).length,
              recovery_reset_failed: positions.failures.length,
            }),
      },
      reset: cursors.done,
      reset_failures: cursors.failures,
      ...(stale.length === 0 ? {} : { recovery_reset: positions.done, recovery_reset_failures: positions.failures }),
    }),
    exitCode: isDone ? EXIT.good : EXIT.usage,
  };
}

/** One that fails doesn't keep the others from being done. */
async function attempted<Status extends { readonly plan: Plan }, Done>(
  statuses: readonly Status[],
  attempt: (status: Status) => Promise<Done>,
) {
  const done: Done[] = [];
  const failures: (ReturnType<typeof named> & { readonly error: string })[] = [];
  for (const status of statuses) {
    try {
      done.push(await attempt(status));
    } catch (error) {
      failures.push({ ...named(status.plan), error: error instanceof Error ? error.message : String(error) });
    }
  }
  return { done, failures };
}

function named(plan: Plan) {
  return { name: plan.name, handler_name: plan.handler, stream_category: plan.stream };
}

/** `data` of the original. It doesn't know of cursors ahead of a backup. */
export function checkpointData({ checkpoints, stale }: Checkpoints) {
  const subscriptions = checkpoints.map(({ plan, cursor, head, verdict }) => ({
    ...named(plan),
    checkpoint_position: cursor === null ? null : String(cursor),
    head_position: String(head),
    beyond_head: verdict === "beyond_head",
    verdict: verdict === "ahead_of_backup" ? "consistent" : verdict,
  }));
  const count = (verdict: string) => subscriptions.filter((one) => one.verdict === verdict).length;
  return {
    subscriptions,
    summary: {
      checked: subscriptions.length,
      consistent: count("consistent"),
      beyond_head: count("beyond_head"),
      unknown: count("unknown"),
      ...(stale.length === 0
        ? {}
        : {
            recovery_stale: stale.filter(({ verdict }) => verdict === "stale").length,
            recovery_stale_positions: stale.flatMap(({ positions }) => positions).length,
            recovery_unknown: stale.filter(({ verdict }) => verdict === "unknown").length,
          }),
    },
    ...(stale.length === 0
      ? {}
      : {
          recovery: stale.map(({ plan, head, verdict, positions }) => ({
            ...named(plan),
            recovery_checkpoint_stream: recoveryCheckpointStream(plan.group, plan.stream),
            head_position: String(head),
            verdict,
            stale_positions: positions,
          })),
        }),
  };
}

function outcomeOf({ checkpoints, stale }: Checkpoints, data: object): Outcome {
  const rows = [
    ...checkpoints.map(({ plan, cursor, head, verdict }) => ({
      handler: plan.handler,
      stream: plan.stream,
      checkpoint: cursor,
      head,
      verdict: verdict.replaceAll("_", " "),
    })),
    ...stale.map(({ plan, head, verdict, positions }) => ({
      handler: plan.handler,
      stream: plan.stream,
      checkpoint: null,
      head,
      verdict: verdict === "stale" ? `failed positions without a message: ${positions.join(", ")}` : "failed positions unknown",
    })),
  ];
  return {
    data,
    list: {
      columns: [
        { key: "handler", title: "HANDLER" },
        { key: "stream", title: "STREAM" },
        { key: "checkpoint", title: "CHECKPOINT" },
        { key: "head", title: "HEAD" },
        { key: "verdict", title: "VERDICT" },
      ],
      rows,
      empty: "No event-store subscriptions found in domain.",
    },
  };
}
