import type { Config } from "./config.ts";
import { MASK, maskSecrets } from "./mask.ts";
import { SCHEMA } from "./schema.ts";

/** One line of `config show`. */
export interface ShownValue {
  readonly path: string;
  /** In the types of domain.toml; secrets are `***`, addresses without password. */
  readonly value: unknown;
  /** `domain.toml:12`, `domain.toml:30 (overlay prod)`, `environment …`, `flag`, `default`. */
  readonly origin: string;
}

const SECRET_PATHS: ReadonlySet<string> = new Set(SCHEMA.filter((spec) => spec.secret).map((spec) => spec.path));

/** The effective configuration with the origin of each value, sorted by path, fit for printing. */
export function showConfig(config: Pick<Config, "values" | "origins">): readonly ShownValue[] {
  return [...config.values]
    .map(([path, value]) => ({
      path,
      value: SECRET_PATHS.has(path) ? MASK : maskSecrets(value, path.slice(path.lastIndexOf(".") + 1)),
      origin: config.origins.get(path) ?? "default",
    }))
    .sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}
