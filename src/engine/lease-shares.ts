/** What one engine knows of who has which lease, at one moment. */
export interface Standing {
  readonly own: string;
  /** The engines that are alive, us among them, each with the leases it would take. */
  readonly wanted: ReadonlyMap<string, ReadonlySet<string>>;
  /** Leases that are held, with their owners. */
  readonly holders: ReadonlyMap<string, string>;
}

/**
 * The leases that we should hand over now, so that ordered work is spread over the engines (rulings 8, 25).
 *
 * The share is all leases divided by the engines; it has a whole number below and one above. Who has more than the one above gives the rest away. While
 * somebody has less than the one below, as many of those who have more than it as are needed, first ones first, give one. All engines look at
 * the same facts and each gives only of its own; an even spread changes nothing.
 */
export function surplus(standing: Standing): readonly string[] {
  const { own, wanted, holders } = standing;
  const { most, least } = shareOf(standing);
  const loads = loadsOf(standing);
  const load = (engine: string): number => loads.get(engine) ?? 0;
  const engines = [...wanted.keys()].sort();
  const lacking = engines.reduce((sum, engine) => sum + Math.max(0, least - load(engine)), 0);
  const giving = engines.filter((engine) => load(engine) > least).slice(0, lacking);
  let spare = Math.max(load(own) - most, giving.includes(own) ? 1 : 0);
  const mine = [...holders].flatMap(([name, owner]) => (owner === own && wanted.get(own)?.has(name) === true ? [name] : [])).sort();
  const given: string[] = [];
  for (const enough of [least, most]) {
    for (const engine of engines) {
      if (engine === own) continue;
      for (let lacks = enough - load(engine); lacks > 0 && spare > 0; lacks -= 1) {
        const name = mine.findLast((one) => wanted.get(engine)?.has(one) === true && !given.includes(one));
        if (name === undefined) break;
        given.push(name);
        spare -= 1;
      }
    }
  }
  return given;
}

/** Whether a lease that is free should be left for a moment to an engine that has fewer and would take it. */
export function isForOthers(standing: Standing, name: string): boolean {
  const loads = loadsOf(standing);
  const own = loads.get(standing.own) ?? 0;
  return [...standing.wanted].some(([engine, names]) => names.has(name) && (loads.get(engine) ?? 0) < own);
}

function shareOf({ wanted }: Standing): { readonly most: number; readonly least: number } {
  const all = new Set<string>();
  for (const names of wanted.values()) for (const name of names) all.add(name);
  const share = all.size / Math.max(1, wanted.size);
  return { most: Math.ceil(share), least: Math.floor(share) };
}

function loadsOf({ wanted, holders }: Standing): ReadonlyMap<string, number> {
  const loads = new Map<string, number>();
  for (const [name, owner] of holders) if (wanted.get(owner)?.has(name) === true) loads.set(owner, (loads.get(owner) ?? 0) + 1);
  return loads;
}
