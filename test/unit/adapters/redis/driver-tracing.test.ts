import { expect, test } from "bun:test";
import { tracingChannel } from "node:diagnostics_channel";
import "../../../../src/adapters/redis/driver-tracing.ts";

test("a tracing channel says whether somebody has subscribed, so that the driver doesn't trace for nobody", () => {
  const channel = tracingChannel("protean:test");
  expect(channel.hasSubscribers).toBe(false);
  const listener = () => {};
  channel.asyncEnd.subscribe(listener);
  expect(channel.hasSubscribers).toBe(true);
  channel.asyncEnd.unsubscribe(listener);
  expect(channel.hasSubscribers).toBe(false);
});
