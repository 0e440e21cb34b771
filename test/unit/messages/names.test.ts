import { describe, expect, test } from "bun:test";
import { ConfigurationError } from "../../../src/errors.ts";
import {
  camelCaseDomainName,
  categoryOf,
  commandCategory,
  commandGroup,
  commandStream,
  eventId,
  eventStream,
  factEventName,
  factStream,
  identifierOf,
  isCommandCategory,
  normalisedDomainName,
  parseType,
  positionStream,
  snapshotStream,
  stateSequence,
  subscribedCategory,
  transitionName,
  typeKey,
  typeString,
  underscore,
} from "../../../src/messages/names.ts";

describe("underscore", () => {
  test.each([
    ["OrderItem", "order_item"],
    ["HTTPRequest", "http_request"],
    ["SKUItem", "sku_item"],
    ["Order2Item", "order2_item"],
    ["OAuth2Token", "o_auth2_token"],
    ["Item3D", "item3_d"],
    ["iPhone", "i_phone"],
    ["accountID", "account_id"],
    ["userIDs", "user_i_ds"],
    ["aB-cD", "a_b_c_d"],
    ["account_summary", "account_summary"],
  ])("%s is %s", (name, expected) => {
    expect(underscore(name)).toBe(expected);
    expect(underscore(expected)).toBe(expected);
  });
});

describe("domain names", () => {
  // Checked against the original's naming functions; what NFKD doesn't take apart vanishes there too.
  test.each([
    ["My Domain", "my_domain", "MyDomain"],
    ["orderFulfillment", "orderfulfillment", "OrderFulfillment"],
    ["HTTPServer", "httpserver", "HttpServer"],
    ["Über Shop", "uber_shop", "UberShop"],
    ["a.b", "a_b", "AB"],
    ["straße", "strae", "Strae"],
    ["Ærøskøbing", "rskbing", "Rskbing"],
    ["Łódź", "odz", "Odz"],
    ["ﬁsh ½", "fish_12", "Fish12"],
    ["shop_id", "shop_id", "Shop"],
    ["shop-id", "shop_id", "ShopId"],
    ["a__b", "a__b", "AB"],
    ["--a--b--", "a_b", "AB"],
    ["O'Neil", "o_neil", "Oneil"],
    ["user's Shop_ID", "user_s_shop_id", "UsersShop"],
  ])("%s is %s in streams and %s in types", (name, normalised, camelCase) => {
    expect(normalisedDomainName(name)).toBe(normalised);
    expect(camelCaseDomainName(name)).toBe(camelCase);
  });

  test.each(["", "日本", "::"])("%j gives no name at all and is refused", (name) => {
    expect(() => normalisedDomainName(name)).toThrow(ConfigurationError);
    expect(() => camelCaseDomainName(name)).toThrow(ConfigurationError);
  });
});

describe("streams", () => {
  test("are built from category and id", () => {
    expect(eventStream("bank::account", "1-2")).toBe("bank::account-1-2");
    expect(factStream("bank::account", "1")).toBe("bank::account-fact-1");
    expect(commandStream("bank::account", "1")).toBe("bank::account:command-1");
    expect(snapshotStream("bank::account", "1")).toBe("bank::account:snapshot-1");
    expect(eventId(eventStream("bank::account", "1"), stateSequence(0, 2))).toBe("bank::account-1-0.2");
    expect(commandGroup("bank::account")).toBe("protean.server.engine.Commands:bank::account:command");
    expect(positionStream(commandGroup("corner_bank::account"), commandCategory("corner_bank::account"))).toBe(
      "position-protean.server.engine.Commands:corner_bank::account:command-corner_bank::account:command",
    );
  });

  test("belong to the category before their first dash", () => {
    expect(categoryOf("bank::account-1-2")).toBe("bank::account");
    expect(categoryOf("bank::account-fact-1")).toBe("bank::account");
    expect(categoryOf("bank::account:command-1")).toBe("bank::account:command");
    expect(categoryOf("bank::account")).toBe("bank::account");
    expect(identifierOf("bank::account-1-2")).toBe("1-2");
    expect(identifierOf("bank::account")).toBeNull();
    expect(isCommandCategory("bank::account:command")).toBe(true);
    expect(isCommandCategory("bank::account")).toBe(false);
  });

  test("a process manager's subscription to another context's category is taken as given", () => {
    expect(subscribedCategory("Corner Bank", "ledger")).toBe("corner_bank::ledger");
    expect(subscribedCategory("Corner Bank", "shop::order")).toBe("shop::order");
  });
});

describe("type strings", () => {
  test("are taken apart into what they were made of", () => {
    expect(typeString("corner-bank", "DepositMade", 12)).toBe("CornerBank.DepositMade.v12");
    expect(parseType("CornerBank.DepositMade.v12")).toEqual({ domain: "CornerBank", name: "DepositMade", version: 12 });
    expect(parseType(typeString("bank", transitionName("Onboarding"), 1))?.name).toBe("_OnboardingTransition");
    expect(typeString("bank", factEventName("Account"), 1)).toBe("Bank.AccountFactEvent.v1");
  });

  test.each(["Read", "SNAPSHOT", "", "A.B", "A.B.v", "A.B.vx", ".B.v1", "A.B.v1 "])("%j is none", (type) =>
    expect(parseType(type)).toBeNull(),
  );

  test("two versions of a type have one key, so that a newer one is never taken for an unknown type (rulings 1)", () => {
    expect(typeKey("Bank.DepositMade.v2")).toBe(typeKey("Bank.DepositMade.v1"));
    expect(typeKey("Bank.DepositMade.v2")).toBe("Bank.DepositMade");
    expect(typeKey("Read")).toBe("Read");
  });
});
