// Google's Node SDK, as it comes, against the gemini dialect.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ApiError, GoogleGenAI } from '@google/genai';

import { answer, calls, collect, ended, impatient, problem, resends, script, until, url }
  from './server.js';

const client = new GoogleGenAI({ apiKey: 'k', httpOptions: { baseUrl: url } });
const tools = [{ functionDeclarations: ['write', 'bash'].map(
  (name) => ({ name, parametersJsonSchema: { type: 'object' } })) }];
const prompt = (contents, config) => ({ model: 'mock-model', contents, config });
const ask = (contents = 'hi', config) => client.models.generateContent(prompt(contents, config));
const streamed = async (contents = 'hi', config) =>
  (await collect(await client.models.generateContentStream(prompt(contents, config)))).at(-1);

for (const get of [ask, streamed]) {
  test(`text: ${get.name}`, async () => {
    await script(answer('Hello\n', { keep_alives: 3 }));
    const response = await get('hi', { systemInstruction: 'Be brief.' });
    assert.equal(response.text, 'Hello\n');
    assert.equal(response.candidates[0].finishReason, 'STOP');
    assert.equal(response.usageMetadata.totalTokenCount, 1050);
    assert.equal((await calls())[0].system, 'Be brief.');
  });

  test(`thoughts and parallel tools: ${get.name}`, async () => {
    await script(answer('Both.', { reasoning: 'First a file.', seal: 'c2VhbA==',
      finish: 'tool_calls', tools: [['call_1', 'write', '{"path": "a"}'], ['call_2', 'bash', '{oops']],
    }), answer('done'));
    const response = await get('hi', { tools });
    const { content } = response.candidates[0];
    assert.equal(content.parts[0].thought, true);
    assert.equal(content.parts[2].thoughtSignature, 'c2VhbA==');
    assert.deepEqual(response.functionCalls.map(({ id, args }) => [id, args]),
      [['call_1', { path: 'a' }], ['call_2', { INVALID_JSON: '{oops' }]]);

    const results = [['call_1', 'write'], ['call_2', 'bash']].map(
      ([id, name]) => ({ functionResponse: { id, name, response: { output: 'ok' } } }));
    await ask([{ role: 'user', parts: [{ text: 'hi' }] }, content, { role: 'user', parts: results }],
      { tools });
    const later = (await calls())[1];
    assert.deepEqual([later.echoes, later.extends], [[0], [0]]);
    assert.deepEqual(later.messages.map((m) => m.text), ['hi', 'Both.', 'ok', 'ok']);
  });

  test(`cut, empty and several answers: ${get.name}`, async () => {
    const two = answer('a');
    two.answer.choices.push({ finish: 'stop', text: 'b' });
    await script(answer('cut', { finish: 'length' }), answer('', { usage: false }), two);
    assert.equal((await get()).candidates[0].finishReason, 'MAX_TOKENS');
    assert.equal((await get()).text, '');
    const { candidates } = await get('hi', { candidateCount: 2 });
    assert.deepEqual(candidates.map((c) => c.content.parts[0].text), ['a', 'b']);
  });

  test(`errors: ${get.name}`, async () => {
    await script(problem('invalid_argument', 'because'),
      problem('exhausted', 'rate limit', { end_agent: true }));
    await assert.rejects(get(), (error) => error instanceof ApiError && error.status === 400);
    await assert.rejects(get(), /has ended/);
  });
}

test('errors that pass, and others', async () => {
  for (const [kind, status, outcome] of [['unauthenticated', 401, 'refused'],
    ['permission_denied', 403, 'refused'], ['not_found', 404, 'refused'],
    ['exhausted', 429, 'refused'], ['unavailable', 503, 'failed'], ['internal', 500, 'failed']]) {
    await script(problem(kind, 'because'));
    await assert.rejects(ask(), (error) => error instanceof ApiError && error.status === status);
    assert.deepEqual((await ended()).map((call) => call.outcome), [outcome]);
  }
  await assert.rejects(client.models.embedContent({ model: 'm', contents: 'hi' }),
    (error) => error instanceof ApiError && error.status === 404);
});

