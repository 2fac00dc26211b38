// The call that was just made, as code to copy.

import { address, key } from "./api.js";

const shellQuoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** A command of curl. */
export function curlOf(path, pairs, file) {
  const parts = [`curl ${shellQuoted(address(path))}`];
  if (key.get()) parts.push(`-H "authorization: Bearer $KEY"`);
  for (const [name, value] of pairs) parts.push(`--form-string ${shellQuoted(`${name}=${value}`)}`);
  if (file) parts.push(`-F ${shellQuoted(`${file.field}=@"${file.name.replaceAll(/["\\]/g, "\\$&")}"`)}`);
  return parts.join(" \\\n  ");
}

/** A program in Python. */
export function pythonOf(path, pairs, file) {
  const values = new Map();
  for (const [name, value] of pairs) values.set(name, [...(values.get(name) ?? []), value]);
  const data = [...values].map(([name, some]) => `${JSON.stringify(name)}: ${JSON.stringify(some.length > 1 ? some : some[0])}`);
  return [
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${JSON.stringify(address(path))},`,
    ...(data.length ? [`    data={${data.join(", ")}},`] : []),
    ...(file ? [`    files={${JSON.stringify(file.field)}: open(${JSON.stringify(file.name)}, "rb")},`] : []),
    ...(key.get() ? [`    headers={"authorization": f"Bearer {key}"},`] : []),
    "    timeout=300,",
    ")",
    "print(answer.raise_for_status().json())",
  ].join("\n");
}
