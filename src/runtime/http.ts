/**
 * A small HTTP server on node:http, the same under Bun, Deno and Node. Handlers take a `Request` and give a `Response`.
 *
 * The host is always given, loopback by default: without one the servers of all runtimes listen on every interface (known-traps C4).
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { ConfigurationError } from "../errors.ts";

export type HttpHandler = (request: Request) => Response | Promise<Response>;

export interface HttpOptions {
  readonly handler: HttpHandler;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** 0 = any free one. */
  readonly port: number;
  /** When the port is taken, try this many ports above it (D39). Default 0. */
  readonly portsAbove?: number;
  /** A longer request body is answered with 413. Default 1 MiB. */
  readonly bodyMax_bytes?: number;
}

export interface HttpServer {
  /** Such as `http://127.0.0.1:8080`, without a slash at the end. */
  readonly url: string;
  readonly host: string;
  readonly port: number;
  /** Takes no new connections and ends the open ones. Safe twice. */
  close(): Promise<void>;
}

const BODY_MAX_bytes = 1024 * 1024;

/**
 * Listens, and resolves when it does.
 * @throws ConfigurationError `HTTP_LISTEN` when the address can't be used
 */
export async function serveHttp(options: HttpOptions): Promise<HttpServer> {
  const host = options.host ?? "127.0.0.1";
  const last = options.port === 0 ? 0 : Math.min(options.port + (options.portsAbove ?? 0), 65_535);
  for (let port = options.port; ; port += 1) {
    try {
      return await listen(options, host, port);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "EADDRINUSE" && port < last) continue;
      throw new ConfigurationError(
        `can't listen on ${host}:${port}: ${code === "EADDRINUSE" ? "the port is taken" : String(code ?? error)}`,
        {
          code: "HTTP_LISTEN",
          fix: "Give another address with --http HOST:PORT, or --http off.",
          cause: error,
        },
      );
    }
  }
}

async function listen(options: HttpOptions, host: string, port: number): Promise<HttpServer> {
  const server = createServer((incoming, outgoing) => {
    answer(incoming, outgoing, options.handler, options.bodyMax_bytes ?? BODY_MAX_bytes).catch(() => outgoing.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port }, () => {
      server.off("error", reject);
      resolve();
    });
  });
  const address = server.address();
  const used = typeof address === "object" && address !== null ? address.port : port;
  let closing: Promise<void> | undefined;
  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${used}`,
    host,
    port: used,
    close: () => {
      closing ??= new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closing;
    },
  };
}

async function answer(incoming: IncomingMessage, outgoing: ServerResponse, handler: HttpHandler, max_bytes: number): Promise<void> {
  const gone = new AbortController();
  outgoing.once("close", () => gone.abort());
  let response: Response;
  try {
    const body = await readBody(incoming, max_bytes);
    response =
      body === null ? new Response("request body too large\n", { status: 413 }) : await handler(toRequest(incoming, body, gone.signal));
  } catch (error) {
    // The caller learns nothing of our inside; the handler logs what it must.
    response =
      error instanceof RangeError ? new Response("bad request\n", { status: 400 }) : new Response("internal error\n", { status: 500 });
  }
  const headers: Record<string, string | string[]> = Object.create(null);
  for (const [name, value] of response.headers) if (name !== "set-cookie") headers[name] = value;
  const cookies = response.headers.getSetCookie();
  if (cookies.length > 0) headers["set-cookie"] = cookies;
  outgoing.writeHead(response.status, headers);
  if (response.body === null || incoming.method === "HEAD") {
    outgoing.end();
    await response.body?.cancel();
    return;
  }
  const reader = response.body.getReader();
  gone.signal.addEventListener("abort", () => void reader.cancel().catch(() => undefined), { once: true });
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (!outgoing.write(value)) await new Promise<void>((resolve) => drained(outgoing, resolve));
  }
  outgoing.end();
}

/** A reader that went away never drains: its close counts too. */
function drained(outgoing: ServerResponse, resolve: () => void): void {
  const done = () => {
    outgoing.off("drain", done);
    outgoing.off("close", done);
    resolve();
  };
  outgoing.once("drain", done);
  outgoing.once("close", done);
}

/** null: longer than allowed. */
async function readBody(incoming: IncomingMessage, max_bytes: number): Promise<Uint8Array<ArrayBuffer> | null> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of incoming as AsyncIterable<Uint8Array>) {
    length += part.byteLength;
    if (length > max_bytes) return null;
    parts.push(part);
  }
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.byteLength;
  }
  return whole;
}

function toRequest(incoming: IncomingMessage, body: Uint8Array<ArrayBuffer>, signal: AbortSignal): Request {
  const url = requestUrl(incoming);
  const headers = new Headers();
  for (let index = 0; index + 1 < incoming.rawHeaders.length; index += 2) {
    headers.append(incoming.rawHeaders[index] ?? "", incoming.rawHeaders[index + 1] ?? "");
  }
  const method = incoming.method ?? "GET";
  const bodiless = method === "GET" || method === "HEAD";
  return new Request(url.href, { method, headers, signal, ...(bodiless ? {} : { body }) });
}

/** @throws RangeError when Host and path are no URL */
function requestUrl(incoming: IncomingMessage): URL {
  try {
    return new URL(incoming.url ?? "/", `http://${incoming.headers.host ?? "localhost"}`);
  } catch {
    throw new RangeError("not a URL");
  }
}
