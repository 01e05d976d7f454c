// The stage: one job, while it runs and when it has ended.
import { DONE, json } from "./api.js";
import { $, el } from "./dom.js";
import { result } from "./result.js";
import { running } from "./running.js";

const TITLE = "AdaSpa";
let following = new AbortController();

// Ends what the stage follows; what it shows from now on is the caller's.
function begin() {
  following.abort();
  following = new AbortController();
  return following.signal;
}

// Calls back when there is something to see, and when the job has ended.
export async function show(id, onDrawn, onEnded) {
  const signal = begin();
  try {
    const video = await json("GET", `/videos/${id}`, { signal });
    $("#stage-title").textContent = video.prompt;
    if (DONE.includes(video.status)) {
      await ended(video, signal, onEnded);
      return onDrawn();
    }
    const view = running(video, signal, title);
    $("#job").replaceChildren(...view.elements);
    onDrawn();
    const last = await view.ended;
    if (last) await ended(last, signal, onEnded, true);
    else if (!signal.aborted) show(id, onDrawn, onEnded); // the stream had nothing left: look again
  } catch (error) {
    if (!signal.aborted && error.status !== 401) clear(error.message);
  }
}

async function ended(video, signal, onEnded, spoken = false) {
  const elements = await result(video);
  if (signal.aborted) return;
  $("#job").replaceChildren(...elements);
  title(video);
  if (spoken) $("#spoken").textContent = `${video.status}: ${video.prompt}`;
  onEnded();
}

function title(video) {
  const state = DONE.includes(video.status) ? video.status : `${video.progress} %`;
  document.title = `${state} · ${video.prompt ?? $("#stage-title").textContent}`;
}

export function clear(text = "Describe a scene and press Generate. You see every denoising step as it happens, and afterwards what sparse attention saved.") {
  begin();
  document.title = TITLE;
  $("#stage-title").textContent = "Your video appears here";
  $("#job").replaceChildren(el("div", { className: "viewer empty", aria: { hidden: true } }), el("p", { className: "quiet", textContent: text }));
}
