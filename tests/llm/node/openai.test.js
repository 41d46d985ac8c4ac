// OpenAI's Node SDK, as it comes, against the responses dialect.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { answer, calls, collect, ended, hangUp, impatient, problem, resends, script, until, url }
  from './server.js';

const client = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 2, timeout: 30_000 });
const tools = [
  { type: 'function', name: 'write', strict: false, parameters: { type: 'object' } },
  { type: 'custom', name: 'apply_patch' },
  { type: 'namespace', name: 'mcp__env', description: '',
    tools: [{ type: 'function', name: 'answer', parameters: { type: 'object' } }] },
];
const ask = (more = {}) =>
  client.responses.create({ model: 'mock-model', input: 'hi', store: false, ...more });
const stream = (more = {}) =>
  client.responses.stream({ model: 'mock-model', input: 'hi', store: false, ...more });
const streamed = (more) => stream(more).finalResponse();

test('text', async () => {
  await script(answer('Hello\n'), answer('Hello\n', { keep_alives: 3 }));
  const plain = await ask({ instructions: 'Be brief.' });
  assert.equal(plain.output_text, 'Hello\n');
  assert.equal(plain.usage.total_tokens, 1050);
  const events = await collect(stream());
  assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i));
  assert.ok(events.filter((e) => e.type === 'response.in_progress').length > 1);
  assert.equal(events.at(-1).response.output[0].content[0].text, 'Hello\n');
});

for (const get of [ask, streamed]) {
  test(`reasoning, parallel, custom and namespaced tools: ${get.name}`, async () => {
    await script(answer('All.', { reasoning: 'First a file.', seal: 'c2VhbA==', finish: 'tool_calls',
      tools: [['call_1', 'write', '{broken'], ['call_2', 'apply_patch', '*** Begin Patch'],
        ['call_3', 'mcp__env__answer', '{}']] }), answer('done'));
    const { output } = await get({ tools });
    assert.deepEqual(output.map((item) => item.type),
      ['reasoning', 'message', 'function_call', 'custom_tool_call', 'function_call']);
    assert.equal(output[0].encrypted_content, 'c2VhbA==');
    assert.equal(output[0].summary[0].text, 'First a file.');
    assert.equal(output[2].arguments, '{broken');
    assert.equal(output[3].input, '*** Begin Patch');
    assert.equal(output[4].namespace, 'mcp__env');
    assert.equal(output[4].name, 'answer');

    const results = output.slice(2).map((call) => ({
      type: call.type + '_output', call_id: call.call_id, output: 'ok' }));
    results[1].type = 'custom_tool_call_output';
    await ask({ tools, input: [{ role: 'user', content: 'hi' }, ...output, ...results] });
    const later = (await calls())[1];
    assert.deepEqual([later.echoes, later.extends], [[0], [0]]);
    assert.deepEqual(later.messages[1].tool_calls.map((call) => call.name),
      ['write', 'apply_patch', 'mcp__env__answer']);
  });

  test(`refusal and cut answers: ${get.name}`, async () => {
    await script(answer('', { refusal: 'I will not.' }), answer('', { usage: false }));
    assert.equal((await get()).output[0].content[0].refusal, 'I will not.');
    assert.equal((await get()).output_text, '');
  });
}

test('a cut answer', async () => {
  await script(answer('cut', { finish: 'length' }), answer('cut', { finish: 'length' }));
  assert.equal((await ask()).incomplete_details.reason, 'max_output_tokens');
  assert.equal((await collect(stream())).at(-1).type, 'response.incomplete');
});

test('errors', async () => {
  await script(problem('invalid_argument', 'because'), problem('not_found', 'because'),
    problem('exhausted', 'rate limit', { end_agent: true }));
  await assert.rejects(ask(), OpenAI.BadRequestError);
  await assert.rejects(ask(), OpenAI.NotFoundError);
  await assert.rejects(ask(), /400.*has ended/);
  await assert.rejects(ask({ previous_response_id: 'resp_1' }), /whole conversation/);
});

test('errors that pass, and others', async () => {
  const once = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 0 });
  for (const [kind, error, outcome] of [
    ['unauthenticated', OpenAI.AuthenticationError, 'refused'],
    ['permission_denied', OpenAI.PermissionDeniedError, 'refused'],
    ['exhausted', OpenAI.RateLimitError, 'refused'],
    ['unavailable', OpenAI.InternalServerError, 'failed'],
    ['internal', OpenAI.InternalServerError, 'failed']]) {
    await script(problem(kind, 'because'));
    await assert.rejects(once.responses.create({ model: 'm', input: 'hi' }), error);
    assert.deepEqual((await ended()).map((call) => call.outcome), [outcome]);
  }
  await assert.rejects(client.responses.retrieve('resp_1'), OpenAI.NotFoundError);
});

test('what passes is tried again', async () => {
  await script(problem('unavailable', ''), hangUp, answer('there'));
  assert.equal((await ask()).output_text, 'there');
  // The one that was lost with its connection was joined, not made anew.
  assert.deepEqual((await ended()).map((call) => [call.resends ?? 0, call.outcome]),
    [[0, 'failed'], [1, 'delivered']]);
});

test('a lost answer is sent again as it was', async () => {
  await script(resends, answer('once'));
  assert.equal((await ask()).id, (await ask()).id);
  assert.equal((await streamed()).output_text, 'done');
  assert.deepEqual((await calls()).map((call) => call.resends ?? 0), [1, 0]);
});

test('coming back for an answer', async () => {
  await script(answer('late', { after_ms: 1000 }));
  const first = stream();
  setTimeout(() => first.abort(), 200);
  await assert.rejects(first.done(), OpenAI.APIUserAbortError);
  assert.equal((await streamed()).output_text, 'late');
  const [call] = await ended();
  assert.deepEqual([call.resends, call.outcome], [1, 'delivered']);
});

test('an error in a stream', async () => {
  await script(problem('internal', 'it broke', { keep_alives: 2 }));
  await assert.rejects(streamed(), /it broke/);
});

test('cancelling', async () => {
  await script(impatient, answer('late', { after_ms: 60_000 }), answer('new'));
  const request = { model: 'm', input: 'hi', stream: true };
  const events = await client.responses.create(request);
  for await (const event of events) {
    assert.equal(event.type, 'response.created');
    break;
  }
  const [call] = await until(([first]) => first.outcome);
  assert.deepEqual([call.outcome, call.resends], ['undelivered', undefined]);
  // It is over: the same again is another call.
  const again = await collect(await client.responses.create(request));
  assert.equal(again.at(-1).response.output[0].content[0].text, 'new');
  assert.deepEqual((await ended()).map((c) => c.outcome), ['undelivered', 'delivered']);
});

test('models and counting', async () => {
  const list = await collect(client.models.list());
  assert.deepEqual(list.map((model) => model.id), ['mock-model', 'other-model']);
  const counted = await client.responses.inputTokens.count({ model: 'm', input: 'hello there' });
  assert.equal(counted.input_tokens, 4);
});
