import { createHmac, timingSafeEqual } from "node:crypto";

// Checks a Standard Webhooks signature. headers: as node:http gives them; body: a Buffer with the bytes as they came.
export function verify(secret, headers, body, tolerance = 300) {
  const { "webhook-id": id, "webhook-timestamp": at, "webhook-signature": signatures = "" } = headers;
  const key = secret.startsWith("whsec_") ? Buffer.from(secret.slice(6), "base64") : Buffer.from(secret);
  const mac = Buffer.from("v1," + createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest("base64"));
  const same = (s) => Buffer.byteLength(s) === mac.length && timingSafeEqual(Buffer.from(s), mac);
  const fresh = key.length > 0 && /^\d+$/.test(at) && Math.abs(Date.now() / 1000 - at) <= tolerance;
  return fresh && signatures.split(" ").some(same);
}
