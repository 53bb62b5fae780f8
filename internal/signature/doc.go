// Package signature signs and verifies webhooks.
//
// Two schemes stand side by side on every request, made with the same key over the same bytes:
//
//   - Standard Webhooks 1.0.0: webhook-id, webhook-timestamp (Unix seconds of this attempt) and
//     webhook-signature, a space-separated list of "v1," and the base64 of HMAC-SHA256 over
//     id.timestamp.body, one for each secret, the current one first. A receiver accepts the request when any
//     of them matches, so two secrets are good at once while one replaces the other.
//   - X-Signature: the hex HMAC-SHA256 of the body under the current secret.
//
// The body that is signed is the byte slice that is sent; nothing here parses or renders it.
//
// Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
package signature
