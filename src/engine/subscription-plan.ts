import type { Reaction, ReactionKind } from "../domain/reaction.ts";
import { ConfigurationError } from "../errors.ts";
import { commandGroup } from "../messages/names.ts";
import { ALL_STREAMS } from "../ports/event-store.ts";
import type { EngineSettings, EventStoreSettings, StreamSettings } from "./settings.ts";

const COMMAND_SUFFIX = ":command";

interface PlanBase {
  /** Unique in the engine (engine.md §3). */
  readonly name: string;
  /** Class names for people; of a merged command subscription all of them. */
  readonly handler: string;
  /** First part of consumer names, and name of the section in domain.toml. */
  readonly className: string;
  /** Consumer group, subscriber name in bookkeeping streams. */
  readonly group: string;
  readonly reactions: readonly Reaction[];
  /** Category, or a subscriber's stream. */
  readonly stream: string;
}

export interface StreamPlan extends PlanBase {
  readonly kind: "stream" | "broker";
  /** Key under `[brokers]`. */
  readonly broker: string;
  readonly settings: StreamSettings;
}

export interface EventStorePlan extends PlanBase {
  readonly kind: "event_store";
  readonly settings: EventStoreSettings;
}

export type SubscriptionPlan = StreamPlan | EventStorePlan;

/** What the start-up banner shows: one line for each handler and stream. */
export interface Registered {
  readonly handler: string;
  readonly stream: string;
  readonly kind: ReactionKind;
  readonly type: SubscriptionPlan["kind"];
}

/**
 * Which subscriptions an engine runs for these handlers (engine.md §3), after `--only` and `--except`. The command handlers of one category
 * stay together whatever is asked for: without one of them its commands would end as dead letters.
 * @throws ConfigurationError when a name given to `--only` or `--except` is nobody's
 */
export function planSubscriptions(reactions: readonly Reaction[], settings: EngineSettings): readonly SubscriptionPlan[] {
  requireKnownNames(reactions, settings);
  const plans: SubscriptionPlan[] = [];
  const commands = new Map<string, Reaction[]>();
  for (const reaction of reactions) {
    if (reaction.kind === "queryHandler") continue;
    for (const stream of new Set(reaction.categories)) {
      if (reaction.kind === "commandHandler") {
        const same = commands.get(stream);
        if (same === undefined) commands.set(stream, [reaction]);
        else same.push(reaction);
      } else if (isWanted(settings, [reaction.name, reaction.fqn, stream])) plans.push(planOf(reaction, stream, settings));
    }
  }
  for (const [stream, handlers] of commands) {
    const category = stream.endsWith(COMMAND_SUFFIX) ? stream.slice(0, -COMMAND_SUFFIX.length) : stream;
    const className = `Commands:${stream}`;
    const shared = [stream, category, className];
    const asked = handlers.some((handler) => isWanted({ ...settings, except: [] }, [handler.name, handler.fqn, ...shared]));
    const refused = isNamed(settings.except, shared) || handlers.every((handler) => isNamed(settings.except, [handler.name, handler.fqn]));
    const [first] = handlers;
    if (first === undefined || !asked || refused) continue;
    const base = {
      name: `commands:${category}`,
      handler: handlers.map((handler) => handler.name).join(", "),
      className,
      group: commandGroup(category),
      reactions: handlers,
      stream,
    };
    const resolved = settings.subscription(first);
    plans.push(
      resolved.type === "stream"
        ? { ...base, kind: "stream", broker: "default", settings: resolved.stream }
        : { ...base, kind: "event_store", settings: resolved.eventStore },
    );
  }
  return plans;
}

function planOf(reaction: Reaction, stream: string, settings: EngineSettings): SubscriptionPlan {
  const base = { handler: reaction.name, className: reaction.name, group: reaction.fqn, reactions: [reaction], stream };
  if (reaction.kind === "subscriber") {
    return { ...base, name: reaction.fqn, kind: "broker", broker: reaction.broker, settings: settings.subscriber(reaction) };
  }
  const name = `${reaction.fqn}-${stream}`;
  const resolved = settings.subscription(reaction);
  if (resolved.type === "event_store") return { ...base, name, kind: "event_store", settings: resolved.eventStore };
  if (stream === ALL_STREAMS) {
    throw new ConfigurationError(`${reaction.name} reads $all, which exists in the event store only, but its subscription type is stream`, {
      at: `[server.subscriptions.${reaction.name}]`,
      fix: 'Set subscription_type = "event_store" for it.',
    });
  }
  return { ...base, name, kind: "stream", broker: "default", settings: resolved.stream };
}

/** Whether `--only` and `--except` leave something of these names in. */
export function isWanted(settings: Pick<EngineSettings, "only" | "except">, names: readonly string[]): boolean {
  return (settings.only.length === 0 || isNamed(settings.only, names)) && !isNamed(settings.except, names);
}

function isNamed(given: readonly string[], names: readonly string[]): boolean {
  return names.some((name) => given.includes(name));
}

function requireKnownNames(reactions: readonly Reaction[], settings: EngineSettings): void {
  const known = new Set(["outbox"]);
  for (const reaction of reactions) {
    known.add(reaction.name).add(reaction.fqn);
    for (const category of reaction.categories) {
      known.add(category);
      if (reaction.kind === "commandHandler" && category.endsWith(COMMAND_SUFFIX)) {
        known.add(`Commands:${category}`).add(category.slice(0, -COMMAND_SUFFIX.length));
      }
    }
  }
  for (const name of [...settings.only, ...settings.except]) {
    if (known.has(name)) continue;
    throw new ConfigurationError(`there is no handler or category "${name}" here`, {
      at: "--only, --except",
      fix: `Known are: ${[...known].toSorted().join(", ")}.`,
    });
  }
}
