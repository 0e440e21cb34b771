/**
 * Code signatures of macOS executables. Bun appends its bundle to its own executable: for arm64 it signs anew, for x64 (1.4.5) it leaves the
 * old signature, made larger but not renewed, and `codesign -v` calls the file damaged. Here every signature is checked, and one that doesn't hold is replaced
 * by an ad-hoc one, as a linker makes it. It says nothing of who made the file: a release for Gatekeeper is signed with `codesign` on a Mac.
 *
 * Layout: `cs_blobs.h` of XNU (SuperBlob, CodeDirectory 0x20400), `mach-o/loader.h`. Numbers of Mach-O are little-endian, those of signatures big-endian.
 */
import { createHash } from "node:crypto";

const MACH_O_64 = 0xfeedfacf;
const SEGMENT_64 = 0x19;
const CODE_SIGNATURE = 0x1d;
const SUPER_BLOB = 0xfade0cc0;
const CODE_DIRECTORY = 0xfade0c02;
const VERSION = 0x20400;
/** CS_ADHOC | CS_LINKER_SIGNED */
const FLAGS = 0x20002;
const SHA256 = 2;
const HASH_bytes = 32;
const PAGE_bits = 12;
const SUPER_BLOB_bytes = 12;
const INDEX_bytes = 8;
const CODE_DIRECTORY_bytes = 88;

interface Place {
  readonly offset: number;
  readonly size: number;
}

interface MachO {
  readonly view: DataView;
  /** Where the signature lies: at the end of the file, behind everything that it covers. */
  readonly signature: Place;
  /** The segment with the code, as a place in the file. */
  readonly text: Place;
}

/** @returns what is wrong with the signature, in words; null when it covers the whole file and every page is as signed */
export function signatureFault(file: Uint8Array): string | null {
  const { view, signature } = read(file);
  if (signature.size < SUPER_BLOB_bytes || view.getUint32(signature.offset) !== SUPER_BLOB) return "there is no signature";
  const count = view.getUint32(signature.offset + 8);
  for (let index = 0; index < count; index += 1) {
    const blob = signature.offset + view.getUint32(signature.offset + SUPER_BLOB_bytes + index * INDEX_bytes + 4);
    if (view.getUint32(blob) === CODE_DIRECTORY) return directoryFault(file, view, blob, signature.offset);
  }
  return "the signature has no code directory";
}

function directoryFault(file: Uint8Array, view: DataView, directory: number, end: number): string | null {
  const [hashes, slots, limit] = [16, 28, 32].map((offset) => view.getUint32(directory + offset)) as [number, number, number];
  if (view.getUint8(directory + 37) !== SHA256) return "the signature isn't of SHA-256";
  if (limit !== end) return `the signature covers ${limit} of ${end} bytes`;
  for (let slot = 0; slot < slots; slot += 1) {
    const signed = file.subarray(directory + hashes + slot * HASH_bytes, directory + hashes + (slot + 1) * HASH_bytes);
    if (Buffer.compare(signed, pageHash(file, slot, end)) !== 0) return `page ${slot} isn't as signed`;
  }
  return null;
}

/**
 * Writes an ad-hoc signature in place of the old one.
 * @param name identifier in the signature, usually the file's name
 * @throws when the old one is too small: then the file would have to grow, with its segments
 */
export function signAdHoc(file: Uint8Array, name: string): void {
  const { view, signature, text } = read(file);
  const identifier = Buffer.from(`${name}\0`);
  const slots = Math.ceil(signature.offset / 2 ** PAGE_bits);
  const hashes = CODE_DIRECTORY_bytes + identifier.length;
  const length = hashes + slots * HASH_bytes;
  const start = SUPER_BLOB_bytes + INDEX_bytes;
  if (start + length > signature.size) throw new Error(`a signature of ${start + length} bytes doesn't fit into ${signature.size}`);
  file.fill(0, signature.offset, signature.offset + signature.size);
  const put = (offset: number, ...words: readonly number[]) => {
    for (const [index, word] of words.entries()) view.setUint32(signature.offset + offset + index * 4, word);
  };
  put(0, SUPER_BLOB, start + length, 1, 0, start);
  put(start, CODE_DIRECTORY, length, VERSION, FLAGS, hashes, CODE_DIRECTORY_bytes, 0, slots, signature.offset);
  file.set([HASH_bytes, SHA256, 0, PAGE_bits], signature.offset + start + 36);
  // execSegBase, execSegLimit, execSegFlags (this is the main executable); the words before them are for what we don't use.
  for (const [index, word] of [text.offset, text.size, 1].entries()) {
    view.setBigUint64(signature.offset + start + 64 + index * 8, BigInt(word));
  }
  file.set(identifier, signature.offset + start + CODE_DIRECTORY_bytes);
  for (let slot = 0; slot < slots; slot += 1) {
    file.set(pageHash(file, slot, signature.offset), signature.offset + start + hashes + slot * HASH_bytes);
  }
}

function pageHash(file: Uint8Array, slot: number, end: number): Buffer {
  const page = file.subarray(slot * 2 ** PAGE_bits, Math.min((slot + 1) * 2 ** PAGE_bits, end));
  return createHash("sha256").update(page).digest();
}

function read(file: Uint8Array): MachO {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (view.getUint32(0, true) !== MACH_O_64) throw new Error("not a 64-bit Mach-O file");
  let signature: Place | null = null;
  let text: Place | null = null;
  let offset = 32;
  for (let left = view.getUint32(16, true); left > 0; left -= 1) {
    const command = view.getUint32(offset, true);
    if (command === CODE_SIGNATURE) signature = { offset: view.getUint32(offset + 8, true), size: view.getUint32(offset + 12, true) };
    if (
      command === SEGMENT_64 &&
      Buffer.from(file.subarray(offset + 8, offset + 24))
        .toString("latin1")
        .replace(/\0+$/, "") === "__TEXT"
    ) {
      text = { offset: Number(view.getBigUint64(offset + 40, true)), size: Number(view.getBigUint64(offset + 48, true)) };
    }
    offset += view.getUint32(offset + 4, true);
  }
  if (signature === null || text === null) throw new Error("the Mach-O file has no place for a signature, or no code");
  if (signature.offset + signature.size !== file.length) throw new Error("the signature isn't at the end of the file");
  return { view, signature, text };
}
