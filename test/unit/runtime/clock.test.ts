import { expect, setSystemTime, test } from "bun:test";
import { SystemClock } from "../../../src/runtime/clock.ts";

test("wall time has microseconds and stays beside the system's", () => {
  const clock = new SystemClock();
  const times = Array.from({ length: 200 }, () => clock.now_ms());
  expect(times.some((time) => !Number.isInteger(time))).toBe(true);
  expect(Math.abs(clock.now_ms() - Date.now())).toBeLessThanOrEqual(10);
});

test("wall time follows when the system's clock is set", () => {
  const clock = new SystemClock();
  const past = Date.UTC(2020, 0, 1);
  setSystemTime(past);
  try {
    expect(clock.now_ms()).toBe(past);
  } finally {
    setSystemTime();
  }
});

test("sleep ends at once when its signal aborts, before or during", async () => {
  const clock = new SystemClock();
  const stop = new AbortController();
  const sleeping = clock.sleep(3_600_000, stop.signal);
  stop.abort();
  await sleeping;
  await clock.sleep(3_600_000, stop.signal);
  expect(stop.signal.aborted).toBe(true);
});

test("a wait longer than 24 days does not fire at once", async () => {
  const clock = new SystemClock();
  let fired = false;
  const cancel = clock.timer(Number.MAX_SAFE_INTEGER, () => {
    fired = true;
  });
  await clock.turn();
  await clock.sleep(2);
  cancel();
  expect(fired).toBe(false);
});

test("a timer that is cancelled doesn't run", async () => {
  const clock = new SystemClock();
  let runs = 0;
  clock.timer(0, () => {
    runs += 1;
  })();
  await new Promise<void>((resolve) => clock.timer(1, resolve) && clock.sleep(5).then(resolve));
  expect(runs).toBe(0);
});
