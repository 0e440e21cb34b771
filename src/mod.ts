/** All that `import … from "protean"` offers, and nothing else. */

import { provideRandom } from "./domain/domain.ts";
import type { ConnectRequest, DomainStores } from "./domain/stores.ts";
import { provideConnector } from "./domain/stores.ts";
import { SystemRandom } from "./runtime/random.ts";

// Loaded when a domain is initialised: declaring needs no driver.
provideConnector(async (request: ConnectRequest): Promise<DomainStores> => {
  const { libraryConnector } = await import("./compose/connect.ts");
  return libraryConnector(request);
});
provideRandom(new SystemRandom());

export {
  currentDomain,
  currentUnitOfWork,
  type G,
  g,
  type HandlerContext,
  type MiddlewareContext,
  Priority,
  processingPriority,
} from "./domain/context.ts";
export type { CorrelationTrace, TracedMessage } from "./domain/correlation-trace.ts";
export { Domain, type DomainOptions, index, knownDomains, returns } from "./domain/domain.ts";
export { type ElementKind, type ElementMeta, type FieldKind, type FieldMeta, META } from "./domain/element.ts";
export type * from "./domain/fields.ts";
export { f } from "./domain/fields.ts";
export { atomicChange } from "./domain/instance.ts";
export type { CommandReceipt, ProcessOptions } from "./domain/process-command.ts";
export type { BrokerPublisher, Brokers } from "./domain/publish.ts";
export { and, not, or, Q } from "./domain/query.ts";
export type { SubscriptionOptions } from "./domain/reaction.ts";
export type { GenericEvent } from "./domain/read-message.ts";
export type * from "./domain/types.ts";
export type { Diagnostic } from "./domain/validate.ts";
export * from "./errors.ts";
export type { DomainInfo, EnvelopeInfo, EventStoreInfo, Headers, Metadata } from "./messages/envelope.ts";
export type { Clock } from "./ports/clock.ts";
export type { Log } from "./ports/log.ts";
