/** Archives whose bytes depend on nothing but what is in them: fixed order, owner 0, one time for all files. */
import { gzipSync } from "node:zlib";
import { createTar } from "nanotar";

export interface ArchivedFile {
  /** With its folders, separated by `/`. */
  readonly name: string;
  readonly data: Uint8Array;
  readonly isExecutable?: boolean;
}

/** POSIX ustar ends with two empty blocks; nanotar pads to its block size only. */
const END = new Uint8Array(2 * 512);

/** A `.tar.gz`. @param made_s seconds since 1970, the time of every file */
export function tarGzip(files: readonly ArchivedFile[], made_s: number): Uint8Array {
  const tar = createTar(
    files.map(({ name, data, isExecutable }) => ({ name, data, attrs: { mode: isExecutable === true ? "755" : "644" } })),
    { attrs: { mtime: made_s * 1000, uid: 0, gid: 0, user: "root", group: "root" } },
  );
  const bytes = gzipSync(Buffer.concat([tar, END]), { level: 6 });
  // RFC 1952: bytes 4–7 are the time of compression, byte 9 the operating system; 255 = unknown.
  bytes.fill(0, 4, 8);
  bytes[9] = 255;
  return bytes;
}
