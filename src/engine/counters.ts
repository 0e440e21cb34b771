import type { Labels } from "../ports/telemetry.ts";

/** Upper bounds of the buckets of measured values, in the value's own unit: 1 ms … 60 s for durations in seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;
/** Label values come from outside (message types): a name keeps at most this many series, the rest is added up under `other`. */
const SERIES_MAX = 2_000;

export interface CounterSeries {
  readonly name: string;
  readonly labels: Labels;
  readonly value: number;
}

export interface HistogramSeries {
  readonly name: string;
  readonly labels: Labels;
  readonly count: number;
  readonly sum: number;
  /** Upper bound and how many values were at or below it; the last bound is Infinity. */
  readonly buckets: readonly (readonly [upTo: number, count: number])[];
}

interface Counter {
  readonly labels: Labels;
  value: number;
}

interface Histogram {
  readonly labels: Labels;
  readonly counts: number[];
  sum: number;
  count: number;
}

interface Family<Series> {
  readonly byText: Map<string, Series>;
  /** Callers keep their label objects; looking those up costs nothing. */
  readonly byObject: WeakMap<Labels, Series>;
}

const NO_LABELS: Labels = Object.freeze({});

/** Everything that is counted in this process since its start; health, `/metrics` and the dashboard read it, so that no two of them differ. */
export class Counters {
  readonly #counters = new Map<string, Family<Counter>>();
  readonly #histograms = new Map<string, Family<Histogram>>();

  count(name: string, labels: Labels = NO_LABELS, by = 1): void {
    seriesOf(this.#counters, name, labels, (own) => ({ labels: own, value: 0 })).value += by;
  }

  observe(name: string, value: number, labels: Labels = NO_LABELS): void {
    const series = seriesOf(this.#histograms, name, labels, (own) => ({
      labels: own,
      counts: new Array<number>(BUCKETS.length + 1).fill(0),
      sum: 0,
      count: 0,
    }));
    let at = 0;
    while (at < BUCKETS.length && value > (BUCKETS[at] ?? Number.POSITIVE_INFINITY)) at += 1;
    series.counts[at] = (series.counts[at] ?? 0) + 1;
    series.sum += value;
    series.count += 1;
  }

  /** Sum over all series of that name whose labels contain these. */
  total(name: string, labels: Labels = NO_LABELS): number {
    let sum = 0;
    for (const series of this.#counters.get(name)?.byText.values() ?? []) {
      if (Object.entries(labels).every(([key, value]) => series.labels[key] === value)) sum += series.value;
    }
    return sum;
  }

  counters(): readonly CounterSeries[] {
    return [...this.#counters].flatMap(([name, family]) =>
      [...family.byText.values()].map((series) => ({ name, labels: series.labels, value: series.value })),
    );
  }

  histograms(): readonly HistogramSeries[] {
    return [...this.#histograms].flatMap(([name, family]) =>
      [...family.byText.values()].map((series) => {
        let below = 0;
        const buckets = series.counts.map((count, at) => {
          below += count;
          return [BUCKETS[at] ?? Number.POSITIVE_INFINITY, below] as const;
        });
        return { name, labels: series.labels, count: series.count, sum: series.sum, buckets };
      }),
    );
  }
}

function seriesOf<Series>(families: Map<string, Family<Series>>, name: string, labels: Labels, make: (own: Labels) => Series): Series {
  let family = families.get(name);
  if (family === undefined) {
    family = { byText: new Map(), byObject: new WeakMap() };
    families.set(name, family);
  }
  const known = family.byObject.get(labels);
  if (known !== undefined) return known;
  let own = labels;
  let text = textOf(own);
  if (!family.byText.has(text) && family.byText.size >= SERIES_MAX) {
    own = Object.fromEntries(Object.keys(labels).map((key) => [key, "other"]));
    text = textOf(own);
  }
  let series = family.byText.get(text);
  if (series === undefined) {
    series = make({ ...own });
    family.byText.set(text, series);
  }
  family.byObject.set(labels, series);
  return series;
}

function textOf(labels: Labels): string {
  return JSON.stringify(Object.entries(labels).sort(([one], [other]) => (one < other ? -1 : 1)));
}
