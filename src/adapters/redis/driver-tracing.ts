/**
 * The driver tells `node:diagnostics_channel` about each command while somebody has subscribed to that. It asks `hasSubscribers` of the channel, which
 * Node and Deno have and Bun 1.4 lacks; the driver takes no answer for a yes, and then writes every argument of every command as text once more and
 * makes two promises for it, for nobody. So the missing answer is added.
 */
import { tracingChannel } from "node:diagnostics_channel";

type Channels = Readonly<Record<"start" | "end" | "asyncStart" | "asyncEnd" | "error", { readonly hasSubscribers: boolean }>>;

const prototype: object = Object.getPrototypeOf(tracingChannel("ioredis:command"));

if (!("hasSubscribers" in prototype)) {
  Object.defineProperty(prototype, "hasSubscribers", {
    configurable: true,
    get(this: Channels): boolean {
      const { start, end, asyncStart, asyncEnd, error } = this;
      return [start, end, asyncStart, asyncEnd, error].some((channel) => channel.hasSubscribers);
    },
  });
}
