// The API over fetch. The key, or the service's token, stays in this tab's session.
import { recall, remember } from "./memory.js";

export const DONE = ["completed", "failed", "cancelled"];
export const key = { get: () => recall("key") || "", set: (value) => remember("key", value) };

// The address that a service without keys prints when it starts brings its token along, which does not stay there.
export function takeToken() {
  const [, token] = location.hash.match(/^#token=([\w-]+)$/) || [];
  if (!token) return false;
  key.set(token);
  history.replaceState(null, "", location.pathname);
  return true;
}

const RETRY_MS = 1000;
const HALF_S = 30; // in which half of a minute's requests come back
const LONGEST_S = 60; // that a Retry-After is heeded for: a proxy may name hours
let roomAt = 0; // by performance.now(), which goes on when the clock is set back
let backAt = 0;
// Whether more than half of what a key may send in a minute is left, and no 503 asks to wait. What nobody pressed waits for that.
export const hasRoom = () => performance.now() >= Math.max(roomAt, backAt);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Some time before one asks again for what may have changed.
export async function rest(ms) {
  do await sleep(ms);
  while (!hasRoom());
}

let onRefusedKey = () => {};
export const whenKeyIsRefused = (callback) => (onRefusedKey = callback);

export class ApiError extends Error {
  constructor(status, { message, param, code }, retry = 0) {
    super(message);
    Object.assign(this, { status, param, code, retry }); // retry: seconds that the service asks to wait
  }
}

export async function call(method, path, { body, headers = {}, signal } = {}) {
  const sent = key.get();
  if (sent) headers.Authorization = `Bearer ${sent}`;
  const form = body instanceof FormData; // whose type the browser names, with its boundary
  if (body && !form) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && !form ? JSON.stringify(body) : body });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { message: "The service does not answer." });
  }
  const full = parseFloat(answer.headers.get("X-RateLimit-Reset-Requests") ?? 0); // seconds until it has a whole minute's again
  roomAt = performance.now() + 1000 * (full - HALF_S);
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const error = new ApiError(answer.status, said?.error || { message: `The service answered ${answer.status}.` }, Number(answer.headers.get("Retry-After")));
  if (answer.status === 401 && sent === key.get()) onRefusedKey(); // not one that was replaced meanwhile
  if (answer.status === 503) backAt = performance.now() + 1000 * Math.min(error.retry || 0, LONGEST_S); // NaN where it is a date
  throw error;
}

export const json = async (...request) => (await call(...request)).json();

// Whether asking again gets another answer: the service was away or busy.
const passes = ({ status }) => !(status >= 400 && status < 500) || status === 429;

// A job, asked for again while the service is away.
export async function look(id, signal) {
  while (true) {
    try {
      return await json("GET", `/videos/${id}`, { signal });
    } catch (error) {
      if (signal.aborted || !passes(error)) throw error;
    }
    await rest(RETRY_MS);
  }
}

// One of several jobs; null when there is none, no longer, or none that can be shown.
export const lookIfThere = (id, signal) => look(id, signal).catch((error) => {
  if (error.status === 404 || error.status === 410) return null;
  throw error;
});

export const fileUrl = (id, variant) => `/videos/${id}/content?variant=${variant}`;

// An address that an element can load: it cannot send a key, so that it gets a link, which holds for an hour. How old it is
// tells this machine's clock, which may be days away from the service's.
const LINK_MS = 55 * 60_000;
const links = new Map();
export async function source(id, variant) {
  const file = fileUrl(id, variant);
  if (!key.get()) return file;
  if (!(links.get(file)?.until > Date.now())) {
    const { url } = await json("GET", `/videos/${id}/link?variant=${variant}`);
    links.set(file, { url, until: Date.now() + LINK_MS });
  }
  const { pathname, search } = new URL(links.get(file).url);
  return pathname + search;
}
export const dropLink = (id, variant) => links.delete(fileUrl(id, variant));

// A preview's address; with a key it is fetched first, because there are no links to it.
export const preview = async (address) => (key.get() ? URL.createObjectURL(await (await call("GET", address)).blob()) : address);

// A job's events from its beginning to its end; a lost connection goes on where it was. One that died in silence, as when
// this machine slept, is known by its silence alone.
const SILENT_MS = 40_000; // the service says something every 15 s
export async function follow(id, onEvent, signal) {
  let last = null;
  while (!signal.aborted) {
    const connection = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => connection.abort(), SILENT_MS);
    };
    heard();
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await call("GET", `/videos/${id}/events`, { headers, signal: AbortSignal.any([signal, connection.signal]) });
      if (answer.status === 204) return;
      for await (const event of events(answer.body, heard)) {
        last = event.id ?? last;
        onEvent(event.event, JSON.parse(event.data));
        if (DONE.includes(event.event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!passes(error)) throw error;
    } finally {
      clearTimeout(timer);
    }
    await rest(RETRY_MS);
  }
}

async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    const found = (text + value).split("\n\n");
    text = found.pop();
    for (const event of found) {
      const field = Object.fromEntries(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (field.data) yield field; // a heartbeat has none
    }
  }
}
