/** Waits for a condition that comes true by itself soon. */
export async function until(what: string, condition: () => Promise<boolean> | boolean, limit_ms = 10_000): Promise<void> {
  const end_ms = performance.now() + limit_ms;
  while (!(await condition())) {
    if (performance.now() > end_ms) throw new Error(`waited ${limit_ms} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