test('the SDK calls functions by itself', async () => {
  await script(answer('', { finish: 'tool_calls', tools: [['call_1', 'write', '{"path": "a"}'],
    ['call_2', 'write', '{"path": "b"}']] }), answer('done'));
  const callable = {
    tool: async () => tools[0],
    callTool: async (made) => made.map(({ id, name, args }) => (
      { functionResponse: { id, name, response: { output: 'wrote ' + args.path } } })),
  };
  assert.equal((await ask('hi', { tools: [callable] })).text, 'done');
  const later = (await calls())[1];
  assert.deepEqual(later.echoes, [0]);
  assert.deepEqual(later.messages.slice(2).map((m) => m.text), ['wrote a', 'wrote b']);
});

test('a chat remembers its turns', async () => {
  await script(answer('one', { keep_alives: 2 }), answer('two'));
  const chat = client.chats.create({ model: 'mock-model' });
  await collect(await chat.sendMessageStream({ message: 'a' }));
  assert.equal((await chat.sendMessage({ message: 'b' })).text, 'two');
  const later = (await calls())[1];
  assert.deepEqual(later.messages.map((m) => m.text), ['a', 'one', 'b']);
  assert.deepEqual(later.echoes, [0]);
});

test('what passes is tried again where the caller asks for it', async () => {
  const patient = new GoogleGenAI({ apiKey: 'k',
    httpOptions: { baseUrl: url, retryOptions: { attempts: 3 } } });
  await script(problem('unavailable', ''), problem('internal', ''), answer('there'));
  const response = await patient.models.generateContent(prompt('hi'));
  assert.equal(response.text, 'there');
  assert.deepEqual((await ended()).map((call) => call.outcome), ['failed', 'failed', 'delivered']);
});

test('a lost answer is sent again as it was', async () => {
  await script(resends, answer('once'));
  assert.equal((await ask()).responseId, (await ask()).responseId);
  assert.equal((await streamed()).text, 'done');
  assert.deepEqual((await calls()).map((call) => call.resends ?? 0), [1, 0]);
});

test('coming back for an answer', async () => {
  await script(answer('late', { after_ms: 1000 }));
  await assert.rejects(streamed('hi', { abortSignal: AbortSignal.timeout(200) }));
  assert.equal((await streamed('hi', {})).text, 'late');
  const [call] = await ended();
  assert.deepEqual([call.resends, call.outcome], [1, 'delivered']);
});

test('an error in a stream', async () => {
  await script(problem('unavailable', 'it broke', { keep_alives: 2 }));
  await assert.rejects(streamed(), (error) => error instanceof ApiError && error.status === 503);
});

test('cancelling', async () => {
  await script(impatient, answer('late', { after_ms: 60_000 }), answer('new'));
  const controller = new AbortController();
  const aborted = assert.rejects(streamed('hi', { abortSignal: controller.signal }));
  await until((seen) => seen.length === 1);
  controller.abort();
  await aborted;
  const [call] = await until(([first]) => first.outcome);
  assert.deepEqual([call.outcome, call.resends], ['undelivered', undefined]);
  // It is over: the same again is another call.
  assert.equal((await streamed()).text, 'new');
  assert.deepEqual((await ended()).map((c) => c.outcome), ['undelivered', 'delivered']);
});

test('models and counting', async () => {
  const counted = await client.models.countTokens({ model: 'mock-model', contents: 'hello there' });
  assert.ok(counted.totalTokens > 5);
  const list = await collect(await client.models.list());
  assert.deepEqual(list.map((model) => model.name), ['models/mock-model', 'models/other-model']);
  assert.equal((await client.models.get({ model: 'mock-model' })).name, 'models/mock-model');
});
