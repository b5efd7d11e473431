// A back end on the unmodified Azure service SDK for Node.js, driven by a test.
//
// Reads one JSON command a line and answers each with one JSON line. Nothing of the SDK is
// patched or subclassed; it takes no authority of its own, so Node is told of the hub's in its
// environment (NODE_EXTRA_CA_CERTS).
'use strict';

const readline = require('node:readline');
const { Client, Registry } = require('azure-iothub');

const secret = process.env.DEVICE_CONNECTION_STRING;
const registry = Registry.fromConnectionString(secret);
const client = Client.fromConnectionString(secret);

const say = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);
const plain = (value) => JSON.parse(JSON.stringify(value ?? null));
const body = (answer) => plain(answer.responseBody);

async function twin(command) {
  const { device, module } = command;
  return module === undefined
    ? (await registry.getTwin(device)).responseBody
    : (await registry.getModuleTwin(device, module)).responseBody;
}

function shown(got) {
  const { deviceId, moduleId, etag, tags, properties } = got.responseBody ?? got;
  return plain({ deviceId, moduleId, etag, tags, properties });
}

async function carryOut(command) {
  const { device, module } = command;
  switch (command.do) {
    case 'create':
      return body(await registry.create(command.body));
    case 'get':
      return body(await registry.get(device));
    case 'update':
      return body(await registry.update(command.body));
    case 'list':
      return (await registry.list()).responseBody.map((one) => one.deviceId);
    case 'delete':
      await registry.delete(device);
      return null;
    case 'create module':
      return body(await registry.addModule(command.body));
    case 'get module':
      return body(await registry.getModule(device, module));
    case 'update module':
      return body(await registry.updateModule(command.body));
    case 'modules':
      return (await registry.getModulesOnDevice(device)).responseBody.map((one) => one.moduleId);
    case 'delete module':
      await registry.removeModule(device, module);
      return null;
    case 'statistics':
      return body(await registry.getRegistryStatistics());
    case 'twin':
      return shown(await twin(command));
    case 'patch':
      return module === undefined
        ? shown(await registry.updateTwin(device, command.patch, command.etag ?? '*'))
        : shown(await registry.updateModuleTwin(device, module, command.patch, command.etag ?? '*'));
    case 'method': {
      const called = module === undefined
        ? await client.invokeDeviceMethod(device, command.params)
        : await client.invokeDeviceMethod(device, module, command.params);
      return plain(called.result);
    }
    case 'apply':
      await registry.applyConfigurationContentOnDevice(device, command.content);
      return null;
    default:
      throw new Error(`unknown command ${command.do}`);
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    try {
      say('done', { id: command.id, value: await carryOut(command) });
    } catch (error) {
      // The test decides what a failure means.
      const status = error.response?.statusCode ?? '';
      say('failed', { id: command.id, error: `${error.name} ${status} ${error.message}` });
    }
  }
  process.exit(0);
}

main();
