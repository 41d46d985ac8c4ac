// OpenAI's Node SDK, as it comes, against the chat dialect.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';

import { answer, calls, collect, ended, hangUp, impatient, problem, resends, script, until, url }
  from './server.js';

const client = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 2 });
const tools = ['write', 'bash'].map((name) => ({
  type: 'function', function: { name, parameters: { type: 'object' } } }));
const user = { role: 'user', content: 'hi' };
const prompt = (more = {}) => ({ model: 'mock-model', messages: [user], ...more });
const ask = (more) => client.chat.completions.create(prompt(more));
const stream = (more) => client.chat.completions.stream(
  prompt({ stream_options: { include_usage: true }, ...more }));
const streamed = (more) => stream(more).finalChatCompletion();

for (const get of [ask, streamed]) {
  test(`text: ${get.name}`, async () => {
    await script(answer('Hello\n', { keep_alives: 3 }));
    const { choices, usage } = await get({ temperature: 0.5 });
    assert.equal(choices[0].message.content, 'Hello\n');
    assert.equal(choices[0].finish_reason, 'stop');
    assert.equal(usage.total_tokens, 1050);
  });

  test(`reasoning and parallel tools: ${get.name}`, async () => {
    await script(answer('Both.', { reasoning: 'First a file.', finish: 'tool_calls',
      tools: [['call_1', 'write', '{"path": "a\\u00e9"}'], ['call_2', 'bash', '{}']] }),
      answer('done'));
    const { message } = (await get({ tools })).choices[0];
    assert.deepEqual(message.tool_calls.map(({ id, function: f }) => [id, f.name]),
      [['call_1', 'write'], ['call_2', 'bash']]);
    assert.equal(message.tool_calls[0].function.arguments, '{"path": "a\\u00e9"}');
    assert.equal(message.reasoning_content, 'First a file.');

    const results = message.tool_calls.map(
      ({ id }) => ({ role: 'tool', tool_call_id: id, content: 'ok' }));
    assert.equal((await ask({ tools, messages: [user, message, ...results] }))
      .choices[0].message.content, 'done');
    const [first, later] = await calls();
    assert.deepEqual([later.echoes, later.extends], [[0], [0]]);
    assert.equal(first.confirmed, true);
    assert.deepEqual(later.messages.map((m) => m.role), ['user', 'assistant', 'tool', 'tool']);
  });

  test(`blank arguments and keep-alives: ${get.name}`, async () => {
    await script(answer('', { finish: 'tool_calls', keep_alives: 2, tools: [['call_1', 'bash', ' ']] }));
    const { message } = (await get({ tools })).choices[0];
    assert.equal(message.role, 'assistant');
    assert.deepEqual(message.tool_calls.map((call) => call.function.arguments), ['{}']);
  });

  test(`refusal, empty and several answers: ${get.name}`, async () => {
    const two = answer('a');
    two.answer.choices.push({ finish: 'stop', text: 'b' });
    await script(answer('', { refusal: 'I will not.' }), answer('', { usage: false }), two);
    assert.equal((await get()).choices[0].message.refusal, 'I will not.');
    assert.equal((await get({ seed: 1 })).choices[0].message.content ?? '', '');
    const { choices } = await get({ n: 2 });
    assert.deepEqual(choices.map((choice) => choice.message.content), ['a', 'b']);
  });

  test(`errors: ${get.name}`, async () => {
    await script(problem('invalid_argument', 'because'), problem('not_found', 'because'),
      problem('exhausted', 'rate limit', { end_agent: true }));
    await assert.rejects(get(), OpenAI.BadRequestError);
    await assert.rejects(get(), OpenAI.NotFoundError);
    await assert.rejects(get(), /400.*has ended/);
    await assert.rejects(get({ messages: [] }), OpenAI.BadRequestError);
  });
}

