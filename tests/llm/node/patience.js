// One streamed answer in the dialect that is named, with each SDK's own time-outs; prints its text.
import Anthropic from '@anthropic-ai/sdk';
import { GoogleGenAI } from '@google/genai';
import OpenAI from 'openai';

import { collect, url } from './server.js';

const model = 'mock-model';
const messages = [{ role: 'user', content: process.argv[3] }];
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'k', maxRetries: 0 });
const ask = {
  chat: async () => (await openai.chat.completions.stream({ model, messages }).finalChatCompletion())
    .choices[0].message.content,
  responses: async () => (await openai.responses.stream({ model, input: messages }).finalResponse())
    .output_text,
  messages: async () => (await new Anthropic({ baseURL: url, apiKey: 'k', maxRetries: 0 }).messages
    .stream({ model, messages, max_tokens: 100 }).finalMessage()).content[0].text,
  gemini: async () => (await collect(
    await new GoogleGenAI({ apiKey: 'k', httpOptions: { baseUrl: url } })
      .models.generateContentStream({ model, contents: process.argv[3] }))).at(-1).text,
};
console.log(await ask[process.argv[2]]());
