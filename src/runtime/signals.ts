/** Signals that ask us to end. */
import process from "node:process";

export type EndSignal = "SIGINT" | "SIGTERM" | "SIGHUP";

export interface SignalListeners {
  /** The first signal: drain and stop. */
  first(signal: EndSignal): void;
  /** Any later one: stop at once. `exitCode` is what shells expect: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP. */
  second(signal: EndSignal, exitCode: number): void;
}

const EXIT_CODES: Readonly<Record<EndSignal, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/** Listens until the returned function is called; then signals end the process as usual again. */
export function onEndSignals(listeners: SignalListeners): () => void {
  let received = 0;
  const receive = (signal: EndSignal) => {
    received += 1;
    if (received === 1) listeners.first(signal);
    else listeners.second(signal, EXIT_CODES[signal]);
  };
  const handlers = (Object.keys(EXIT_CODES) as EndSignal[]).map((signal) => [signal, () => receive(signal)] as const);
  for (const [signal, handler] of handlers) process.on(signal, handler);
  return () => {
    for (const [signal, handler] of handlers) process.off(signal, handler);
  };
}
