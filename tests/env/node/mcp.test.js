// The official TypeScript SDK of MCP, as it comes, over POST /mcp.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const client = new Client({ name: 'test', version: '1.0.0' });
before(() => client.connect(
  new StreamableHTTPClientTransport(new URL(process.env.SERVER_URL + '/mcp'))));
after(() => client.close());

test('a session', async () => {
  assert.equal(client.getServerVersion().name, 'tool_env');
  await client.ping();
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((tool) => tool.name).sort(), ['echo', 'fail', 'object', 'wait']);
  const result = await client.callTool({ name: 'echo', arguments: { message: 'hi', times: 2 } });
  assert.equal(result.content[0].text, 'hihi');
  assert.deepEqual(result.structuredContent, { result: 'hihi' });
  assert.equal(result.isError, false);
});

test('failures', async () => {
  await assert.rejects(client.callTool({ name: 'fail', arguments: {} }), /boom/);
  await assert.rejects(client.callTool({ name: 'nope', arguments: {} }), /Unknown tool/);
});

test('progress', async () => {
  const heard = [];
  const result = await client.callTool({ name: 'wait', arguments: { seconds: 0.3 } }, undefined,
    { onprogress: (progress) => heard.push(progress) });
  assert.equal(result.content[0].text, 'waited');
  assert.ok(heard.length > 0);
});
