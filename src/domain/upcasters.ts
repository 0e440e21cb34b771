/** Chains that turn stored payloads of older event versions into the current one's. */
import { ConfigurationError, DeserializationError } from "../errors.ts";
import type { JsonObject, JsonValue } from "../messages/json.ts";
import { typeString } from "../messages/names.ts";
import type { Domain } from "./domain.ts";
import type { ElementMeta } from "./element.ts";
import { at } from "./place.ts";

/** Works on the stored JSON, in wire names. */
export type Upcaster = (data: Record<string, JsonValue>) => Readonly<Record<string, JsonValue>>;

export interface UpcasterMeta {
  readonly event: ElementMeta;
  readonly fromVersion: number;
  readonly toVersion: number;
  readonly run: Upcaster;
  readonly declaredAt: string;
}

interface Chain {
  readonly meta: ElementMeta;
  readonly steps: readonly UpcasterMeta[];
}

export class Upcasters {
  readonly #chains: ReadonlyMap<string, Chain>;

  constructor(chains: ReadonlyMap<string, Chain>) {
    this.#chains = chains;
  }

  target(type: string): ElementMeta | null {
    return this.#chains.get(type)?.meta ?? null;
  }

  /** @throws DeserializationError when an upcaster throws or returns no object */
  upcast(type: string, data: Record<string, JsonValue>): { readonly meta: ElementMeta; readonly data: JsonObject } | null {
    const chain = this.#chains.get(type);
    if (chain === undefined) return null;
    let current: Record<string, JsonValue> = data;
    for (const step of chain.steps) {
      const what = `upcaster of \`${step.event.name}\` from version ${step.fromVersion} to ${step.toVersion}`;
      let result: unknown;
      try {
        result = step.run(current);
      } catch (error) {
        throw new DeserializationError(`${what} failed: ${error instanceof Error ? error.message : String(error)}`, {
          at: step.declaredAt,
          cause: error,
        });
      }
      if (typeof result !== "object" || result === null || Array.isArray(result) || result instanceof Promise) {
        throw new DeserializationError(`${what} returned no object`, {
          at: step.declaredAt,
          fix: "Return the payload of the next version.",
        });
      }
      current = result as Record<string, JsonValue>;
    }
    return { meta: chain.meta, data: current };
  }
}

function byEvent(domain: Domain): ReadonlyMap<ElementMeta, readonly UpcasterMeta[]> {
  const found = new Map<ElementMeta, UpcasterMeta[]>();
  for (const upcaster of domain.upcasterMetas) found.set(upcaster.event, [...(found.get(upcaster.event) ?? []), upcaster]);
  return found;
}

/** Steps from a version to the current one, or the version where the chain breaks. */
function follow(steps: readonly UpcasterMeta[], from: number, current: number): readonly UpcasterMeta[] | number {
  const chain: UpcasterMeta[] = [];
  let version = from;
  while (version !== current) {
    const next = steps.find((step) => step.fromVersion === version && step.toVersion > version);
    if (next === undefined) return version;
    chain.push(next);
    version = next.toVersion;
  }
  return chain;
}

export function buildUpcasters(domain: Domain): Upcasters {
  const chains = new Map<string, Chain>();
  for (const [meta, steps] of byEvent(domain)) {
    for (const { fromVersion } of steps) {
      const chain = follow(steps, fromVersion, meta.version);
      if (typeof chain !== "number") chains.set(typeString(domain.name, meta.name, fromVersion), { meta, steps: chain });
    }
  }
  return new Upcasters(chains);
}

/** Everything wrong with the upcasters: two from one version, backwards, a gap, an end that isn't the current version. */
export function upcasterMistakes(domain: Domain): Error[] {
  const mistakes: Error[] = [];
  for (const [meta, steps] of byEvent(domain)) {
    if (meta.kind !== "event") {
      mistakes.push(
        new ConfigurationError(`upcaster of \`${meta.name}\`: only events of this domain have upcasters`, at(steps[0]?.declaredAt ?? "")),
      );
      continue;
    }
    const seen = new Set<number>();
    const gaps = new Set<number>();
    for (const step of steps) {
      const { fromVersion, toVersion, declaredAt } = step;
      if (!Number.isSafeInteger(fromVersion) || !Number.isSafeInteger(toVersion) || fromVersion < 1 || toVersion <= fromVersion) {
        mistakes.push(
          new ConfigurationError(`${meta.name} v${fromVersion} → v${toVersion}: an upcaster leads to a higher version`, at(declaredAt)),
        );
        continue;
      }
      if (seen.has(fromVersion)) {
        mistakes.push(
          new ConfigurationError(`${meta.name}: two upcasters from version ${fromVersion}`, at(declaredAt, "Keep one of them.")),
        );
      }
      seen.add(fromVersion);
      if (toVersion > meta.version) {
        mistakes.push(
          new ConfigurationError(
            `${meta.name} v${fromVersion} → v${toVersion}: the event's version is ${meta.version}`,
            at(declaredAt, `Declare the event with version: ${toVersion}.`),
          ),
        );
        continue;
      }
      const end = follow(steps, fromVersion, meta.version);
      if (typeof end === "number" && !gaps.has(end)) {
        gaps.add(end);
        const first = Math.min(...steps.map((other) => other.fromVersion));
        mistakes.push(
          new ConfigurationError(
            `${meta.name} v${first} → v${meta.version}: no upcaster from version ${end}`,
            at(declaredAt, `Add domain.upcaster({ eventType: ${meta.name}, fromVersion: ${end}, toVersion: ${end + 1} }, …).`),
          ),
        );
      }
    }
  }
  return mistakes;
}
