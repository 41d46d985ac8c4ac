// Answers that are delivered while they are made: the vendors' Node SDKs get them in pieces, and put
// together what the policy said.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import OpenAI from 'openai';

import { answer, collect, ended, script, url } from './server.js';

const reasoning = 'First a file \u2603, then another.';
const text = 'I will write it: na\u00efve, but it is done soon. \u{1f600}\n';
const messages = [{ role: 'user', content: 'hi' }];
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 0 });

// What the SDK hands out on the way, [reasoning, text], each in pieces; and the tool calls' ids.
const ask = {
  chat: async () => {
    const stream = openai.chat.completions.stream({ model: 'm', messages });
    const deltas = (await collect(stream)).flatMap((chunk) => chunk.choices.map((c) => c.delta));
    const { message } = (await stream.finalChatCompletion()).choices[0];
    assert.equal(message.content, text);
    return [deltas.map((d) => d.reasoning_content), deltas.map((d) => d.content),
      message.tool_calls.map((call) => call.id)];
  },
  responses: async () => {
    const stream = openai.responses.stream({ model: 'm', input: 'hi' });
    const events = await collect(stream);
    const { output, output_text } = await stream.finalResponse();
    assert.equal(output_text, text);
    assert.equal(output[0].summary[0].text, reasoning);
    const deltas = (kind) => events.filter((e) => e.type === `response.${kind}.delta`)
      .map((e) => e.delta);
    return [deltas('reasoning_summary_text'), deltas('output_text'), [output[2].call_id]];
  },
  messages: async () => {
    const client = new Anthropic({ baseURL: url, apiKey: 'k', maxRetries: 0 });
    const stream = client.messages.stream({ model: 'm', max_tokens: 9, messages });
    const deltas = (await collect(stream)).filter((e) => e.type === 'content_block_delta')
      .map((e) => e.delta);
    const [thought, said, call] = (await stream.finalMessage()).content;
    assert.deepEqual([thought.thinking, said.text], [reasoning, text]);
    return [deltas.map((d) => d.thinking), deltas.map((d) => d.text), [call.id]];
  },
  gemini: async () => {
    const client = new GoogleGenAI({ apiKey: 'k', httpOptions: { baseUrl: url } });
    const chunks = await collect(
      await client.models.generateContentStream({ model: 'm', contents: 'hi' }));
    const parts = chunks.flatMap((chunk) => chunk.candidates[0].content.parts);
    const texts = (thought) => parts.filter((p) => Boolean(p.thought) === thought).map((p) => p.text);
    return [texts(true), texts(false),
      parts.filter((p) => p.functionCall).map((p) => p.functionCall.id)];
  },
};

for (const [dialect, get] of Object.entries(ask)) {
  test(dialect, async () => {
    await script(answer(text, { reasoning, finish: 'tool_calls', pieces_ms: 10,
      tools: [['call_1', 'write', '{"path": "a"}']] }));
    const [thoughts, said, ids] = await get();
    for (const [pieces, whole] of [[thoughts, reasoning], [said, text]]) {
      const some = pieces.filter(Boolean);
      assert.ok(some.length > 5, `${some.length} pieces`);
      assert.equal(some.join(''), whole);
    }
    assert.deepEqual(ids, ['call_1']);
    const [call] = await ended();
    assert.equal(call.outcome, 'delivered');
  });
}
