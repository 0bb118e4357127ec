// Writes LICENSES.txt: the licence of each package in ../page/vendor.js, as its own files state it.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const lock = JSON.parse(readFileSync("package-lock.json"));
const texts = Object.entries(lock.packages)
  .filter(([path, p]) => path && !p.dev && !p.optional)
  .map(([path, p]) => {
    const file = readdirSync(path).find(name => /^licen[cs]e/i.test(name));
    const text = file ? readFileSync(`${path}/${file}`, "utf8").trim() : "(no licence file in the package)";
    return `${path.replace("node_modules/", "")} ${p.version} (${p.license})\n\n${text}\n`;
  });
writeFileSync("LICENSES.txt", texts.join(`\n${"-".repeat(80)}\n\n`));
