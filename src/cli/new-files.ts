/** The files of `protean new`. Everything in them runs as it stands. */

/** Put in by scripts/build.ts; not defined when run from source. */
declare const PROTEAN_TYPES: string | undefined;

export interface NewFile {
  readonly path: string;
  readonly text: string;
}

/** @param name of the domain; a plain word */
export function projectFiles(name: string): readonly NewFile[] {
  return [
    { path: "domain.toml", text: domainToml },
    { path: "handlers/order.ts", text: order(name) },
    { path: "handlers/order.test.ts", text: orderTest },
    { path: "tsconfig.json", text: tsconfig },
    { path: "package.json", text: packageJson(name) },
    { path: "protean.d.ts", text: types() },
    { path: "README.md", text: readme(name) },
    { path: ".gitignore", text: ".protean/\nnode_modules/\n" },
  ];
}

/** From source the modules are at hand; the program carries their types with it. */
function types(): string {
  if (typeof PROTEAN_TYPES === "string") return PROTEAN_TYPES;
  const of = (file: string) => JSON.stringify(decodeURIComponent(new URL(`../${file}`, import.meta.url).pathname));
  return `declare module "protean" {\n  export * from ${of("mod.ts")};\n}\ndeclare module "protean/testing" {\n  export * from ${of("testing.ts")};\n}\n`;
}

const domainToml = `# What this file may hold: protean config show

# Commands and events are handled by the server ("async"), or at once where they are raised ("sync").
command_processing = "async"
event_processing = "async"

[server]
# stream: consumer groups, retries and dead letters. event_store: read straight from the store, in order.
default_subscription_type = "stream"

[server.stream_subscription]
# Runs of a handler before a message is given up; protean dlq list shows those.
max_retries = 3
retry_delay_seconds = 1

# Without the following tables everything is kept in one SQLite file, .protean/protean.db.

[databases.default]
provider = "sqlite"

[event_store]
provider = "sqlite"

[brokers.default]
provider = "sqlite"

# Redis in place of the embedded broker:
# [brokers.default]
# provider = "redis"
# URI = "\${REDIS_URL|redis://localhost:6379/0}"

# In production (PROTEAN_ENV=production) what stands here wins:
# [production.server.stream_subscription]
# max_retries = 10
`;

