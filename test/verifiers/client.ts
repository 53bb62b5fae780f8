// Uses every part of the types that are generated from the OpenAPI document (api.d.ts), against a running API. What does
// not fit the types does not compile; what does not fit the types at run time fails here.
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

declare const process: { env: Record<string, string | undefined>; exitCode: number };

const client = createClient<paths>({
  baseUrl: process.env.BASE_URL ?? "",
  headers: { Authorization: `Bearer ${process.env.TOKEN}` },
});
const prefix = "/api/v1/tenant/webhooks";

function must<T>(what: string, value: T | undefined, error: unknown): T {
  if (value === undefined) throw new Error(`${what}: ${JSON.stringify(error)}`);
  return value;
}

async function main(): Promise<void> {
  const types = await client.GET(`${prefix}/events`);
  const names: string[] = must("catalog", types.data, types.error).items.map((t) => t.type);

  const created = await client.POST(`${prefix}/subscriptions`, {
    params: { header: { "Idempotency-Key": "client-1" } },
    body: { url: "https://hooks.example.com/x", events: ["payment.*"], ordering: "key" },
  });
  const subscription: components["schemas"]["Created"] = must("create", created.data, created.error);
  const path = { id: subscription.id };

  const patched = await client.PATCH(`${prefix}/subscriptions/{id}`, { params: { path }, body: { description: "by a client" } });
  const description: string = must("patch", patched.data, patched.error).description;

  const disabled = await client.POST(`${prefix}/subscriptions/{id}/disable`, { params: { path } });
  const active: boolean = must("disable", disabled.data, disabled.error).active;

  const page = await client.GET(`${prefix}/deliveries`, { params: { query: { status: "PENDING", limit: 10 } } });
  const delivery = must("list", page.data, page.error).items[0];
  if (delivery === undefined) throw new Error("no delivery");
  const detail = await client.GET(`${prefix}/deliveries/{id}`, { params: { path: { id: delivery.id } } });
  const attempts: number = must("delivery", detail.data, detail.error).history.length;

  const wrong = await client.POST(`${prefix}/subscriptions`, { body: { url: "https://hooks.example.com/x", event: "no..event" } });
  const problem: components["schemas"]["Problem"] | undefined = wrong.error;

  const gone = await client.DELETE(`${prefix}/subscriptions/{id}`, { params: { path } });

  console.log(JSON.stringify({
    names, secret: subscription.secret?.slice(0, 6), description, active, attempts,
    problem: problem?.errors?.[0]?.pointer, status: problem?.status, gone: gone.response.status,
  }));
}

main().catch((e: unknown) => {
  console.error(e);
  process.exitCode = 1;
});
