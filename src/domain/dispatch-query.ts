/** `domain.dispatch`: runs the one handler of a query, always at once and without a unit of work (domain-model §6.7). */
import { IncorrectUsageError, NotSupportedError } from "../errors.ts";
import { currentContext, openContext, requireOpen } from "./context.ts";
import type { Domain } from "./domain.ts";
import { metaOf } from "./instance.ts";

/**
 * @returns what the handler returns
 * @throws IncorrectUsageError when it is no query or has no handler; what the handler threw
 */
export async function dispatchQuery(domain: Domain, query: object): Promise<unknown> {
  const meta = metaOf(query);
  if (meta.kind !== "query") throw new IncorrectUsageError(`dispatch takes queries; \`${meta.name}\` is a ${meta.kind}`);
  if (meta.domain !== domain)
    throw new IncorrectUsageError(`query \`${meta.name}\` belongs to domain "${meta.domain.name}", not to "${domain.name}"`);
  requireOpen(currentContext(), `dispatch of ${meta.name}`);
  const methods = domain.reactionMetas
    .filter((reaction) => reaction.kind === "queryHandler")
    .flatMap((reaction) => reaction.methods.filter((method) => method.target === meta));
  const [method, second] = methods;
  if (method === undefined) {
    throw new IncorrectUsageError(`query \`${meta.name}\` has no handler in this process`, {
      fix: "Import the module that declares its query handler.",
    });
  }
  if (second !== undefined) throw new NotSupportedError(`query \`${meta.name}\` has ${methods.length} handlers`);
  return openContext(domain, {}, async () => (method.run as (query: object) => unknown)(query));
}