test('errors that pass, and others', async () => {
  const once = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 0 });
  for (const [kind, error, outcome] of [
    ['unauthenticated', OpenAI.AuthenticationError, 'refused'],
    ['permission_denied', OpenAI.PermissionDeniedError, 'refused'],
    ['exhausted', OpenAI.RateLimitError, 'refused'],
    ['unavailable', OpenAI.InternalServerError, 'failed'],
    ['internal', OpenAI.InternalServerError, 'failed']]) {
    await script(problem(kind, 'because'));
    await assert.rejects(once.chat.completions.create(prompt()), error);
    assert.deepEqual((await ended()).map((call) => call.outcome), [outcome]);
  }
  await assert.rejects(client.embeddings.create({ model: 'm', input: 'hi' }), OpenAI.NotFoundError);
});

test('the SDK runs tools by itself', async () => {
  await script(answer('', { finish: 'tool_calls', tools: [['call_1', 'write', '{"path": "a"}'],
    ['call_2', 'write', '{"path": "b"}']] }), answer('done'));
  const runner = client.chat.completions.runTools(prompt({ tools: [{ type: 'function', function: {
    name: 'write', parameters: { type: 'object' }, parse: JSON.parse,
    function: ({ path }) => 'wrote ' + path } }] }));
  assert.equal(await runner.finalContent(), 'done');
  const later = (await calls())[1];
  assert.deepEqual(later.echoes, [0]);
  assert.deepEqual(later.messages.slice(2).map((m) => m.text), ['wrote a', 'wrote b']);
});

test('custom tools', async () => {
  await script(answer('', { finish: 'tool_calls', tools: [['call_1', 'patch', '*** Begin Patch']] }));
  const { message } = (await ask({ tools: [...tools, { type: 'custom', custom: { name: 'patch' } }] }))
    .choices[0];
  assert.deepEqual(message.tool_calls,
    [{ id: 'call_1', type: 'custom', custom: { name: 'patch', input: '*** Begin Patch' } }]);
});

test('a cut answer, and arguments that are no JSON', async () => {
  const broken = answer('', { tools: [['call_1', 'write', '{oops']], finish: 'tool_calls' });
  await script(answer('cut', { finish: 'length' }), broken);
  assert.equal((await ask()).choices[0].finish_reason, 'length');
  assert.equal((await ask({ tools })).choices[0].message.tool_calls[0].function.arguments, '{oops');
});

test('what passes is tried again', async () => {
  await script(problem('unavailable', ''), hangUp, answer('there'));
  assert.equal((await ask()).choices[0].message.content, 'there');
  // The one that was lost with its connection was joined, not made anew.
  assert.deepEqual((await ended()).map((call) => [call.resends ?? 0, call.outcome]),
    [[0, 'failed'], [1, 'delivered']]);
});

test('a lost answer is sent again as it was', async () => {
  await script(resends, answer('once'));
  assert.deepEqual(await ask(), await ask());
  assert.deepEqual((await calls()).map((call) => call.resends), [1]);
});

test('an error in a stream', async () => {
  await script(problem('internal', 'it broke', { keep_alives: 2 }));
  await assert.rejects(streamed(), /it broke/);
});

test('cancelling', async () => {
  await script(impatient, answer('late', { after_ms: 60_000 }), answer('new'));
  const first = stream();
  const aborted = assert.rejects(first.done(), OpenAI.APIUserAbortError);
  await until((seen) => seen.length === 1);
  first.abort();
  await aborted;
  const [call] = await until(([one]) => one.outcome);
  assert.deepEqual([call.outcome, call.resends], ['undelivered', undefined]);
  // It is over: the same again is another call.
  assert.equal((await streamed()).choices[0].message.content, 'new');
  assert.deepEqual((await ended()).map((c) => c.outcome), ['undelivered', 'delivered']);
});

test('cancelling and coming back', async () => {
  await script(answer('late', { after_ms: 1000 }));
  const first = stream();
  setTimeout(() => first.abort(), 200);
  await assert.rejects(first.done(), OpenAI.APIUserAbortError);
  assert.equal((await streamed()).choices[0].message.content, 'late');
  const [call] = await ended();
  assert.deepEqual([call.resends, call.outcome], [1, 'delivered']);
});

test('models', async () => {
  const list = await collect(client.models.list());
  assert.deepEqual(list.map((model) => model.id), ['mock-model', 'other-model']);
});
