import { afterEach, describe, expect, test } from "bun:test";
import { Suspects } from "../../../src/engine/suspects.ts";
import { ConnectionError, DeadLetter, Discard, RetryLater } from "../../../src/errors.ts";
import { type Broker, CONTROL_STREAM } from "../../../src/ports/broker.ts";
import { CATEGORY, GROUP, gate, messageText, type Script, streamBench } from "../../support/stream-bench.ts";

let bench: Awaited<ReturnType<typeof streamBench>>;
const setup = async () => {
  bench = await streamBench();
  return bench;
};
afterEach(async () => {
  await bench.close();
});

/** Lets `broken` say which calls fail. */
function failing(broker: Broker, broken: (method: string) => boolean): Broker {
  return new Proxy(broker, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== "function") return value;
      return (...values: unknown[]) => {
        if (broken(String(key))) return Promise.reject(new Error(`${String(key)} refused`));
        return (value as (...given: unknown[]) => unknown).apply(target, values);
      };
    },
  });
}

describe("a good day", () => {
  test("entries run in stream order and are acknowledged", async () => {
    const { engine, publish, pending, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1), messageText("B", 1), messageText("A", 2));
    const { telemetry, subscription } = await engine((name) => ran.push(name));
    await publish(messageText("B", 2));
    await clock.advance(6_000);
    expect(ran).toEqual(["A1", "B1", "A2", "B2"]);
    expect(await pending()).toEqual([]);
    const [first] = telemetry.traces;
    const ofFirst = telemetry.traces.filter((trace) => trace.message_id === first?.message_id);
    expect(ofFirst.map((trace) => trace.event)).toEqual(["handler.started", "handler.completed", "message.acked"]);
    expect(subscription.status()).toMatchObject({ state: "running", handled: 4, failed: 0, inFlight: 0, parked: 0 });
  });

  test("a type without a method is acknowledged before it is decoded", async () => {
    const { engine, publish, pending, clock } = await setup();
    const ran: string[] = [];
    // Its checksum is wrong: decoding it would be an error.
    const other = messageText("A", 1, { type: "Other.Thing.v1" }).replace('"checksum":null', '"checksum":"wrong"');
    await publish(other, messageText("A", 2));
    const { subscription } = await engine((name) => ran.push(name), {
      reaction: { accepts: (type) => (type.startsWith("Bank.") ? "handled" : "ignored") },
    });
    await clock.settle();
    expect(ran).toEqual(["A2"]);
    expect(await pending()).toEqual([]);
    expect(subscription.status()).toMatchObject({ ignored: 1, deadLettered: 0 });
  });

  test("with concurrency, several run at once but never two of one source stream", async () => {
    const { engine, publish, clock } = await setup();
    const running = new Set<string>();
    const ran: string[] = [];
    let most = 0;
    const gates = new Map<string, ReturnType<typeof gate>>();
    for (const source of ["A", "B", "C"]) await publish(messageText(source, 1), messageText(source, 2));
    await engine(
      async (name) => {
        const source = name.charAt(0);
        expect(running.has(source)).toBe(false);
        running.add(source);
        most = Math.max(most, running.size);
        ran.push(name);
        const waiting = gate();
        gates.set(name, waiting);
        await waiting.opened;
        running.delete(source);
      },
      { settings: { concurrency: 4 } },
    );
    await clock.settle();
    expect(ran).toEqual(["A1", "B1", "C1"]);
    gates.get("B1")?.open();
    await clock.settle();
    expect(ran).toEqual(["A1", "B1", "C1", "B2"]);
    for (const { open } of gates.values()) open();
    await clock.settle();
    for (const { open } of gates.values()) open();
    await clock.settle();
    expect(ran.toSorted()).toEqual(["A1", "A2", "B1", "B2", "C1", "C2"]);
    expect(most).toBe(3);
  });
});

