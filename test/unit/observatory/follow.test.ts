import { expect, test } from "bun:test";
import { drawTree, type FollowedMessage } from "../../../src/observatory/follow.ts";

const message = (id: string, causationId: string | null, more: Partial<FollowedMessage> = {}): FollowedMessage => ({
  id,
  type: `Shop.${id}.v1`,
  stream: "shop::order",
  causationId,
  runs: [],
  open: [],
  ...more,
});

test("the tree shows causes, handlers with outcome and duration, and what is still open", () => {
  const lines = drawTree([
    message("Place", null, { runs: [{ handler: "Commands", state: "completed", attempts: 1, duration_ms: 12.4, error: null }] }),
    message("Placed", "Place", {
      runs: [
        { handler: "Mailer", state: "dead-lettered", attempts: 3, duration_ms: 1, error: "Error: no mail" },
        { handler: "Slow", state: "running", attempts: 1, duration_ms: null, error: null },
      ],
      open: ["Slow", "Projector"],
    }),
    message("Other", "Place"),
    message("PM", "Place", { type: "Shop._TransferTransition.v1" }),
  ]);
  expect(lines).toEqual([
    "Shop.Place.v1 (Place)",
    "│ ✓ Commands  12 ms",
    "├── Shop.Placed.v1 (Placed)",
    "│     ✗ Mailer  1.0 ms  3 attempts  dead-lettered  Error: no mail",
    "│     … Slow",
    "│     … Projector",
    "└── Shop.Other.v1 (Other)",
  ]);
});

test("messages whose causes name each other are drawn without end", () => {
  expect(drawTree([message("A", "A")])).toEqual(["Shop.A.v1 (A)"]);
});
