// A stand-in for pg: writes each statement to standard output as a line of JSON and reads the result from standard
// input. The test at the other end runs it on a real server.
import { createInterface } from "node:readline";

class Client {
  async connect() {
    this.input = createInterface({ input: process.stdin });
    this.results = this.input[Symbol.asyncIterator]();
  }
  async query(sql, args = []) {
    process.stdout.write(JSON.stringify({ sql, args }) + "\n");
    const result = JSON.parse((await this.results.next()).value);
    if (result.error) throw new Error(result.error);
    return { rowCount: result.rows };
  }
  async end() {
    this.input.close();
    process.stdin.destroy();
  }
}

export default { Client };