describe("failures", () => {
  test("a failing message parks later ones of its own source stream only (known-traps B5)", async () => {
    const { engine, publish, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1), messageText("A", 2), messageText("B", 1), messageText("B", 2));
    const { subscription, telemetry } = await engine((name, { attempt }) => {
      ran.push(`${name}#${attempt}`);
      if (name === "A1" && attempt < 3) throw new Error("not yet");
    });
    await clock.settle();
    expect(ran).toEqual(["A1#1", "B1#1", "B2#1"]);
    expect(subscription.status().parked).toBe(2);
    await clock.advance(1_000);
    await clock.advance(1_000);
    expect(ran).toEqual(["A1#1", "B1#1", "B2#1", "A1#2", "A1#3", "A2#1"]);
    expect(telemetry.events().filter((event) => event === "message.nacked")).toHaveLength(2);
  });

  test("after the last attempt there is one dead letter that tells what happened, and the next message runs", async () => {
    const { engine, publish, pending, deadLetters, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1), messageText("A", 2));
    const { consumer } = await engine((name) => {
      ran.push(name);
      if (name === "A1") throw new TypeError("postgres://u:secret@host is wrong");
    });
    await clock.advance(3_000);
    expect(ran).toEqual(["A1", "A1", "A1", "A2"]);
    expect(await pending()).toEqual([]);
    const [dead, ...more] = await deadLetters();
    expect(more).toEqual([]);
    expect(dead?.letter).toMatchObject({
      originalStream: CATEGORY,
      consumerGroup: GROUP,
      consumer,
      retryCount: 3,
      failedAt: expect.stringContaining("2026-11-22T12:00:02"),
      originalText: messageText("A", 1),
    });
    expect(dead?.letter.error).toMatchObject({ class: "TypeError", message: "postgres://u:***@host is wrong" });
    expect(dead?.letter.error?.attempts.map((attempt) => attempt.worker)).toEqual([consumer, consumer, consumer]);
  });

  test("an undecodable entry gives exactly one dead letter with its bytes, unrun (G15)", async () => {
    const { engine, publish, broker, pending, deadLetters, clock } = await setup();
    const ran: string[] = [];
    await broker.publish([{ stream: CATEGORY, fields: { data: new Uint8Array([0xff, 0xfe]), extra: "x" } }]);
    await publish(messageText("A", 1));
    await engine((name) => ran.push(name));
    await clock.advance(10_000);
    expect(ran).toEqual(["A1"]);
    const dead = await deadLetters();
    expect(dead).toHaveLength(1);
    expect(dead[0]?.letter.error?.class).toBe("DeserializationError");
    expect(dead[0]?.fields.map(([name]) => name)).toContain("raw");
    expect(await pending()).toEqual([]);
  });

  test("a dead-letter stream that refuses leaves the entry pending; it lands there once it can (known-traps A1)", async () => {
    const { engine, publish, pending, deadLetters, clock } = await setup();
    let refuse = true;
    let runs = 0;
    await publish(messageText("A", 1));
    const { subscription } = await engine(
      () => {
        runs += 1;
        throw new Error("always");
      },
      { settings: { maxRetries: 1 }, over: (broker) => failing(broker, (method) => refuse && method === "deadLetter") },
    );
    await clock.advance(5_000);
    expect(await pending()).toHaveLength(1);
    expect(await deadLetters()).toEqual([]);
    refuse = false;
    await clock.advance(1_000);
    expect(await pending()).toEqual([]);
    expect(await deadLetters()).toHaveLength(1);
    expect(runs).toBe(1);
    expect(subscription.status().deadLettered).toBe(1);
  });

  test("with dead letters off the message is acknowledged after its last attempt", async () => {
    const { engine, publish, pending, deadLetters, clock } = await setup();
    await publish(messageText("A", 1));
    await engine(
      () => {
        throw new Error("always");
      },
      { settings: { maxRetries: 2, enableDeadLetters: false } },
    );
    await clock.advance(2_000);
    expect(await pending()).toEqual([]);
    expect(await deadLetters()).toEqual([]);
  });

  test("a handler says what becomes of it: RetryLater, DeadLetter, Discard, dead_letter_at_once", async () => {
    const { engine, publish, deadLetters, pending, clock } = await setup();
    const ran: string[] = [];
    await publish(...["A", "B", "C", "D"].map((source) => messageText(source, 1)));
    await engine(
      (name, { attempt }) => {
        ran.push(`${name}#${attempt}`);
        if (name === "A1" && attempt === 1) throw new RetryLater({ after_ms: 5_000 });
        if (name === "B1") throw new DeadLetter("never");
        if (name === "C1") throw new Discard("old");
        if (name === "D1") throw new RangeError("too much");
      },
      { settings: { deadLetterAtOnce: ["RangeError"] } },
    );
    await clock.advance(4_900);
    expect(ran).toEqual(["A1#1", "B1#1", "C1#1", "D1#1"]);
    await clock.advance(200);
    expect(ran.at(-1)).toBe("A1#2");
    expect((await deadLetters()).map(({ letter }) => letter.error?.class)).toEqual(["DeadLetter", "RangeError"]);
    expect(await pending()).toEqual([]);
  });

  test("an unknown command is a dead letter, never acknowledged in silence (rulings 2)", async () => {
    const { engine, publish, deadLetters, pending, clock } = await setup();
    await publish(messageText("A", 1, { type: "Bank.Unknown.v1", kind: "COMMAND" }));
    await engine(() => {}, { reaction: { kind: "commandHandler", accepts: () => "ignored" } });
    await clock.settle();
    expect((await deadLetters()).map(({ letter }) => letter.error?.class)).toEqual(["NoHandler"]);
    expect(await pending()).toEqual([]);
  });

  test("an unknown version is tried again, then dead-lettered (rulings 1)", async () => {
    const { engine, publish, deadLetters, clock } = await setup();
    let known = false;
    const ran: string[] = [];
    await publish(messageText("A", 1, { type: "Bank.Deposited.v2" }));
    const { subscription } = await engine((name) => ran.push(name), {
      reaction: { accepts: () => (known ? "handled" : "unknown-version") },
    });
    await clock.advance(1_500);
    expect(ran).toEqual([]);
    expect(subscription.status()).toMatchObject({ retried: 2, deadLettered: 0 });
    await clock.advance(1_000);
    expect((await deadLetters()).map(({ letter }) => letter.error?.class)).toEqual(["DeserializationError"]);
    known = true;
  });

  test("a command past its deadline is acknowledged unrun (G66)", async () => {
    const { engine, publish, pending, clock } = await setup();
    const ran: string[] = [];
    await publish(
      messageText("A", 1, { kind: "COMMAND", deadline: "2026-11-22T11:59:57+00:00" }),
      messageText("A", 2, { kind: "COMMAND", deadline: "2026-11-22T11:59:59+00:00" }),
    );
    const { telemetry } = await engine((name) => ran.push(name), { reaction: { kind: "commandHandler" } });
    await clock.settle();
    // Two seconds of tolerance: the second is still in time.
    expect(ran).toEqual(["A2"]);
    expect(telemetry.events()).toContain("handler.skipped");
    expect(await pending()).toEqual([]);
  });

  test("too much parked behind a failing message stops reading: held", async () => {
    const { engine, publish, clock } = await setup();
    const ran: string[] = [];
    await publish(...Array.from({ length: 60 }, (_, index) => messageText("A", index + 1)), messageText("B", 1));
    let failing = true;
    const { subscription } = await engine(
      (name, { attempt }) => {
        ran.push(`${name}#${attempt}`);
        if (name === "A1" && failing) throw new RetryLater({ after_ms: 20_000 });
      },
      { settings: { messagesPerTick: 2 } },
    );
    await clock.advance(10_000);
    expect(subscription.status()).toMatchObject({ state: "held" });
    expect(subscription.status().parked).toBeLessThan(25);
    expect(ran).toEqual(["A1#1"]);
    failing = false;
    await clock.advance(15_000);
    expect(ran).toHaveLength(62);
    expect(subscription.status()).toMatchObject({ state: "running", parked: 0 });
  });

  test("at the time limit the run fails, and its source stream waits for it to end (rulings 9)", async () => {
    const { engine, publish, clock } = await setup();
    const ran: string[] = [];
    const stuck = gate();
    let aborted = false;
    await publish(messageText("A", 1), messageText("A", 2), messageText("B", 1));
    const { subscription } = await engine(
      async (name, { attempt, signal }) => {
        ran.push(`${name}#${attempt}`);
        signal.addEventListener("abort", () => {
          aborted = true;
        });
        if (name === "A1" && attempt === 1) await stuck.opened;
      },
      { settings: { timeout_ms: 5_000 } },
    );
    await clock.advance(5_000);
    expect(aborted).toBe(true);
    await clock.advance(3_000);
    // B went on; A1 is due again but its first run hasn't ended.
    expect(ran).toEqual(["A1#1", "B1#1"]);
    expect(subscription.status().lastError).toContain("TimeoutError");
    stuck.open();
    await clock.advance(1_000);
    expect(ran).toEqual(["A1#1", "B1#1", "A1#2", "A2#1"]);
  });

  test("a run that never ends holds its source stream for three limits, not for ever", async () => {
    const { engine, publish, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1), messageText("A", 2));
    await engine(
      async (name, { attempt }) => {
        ran.push(`${name}#${attempt}`);
        if (name === "A1" && attempt === 1) await new Promise(() => {});
      },
      { settings: { timeout_ms: 5_000 } },
    );
    await clock.advance(14_000);
    expect(ran).toEqual(["A1#1"]);
    await clock.advance(2_000);
    expect(ran).toEqual(["A1#1", "A1#2", "A2#1"]);
  });
});

