import type { Command } from "./command.ts";

export const version: Command = {
  description: "Version, commit, Bun and platform",
  run: async ({ runtime: { build } }) => ({ data: build, text: `protean ${build.version} (${build.commit}, ${build.platform})` }),
};
