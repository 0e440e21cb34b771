/** The build context of the Dockerfile: a root file system of what the executable needs, taken from this machine. */
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { contents } from "../release/contents.ts";
import { thirdPartyLicenses } from "../release/licences.ts";

/** User and group of the Dockerfile. */
export const USER = 10_001;

/** A mistake of the user or something that the machine lacks, told in one line. */
export class ImageError extends Error {}

/** Files beside libc that it opens by itself, later: names of hosts (glibc before 2.34), the end of a thread. */
const OPENED_BY_LIBC = ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2", "libgcc_s.so.1"];
/** Debian and Alpine, Fedora, openSUSE. */
const CERTIFICATES = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
const ZONES = "/usr/share/zoneinfo";
/** Debian's packages from which files are taken; their licences come along. */
const PACKAGES = ["libc6", "libgcc-s1", "ca-certificates", "tzdata"];

/**
 * Writes the context anew.
 * @throws ImageError when this machine lacks what belongs into it
 */
export async function writeContext(folder: string, program: string): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  const at = (...parts: string[]) => join(folder, "rootfs", ...parts);
  const put = (from: string, to = from) => {
    mkdirSync(dirname(at(to)), { recursive: true });
    cpSync(from, at(to), { dereference: true });
  };
  put(program, "/usr/local/bin/protean");
  for (const library of libraries(program)) put(library);
  put(one(CERTIFICATES, "CA certificates", "ca-certificates"), "/etc/ssl/certs/ca-certificates.crt");
  // `posix` and `right` hold every zone once more.
  const isZone = (path: string) => path !== join(ZONES, "posix") && path !== join(ZONES, "right");
  cpSync(one([ZONES], "time zones", "tzdata"), at(ZONES), { recursive: true, verbatimSymlinks: true, filter: isZone });
  writeFileSync(at("etc", "passwd"), `root:x:0:0:root:/:/none\nprotean:x:${USER}:${USER}:protean:/data:/none\n`);
  writeFileSync(at("etc", "group"), `root:x:0:\nprotean:x:${USER}:\n`);
  writeFileSync(at("etc", "nsswitch.conf"), "hosts: files dns\n");
  const root = join(import.meta.dirname, "..", "..");
  put(join(root, "LICENSE"), "/usr/share/doc/protean/LICENSE");
  writeFileSync(at("usr", "share", "doc", "protean", "THIRD_PARTY_LICENSES"), thirdPartyLicenses(await contents()));
  for (const name of PACKAGES) if (existsSync(`/usr/share/doc/${name}/copyright`)) put(`/usr/share/doc/${name}/copyright`);
  mkdirSync(at("app"), { recursive: true });
  mkdirSync(at("tmp"));
  chmodSync(at("tmp"), 0o1777);
  mkdirSync(join(folder, "writable", "data"), { recursive: true });
}

/** What `ldd` names, under the paths at which the loader will look for it. */
function libraries(program: string): readonly string[] {
  if (process.platform !== "linux") throw new ImageError("the image is built on Linux: its loader and libc are those of the machine");
  const text = execFileSync("ldd", [program], { encoding: "utf8" });
  const named = [...text.matchAll(/^\s*(?:\S+ => )?(\/\S+) \(0x/gm)].map(([, path = ""]) => path);
  const libc = named.find((path) => /\/(libc\.so|ld-musl)/.test(path));
  if (libc === undefined) throw new ImageError(`ldd names no libc for ${program}:\n${text}`);
  const beside = OPENED_BY_LIBC.map((name) => join(dirname(libc), name)).filter((path) => existsSync(path));
  return [...new Set([...named, ...beside])];
}

function one(candidates: readonly string[], what: string, debianPackage: string): string {
  const found = candidates.find((path) => existsSync(path) && readable(path));
  if (found === undefined) throw new ImageError(`this machine has no ${what}: apt-get install ${debianPackage}`);
  return found;
}

/** A link that leads nowhere is no file. */
function readable(path: string): boolean {
  return path === ZONES || readFileSync(path).length > 0;
}
