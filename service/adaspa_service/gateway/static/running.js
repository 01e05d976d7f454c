// A job that has not ended: its phase, its denoising steps by kind, the time left.
import { actions } from "./actions.js";
import { follow, json } from "./api.js";
import { $, el } from "./dom.js";
import { capital, seconds, words } from "./format.js";
import { KINDS } from "./steps.js";

const PHASES = { queued: "Queue", loading: "Model", encoding_prompt: "Prompt", denoising: "Denoising", decoding: "Decoding", uploading: "Upload" };
const PLACE_MS = 2000;

// The elements, and a promise of the job as its last event gives it.
export function running(video, signal, onProgress) {
  const phases = el("ol", { className: "phases" }, ...Object.values(PHASES).map((name) => el("li", { textContent: name })));
  const bar = el("progress", { max: 100, value: video.progress, aria: { label: "Progress" } });
  const track = el("div", { className: "track", aria: { hidden: true } }, ...Array.from({ length: video.steps }, () => el("i")));
  const line = el("p", { className: "line" });
  const kinds = Object.fromEntries(KINDS.map((kind) => [kind, el("b", { textContent: "0" })]));
  const legend = el("p", { className: "quiet legend" }, ...KINDS.map((kind) => el("span", {}, el("i", { className: kind }), `${kind} `, kinds[kind])));
  const [width, height] = video.size.split("x");
  const viewer = el("div", { className: "viewer waiting", aria: { hidden: true } });
  viewer.style.setProperty("--shape", `${width} / ${height}`);

  let phase = null;
  let now = video;
  const draw = (changes) => {
    now = { ...now, ...changes }; // an event does not tell everything: not the place in the queue
    bar.value = now.progress;
    line.textContent = sentence(now);
    bar.setAttribute("aria-valuetext", line.textContent);
    if (now.step_kind && now.step) track.children[now.step - 1].className = now.step_kind;
    for (const kind of KINDS) kinds[kind].textContent = track.getElementsByClassName(kind).length;
    const at = Object.keys(PHASES).indexOf(now.phase);
    [...phases.children].forEach((item, place) => {
      item.className = place < at ? "past" : "";
      if (place === at) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    if (now.phase !== phase) $("#spoken").textContent = line.textContent; // each step read out would be too much
    phase = now.phase;
    onProgress(now);
  };
  draw(video);
  askPlace(video.id, () => phase === "queued" && !signal.aborted, draw);
  let last = null;
  const ended = follow(video.id, (event, now) => (now.phase && !("prompt" in now) ? draw(now) : (last = now)), signal).then(() => last);
  return { elements: [viewer, phases, bar, line, track, legend, actions(video)], ended };
}

function sentence(now) {
  const again = now.attempt > 1 ? ` Attempt ${now.attempt}${now.resumed_from_step ? `, going on from step ${now.resumed_from_step}` : ""}.` : "";
  if (now.phase === "queued") return `Queued${now.queue_position ? `, place ${now.queue_position}` : ""}.${again}`;
  if (now.phase !== "denoising") return `${capital(words(now.phase))}.${again}`;
  const kind = now.step_kind ? ` (${now.step_kind})` : "";
  const left = now.eta_seconds ? `, about ${seconds(now.eta_seconds)} left` : "";
  return `Denoising, step ${now.step} of ${now.steps}${kind}${left}.${again}`;
}

// The events do not tell how the queue moves.
async function askPlace(id, waits, draw) {
  while (waits()) {
    await new Promise((resolve) => setTimeout(resolve, PLACE_MS));
    const now = waits() && !document.hidden && (await json("GET", `/videos/${id}`).catch(() => null));
    if (now && waits() && now.phase === "queued") draw(now);
  }
}
