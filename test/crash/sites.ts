/** The sites of one test file; whatever a test leaves running ends with it. */
import { afterAll, afterEach } from "bun:test";
import { figures, Site } from "./harness.ts";

/** Call once per file. */
export function sitesOfFile(): (...given: Parameters<typeof Site.make>) => Promise<Site> {
  const sites: Site[] = [];
  afterEach(async () => {
    for (const site of sites.splice(0)) await site.close();
  });
  afterAll(() => {
    process.stderr.write(`ledger so far: ${JSON.stringify(figures)}\n`);
  });
  return async (...given) => {
    const site = await Site.make(...given);
    sites.push(site);
    return site;
  };
}
