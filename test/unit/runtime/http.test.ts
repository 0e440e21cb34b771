import { afterEach, describe, expect, test } from "bun:test";
import { once } from "node:events";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { ConfigurationError } from "../../../src/errors.ts";
import { type HttpServer, serveHttp } from "../../../src/runtime/http.ts";

const servers: HttpServer[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});
const serve = async (options: Parameters<typeof serveHttp>[0]) => {
  const server = await serveHttp(options);
  servers.push(server);
  return server;
};

describe("serving HTTP", () => {
  test("requests arrive with method, path, query, headers and body, and the answer goes back", async () => {
    const server = await serve({
      port: 0,
      handler: async (request) => {
        const url = new URL(request.url);
        return Response.json(
          {
            method: request.method,
            path: url.pathname,
            q: url.searchParams.get("q"),
            tone: request.headers.get("x-tone"),
            body: await request.text(),
          },
          { status: 201, headers: { "x-answer": "yes" } },
        );
      },
    });
    expect(server.url).toBe(`http://127.0.0.1:${server.port}`);
    const response = await fetch(`${server.url}/a/b?q=1`, { method: "POST", headers: { "x-tone": "low" }, body: "häm" });
    expect(response.status).toBe(201);
    expect(response.headers.get("x-answer")).toBe("yes");
    expect(await response.json()).toEqual({ method: "POST", path: "/a/b", q: "1", tone: "low", body: "häm" });
  });

  test("only loopback is listened on unless another host is given (known-traps C4)", async () => {
    const server = await serve({ port: 0, handler: () => new Response("ok") });
    const other = Object.values(networkInterfaces())
      .flat()
      .find((address) => address?.family === "IPv4" && !address.internal);
    if (other === undefined) return;
    const socket = connect({ host: other.address, port: server.port });
    const [outcome] = await Promise.race([
      once(socket, "connect").then(() => ["connected"]),
      once(socket, "error").then(() => ["refused"]),
    ]).catch(() => ["refused"]);
    socket.destroy();
    expect(outcome).toBe("refused");
  });

  test("a taken port is a mistake of the user, or the next one is taken when that is allowed", async () => {
    const handler = () => new Response("ok");
    const first = await serve({ port: 0, handler });
    const error = await serveHttp({ port: first.port, handler }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ConfigurationError);
    expect((error as ConfigurationError).message).toContain(`127.0.0.1:${first.port}`);
    const second = await serve({ port: first.port, portsAbove: 20, handler });
    expect(second.port).toBeGreaterThan(first.port);
  });

  test("a handler that throws answers 500 without saying why, a body that is too long 413", async () => {
    const server = await serve({
      port: 0,
      bodyMax_bytes: 10,
      handler: () => {
        throw new Error("secret");
      },
    });
    const response = await fetch(server.url);
    expect([response.status, await response.text()]).toEqual([500, "internal error\n"]);
    expect((await fetch(server.url, { method: "POST", body: "x".repeat(11) })).status).toBe(413);
  });

  test("a stream is sent piece by piece, and ends for its source when the reader goes away", async () => {
    const cancelled = Promise.withResolvers<void>();
    const server = await serve({
      port: 0,
      handler: () =>
        new Response(
          new ReadableStream({
            start: (controller) => controller.enqueue(new TextEncoder().encode("data: 1\n\n")),
            cancel: () => cancelled.resolve(),
          }),
          { headers: { "content-type": "text/event-stream" } },
        ),
    });
    const reading = new AbortController();
    const response = await fetch(server.url, { signal: reading.signal });
    const first = await response.body?.getReader().read();
    expect(new TextDecoder().decode(first?.value)).toBe("data: 1\n\n");
    reading.abort();
    await cancelled.promise;
  });

  test("close ends open connections and can be called twice", async () => {
    const server = await serve({ port: 0, handler: () => new Promise<Response>(() => undefined) });
    const waiting = fetch(server.url).catch((error: unknown) => error);
    const socket = connect({ host: "127.0.0.1", port: server.port });
    await once(socket, "connect");
    await server.close();
    await server.close();
    expect(await waiting).toBeInstanceOf(Error);
    socket.destroy();
  });
});
