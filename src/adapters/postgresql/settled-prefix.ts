/** A run of global positions that nobody has written, or whose writer hasn't committed. */
interface Hole {
  readonly from: number;
  readonly to: number;
  readonly seen_ms: number;
  /** The first transaction number that was not yet given out when the hole was first seen. */
  readonly next: bigint;
}

export interface PositionedRow {
  readonly globalPosition: number;
  /** How long ago the row's transaction began, by the database's clock. */
  readonly age_ms: number;
}

/** What the database said of its transactions in the statement that read the rows: the oldest running one, and the next to be given. */
export interface Snapshot {
  readonly oldest: bigint;
  readonly next: bigint;
}

/** A writer takes its position a moment before its transaction has a number; nothing is decided within this time (rulings 26). */
export const GRACE_ms = 1_000;
/** The last word (`gap_timeout_seconds` of the original). */
export const TIMEOUT_ms = 5_000;
/** A row this old has no writer beside it any more: history is read without a wait at each hole. */
const OLD_ms = 30_000;
const HOLES_max = 1_000;

/**
 * Decides how far `$all` may be read. Positions are given out before commits, so a later one may be visible before an earlier one; who read past
 * the hole would never see it (D16, known-traps A3).
 *
 * A hole is dead, and is read over, when every transaction that ran when it was first seen has ended and a second has passed; or after five
 * seconds, whatever runs. Until then the rows behind it are held back.
 */
export class SettledPrefix {
  #holes: Hole[] = [];

  /**
   * @param from position from which was read
   * @param rows in order, without gaps but holes
   * @returns how many of the rows may be given out
   */
  length(from: number, rows: readonly PositionedRow[], snapshot: Snapshot, now_ms: number): number {
    let expected = Math.max(1, from);
    for (const [index, row] of rows.entries()) {
      if (row.globalPosition > expected && !this.#isDead(expected, row, snapshot, now_ms)) {
        this.#noteLater(rows.slice(index), snapshot, now_ms);
        return index;
      }
      expected = row.globalPosition + 1;
    }
    return rows.length;
  }

  #isDead(from: number, behind: PositionedRow, snapshot: Snapshot, now_ms: number): boolean {
    if (behind.age_ms >= OLD_ms) return true;
    const hole = this.#seen(from, behind.globalPosition - 1, snapshot, now_ms);
    const waited_ms = now_ms - hole.seen_ms;
    return waited_ms >= TIMEOUT_ms || (waited_ms >= GRACE_ms && snapshot.oldest >= hole.next);
  }

  /** Holes further on begin their time now, so that many cost one wait and not one each. */
  #noteLater(rows: readonly PositionedRow[], snapshot: Snapshot, now_ms: number): void {
    let expected = rows[0]?.globalPosition ?? 0;
    for (const row of rows) {
      if (row.globalPosition > expected) this.#seen(expected, row.globalPosition - 1, snapshot, now_ms);
      expected = row.globalPosition + 1;
    }
  }

  /** The hole as it was first seen; what is left of a larger one keeps that one's time. */
  #seen(from: number, to: number, snapshot: Snapshot, now_ms: number): Hole {
    const known = this.#holes.find((hole) => hole.from <= from && to <= hole.to);
    if (known !== undefined) return known;
    const hole: Hole = { from, to, seen_ms: now_ms, next: snapshot.next };
    this.#holes.push(hole);
    if (this.#holes.length > HOLES_max) this.#holes = this.#holes.slice(-HOLES_max / 2);
    return hole;
  }
}
