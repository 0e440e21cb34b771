/**
 * The heartbeat record: one per running engine (rulings 7, 62). It is the only thing that decides whether a consumer is alive, and
 * the list of workers that status and health show. There is no logic on pids anywhere else.
 */
export interface InstanceRecord {
  /** 12 hexadecimal digits, new at every start; the suffix of all consumer names of this engine. */
  readonly id: string;
  readonly domain: string;
  readonly host: string;
  readonly pid: number;
  /** Of the running kernel; with `pidNamespace` and `host` equal to ours, a missing process is known to be dead at once. */
  readonly bootId: string;
  readonly pidNamespace: string;
  /** Milliseconds since 1970, of the process. */
  readonly startedAt_ms: number;
  readonly version: string;
  /** Base address of its HTTP server, if it has one: `protean send --wait` and `health` find it here. */
  readonly http: string | null;
  readonly subscriptions: readonly string[];
  /** Names of the leases that it would take over from an engine that has more of them; left out by versions that don't share. */
  readonly leases?: readonly string[];
  readonly state: "running" | "draining";
}

export interface Instances {
  /** Writes or refreshes the record; it vanishes `ttl_ms` after the last beat. */
  beat(record: InstanceRecord, ttl_ms: number): Promise<void>;
  remove(id: string): Promise<void>;
  /** Those whose record has not run out. */
  alive(): Promise<readonly InstanceRecord[]>;
}
