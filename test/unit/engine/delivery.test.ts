import { describe, expect, test } from "bun:test";
import type { Reaction } from "../../../src/domain/reaction.ts";
import { Delivery, type Run } from "../../../src/engine/delivery.ts";
import { DeadLetter, Discard, RetryLater } from "../../../src/errors.ts";
import { decodeMessage } from "../../../src/messages/envelope.ts";
import type { Log, LogFields } from "../../../src/ports/log.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { messageText, type ReactionOptions, Recorder, reactionOf, type Script } from "../../support/stream-bench.ts";

function setup(
  script: Script,
  options: ReactionOptions & { readonly onFailure?: Reaction["onFailure"]; readonly timeout_ms?: number } = {},
) {
  const clock = new ManualClock();
  const lines: { readonly level: string; readonly event: string; readonly fields: LogFields }[] = [];
  const log: Log = {
    debug: (event, fields = {}) => lines.push({ level: "debug", event, fields }),
    info: (event, fields = {}) => lines.push({ level: "info", event, fields }),
    warning: (event, fields = {}) => lines.push({ level: "warning", event, fields }),
    error: (event, fields = {}) => lines.push({ level: "error", event, fields }),
    with: () => log,
  };
  const telemetry = new Recorder();
  const reaction: Reaction = {
    ...reactionOf(script, options),
    ...(options.onFailure === undefined ? {} : { onFailure: options.onFailure }),
  };
  const delivery = new Delivery({
    reactions: [reaction],
    name: reaction.name,
    clock,
    log,
    telemetry,
    timeout_ms: options.timeout_ms ?? 0,
    deadLetterAtOnce: ["RangeError"],
  });
  const run: Run = {
    attempt: 1,
    deliveryKey: "k",
    workerId: "w",
    fences: [],
    drain: new AbortController().signal,
    stream: "bank::account",
  };
  const deliver = async (text = messageText("A", 1)) => await delivery.deliver(decodeMessage(text), run);
  return { clock, lines, telemetry, delivery, deliver };
}

describe("verdicts", () => {
  test.each([
    ["an error is tried again", new Error("x"), { kind: "retry", after_ms: null, settled: null }],
    ["RetryLater says when", new RetryLater({ after_ms: 7 }), { kind: "retry", after_ms: 7 }],
    ["Discard is the end without a trace of failure", new Discard("old"), { kind: "discarded", reason: "old" }],
    ["DeadLetter ends it", new DeadLetter("no"), { kind: "deadLetter" }],
    ["an error named in dead_letter_at_once ends it", new RangeError("x"), { kind: "deadLetter" }],
    [
      "of several failures, one that may still succeed decides",
      new AggregateError([new DeadLetter("a"), new RetryLater({ after_ms: 9 })]),
      { kind: "retry", after_ms: 9 },
    ],
    ["several that are all hopeless end it", new AggregateError([new DeadLetter("a"), new RangeError("b")]), { kind: "deadLetter" }],
    ["something thrown that is no error is tried again", "text", { kind: "retry" }],
  ])("%s", async (_name, thrown, expected) => {
    const { deliver } = setup(() => {
      throw thrown;
    });
    expect(await deliver()).toMatchObject(expected);
  });

  test("a reaction that throws before it answers a promise, and an onError that does, change nothing", async () => {
    const { delivery, deliver, lines, clock } = setup(
      () => {
        throw new Error("x");
      },
      {
        onFailure: () => {
          throw new Error("own");
        },
      },
    );
    expect((await deliver()).kind).toBe("retry");
    expect(lines.map((line) => line.event)).toContain("engine.error_handler_failed");
    expect(delivery.running).toBe(0);
    await clock.advance(100_000);
  });

  test("an onError that never ends holds up nothing for longer than its limit", async () => {
    const { deliver, clock } = setup(
      () => {
        throw new Error("x");
      },
      { onFailure: () => new Promise(() => {}) },
    );
    const outcome = deliver();
    await clock.advance(31_000);
    expect((await outcome).kind).toBe("retry");
  });
});

describe("telling about failures", () => {
  test("the stack is logged once for each handler and error, then it is counted (D35)", async () => {
    const { deliver, lines } = setup(() => {
      throw new Error("same");
    });
    for (let run = 0; run < 12; run += 1) await deliver();
    const errors = lines.filter((line) => line.level === "error");
    expect(errors.map((line) => ["stack" in line.fields, line.fields["times"] ?? 1])).toEqual([
      [true, 1],
      [false, 10],
    ]);
  });

  test("a run longer than 30 s is named in log and status", async () => {
    const { deliver, delivery, clock, lines } = setup(() => new Promise(() => {}));
    void deliver();
    await clock.advance(29_000);
    expect(delivery.slow()).toBeNull();
    await clock.advance(2_000);
    expect(delivery.slow()).toEqual({ type: "Bank.Deposited.v1", running_ms: 31_000 });
    expect(lines.filter((line) => line.event === "engine.handler_slow")).toHaveLength(1);
  });

  test("a process manager leaves its transition among the traces", async () => {
    const { deliver, telemetry } = setup(() => {}, { kind: "processManager" });
    expect((await deliver()).kind).toBe("done");
    expect(telemetry.events()).toEqual(["handler.started", "handler.completed", "pm.transition"]);
    expect(telemetry.traces[0]?.payload).toBe('{"source":"A","number":1}');
  });
});

test("a password in what a handler throws is masked in its trace and its log line", async () => {
  const { lines, telemetry, deliver } = setup(() => {
    throw new Error("can't reach redis://app:canary@cache/0");
  });
  await deliver();
  const told = JSON.stringify([lines.map(({ fields }) => fields["error"]), telemetry.traces]);
  expect(told).toContain("redis://app:***@cache/0");
  expect(told).not.toContain("canary");
});
