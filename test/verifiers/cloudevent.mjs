// Reads {headers, body} of a request from stdin and prints the CloudEvent that the published SDK sees in it.
import { HTTP } from "cloudevents";

let text = "";
for await (const part of process.stdin) text += part;
const { headers, body } = JSON.parse(text);
const event = HTTP.toEvent({ headers, body });
event.validate();
console.log(JSON.stringify(event));