describe("the circuit breaker", () => {
  test("opens after exactly N failures in a row, reads nothing while open, probes once, closes on success (G49)", async () => {
    const { engine, publish, broker, clock } = await setup();
    const ran: string[] = [];
    let healthy = false;
    await publish(...Array.from({ length: 12 }, (_, index) => messageText(`S${index}-`, 1)));
    const { subscription, telemetry } = await engine(
      (name) => {
        ran.push(name);
        if (!healthy) throw new Error("database away");
      },
      { settings: { breakerThreshold: 4, messagesPerTick: 5, maxRetries: 10 } },
    );
    await clock.advance(30_000);
    expect(ran).toHaveLength(4);
    expect(subscription.status()).toMatchObject({ state: "open", circuit: "open", reason: expect.stringContaining("database away") });
    const unread = (await broker.groups(CATEGORY))[0]?.lag;
    expect(unread).toBeGreaterThan(0);
    await clock.advance(31_000);
    expect(ran).toHaveLength(5);
    expect(subscription.status().circuit).toBe("open");
    healthy = true;
    await clock.advance(90_000);
    expect(subscription.status()).toMatchObject({ circuit: "closed", state: "running", handled: 12 });
    expect(telemetry.events().filter((event) => event.startsWith("subscription.circuit_breaker"))).toEqual([
      "subscription.circuit_breaker.opened",
      "subscription.circuit_breaker.half_open",
      "subscription.circuit_breaker.opened",
      "subscription.circuit_breaker.half_open",
      "subscription.circuit_breaker.closed",
    ]);
  });
});

