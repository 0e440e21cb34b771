/**
 * Names on the wire: domain names, type strings, stream categories, streams, message ids, consumer groups. Everything here must give
 * the very text that Python gives, because groups, keys and lookups are shared with it.
 */
import { ConfigurationError } from "../errors.ts";

/**
 * ASCII form of a text: accents are taken off (NFKD), and what then is still not ASCII is dropped, as the original does. So `É` is
 * `E`, but `ß`, `ø` and `ł` vanish; giving them letters would name other streams than Python does.
 */
export function transliterate(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the range is "all of ASCII"
  return text.normalize("NFKD").replace(/[^\u0000-\u007f]/g, "");
}

/**
 * Snake case of a class name: `HTTPRequest` is `http_request`, `OAuth2Token` is `o_auth2_token`. Does nothing to snake case.
 */
export function underscore(name: string): string {
  return name
    .replace(/([A-Z]+)([A-Z][a-z])/g, "$1_$2")
    .replace(/([a-z\d])([A-Z])/g, "$1_$2")
    .replaceAll("-", "_")
    .toLowerCase();
}

/**
 * The domain's name in stream categories: `Corner Bank` is `corner_bank`, `CornerBank` is `cornerbank`.
 * @throws ConfigurationError when no ASCII letter or digit is left
 */
export function normalisedDomainName(name: string): string {
  const dashed = transliterate(name)
    .replace(/[^a-zA-Z0-9\-_]+/g, "-")
    .replace(/-{2,}/g, "-")
    .replace(/^-|-$/g, "")
    .toLowerCase();
  return nonEmpty(underscore(dashed), name);
}

/**
 * The domain's name in type strings: `my_domain` is `MyDomain`, `order2go` is `Order2Go`. As in the original a trailing `_id` is lost.
 * @throws ConfigurationError when no ASCII letter or digit is left
 */
export function camelCaseDomainName(name: string): string {
  const words = underscore(transliterate(name).replaceAll("-", " ")).replace(/_id$/, "").replaceAll("_", " ");
  const titled = words
    .replace(/(^|[^a-z])([a-z])/g, (_match, before: string, letter: string) => before + letter.toUpperCase())
    .replace(/\b'[A-Z]/g, (match) => match.toLowerCase());
  return nonEmpty(titled.replace(/[^a-zA-Z0-9]/g, ""), name);
}

function nonEmpty(result: string, name: string): string {
  if (/[a-zA-Z0-9]/.test(result)) return result;
  throw new ConfigurationError(`the domain name ${JSON.stringify(name)} has no ASCII letter or digit`, {
    fix: "Give the domain a name with at least one letter of A to Z, or a digit.",
  });
}

/** Default stream category part of a class; also its default table name. */
export function aggregateName(className: string): string {
  return underscore(className);
}

/**
 * Stream category of an aggregate or process manager. The prefix is always added, even when `name` already holds `::`.
 * @param domainName the name as given to the Domain
 * @param name the `stream_category` option, else the snake-case class name
 */
export function streamCategory(domainName: string, name: string): string {
  return `${normalisedDomainName(domainName)}::${name}`;
}

/** A process manager's *subscribed* category: taken as it is when it holds `::`, else prefixed. */
export function subscribedCategory(domainName: string, name: string): string {
  return name.includes("::") ? name : streamCategory(domainName, name);
}

export function eventStream(category: string, aggregateId: string): string {
  return `${category}-${aggregateId}`;
}

export function factStream(category: string, aggregateId: string): string {
  return `${category}-fact-${aggregateId}`;
}

export function commandCategory(category: string): string {
  return `${category}:command`;
}

export function commandStream(category: string, identifier: string): string {
  return `${category}:command-${identifier}`;
}

export function snapshotStream(category: string, aggregateId: string): string {
  return `${category}:snapshot-${aggregateId}`;
}

export function positionStream(subscriberName: string, category: string): string {
  return `position-${subscriberName}-${category}`;
}

export function failedStream(subscriberName: string, category: string): string {
  return `failed-${subscriberName}-${category}`;
}

export function recoveryCheckpointStream(subscriberName: string, category: string): string {
  return `recovery-checkpoint-${subscriberName}-${category}`;
}

export function deadLetterStream(stream: string): string {
  return `${stream}:dlq`;
}

/** Where dead letters of a group wait to be handled again when their entry is gone from the stream (rulings 60). */
export function replayStream(stream: string, group: string): string {
  return `${stream}:replay:${group}`;
}

/** Category of a stream: the text before the first `-`; a name without one is a category itself. */
export function categoryOf(stream: string): string {
  const dash = stream.indexOf("-");
  return dash === -1 ? stream : stream.slice(0, dash);
}

/** The part of a stream name after its category, or null. Of a fact stream this begins with `fact-`. */
export function identifierOf(stream: string): string | null {
  const dash = stream.indexOf("-");
  return dash === -1 ? null : stream.slice(dash + 1);
}

export function isCommandCategory(category: string): boolean {
  return category.endsWith(":command");
}

/** `domain.sequence_id` of an event of a state-based aggregate: version of this save and the event's number in it, from 1. */
export function stateSequence(version: number, number: number): string {
  return `${version}.${number}`;
}

/** `headers.id` of an event. Commands have none of this kind: theirs is the identifier itself (and so not unique). */
export function eventId(stream: string, sequenceId: string): string {
  return `${stream}-${sequenceId}`;
}

/** Consumer group and subscriber name of all command handlers of one category together. */
export function commandGroup(category: string): string {
  return `protean.server.engine.Commands:${commandCategory(category)}`;
}

/** Consumer group and subscriber name of a handler: `<module>.<Class>`. */
export function handlerGroup(moduleName: string, className: string): string {
  return `${moduleName}.${className}`;
}

/** `Corner Bank`, `AccountOpened`, 1 gives `CornerBank.AccountOpened.v1`. */
export function typeString(domainName: string, className: string, version: number): string {
  return `${camelCaseDomainName(domainName)}.${className}.v${version}`;
}

export function factEventName(aggregateClassName: string): string {
  return `${aggregateClassName}FactEvent`;
}

export function transitionName(processManagerClassName: string): string {
  return `_${processManagerClassName}Transition`;
}

export interface TypeParts {
  readonly domain: string;
  readonly name: string;
  /** From 1. */
  readonly version: number;
}

/** Parts of a type string, or null for anything else (`Read`, `SNAPSHOT`, foreign types). */
export function parseType(type: string): TypeParts | null {
  const match = /^([^.]+)\.(.+)\.v(\d{1,9})$/.exec(type);
  if (match === null) return null;
  const [, domain = "", name = "", version = ""] = match;
  return { domain, name, version: Number(version) };
}

/**
 * What handlers are matched by: `<Domain>.<Name>` without the version (rulings 1), so that a newer version of a known type is an
 * error to be retried and never an unknown type to be skipped. A text that is no type string is its own key.
 */
export function typeKey(type: string): string {
  return type.replace(/\.v\d+$/, "");
}
