// One answer, streamed or plain, in the dialect that is named, with each SDK's own time-outs; prints its
// text.
import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import OpenAI from 'openai';

import { collect, url } from './server.js';

const [, , dialect, form] = process.argv;
const model = 'mock-model';
const messages = [{ role: 'user', content: form }];
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: 'k', maxRetries: 0 });
const { models } = new GoogleGenAI({ apiKey: 'k', httpOptions: { baseUrl: url } });
const ask = {
  streamed: {
    chat: async () => (await openai.chat.completions.stream({ model, messages })
      .finalChatCompletion()).choices[0].message.content,
    responses: async () => (await openai.responses.stream({ model, input: messages })
      .finalResponse()).output_text,
    messages: async () => (await anthropic.messages.stream({ model, messages, max_tokens: 100 })
      .finalMessage()).content[0].text,
    gemini: async () => (await collect(
      await models.generateContentStream({ model, contents: form }))).at(-1).text,
  },
  plain: {
    chat: async () => (await openai.chat.completions.create({ model, messages }))
      .choices[0].message.content,
    responses: async () => (await openai.responses.create({ model, input: messages })).output_text,
    messages: async () => (await anthropic.messages.create({ model, messages, max_tokens: 100 }))
      .content[0].text,
    gemini: async () => (await models.generateContent({ model, contents: form })).text,
  },
};
console.log(await ask[form][dialect]());
