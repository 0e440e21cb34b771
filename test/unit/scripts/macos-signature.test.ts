import { describe, expect, test } from "bun:test";
import { signAdHoc, signatureFault } from "../../../scripts/release/macos-signature.ts";

const SIGNATURE_AT = 3 * 4096 + 100;

/** The least of a Mach-O file: a segment with code, pages of content, room for a signature at the end. */
function machO(room_bytes: number): Uint8Array {
  const file = new Uint8Array(SIGNATURE_AT + room_bytes);
  for (let index = 200; index < SIGNATURE_AT; index += 1) file[index] = index % 251;
  const view = new DataView(file.buffer);
  view.setUint32(0, 0xfeedfacf, true);
  view.setUint32(16, 2, true);
  view.setUint32(32, 0x19, true);
  view.setUint32(36, 72, true);
  file.set(Buffer.from("__TEXT"), 40);
  view.setBigUint64(32 + 48, 8192n, true);
  view.setUint32(104, 0x1d, true);
  view.setUint32(108, 16, true);
  view.setUint32(112, SIGNATURE_AT, true);
  view.setUint32(116, room_bytes, true);
  return file;
}

describe("an ad-hoc signature", () => {
  test("covers every page of the file", () => {
    const file = machO(1024);
    expect(signatureFault(file)).toBe("there is no signature");
    signAdHoc(file, "protean");
    expect(signatureFault(file)).toBe(null);
  });

  test("is the same each time, and replaces one that no longer holds", () => {
    const file = machO(1024);
    signAdHoc(file, "protean");
    const first = file.slice();
    file[5000] = 1;
    expect(signatureFault(file)).toBe("page 1 isn't as signed");
    file[5000] = first[5000] as number;
    signAdHoc(file, "protean");
    expect(Buffer.compare(file, first)).toBe(0);
  });

  test("of an executable to which something was added covers only a part of it", () => {
    const file = machO(1024);
    signAdHoc(file, "protean");
    const longer = new Uint8Array(file.length + 4096);
    longer.set(file.subarray(0, SIGNATURE_AT));
    longer.set(file.subarray(SIGNATURE_AT), SIGNATURE_AT + 4096);
    new DataView(longer.buffer).setUint32(112, SIGNATURE_AT + 4096, true);
    expect(signatureFault(longer)).toBe(`the signature covers ${SIGNATURE_AT} of ${SIGNATURE_AT + 4096} bytes`);
  });

  test("is refused where there is no room for it, and where there is no Mach-O", () => {
    expect(() => signAdHoc(machO(64), "protean")).toThrow("doesn't fit into 64");
    expect(() => signatureFault(new Uint8Array(4096))).toThrow("not a 64-bit Mach-O file");
  });
});
