/** A lending library: what its author would expect of fields, child entities, filters and validators, saved and loaded. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Domain, f, ValidationError } from "../../../../src/mod.ts";
import { fixed, type TestDomain, testDomain } from "../../../../src/testing.ts";

const domain = new Domain("City Library");
const noCapitals = (text: string): void => {
  if (text !== text.toLowerCase()) throw new ValidationError({ text: ["must not have capitals"] });
};
class Fee extends domain.valueObject("Fee", { fields: { amount: f.decimal({ scale: 2 }), currency: f.string({ default: "EUR" }) } }) {}
class Shelf extends domain.valueObject("Shelf", { fields: { room: f.string(), fee: f.valueObject(Fee, { optional: true }) } }) {}
class Chapter extends domain.entity("Chapter", { fields: { title: f.string() } }) {}
class Book extends domain.aggregate("Book", {
  fields: {
    label: f.string({ default: "none", validators: [noCapitals] }),
    serial: f.integer({ bigint: true, default: 2n ** 62n }),
    place: f.valueObject(Shelf, { optional: true }),
    chapters: f.hasMany(Chapter),
  },
}) {}
const StockMoved = domain.externalEvent("Inventory.StockMoved.v1", { fields: { bookId: f.identifier(), amount: f.integer() } });

let running: TestDomain;
beforeAll(async () => {
  running = await testDomain(domain, { clock: fixed("2026-01-01") });
});
afterAll(() => running.close());

describe("a library", () => {
  test("gets the chapters of a book back in the order in which they were written", async () => {
    const titles = Array.from({ length: 40 }, (_, index) => `chapter ${index}`);
    const book = new Book({ id: "long", chapters: titles.map((title) => new Chapter({ title })) });
    await domain.repositoryFor(Book).add(book);
    book.chapters.add(new Chapter({ title: "afterword" }));
    await domain.repositoryFor(Book).add(book);
    const { chapters } = await domain.repositoryFor(Book).get("long");
    expect(chapters.map(({ title }) => title)).toEqual([...titles, "afterword"]);
    expect(chapters[0]?.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  test("finds books by value objects: absent, whole, one of several, and those in value objects", async () => {
    const fee = new Fee({ amount: "0.10" });
    const shelf = new Shelf({ room: "north", fee });
    const books = domain.repositoryFor(Book);
    await books.add(new Book({ id: "shelved", place: shelf }));
    await books.add(new Book({ id: "lost" }));
    const found = async (where: Parameters<typeof books.query.filter>[0]): Promise<string[]> =>
      (await books.query.exclude({ id: "long" }).filter(where).orderBy("id").all()).map(({ id }) => id);
    expect(await found({ place: null })).toEqual(["lost"]);
    expect(await found({ place: { isnull: true } })).toEqual(["lost"]);
    expect(await found({ place: { isnull: false } })).toEqual(["shelved"]);
    expect(await found({ place: shelf })).toEqual(["shelved"]);
    expect(await found({ place: { exact: shelf } })).toEqual(["shelved"]);
    expect(await found({ place: { in: [new Shelf({ room: "south" }), shelf] } })).toEqual(["shelved"]);
    expect(await found({ place: { in: [] } })).toEqual([]);
    expect(await found({ place: { fee: { amount: { gt: "0.09" } } } })).toEqual(["shelved"]);
    expect(() => books.query.filter({ place: { gt: 1 } as never })).toThrow("`place` has no lookup `gt`");
  });

  test("names the field that a shared validator refuses", () => {
    const messages = (make: () => unknown): unknown => {
      try {
        make();
      } catch (error) {
        return (error as ValidationError).messages;
      }
      return "accepted";
    };
    expect(messages(() => new Book({ label: "LOUD" }))).toEqual({ label: ["must not have capitals"] });
    expect(messages(() => new Book({ label: "quiet" }))).toBe("accepted");
  });

  test("keeps integers of 64 bits, and names the field of a larger one", async () => {
    const books = domain.repositoryFor(Book);
    await books.add(new Book({ id: "numbered" }));
    expect((await books.get("numbered")).serial).toBe(2n ** 62n);
    expect(await books.query.filter({ serial: 2n ** 62n, id: "numbered" }).count()).toBe(1);
    await expect(books.add(new Book({ id: "huge", serial: 2n ** 63n }))).rejects.toThrow(/serial: is beyond the 64 bits/);
    expect(await books.getOrNull("huge")).toBeNull();
  });

  test("reads another domain's event from any JSON that has its fields", () => {
    const moved = StockMoved.fromWire({ book_id: 5, amount: "7", colour: "red" });
    expect([moved.bookId, moved.amount]).toEqual(["5", 7]);
    expect(() => StockMoved.fromWire({ amount: 7 })).toThrow("bookId: is required");
  });
});
