const UNITS_ms: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `500ms`, `10s`, `1.5h`, `7d`; a bare number is seconds. null for anything else. */
export function parseDuration_ms(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text.trim());
  if (match === null) return null;
  return Number(match[1]) * (UNITS_ms[match[2] ?? "s"] ?? 0);
}

/** For people: `850 ms`, `12 s`, `4 min`, `3 h`, `2 d`. */
export function durationText(duration_ms: number): string {
  if (duration_ms < 1_000) return `${Math.round(duration_ms)} ms`;
  if (duration_ms < 120_000) return `${trimmed(duration_ms / 1_000)} s`;
  if (duration_ms < 7_200_000) return `${Math.round(duration_ms / 60_000)} min`;
  if (duration_ms < 172_800_000) return `${Math.round(duration_ms / 3_600_000)} h`;
  return `${Math.round(duration_ms / 86_400_000)} d`;
}

function trimmed(value: number): string {
  return value < 10 ? value.toFixed(1).replace(/\.0$/, "") : String(Math.round(value));
}
