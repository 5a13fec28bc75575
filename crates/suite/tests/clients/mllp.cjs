// Sends the messages of a file, one per line with \r written as |CR|, by npm's node-hl7-client.
// mllp.cjs MODULES PORT FILE [CA [CERTIFICATE KEY]]; prints MSA-1 and MSA-2 of each acknowledgement.
"use strict";
const fs = require("node:fs");
const [modules, port, file, ca, cert, key] = process.argv.slice(2);
const { Client, Message } = require(require.resolve("node-hl7-client", { paths: [modules] }));

const read = (path) => path && fs.readFileSync(path);
const tls = ca && { ca: read(ca), cert: read(cert), key: read(key), rejectUnauthorized: true };
const client = new Client({ host: ca ? "localhost" : "127.0.0.1", ...(tls && { tls }) });
const lines = fs.readFileSync(file, "ascii").split("\n").filter(Boolean);

let answered = () => {};
const connection = client.createConnection({ port: Number(port), autoConnect: true }, async (response) => {
  const message = response.getMessage();
  console.log(message.get("MSA.1").toString(), message.get("MSA.2").toString());
  answered();
});
const give_up = setTimeout(() => { console.error("no answer in time"); process.exit(1); }, 20000);

(async () => {
  for (const line of lines) {
    const answer = new Promise((resolve) => { answered = resolve; });
    await connection.sendMessage(new Message({ text: line.replaceAll("|CR|", "\r") }));
    await answer;
  }
  clearTimeout(give_up);
  await connection.close();
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
