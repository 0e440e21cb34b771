import { describe, expect, test } from "bun:test";
import { Delivery } from "../../../src/engine/delivery.ts";
import { StoreOutage } from "../../../src/engine/store-outage.ts";
import { ConnectionError } from "../../../src/errors.ts";
import { decodeMessage } from "../../../src/messages/envelope.ts";
import { silentLog } from "../../../src/ports/log.ts";
import { SystemRandom } from "../../../src/runtime/random.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { messageText, Recorder, reactionOf } from "../../support/stream-bench.ts";

const ADDRESS = "postgresql://db/bank";
const ours = () => new ConnectionError(`${ADDRESS} can't be reached`, { at: ADDRESS });

/** A handler over one store, which is away while `away.is`. */
function setup(fails: () => unknown) {
  const clock = new ManualClock();
  const away = { is: false, hangs: false };
  const attempts: number[] = [];
  const outage = new StoreOutage({
    stores: [
      {
        address: ADDRESS,
        ping: async () => {
          if (away.hangs) await new Promise<never>(() => {});
          if (away.is) throw ours();
        },
      },
    ],
    clock,
    random: new SystemRandom(),
  });
  const reaction = reactionOf((_name, { attempt }) => {
    attempts.push(attempt);
    const error = away.is || away.hangs ? ours() : fails();
    if (error !== null) throw error;
  });
  const delivery = new Delivery({
    reactions: [reaction],
    name: reaction.name,
    clock,
    log: silentLog,
    telemetry: new Recorder(),
    timeout_ms: 0,
    deadLetterAtOnce: [],
    outage,
  });
  const drain = new AbortController();
  const deliver = async () =>
    await delivery.deliver(decodeMessage(messageText("A", 1)), {
      attempt: 2,
      deliveryKey: "k",
      workerId: "w",
      fences: [],
      drain: drain.signal,
      stream: "bank::account",
    });
  return { clock, away, attempts, outage, deliver, drain };
}

describe("a handler whose store goes away", () => {
  test.each(["is", "hangs"] as const)("waits (%s) and runs again as the same attempt when it is back", async (how) => {
    const { clock, away, attempts, deliver } = setup(() => null);
    away[how] = true;
    const outcome = deliver();
    await clock.advance(60_000);
    expect(attempts).toEqual([2]);
    away[how] = false;
    await clock.advance(5_000);
    expect(await outcome).toEqual({ kind: "done" });
    expect(attempts).toEqual([2, 2]);
  });

  test("fails as ever when the store answers: a statement that takes too long is the handler's", async () => {
    const { deliver, attempts, outage } = setup(ours);
    expect(await deliver()).toMatchObject({ kind: "retry" });
    expect(attempts).toEqual([2]);
    expect(outage.concerns(new AggregateError([new Error("x"), ours()]))).toBe(true);
  });

  test("is not the handler whose own service is away", async () => {
    const { deliver, away, attempts, outage } = setup(() => new ConnectionError("the mail server is away"));
    expect(outage.concerns(new ConnectionError("the mail server is away"))).toBe(false);
    expect(await deliver()).toMatchObject({ kind: "retry" });
    expect([attempts, away.is]).toEqual([[2], false]);
  });

  test("is handed back when the server drains", async () => {
    const { clock, away, deliver, drain } = setup(() => null);
    away.is = true;
    const outcome = deliver();
    await clock.advance(1_000);
    drain.abort();
    await clock.advance(5_000);
    expect(await outcome).toMatchObject({ kind: "retry" });
  });
});