describe("handing an ordered subscription over to an engine that has fewer", () => {
  /** An engine that holds three leases, this subscription's the last of them, and gives one to another engine at the first tick. */
  const overloaded = async (script: Script) => {
    const bench = await setup();
    const names = ["a1", "a2", `${GROUP}:${CATEGORY}`];
    const first = await bench.engine(script, {
      settings: { shared: false },
      others: async () => [{ id: "another", leases: names }],
    });
    for (const name of ["a1", "a2"]) first.keeper.want(bench.broker.leases, name).onHandOver(async () => false);
    return { ...bench, first };
  };

  test("what runs ends there, what waits goes to the new owner with no attempt used up, and new entries come after it", async () => {
    const ran: string[] = [];
    const slow = gate();
    const { engine, publish, clock, first, pending } = await overloaded(async (name) => {
      ran.push(`one:${name}`);
      await slow.opened;
    });
    await publish(messageText("A", 1), messageText("A", 2), messageText("B", 1));
    await clock.settle();
    await engine((name, { attempt }) => ran.push(`two:${name}#${attempt}`), { settings: { shared: false } });
    await clock.advance(2_500);
    expect(first.subscription.status()).toMatchObject({ state: "draining", inFlight: 1 });
    expect(ran).toEqual(["one:A1"]);
    await publish(messageText("C", 1));
    slow.open();
    await clock.advance(2_500);
    expect(ran).toEqual(["one:A1", "two:A2#1", "two:B1#1", "two:C1#1"]);
    expect(first.subscription.status().state).toBe("standby");
    expect(await pending()).toEqual([]);
  });

  test("a run that doesn't end keeps the subscription where it is, and nothing is lost or doubled", async () => {
    const ran: string[] = [];
    const slow = gate();
    const { engine, publish, clock, beat, first, pending } = await overloaded(async (name) => {
      ran.push(`one:${name}`);
      if (name === "A1") await slow.opened;
    });
    await publish(messageText("A", 1), messageText("B", 1));
    await clock.settle();
    await engine((name) => ran.push(`two:${name}`), { settings: { shared: false } });
    await clock.advance(7_500);
    await beat();
    expect(first.subscription.status()).toMatchObject({ state: "running", inFlight: 1 });
    slow.open();
    await clock.settle();
    expect(ran).toEqual(["one:A1", "one:B1"]);
    expect(await pending()).toEqual([]);
  });
});

