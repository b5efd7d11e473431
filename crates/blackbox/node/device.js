// A device on the unmodified Azure SDK for Node.js, driven by a test.
//
// Reads one JSON command a line, answers each with one JSON line, and prints what the hub
// sends as JSON lines of their own. Nothing of the SDK is patched or subclassed.
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const say = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

function message(command) {
  const made = new Message(command.body);
  made.messageId = command.message_id;
  made.correlationId = command.correlation_id;
  made.userId = command.user_id;
  made.contentType = command.content_type;
  made.contentEncoding = command.content_encoding;
  for (const [name, value] of Object.entries(command.properties ?? {})) {
    made.properties.add(name, value);
  }
  return made;
}

async function listen(client) {
  client.onDeviceMethod('reboot', (request, response) => {
    say('method', { name: request.methodName, payload: request.payload });
    const answer = { heard: request.payload, name: request.methodName };
    response.send(207, answer, (error) => error && say('unanswered', { error: String(error) }));
  });
  const twin = await client.getTwin();
  twin.on('properties.desired', (patch) => say('desired', { patch }));
}

async function report(client, patch) {
  const twin = await client.getTwin();
  await new Promise((done, failed) => {
    twin.properties.reported.update(patch, (error) => (error ? failed(error) : done()));
  });
}

async function carryOut(client, command) {
  switch (command.do) {
    case 'connect':
      await client.open();
      return null;
    case 'send':
      await client.sendEvent(message(command));
      return null;
    case 'twin': {
      const { desired, reported } = (await client.getTwin()).properties;
      return JSON.parse(JSON.stringify({ desired, reported }));
    }
    case 'report':
      await report(client, command.patch);
      return null;
    case 'listen':
      await listen(client);
      return null;
    default:
      throw new Error(`unknown command ${command.do}`);
  }
}

async function main() {
  const options = JSON.parse(process.argv[2]);
  const client = Client.fromConnectionString(process.env.DEVICE_CONNECTION_STRING, Mqtt);
  await client.setOptions({ ca: fs.readFileSync(options.ca, 'ascii') });
  client.on('error', (error) => process.stderr.write(`${error}\n`));
  client.on('disconnect', () => say('disconnected', {}));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      say('done', { id: command.id, value: await carryOut(client, command) });
    } catch (error) {
      // The test decides what a failure means.
      say('failed', { id: command.id, error: String(error) });
    }
  }
  await client.close();
  process.exit(0);
}

main();
