// What a video would take, before anybody asks for it: in all, beside each quality, and whether a worker is there.
import { hasRoom, json } from "./api.js";
import { $ } from "./dom.js";
import { about } from "./format.js";

const AFTER_MS = 400; // of quiet: not at each key
const AGAIN_MS = 10_000; // queues move
const OWN = "default"; // the model's own settings, which have no name in the form

let read = null;
let timer = null;
let latest = 0;

// Begins to estimate what the form says: a function that gives its fields, or none for now.
export function estimating(fields) {
  read = fields;
  soon();
}

export function soon(delay = AFTER_MS) {
  clearTimeout(timer);
  timer = setTimeout(look, delay, delay === AGAIN_MS);
}

async function look(again) {
  timer = null;
  const fields = document.hidden || (again && !hasRoom()) ? null : read?.();
  const turn = ++latest;
  if (fields) {
    // What the form refuses has no estimate: it is told when one sends it. A service that is away is told above.
    const found = await json("POST", "/videos/estimate", { body: fields }).catch(() => null);
    if (turn !== latest) return;
    show(found, fields.n ?? 1);
  }
  if (timer === null) soon(AGAIN_MS); // else something was typed meanwhile
}

function show(found, count) {
  for (const place of $("#form").querySelectorAll(".expected")) {
    const name = place.closest("label").querySelector("input").value || OWN;
    const each = found?.qualities[name]?.estimated_seconds;
    place.textContent = each ? about(each) : "";
  }
  $("#unserved").textContent = found?.workers === 0 ? "No worker is running: your video will wait." : "";
  $("#estimate").textContent = found ? sentence(found, count) : "";
}

function sentence({ estimated_seconds: takes, starts_in_seconds: starts, workers }, count) {
  if (!workers) return "";
  const each = takes ? `Takes about ${about(takes)}${count > 1 ? " each" : ""}.` : "";
  const wait = starts >= 1 ? `Starts in about ${about(starts)}.` : starts != null ? "Starts immediately." : "";
  return `${each} ${wait}`.trim();
}