describe("dead and stalled owners", () => {
  test("what a killed engine had read is taken over at once, in order, before new entries", async () => {
    const { engine, publish, pending, clock, broker } = await setup();
    const ran: string[] = [];
    await broker.createGroup(CATEGORY, GROUP, "start");
    await publish(messageText("A", 1), messageText("A", 2), messageText("B", 1));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer: "Recorder-host-7-0123456789ab", count: 2 }]);
    await engine((name, { attempt }) => ran.push(`${name}#${attempt}`));
    await clock.settle();
    expect(ran).toEqual(["A1#2", "A2#2", "B1#1"]);
    expect(await pending()).toEqual([]);
    // The dead consumer holds nothing any more and is removed at the next look.
    await clock.advance(71_000);
    expect((await broker.consumers(CATEGORY, GROUP)).map((consumer) => consumer.name)).not.toContain("Recorder-host-7-0123456789ab");
  });

  test("an engine that began a moment ago is not taken for dead by a list of the living that is older", async () => {
    const { engine, publish, broker, beat, clock, pending } = await setup();
    const ran: string[] = [];
    const slow = gate();
    await engine((name) => ran.push(`one:${name}`));
    await clock.settle();
    // The first one has asked who is alive. Within the half second that it remembers the answer, another begins and takes an entry.
    const second = await engine(
      async (name) => {
        ran.push(`two:${name}`);
        await slow.opened;
      },
      { start: false },
    );
    await broker.createGroup(CATEGORY, GROUP, "start");
    await publish(messageText("A", 1));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer: second.consumer, count: 1 }]);
    await beat();
    await broker.publish([{ stream: CONTROL_STREAM, fields: { event: "released", stream: CATEGORY, group: GROUP } }]);
    await clock.settle();
    expect(ran).toEqual([]);
    expect((await pending()).map((entry) => entry.consumer)).toEqual([second.consumer]);
    slow.open();
  });

  test("a living owner keeps what it works on, also beyond claim_idle", async () => {
    const { engine, publish, clock, beat } = await setup();
    const ran: string[] = [];
    const slow = gate();
    await publish(messageText("A", 1));
    const first = await engine(async (name) => {
      ran.push(`one:${name}`);
      await slow.opened;
    });
    await clock.settle();
    await engine((name) => ran.push(`two:${name}`));
    for (let round = 0; round < 20; round += 1) {
      await clock.advance(4_000);
      await beat();
    }
    expect(first.subscription.status().inFlight).toBe(1);
    slow.open();
    await clock.settle();
    expect(ran).toEqual(["one:A1"]);
  });

  test("attempts survive a restart: a message that kills its process each time reaches its limit (known-traps B4)", async () => {
    const { engine, publish, deadLetters, pending, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1));
    for (let start = 0; start < 3; start += 1) {
      const { kill } = await engine(async (name, { attempt }) => {
        ran.push(`${name}#${attempt}`);
        await new Promise(() => {});
      });
      await clock.settle();
      await kill();
    }
    expect(ran).toEqual(["A1#1", "A1#2", "A1#3"]);
    await engine((name) => ran.push(name));
    await clock.settle();
    expect(ran).toHaveLength(3);
    const dead = await deadLetters();
    expect(dead.map(({ letter }) => [letter.retryCount, letter.error?.message])).toEqual([[3, "the process handling it died 3 times"]]);
    expect(await pending()).toEqual([]);
  });

  test("what two subscriptions of one process take over from a dead one is counted and run one after another (D40)", async () => {
    const { engine, publish, broker, clock, pending } = await setup();
    const other = "bank.Other";
    for (const group of [GROUP, other]) await broker.createGroup(CATEGORY, group, "start");
    await publish(messageText("A", 1));
    for (const group of [GROUP, other]) {
      await broker.read([{ stream: CATEGORY, group, consumer: `${group}-host-7-0123456789ab`, count: 1 }]);
    }
    const suspects = new Suspects(clock);
    const deadly = gate();
    const ran: string[] = [];
    await engine(
      async (name, { attempt }) => {
        ran.push(`deadly ${name}#${attempt}`);
        await deadly.opened;
      },
      { suspects },
    );
    await engine((name, { attempt }) => ran.push(`innocent ${name}#${attempt}`), { suspects, group: other });
    // A kill at this moment costs one attempt of the first, none of the second.
    expect(ran).toEqual(["deadly A1#2"]);
    expect((await pending()).map(({ deliveries }) => deliveries)).toEqual([2]);
    expect((await broker.pending(CATEGORY, other, { count: 10 })).map(({ deliveries }) => deliveries)).toEqual([1]);
    // One that doesn't kill at once holds up nobody for long.
    await clock.advance(60);
    expect(ran).toEqual(["deadly A1#2", "innocent A1#2"]);
    deadly.open();
    await clock.settle();
  });

  test("with one attempt allowed, entries that were only read by a killed engine still run", async () => {
    const { engine, publish, broker, clock } = await setup();
    const ran: string[] = [];
    await broker.createGroup(CATEGORY, GROUP, "start");
    await publish(messageText("A", 1), messageText("B", 1));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer: "Recorder-host-7-0123456789ab", count: 2 }]);
    await engine((name) => ran.push(name), { settings: { maxRetries: 1 } });
    await clock.settle();
    expect(ran).toEqual(["A1", "B1"]);
  });

  test("a foreign consumer's entries are taken only when both are idle beyond the longer limit, with fresh attempts (rulings 4, 5)", async () => {
    const { engine, publish, broker, clock } = await setup();
    const ran: string[] = [];
    await broker.createGroup(CATEGORY, GROUP, "start");
    await publish(messageText("A", 1));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer: "Recorder-host-7-2522cc", count: 1 }]);
    await engine((name, { attempt }) => ran.push(`${name}#${attempt}`), { settings: { claimForeignIdle_ms: 120_000 } });
    await clock.advance(110_000);
    expect(ran).toEqual([]);
    await clock.advance(25_000);
    expect(ran).toEqual(["A1#1"]);
  });

  test("a read whose answer got lost is made good before the next one: order is kept over an outage (G32, A9)", async () => {
    const { engine, publish, pending, broker, clock } = await setup();
    const ran: string[] = [];
    const read = broker.read.bind(broker);
    let broken = 0;
    broker.read = async (requests) => {
      const results = await read(requests);
      if (!results.some((result) => result.kind === "entries" && result.entries.length > 0) || broken > 0) return results;
      broken += 1;
      await publish(messageText("A", 2));
      throw new ConnectionError("the connection broke under the answer");
    };
    await publish(messageText("A", 1));
    await engine((name, { attempt }) => ran.push(`${name}#${attempt}`));
    await clock.advance(3_000);
    expect(broken).toBe(1);
    expect(ran.map((one) => one.slice(0, 2))).toEqual(["A1", "A2"]);
    expect(await pending()).toEqual([]);
  });

  test("what was delivered to us by a reply that got lost runs soon, as a first attempt, and not only after claim_idle (A9)", async () => {
    const { engine, publish, pending, broker, clock } = await setup();
    const ran: string[] = [];
    await publish(messageText("A", 1));
    const { reader, consumer } = await engine((name, { attempt }) => ran.push(`${name}#${attempt}`));
    await clock.settle();

    await reader.stop();
    await publish(messageText("A", 2), messageText("B", 1));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer, count: 10 }]);
    for (let second = 0; second < 16; second += 1) await clock.advance(1_000);
    expect(ran).toEqual(["A1#1", "A2#1", "B1#1"]);
    expect(await pending()).toEqual([]);
  });

  test("after a stall the owner asks what is still its own before it runs it (rulings 3)", async () => {
    const { engine, publish, pending, broker, clock } = await setup();
    const ran: string[] = [];
    const slow = gate();
    await publish(messageText("A", 1), messageText("B", 1), messageText("C", 1));
    const { subscription } = await engine(async (name) => {
      ran.push(name);
      if (name === "A1") await slow.opened;
    });
    await clock.settle();
    const [, second] = await pending();
    clock.stall(60_000);
    await broker.claim(CATEGORY, GROUP, "Recorder-host-8-ba9876543210", [second?.id ?? ""], { minIdle_ms: 0 });
    slow.open();
    await clock.settle();
    expect(ran).toEqual(["A1", "C1"]);
    expect(subscription.status().handled).toBe(2);
    expect((await pending()).map((entry) => entry.consumer)).toEqual(["Recorder-host-8-ba9876543210"]);
  });

  test("pending entries that were trimmed are counted as lost, and the living ones behind them run (known-traps B2)", async () => {
    const { engine, publish, broker, pending, clock } = await setup();
    const ran: string[] = [];
    await broker.createGroup(CATEGORY, GROUP, "start");
    const ids = await publish(...["A", "B", "C", "D"].map((source) => messageText(source, 1)));
    await broker.read([{ stream: CATEGORY, group: GROUP, consumer: "Recorder-host-7-0123456789ab", count: 4 }]);
    await broker.remove(CATEGORY, ids.slice(0, 2));
    const { telemetry } = await engine((name) => ran.push(name));
    await clock.settle();
    expect(ran).toEqual(["C1", "D1"]);
    expect(telemetry.counts.get("protean_subscription_lost_by_trim_total")).toBe(2);
    expect(await pending()).toEqual([]);
  });

  test("a replayed dead letter runs again in its group only", async () => {
    const { engine, publish, broker, deadLetters, clock } = await setup();
    const ran: string[] = [];
    let broken = true;
    await publish(messageText("A", 1));
    await engine((name, { attempt }) => {
      ran.push(`${name}#${attempt}`);
      if (broken) throw new DeadLetter("broken");
    });
    await clock.settle();
    const [entry] = await broker.range(`${CATEGORY}:dlq`, { count: 1 });
    const [dead] = await deadLetters();
    broken = false;
    const replay = {
      deadLetterStream: `${CATEGORY}:dlq`,
      deadLetterId: entry?.id ?? "",
      stream: CATEGORY,
      group: GROUP,
      originalId: dead?.letter.originalId ?? "",
      fields: { data: messageText("A", 1) },
    };
    expect(await broker.replay(replay)).toBe("redelivered");
    await clock.advance(11_000);
    expect(ran).toEqual(["A1#1", "A1#1"]);
  });

  test("a replay of an entry that is gone comes over the replay stream of the group, which is empty afterwards", async () => {
    const { engine, publish, broker, clock } = await setup();
    const ran: string[] = [];
    let broken = true;
    const [id] = await publish(messageText("A", 1));
    await engine((name) => {
      ran.push(name);
      if (broken) throw new DeadLetter("broken");
    });
    await clock.settle();
    await broker.remove(CATEGORY, [id ?? ""]);
    const [entry] = await broker.range(`${CATEGORY}:dlq`, { count: 1 });
    broken = false;
    const answer = await broker.replay({
      deadLetterStream: `${CATEGORY}:dlq`,
      deadLetterId: entry?.id ?? "",
      stream: CATEGORY,
      group: GROUP,
      originalId: id ?? "",
      fields: { data: messageText("A", 2) },
    });
    expect(answer).toBe("copied");
    await clock.advance(11_000);
    expect(ran).toEqual(["A1", "A2"]);
    expect(await broker.length(`${CATEGORY}:replay:${GROUP}`)).toBe(0);
  });
});

