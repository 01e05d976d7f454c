// The API over fetch. The key, or the service's token, stays in this tab's session.
export const DONE = ["completed", "failed", "cancelled"];
export const key = { get: () => sessionStorage.getItem("key") || "", set: (value) => sessionStorage.setItem("key", value) };

// The address that a service without keys prints when it starts brings its token along, which does not stay there.
export function takeToken() {
  const [, token] = location.hash.match(/^#token=([\w-]+)$/) || [];
  if (!token) return false;
  key.set(token);
  history.replaceState(null, "", location.pathname);
  return true;
}

const RETRY_MS = 1000;
let onRefusedKey = () => {};
export const whenKeyIsRefused = (callback) => (onRefusedKey = callback);

export class ApiError extends Error {
  constructor(status, { message, param, code }, retry = 0) {
    super(message);
    Object.assign(this, { status, param, code, retry }); // retry: seconds that the service asks to wait
  }
}

export async function call(method, path, { body, headers = {}, signal } = {}) {
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const form = body instanceof FormData; // whose type the browser names, with its boundary
  if (body && !form) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && !form ? JSON.stringify(body) : body });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: "The service does not answer." });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const error = new ApiError(answer.status, said?.error || { message: `The service answered ${answer.status}.` }, Number(answer.headers.get("Retry-After")));
  if (answer.status === 401) onRefusedKey();
  throw error;
}

export const json = async (...request) => (await call(...request)).json();

// A job, asked for again while the service is away. Null when there is none, or no longer.
export async function look(id, signal) {
  while (true) {
    try {
      return await json("GET", `/videos/${id}`, { signal });
    } catch (error) {
      if (signal.aborted || error.status === 401) throw error;
      if (error.status === 404) return null;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

export const fileUrl = (id, variant) => `/videos/${id}/content?variant=${variant}`;

// An address that an element can load: it cannot send a key, so that it gets a link, which holds for an hour.
const links = new Map();
export async function source(id, variant) {
  const file = fileUrl(id, variant);
  if (!key.get()) return file;
  if (!(links.get(file)?.expires_at > Date.now() / 1000 + 300)) links.set(file, await json("GET", `/videos/${id}/link?variant=${variant}`));
  const { pathname, search } = new URL(links.get(file).url);
  return pathname + search;
}

// A preview's address; with a key it is fetched first, because there are no links to it.
export const preview = async (address) => (key.get() ? URL.createObjectURL(await (await call("GET", address)).blob()) : address);

// A job's events from its beginning to its end; a lost connection goes on where it was.
export async function follow(id, onEvent, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const answer = await call("GET", `/videos/${id}/events`, { headers: last ? { "Last-Event-ID": last } : {}, signal });
      if (answer.status === 204) return;
      for await (const event of events(answer.body)) {
        last = event.id ?? last;
        onEvent(event.event, JSON.parse(event.data));
        if (DONE.includes(event.event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const found = (text + value).split("\n\n");
    text = found.pop();
    for (const event of found) {
      const field = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (field.data) yield field; // a heartbeat has none
    }
  }
}
