// Anthropic's TypeScript SDK, as it comes, against the messages dialect.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';

import { answer, calls, collect, ended, hangUp, impatient, problem, resends, script, until, url }
  from './server.js';

const client = new Anthropic({ baseURL: url, apiKey: 'k', maxRetries: 2, timeout: 30_000 });
const tools = ['write', 'bash'].map((name) => ({ name, input_schema: { type: 'object' } }));
const user = { role: 'user', content: 'hi' };
const prompt = (more) => ({ model: 'mock-model', max_tokens: 1024, messages: [user], ...more });
const ask = (more) => client.messages.create(prompt(more));
const streamed = (more) => client.messages.stream(prompt(more)).finalMessage();

test('text', async () => {
  await script(answer('Hello\n'), answer('Hello\n', { keep_alives: 3 }));
  const plain = await ask({ system: 'Be brief.' });
  assert.equal(plain.content[0].text, 'Hello\n');
  assert.deepEqual([plain.usage.input_tokens, plain.usage.output_tokens], [1000, 50]);
  assert.equal((await calls())[0].system, 'Be brief.');
  const message = await streamed();
  assert.equal(message.content[0].text, 'Hello\n');
  assert.equal(message.stop_reason, 'end_turn');
  assert.deepEqual([message.usage.input_tokens, message.usage.output_tokens], [1000, 50]);
});

for (const get of [ask, streamed]) {
  test(`thinking and parallel tools: ${get.name}`, async () => {
    await script(answer('Both.', { reasoning: 'First a file.', seal: 'c2VhbA==',
      finish: 'tool_calls', tools: [['toolu_1', 'write', '{"path": "a"}'], ['toolu_2', 'bash', '']],
    }), answer('done'));
    const { content, stop_reason } = await get({ tools });
    assert.equal(stop_reason, 'tool_use');
    assert.deepEqual(content.map((block) => block.type), ['thinking', 'text', 'tool_use', 'tool_use']);
    assert.deepEqual([content[0].thinking, content[0].signature], ['First a file.', 'c2VhbA==']);
    assert.deepEqual([content[2].input, content[3].input], [{ path: 'a' }, {}]);

    const results = [['toolu_1', 'ok'], ['toolu_2', [{ type: 'text', text: 'no' }]]].map(
      ([tool_use_id, text]) => ({ type: 'tool_result', tool_use_id, content: text }));
    results[1].cache_control = { type: 'ephemeral' };
    await ask({ tools, messages: [user, { role: 'assistant', content },
      { role: 'user', content: results }] });
    const later = (await calls())[1];
    assert.deepEqual([later.echoes, later.extends], [[0], [0]]);
    assert.deepEqual(later.messages.map((m) => m.text), ['hi', 'Both.', 'ok', 'no']);
  });

  test(`redacted thinking, refusal, an empty answer: ${get.name}`, async () => {
    await script(answer('x', { seal: 'opaque' }),
      answer('cut', { refusal: 'policy', finish: 'content_filter' }), answer('', { usage: false }));
    assert.equal((await get()).content[0].data, 'opaque');
    const refused = await get();
    assert.deepEqual([refused.stop_reason, refused.stop_details.explanation], ['refusal', 'policy']);
    assert.deepEqual((await get()).content, []);
  });
}

test('broken arguments', async () => {
  const broken = answer('', { tools: [['toolu_1', 'write', '{oops']], finish: 'tool_calls' });
  await script(broken, broken);
  assert.deepEqual((await ask()).content[0].input, { INVALID_JSON: '{oops' });
  const events = await collect(await client.messages.create(prompt({ stream: true })));
  assert.equal(events.find((e) => e.type === 'content_block_delta').delta.partial_json, '{oops');
});

test('errors', async () => {
  await script(problem('invalid_argument', 'because'), problem('not_found', 'because'),
    problem('exhausted', 'rate limit', { end_agent: true }));
  await assert.rejects(ask(), Anthropic.BadRequestError);
  await assert.rejects(ask(), Anthropic.NotFoundError);
  await assert.rejects(ask(), /403.*has ended/);
  await assert.rejects(ask({ max_tokens: undefined }), /max_tokens/);
});

