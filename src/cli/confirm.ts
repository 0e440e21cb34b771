import type { Config } from "../config/config.ts";
import { environmentVariables } from "../runtime/environment.ts";
import { ask, canAsk } from "../runtime/terminal.ts";
import type { Values } from "./arguments.ts";
import { CommandError, EXIT } from "./problem.ts";

/**
 * Asks before something is done that can't be undone; `--yes` answers.
 * @param declined what is said when the answer is no: what was not done
 * @throws CommandError (exit 3) for no, and where nobody can be asked
 */
export async function confirm(values: Values, question: string, declined: string): Promise<void> {
  if (values.has("yes")) return;
  if (!canAsk()) throw new CommandError(EXIT.declined, "NEEDS_YES", `${question} There is no terminal to ask.`, { fix: "Add --yes." });
  const answer = await ask(`${question} [y/N] `);
  if (!/^y(es)?$/i.test(answer?.trim() ?? "")) throw new CommandError(EXIT.declined, "DECLINED", declined);
}

/** @throws CommandError (exit 2) where the configuration or the environment says production, and `--force` wasn't given */
export function refuseInProduction(values: Values, config: Config, command: string): void {
  if (values.has("force")) return;
  if (!config.production && environmentVariables()["PROTEAN_ENV"] !== "production") return;
  throw new CommandError(EXIT.usage, "PRODUCTION", `${command} deletes data, and this is production (PROTEAN_ENV, ENV or --env says so)`, {
    fix: "Add --force when you mean it.",
  });
}
