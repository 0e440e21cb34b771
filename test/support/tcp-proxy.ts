/** A TCP proxy in this process, to count how often two programs take turns, and to cut them off from each other without their noticing. */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

export interface TcpProxy {
  readonly port: number;
  /** How often the client spoke after the server had: round trips, not packets. */
  turns(): number;
  /** Connections stay open, nothing passes. */
  freeze(): void;
  thaw(): void;
  close(): Promise<void>;
}

export async function tcpProxy(target: { readonly host: string; readonly port: number }): Promise<TcpProxy> {
  let turns = 0;
  let frozen = false;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(target);
    let clientSpeaks = false;
    const pass = (from: Socket, to: Socket, fromClient: boolean) => {
      sockets.add(from);
      from.on("data", (data) => {
        if (frozen) return;
        if (fromClient && !clientSpeaks) turns += 1;
        clientSpeaks = fromClient;
        to.write(data);
      });
      from.on("error", () => to.destroy());
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    };
    pass(client, upstream, true);
    pass(upstream, client, false);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the system gave no port");
  return {
    port: address.port,
    turns: () => turns,
    freeze: () => {
      frozen = true;
    },
    thaw: () => {
      frozen = false;
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
