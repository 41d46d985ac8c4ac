// A rollout through the official TypeScript SDK of MCP. $ROLLOUT: its arguments, as JSON.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const client = new Client({ name: 'test', version: '1.0.0' });
before(() => client.connect(
  new StreamableHTTPClientTransport(new URL(process.env.SERVER_URL + '/mcp'))));
after(() => client.close());

test('a rollout', async () => {
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((tool) => tool.name), ['run_rollout']);
  const heard = [];
  const result = await client.callTool(
    { name: 'run_rollout', arguments: JSON.parse(process.env.ROLLOUT) }, undefined,
    { onprogress: ({ message }) => heard.push(message) });
  const told = JSON.parse(result.content[0].text);
  assert.equal(told.reward, 1);
  assert.equal(told.task_id, 't1');
  assert.deepEqual(result.structuredContent, { result: result.content[0].text });
  assert.ok(heard.includes('agent') && heard.includes('verify'), heard.join());
});

test('a rollout that cannot be', async () => {
  await assert.rejects(
    client.callTool({ name: 'run_rollout', arguments: { agent: 'nobody', base_url: 'http://x',
      api_key: 'k', model: 'm' } }),
    /unsupported agent 'nobody'/);
});
