import { expect, test } from "bun:test";
import { GRACE_ms, type PositionedRow, SettledPrefix, TIMEOUT_ms } from "../../../../src/adapters/postgresql/settled-prefix.ts";

const rows = (...positions: number[]): PositionedRow[] => positions.map((globalPosition) => ({ globalPosition, age_ms: 10 }));
const snapshot = (oldest: number, next: number) => ({ oldest: BigInt(oldest), next: BigInt(next) });

test("without a hole all is given out", () => {
  expect(new SettledPrefix().length(0, rows(1, 2, 3), snapshot(5, 5), 0)).toBe(3);
  expect(new SettledPrefix().length(7, rows(7, 8), snapshot(5, 5), 0)).toBe(2);
});

test("what is behind a hole waits until the transactions of its time have ended, and at least for the grace (A3)", () => {
  const settled = new SettledPrefix();
  const read = (now_ms: number, oldest: number) => settled.length(6, rows(6, 8), snapshot(oldest, 20), now_ms);
  expect(read(0, 10)).toBe(1);
  expect(read(GRACE_ms + 1, 10)).toBe(1);
  expect(read(GRACE_ms + 2, 19)).toBe(1);
  expect(read(GRACE_ms + 3, 20)).toBe(2);
  expect(new SettledPrefix().length(6, rows(6, 8), snapshot(20, 20), 0)).toBe(1);
});

test("a position that comes after all is given out in its place", () => {
  const settled = new SettledPrefix();
  expect(settled.length(6, rows(6, 8), snapshot(10, 20), 0)).toBe(1);
  expect(settled.length(7, rows(7, 8), snapshot(15, 21), 100)).toBe(2);
});

test("the timeout is the last word, whatever runs", () => {
  const settled = new SettledPrefix();
  expect(settled.length(1, rows(2), snapshot(1, 20), 0)).toBe(0);
  expect(settled.length(1, rows(2), snapshot(1, 99), TIMEOUT_ms - 1)).toBe(0);
  expect(settled.length(1, rows(2), snapshot(1, 99), TIMEOUT_ms)).toBe(1);
});

test("what is left of a hole keeps its time, and several holes of a page cost one wait", () => {
  const settled = new SettledPrefix();
  expect(settled.length(1, rows(5, 9), snapshot(1, 20), 0)).toBe(0);
  expect(settled.length(1, rows(1, 3, 5, 9), snapshot(20, 30), GRACE_ms)).toBe(4);
});

test("history is read without waiting at its holes", () => {
  expect(new SettledPrefix().length(0, [{ globalPosition: 40, age_ms: 3_600_000 }], snapshot(1, 20), 0)).toBe(1);
});