describe("the group", () => {
  test("that vanishes is made anew at the start, loudly, or stops the subscription", async () => {
    const { engine, publish, clock, broker } = await setup();
    const ran: string[] = [];
    let lost = true;
    const losing = (given: Broker): Broker =>
      new Proxy(given, {
        get(target, key) {
          const value: unknown = Reflect.get(target, key, target);
          if (key === "read" && lost) {
            return async (requests: readonly unknown[]) => {
              lost = false;
              return requests.map(() => ({ kind: "groupLost" }));
            };
          }
          return typeof value === "function" ? (value as (...given: unknown[]) => unknown).bind(target) : value;
        },
      });
    await publish(messageText("A", 1));
    const { telemetry } = await engine((name) => ran.push(name), { over: losing });
    await clock.advance(6_000);
    expect(ran).toEqual(["A1"]);
    expect(telemetry.counts.get("protean_subscription_group_lost_total")).toBe(1);

    lost = true;
    const second = await engine((name) => ran.push(name), { over: losing, settings: { onGroupLost: "stop" } });
    await clock.advance(6_000);
    expect(second.subscription.status()).toMatchObject({ state: "stopped", reason: expect.stringContaining("group") });
    expect(await broker.length(CATEGORY)).toBe(1);
  });

  test("with shared = false one engine reads at a time; the other takes over within 10 s of its death", async () => {
    const { engine, publish, clock } = await setup();
    const ran: string[] = [];
    const first = await engine((name) => ran.push(`one:${name}`), { settings: { shared: false } });
    const second = await engine((name) => ran.push(`two:${name}`), { settings: { shared: false } });
    await publish(messageText("A", 1), messageText("A", 2));
    await clock.advance(1_000);
    expect(ran).toEqual(["one:A1", "one:A2"]);
    expect(first.subscription.status().state).toBe("running");
    expect(second.subscription.status().state).toBe("standby");
    // A death: nothing renews its lease any more.
    await first.kill();
    const stopped = first.subscription.stop(new AbortController().signal);
    await clock.advance(500);
    await stopped;
    await publish(messageText("A", 3));
    await clock.advance(10_000);
    expect(ran).toEqual(["one:A1", "one:A2", "two:A3"]);
  });

  test("a lease lost and found again under a run loses neither the entry that ran nor the order behind it", async () => {
    const { engine, publish, pending, broker, clock } = await setup();
    const ran: string[] = [];
    const slow = gate();
    const { subscription } = await engine(
      async (name) => {
        ran.push(name);
        if (ran.length > 1) return;
        await slow.opened;
        throw new Error("once");
      },
      { settings: { shared: false } },
    );
    await publish(messageText("A", 1), messageText("A", 2));
    await clock.settle();
    await broker.leases.release(await broker.leases.holders(""));
    await clock.advance(2_500);
    expect(subscription.status().state).toBe("running");
    slow.open();
    await clock.advance(2_500);
    expect(ran).toEqual(["A1", "A1", "A2"]);
    expect(await pending()).toEqual([]);
  });

  test("an engine without its lease takes nothing from the one that has it, even if nobody told it", async () => {
    const { engine, publish, pending, beat, clock } = await setup();
    const ran: string[] = [];
    const slow = gate();
    const first = await engine((name) => ran.push(`one:${name}`), { settings: { shared: false } });
    const releasing = first.keeper.stop();
    await clock.advance(1_000);
    await releasing;
    const second = await engine(
      async (name) => {
        ran.push(`two:${name}`);
        await slow.opened;
      },
      { settings: { shared: false } },
    );
    await publish(messageText("A", 1), messageText("A", 2));
    for (let round = 0; round < 10; round += 1) {
      await clock.advance(2_500);
      await beat();
    }
    expect(ran).toEqual(["two:A1"]);
    expect(new Set((await pending()).map((entry) => entry.consumer))).toEqual(new Set([second.consumer]));
    slow.open();
    await clock.settle();
    expect(ran).toEqual(["two:A1", "two:A2"]);
  });
});

