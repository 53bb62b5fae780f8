// Reads a JSON array of {secret, headers, body} (body in base64), writes what verify says to each.
import { readFileSync } from "node:fs";
import { verify } from "../node/verify.mjs";

const cases = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map((c) => verify(c.secret, c.headers, Buffer.from(c.body, "base64")))));
