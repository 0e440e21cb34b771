/**
 * Number of single-character edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
 *
 * Used for "did you mean". Optimal string alignment; both words are short (keys, names), so the quadratic table is fine.
 */
export function editDistance(a: string, b: string): number {
  const width = b.length + 1;
  const cells = new Array<number>((a.length + 1) * width).fill(0);
  const at = (row: number, column: number): number => cells[row * width + column] ?? 0;
  for (let row = 0; row <= a.length; row++) {
    for (let column = 0; column <= b.length; column++) {
      let least: number;
      if (row === 0 || column === 0) least = row + column;
      else {
        const same = a[row - 1] === b[column - 1];
        least = Math.min(at(row - 1, column) + 1, at(row, column - 1) + 1, at(row - 1, column - 1) + (same ? 0 : 1));
        if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
          least = Math.min(least, at(row - 2, column - 2) + 1);
        }
      }
      cells[row * width + column] = least;
    }
  }
  return at(a.length, b.length);
}

/**
 * The candidate nearest to `word`, or null when none is near enough to be a slip of the finger (at most a third of the letters,
 * at least 2). Case is ignored; of several equally near ones the first wins.
 */
export function nearest(word: string, candidates: Iterable<string>): string | null {
  const lower = word.toLowerCase();
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(lower, candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}