describe("stopping", () => {
  test("a drain hands back what was not begun with exact attempts, and lets what runs end (G4)", async () => {
    const { engine, publish, pending, clock } = await setup();
    const ran: string[] = [];
    const slow = gate();
    await publish(...["A", "B", "C", "D"].map((source) => messageText(source, 1)));
    const { subscription } = await engine(async (name) => {
      ran.push(name);
      if (name === "A1") throw new Error("once");
      if (name === "B1") await slow.opened;
    });
    await clock.settle();
    expect(ran).toEqual(["A1", "B1"]);
    subscription.quiesce();
    subscription.quiesce();
    await clock.settle();
    expect(subscription.status().state).toBe("draining");
    const given = await pending();
    // A1 ran once; C1 and D1 never; B1 runs.
    expect(given.map((entry) => [entry.deliveries, entry.idle_ms > 1_000_000])).toEqual([
      [1, true],
      [1, false],
      [0, true],
      [0, true],
    ]);
    const second = await engine((name, { attempt }) => ran.push(`two:${name}#${attempt}`));
    await clock.settle();
    expect(ran.slice(2)).toEqual(["two:A1#2", "two:C1#1", "two:D1#1"]);
    slow.open();
    const stopped = subscription.stop(new AbortController().signal);
    await clock.settle();
    await stopped;
    expect(await pending()).toEqual([]);
    expect(subscription.status()).toMatchObject({ state: "stopped", handled: 1 });
    expect(second.subscription.status().handled).toBe(3);
  });

  test("what still runs when draining is over is aborted and handed back with its attempt counted", async () => {
    const { engine, publish, pending, clock } = await setup();
    let aborted = false;
    await publish(messageText("A", 1));
    const { subscription } = await engine(async (_name, { signal }) => {
      signal.addEventListener("abort", () => {
        aborted = true;
      });
      await new Promise(() => {});
    });
    await clock.settle();
    const over = new AbortController();
    const stopped = subscription.stop(over.signal);
    await clock.advance(3_000);
    expect(aborted).toBe(false);
    over.abort();
    await clock.advance(1_000);
    await stopped;
    expect(aborted).toBe(true);
    expect((await pending()).map((entry) => [entry.deliveries, entry.idle_ms > 1_000_000])).toEqual([[1, true]]);
    expect(subscription.interrupted).toBe(1);
  });

  test("an idle stop writes nothing, waits for nothing and leaves no timer behind", async () => {
    const { engine, clock, broker } = await setup();
    const { subscription, reader } = await engine(() => {});
    await clock.settle();
    await subscription.stop(new AbortController().signal);
    const stopping = reader.stop();
    await clock.settle();
    await stopping;
    expect(subscription.idleFor_ms()).toBe(0);
    expect(await broker.consumers(CATEGORY, GROUP)).toEqual([]);
  });
});

describe("subscribers", () => {
  test("get the payload of field data, or all fields where there is none", async () => {
    const { engine, broker, deadLetters, clock } = await setup();
    const got: unknown[] = [];
    await broker.publish([
      { stream: CATEGORY, fields: { data: '{"order": 1}' } },
      { stream: CATEGORY, fields: { order: "2", state: "new" } },
      { stream: CATEGORY, fields: { data: "{broken" } },
    ]);
    const { telemetry } = await engine(() => {}, {
      kind: "broker",
      reaction: {
        kind: "subscriber",
        runPayload: async (payload, source) => {
          got.push(payload, source.stream);
        },
      },
    });
    await clock.advance(4_000);
    expect(got).toEqual([{ order: 1 }, CATEGORY, { order: "2", state: "new" }, CATEGORY]);
    expect(await deadLetters()).toHaveLength(1);
    expect(telemetry.events()).toEqual(["message.dlq"]);
  });
});
