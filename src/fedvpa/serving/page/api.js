// What the page asks of its server: the same public API that everybody else uses.

let key = sessionStorage.getItem("fedvpa-key") ?? "";

export class ServerError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function setKey(text) {
  key = text.trim();
  sessionStorage.setItem("fedvpa-key", key);
}

async function send(method, path, body, signal) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer. Is `fedvpa serve` still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new ServerError(answer.status, told.error?.message ?? `The server answered ${answer.status}.`, told.error?.code);
}

const json = async (...asked) => (await send(...asked)).json();
const named = (name) => `v1/profiles/${encodeURIComponent(name)}`;

export const models = async () => (await json("GET", "v1/models")).data.map((model) => model.id);
export const latentMap = async () => (await json("GET", "v1/map")).map;
export const profiles = async () => (await json("GET", "v1/profiles")).data;
export const profile = (name) => json("GET", named(name));
export const createProfile = (name, pairs) => json("POST", "v1/profiles", { name, pairs });
export const addPairs = (name, pairs) => json("POST", `${named(name)}/pairs`, { pairs });
// The pair that says most; with `place` the one so many places behind it.
export const nextQuestion = (name, place = 0) => json("GET", `${named(name)}/next?skip=${place}`);
export const deleteProfile = (name) => json("DELETE", named(name));
export const exportProfile = (name) => json("GET", `${named(name)}/export`);

// Calls `show` with each piece of text of a streamed answer.
export async function chat(model, messages, show, signal) {
  const answer = await send("POST", "v1/chat/completions", { model, messages, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError(0, "The answer broke off.");
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const piece = JSON.parse(data);
      if (piece.error) throw new ServerError(0, piece.error.message);
      const text = piece.choices?.[0]?.delta?.content;
      if (text) show(text);
    }
  }
}
