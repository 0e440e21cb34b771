import { engineSettings, subscriptionNotes } from "../compose/settings.ts";
import type { Config } from "../config/config.ts";
import type { Reaction } from "../domain/reaction.ts";
import { planSubscriptions, type SubscriptionPlan } from "../engine/subscription-plan.ts";
import { ConfigurationError } from "../errors.ts";
import type { FollowedSubscription } from "../observatory/follow.ts";
import { asFinding, type Finding } from "./problem.ts";

/** What a server with this configuration would subscribe; computed, so nothing needs to run. */
export function plansOf(reactions: readonly Reaction[], config: Config): readonly SubscriptionPlan[] {
  return planSubscriptions(reactions, engineSettings(config, reactions));
}

/**
 * What is odd about the subscriptions of these handlers, without starting any.
 * @throws ConfigurationError what would stop a server's start
 */
export function subscriptionFindings(reactions: readonly Reaction[], config: Config): readonly Finding[] {
  const notes = subscriptionNotes(config, reactions);
  for (const plan of plansOf(reactions, config)) {
    if (plan.kind !== "broker" || Object.hasOwn(config.brokers, plan.broker)) continue;
    throw new ConfigurationError(`Broker \`${plan.broker}\` has not been configured. ${plan.handler} reads from it`, {
      at: `[brokers.${plan.broker}]`,
      fix: `Write the table, or name one of: ${Object.keys(config.brokers).join(", ")}.`,
    });
  }
  return notes.map(asFinding);
}

/** The subscriptions that others have to finish. What runs inside `process` is done when that returns, so `sync` parts are left out. */
export function followedSubscriptions(reactions: readonly Reaction[], config: Config): readonly FollowedSubscription[] {
  const modeOf = (kind: Reaction["kind"] | undefined) =>
    kind === "commandHandler" ? config.commandProcessing : kind === "subscriber" ? config.messageProcessing : config.eventProcessing;
  return plansOf(reactions, config)
    .filter((plan) => modeOf(plan.reactions[0]?.kind) === "async")
    .map((plan) => ({
      handlers: plan.reactions.map(({ name }) => name),
      group: plan.group,
      type: plan.kind,
      categories: [plan.stream],
      broker: plan.kind === "event_store" ? "default" : plan.broker,
      // A command that nobody here takes becomes a dead letter, which is an end too.
      wants: (type) => plan.reactions.some((reaction) => reaction.kind === "commandHandler" || reaction.accepts(type) !== "ignored"),
    }));
}
