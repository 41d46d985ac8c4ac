// The scripted gate (dialect_test_server.cc) as the tests here use it; see server.py.

export const url = process.env.SERVER_URL;
const control = process.env.SERVER_CONTROL;

export async function script(...steps) {
  const response = await fetch(control + '/script', { method: 'POST', body: JSON.stringify(steps) });
  if (!response.ok) throw new Error(await response.text());
}

export async function calls() {
  return (await fetch(control + '/calls')).json();
}

// A step that answers; each tool is [id, name, arguments as text].
export function answer(text, { tools = [], finish = 'stop', reasoning = '', seal = '', refusal = '',
  usage = true, ...step } = {}) {
  const choice = { finish, text, reasoning, refusal, reasoning_seal: seal,
    tool_calls: tools.map(([id, name, args]) => ({ id, name, arguments: args })) };
  const body = { origin: 'canned', choices: [choice] };
  if (usage) body.usage = { prompt_tokens: 1000, completion_tokens: 50 };
  return { answer: body, ...step };
}

export function problem(kind, message, { end_agent = false, ...step } = {}) {
  return { problem: { kind, message, end_agent }, ...step };
}

// The calls, as soon as they are as wanted.
export async function until(wanted) {
  for (;;) {
    const seen = await calls();
    if (wanted(seen)) return seen;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// The calls, as soon as all have ended: a client has its answer before the gate knows that it has.
export function ended() {
  return until((seen) => seen.length > 0 && seen.every((call) => call.outcome));
}

export const hangUp = { hang_up: true };
// With this first, nobody is waited for who has hung up.
export const impatient = { options: { grace_ms: 0 } };
// With this first, an equal request soon after an answer is taken for one sent again.
export const resends = { options: { resend_window_s: 60 } };

export async function collect(iterable) {
  const out = [];
  for await (const item of iterable) out.push(item);
  return out;
}
