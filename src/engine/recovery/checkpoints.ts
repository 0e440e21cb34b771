import { positionStream } from "../../messages/names.ts";
import type { Clock } from "../../ports/clock.ts";
import type { EventStore } from "../../ports/event-store.ts";
import type { Log } from "../../ports/log.ts";
import type { Random } from "../../ports/random.ts";
import { RecoveryLedger } from "../recovery-ledger.ts";
import type { EventStorePlan } from "../subscription-plan.ts";
import { cursorIn, type EventStorePositions } from "./positions.ts";

/** Words of the original for what became of a cursor, and one of ours. */
export type CheckpointVerdict =
  | "consistent"
  /** Past the last message that there is: it would skip what comes next. */
  | "beyond_head"
  /** Past where it stood when the backup was made from which its handlers' database was restored. */
  | "ahead_of_backup"
  | "unknown";

export interface CheckpointStatus {
  readonly plan: EventStorePlan;
  /** -1 without one; null when it can't be read. */
  readonly cursor: number | null;
  /** Of the category; -1 when it is empty. */
  readonly head: number;
  readonly verdict: CheckpointVerdict;
  /** Where a repair puts it; null when nothing is to repair. */
  readonly target: number | null;
}

/** Failed positions that a subscription still tries, and whose message isn't there any more. */
export interface StaleRecovery {
  readonly plan: EventStorePlan;
  readonly head: number;
  readonly verdict: "stale" | "unknown";
  readonly positions: readonly number[];
}

interface Tools {
  readonly store: EventStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/**
 * Compares the cursors of event-store subscriptions with the store, and with where they stood when a backup was made of the database of their handlers.
 *
 * Why nothing is lost: a cursor beyond the head goes back to the head, and all up to the head had been handled before it got there. A cursor ahead of
 * the backup goes back to where it stood, and what comes behind it is handled again on the state of then.
 *
 * @param backup null when the store itself was restored together with the database, or nothing was
 */
export async function compareCheckpoints(
  plans: readonly EventStorePlan[],
  backup: EventStorePositions | null,
  { store }: Pick<Tools, "store">,
): Promise<readonly CheckpointStatus[]> {
  return await Promise.all(
    plans.map(async (plan): Promise<CheckpointStatus> => {
      const stream = positionStream(plan.group, plan.stream);
      const [last, newest] = await Promise.all([store.lastOfStream(stream), store.lastOfCategory(plan.stream)]);
      const head = newest?.globalPosition ?? -1;
      const cursor = last === null ? -1 : cursorIn(last.data);
      if (cursor === null) return { plan, cursor, head, verdict: "unknown", target: null };
      const then = backup === null ? cursor : (backup.cursors[stream] ?? -1);
      if (cursor > head) return { plan, cursor, head, verdict: "beyond_head", target: Math.min(head, then) };
      if (cursor > then) return { plan, cursor, head, verdict: "ahead_of_backup", target: then };
      return { plan, cursor, head, verdict: "consistent", target: null };
    }),
  );
}

/** Positions that wait for recovery, whose message the store doesn't hold, or holds another one in its place. */
export async function compareRecovery(statuses: readonly CheckpointStatus[], tools: Tools): Promise<readonly StaleRecovery[]> {
  const found = await Promise.all(
    statuses.map(async ({ plan, head }): Promise<StaleRecovery | null> => {
      const ledger = ledgerOf(plan, tools);
      try {
        await ledger.readUnresolved();
        const positions: number[] = [];
        for (const { position, stream, streamPosition } of ledger.unresolved.values()) {
          const [row] = await tools.store.readStream(stream, streamPosition, 1);
          if (row?.position !== streamPosition || row.globalPosition !== position) positions.push(position);
        }
        return positions.length === 0 ? null : { plan, head, verdict: "stale", positions: positions.sort((one, other) => one - other) };
      } catch (error) {
        tools.log.warning("recovery.unreadable", { subscriber: plan.group, category: plan.stream, error });
        return { plan, head, verdict: "unknown", positions: [] };
      }
    }),
  );
  return found.filter((one) => one !== null);
}

/** Puts one cursor to its target. @throws ExpectedVersionError when somebody runs the subscription */
export async function resetCheckpoint({ plan, target }: CheckpointStatus, tools: Tools): Promise<void> {
  if (target === null) return;
  const ledger = ledgerOf(plan, tools);
  await ledger.load(false);
  await ledger.reset(target);
}

export async function forgetStale({ plan, positions }: StaleRecovery, tools: Tools): Promise<void> {
  await ledgerOf(plan, tools).forget(positions);
}

function ledgerOf(plan: EventStorePlan, { store, clock, random, log }: Tools): RecoveryLedger {
  return new RecoveryLedger({ store, subscriber: plan.group, category: plan.stream, clock, random, log });
}