function order(name: string): string {
  return `/** Orders: what can happen to one, who carries out the commands, and a row per order for those who only look. */
import { Domain, f, returns, ValidationError } from "protean";

export const domain = new Domain(${JSON.stringify(name)});

// ---- events: what has happened

export class OrderPlaced extends domain.event("OrderPlaced", {
  fields: { orderId: f.identifier(), customer: f.string(), amount: f.float() },
}) {}

export class OrderShipped extends domain.event("OrderShipped", {
  fields: { orderId: f.identifier(), shippedBy: f.string() },
}) {}

// ---- the aggregate: what keeps its rules

export class Order extends domain.aggregate("Order", {
  fields: {
    orderId: f.identifier({ identifier: true }),
    customer: f.string({ maxLength: 100 }),
    amount: f.float({ min: 0 }),
    status: f.status(["placed", "shipped"], { transitions: { placed: ["shipped"] }, default: "placed" }),
  },
  events: [OrderPlaced, OrderShipped],
  invariants: {
    post: {
      costsSomething(order) {
        if (order.amount <= 0) throw new ValidationError({ amount: ["must be more than nothing"] });
      },
    },
  },
}) {
  static place(orderId: string, customer: string, amount: number): Order {
    const order = new Order({ orderId, customer, amount });
    order.raise(new OrderPlaced({ orderId, customer, amount }));
    return order;
  }

  ship(shippedBy: string): void {
    this.status = "shipped";
    this.raise(new OrderShipped({ orderId: this.orderId, shippedBy }));
  }
}

// ---- commands and who carries them out

export class PlaceOrder extends domain.command("PlaceOrder", {
  partOf: Order,
  fields: { orderId: f.identifier({ identifier: true }), customer: f.string(), amount: f.float() },
}) {}

export class ShipOrder extends domain.command("ShipOrder", {
  partOf: Order,
  fields: { orderId: f.identifier({ identifier: true }), shippedBy: f.string() },
}) {}

export const OrderCommandHandler = domain
  .commandHandler("OrderCommandHandler", { partOf: Order })
  .handle(PlaceOrder, async ({ orderId, customer, amount }) => {
    await domain.repositoryFor(Order).add(Order.place(orderId, customer, amount));
  })
  .handle(ShipOrder, async ({ orderId, shippedBy }) => {
    const orders = domain.repositoryFor(Order);
    const order = await orders.get(orderId);
    order.ship(shippedBy);
    await orders.add(order);
  });

// ---- reactions: what else happens then

export const CustomerNotification = domain
  .eventHandler("CustomerNotification", { partOf: Order })
  .handle(OrderPlaced, (event, { log }) => log.info("customer.notified", { order_id: event.orderId, customer: event.customer }));

// ---- a projection: a row per order

export class OrderSummary extends domain.projection("OrderSummary", {
  fields: {
    orderId: f.identifier({ identifier: true }),
    customer: f.string(),
    amount: f.float(),
    status: f.string({ default: "placed" }),
  },
}) {}

export const OrderSummaryProjector = domain
  .projector("OrderSummaryProjector", { projectorFor: OrderSummary, aggregates: [Order], idempotent: true })
  .on(OrderPlaced, async ({ orderId, customer, amount }) => {
    await domain.repositoryFor(OrderSummary).add(new OrderSummary({ orderId, customer, amount }));
  })
  .on(OrderShipped, async ({ orderId }) => {
    const summaries = domain.repositoryFor(OrderSummary);
    const summary = await summaries.get(orderId);
    summary.status = "shipped";
    await summaries.add(summary);
  });

// ---- a query over it

export class LargeOrders extends domain.query("LargeOrders", {
  partOf: OrderSummary,
  fields: { atLeast: f.float({ min: 0 }) },
  returns: returns<readonly OrderSummary[]>(),
}) {}

export const OrderQueries = domain.queryHandler("OrderQueries", { partOf: OrderSummary }).read(LargeOrders, (query) =>
  domain
    .viewFor(OrderSummary)
    .query.filter({ amount: { gte: query.atLeast } })
    .orderBy("-amount")
    .all(),
);
`;
}

const orderTest = `/** Runs with any test runner that finds the package "protean", such as \`bun test\`; nothing here touches a store on disk. */
import { testDomain } from "protean/testing";
import { domain, OrderSummary, PlaceOrder, ShipOrder } from "./order.ts";

declare function test(name: string, run: () => Promise<void>): void;

test("a shipped order shows as shipped", async () => {
  await using _stores = await testDomain(domain);
  await domain.process(new PlaceOrder({ orderId: "o1", customer: "Ada", amount: 42.5 }));
  await domain.process(new ShipOrder({ orderId: "o1", shippedBy: "Post" }));
  const summary = await domain.viewFor(OrderSummary).get("o1");
  if (summary.status !== "shipped") throw new Error(\`it is \${summary.status}\`);
});
`;

const tsconfig = `{
  "compilerOptions": {
    "target": "esnext",
    "module": "nodenext",
    "moduleResolution": "nodenext",
    "lib": ["esnext", "dom"],
    "types": [],
    "strict": true,
    "noEmit": true,
    "allowImportingTsExtensions": true,
    "verbatimModuleSyntax": true,
    "erasableSyntaxOnly": true,
    "skipLibCheck": true
  },
  "include": ["handlers", "protean.d.ts"]
}
`;

function packageJson(name: string): string {
  return `${JSON.stringify({ name: name.toLowerCase(), private: true, type: "module" }, null, 2)}\n`;
}

function readme(name: string): string {
  return `# ${name}

Run it; everything is kept in \`.protean/protean.db\`:

    protean dev

In a second terminal, here:

    protean send command PlaceOrder '{"order_id": "o1", "customer": "Ada", "amount": 42.5}' --wait
    protean query OrderSummary o1
    protean send command ShipOrder '{"order_id": "o1", "shipped_by": "Post"}' --wait
    protean query LargeOrders '{"at_least": 10}'

Look around:

    protean check
    protean subscriptions status
    protean dlq list

| File | What |
|---|---|
| handlers/order.ts | the domain: events, aggregate, commands, handlers, a projection, a query |
| handlers/order.test.ts | a test of it |
| domain.toml | configuration |
| protean.d.ts | types of the built-in module, for editors: nothing needs to be installed |
`;
}