test('errors that pass, and others', async () => {
  const once = new Anthropic({ baseURL: url, apiKey: 'k', maxRetries: 0 });
  for (const [kind, error, outcome] of [
    ['unauthenticated', Anthropic.AuthenticationError, 'refused'],
    ['permission_denied', Anthropic.PermissionDeniedError, 'refused'],
    ['exhausted', Anthropic.RateLimitError, 'refused'],
    ['unavailable', Anthropic.InternalServerError, 'failed'],
    ['internal', Anthropic.InternalServerError, 'failed']]) {
    await script(problem(kind, 'because'));
    await assert.rejects(once.messages.create(prompt()), error);
    assert.deepEqual((await ended()).map((call) => call.outcome), [outcome]);
  }
  await assert.rejects(client.messages.batches.list(), Anthropic.NotFoundError);
});

test('the SDK runs tools by itself', async () => {
  await script(answer('', { finish: 'tool_calls', tools: [['toolu_1', 'write', '{"path": "a"}'],
    ['toolu_2', 'write', '{"path": "b"}']] }), answer('done'));
  const runner = client.beta.messages.toolRunner(prompt({ tools: [{ name: 'write',
    description: 'Writes a file.', input_schema: { type: 'object' },
    parse: (input) => input, run: ({ path }) => 'wrote ' + path }] }));
  assert.equal((await runner.runUntilDone()).content[0].text, 'done');
  const later = (await calls())[1];
  assert.deepEqual([later.echoes, later.extends], [[0], [0]]);
  assert.deepEqual(later.messages.slice(2).map((m) => m.text), ['wrote a', 'wrote b']);
});

test('a conversation that the vendor would store is refused', async () => {
  await script(answer('never'));
  await assert.rejects(client.beta.messages.create(prompt({ thread: { type: 'create' } })),
    (error) => error instanceof Anthropic.BadRequestError
      && error.errorCode === 'thread_unsupported_request');
  assert.deepEqual(await calls(), []);
});

test('what passes is tried again', async () => {
  await script(problem('unavailable', ''), hangUp, answer('there'));
  assert.equal((await ask()).content[0].text, 'there');
  // The one that was lost with its connection was joined, not made anew.
  assert.deepEqual((await ended()).map((call) => [call.resends ?? 0, call.outcome]),
    [[0, 'failed'], [1, 'delivered']]);
});

test('a lost answer is sent again as it was', async () => {
  await script(resends, answer('once'));
  assert.deepEqual(await ask(), await ask());
  assert.equal((await streamed()).content[0].text, 'done');
  assert.deepEqual((await calls()).map((call) => call.resends ?? 0), [1, 0]);
});

test('coming back for an answer', async () => {
  await script(answer('late', { after_ms: 1000 }));
  const first = client.messages.stream(prompt());
  setTimeout(() => first.abort(), 200);
  await assert.rejects(first.finalMessage(), Anthropic.APIUserAbortError);
  assert.equal((await streamed()).content[0].text, 'late');
  const [call] = await ended();
  assert.deepEqual([call.resends, call.outcome], [1, 'delivered']);
});

test('an error in a stream', async () => {
  await script(problem('internal', 'it broke', { keep_alives: 2 }));
  await assert.rejects(streamed(), /it broke/);
});

test('cancelling', async () => {
  await script(impatient, answer('late', { after_ms: 60_000 }), answer('new'));
  const stream = client.messages.stream(prompt());
  const aborted = assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  await until((seen) => seen.length === 1);
  stream.abort();
  await aborted;
  const [call] = await until(([first]) => first.outcome);
  assert.deepEqual([call.outcome, call.resends], ['undelivered', undefined]);
  // It is over: the same again is another call.
  assert.equal((await streamed()).content[0].text, 'new');
  assert.deepEqual((await ended()).map((c) => c.outcome), ['undelivered', 'delivered']);
});

test('models and counting', async () => {
  const list = await collect(client.models.list());
  assert.deepEqual(list.map((model) => model.id), ['mock-model', 'other-model']);
  const counted = await client.messages.countTokens({ model: 'm', messages: [user], tools });
  assert.ok(counted.input_tokens > 10);
});
