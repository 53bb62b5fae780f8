// Verifies webhooks with the published Standard Webhooks package. Reads a JSON array of
// {secret, id, timestamp, signature, body} on standard input and writes a JSON array of
// {accepted, reason}, in the same order, on standard output.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const results = JSON.parse(readFileSync(0, "utf8")).map((v) => {
  try {
    new Webhook(v.secret).verify(v.body, {
      "webhook-id": v.id,
      "webhook-timestamp": v.timestamp,
      "webhook-signature": v.signature,
    });
    return { accepted: true, reason: "" };
  } catch (e) {
    return { accepted: false, reason: String(e.message) };
  }
});
process.stdout.write(JSON.stringify(results));
