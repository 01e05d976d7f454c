// A job that has not ended: its phase, its denoising steps by kind, the time left.
import { actions } from "./actions.js";
import { DONE, follow } from "./api.js";
import { $, el } from "./dom.js";
import { capital, seconds, words } from "./format.js";
import { given } from "./given.js";
import { KINDS } from "./steps.js";

const PHASES = { queued: "Queue", loading: "Model", encoding_prompt: "Prompt", denoising: "Denoising", decoding: "Decoding", uploading: "Upload" };

// The elements, and a promise of the job as its last event gives it.
export function running(video, signal, onProgress) {
  const phases = el("ol", { className: "phases" }, ...Object.values(PHASES).map((name) => el("li", { textContent: name })));
  const bar = el("progress", { max: 100, value: video.progress, aria: { label: "Progress" } });
  const track = el("div", { className: "track", aria: { hidden: true } }, ...Array.from({ length: video.steps }, () => el("i")));
  const line = el("p", { className: "line" });
  const kinds = Object.fromEntries(KINDS.map((kind) => [kind, el("b", { textContent: "0" })]));
  const legend = el("p", { className: "quiet legend" }, ...KINDS.map((kind) => el("span", {}, el("i", { className: kind }), `${kind} `, kinds[kind])));
  const [width, height] = video.size.split("x");
  const preview = el("img", { alt: `Preview: ${video.prompt}`, hidden: true });
  const viewer = el("div", { className: "viewer waiting" }, preview);
  viewer.style.setProperty("--shape", `${width} / ${height}`);

  let phase = null;
  let now = video;
  const draw = (changes) => {
    // An event does not tell everything. When the job will begin is an estimate for one place in the queue.
    if ("queue_position" in changes && changes.queue_position !== now.queue_position) now = { ...now, starts_in_seconds: null };
    now = { ...now, ...changes };
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
  let last = null;
  const onEvent = (event, data) => {
    if (DONE.includes(event)) return void (last = data);
    draw(data);
    if (!data.preview) return;
    preview.src = data.preview;
    preview.hidden = false;
    viewer.classList.remove("waiting");
  };
  const ended = follow(video.id, onEvent, signal).then(() => last);
  return { elements: [viewer, phases, bar, line, track, legend, actions(video), given(video)], ended };
}

function sentence(now) {
  const again = now.attempt > 1 ? ` Attempt ${now.attempt}${now.resumed_from_step ? `, going on from step ${now.resumed_from_step}` : ""}.` : "";
  const unserved = now.workers === 0 ? ", waits for a worker to start" : "";
  if (now.phase === "queued") return `Queued${now.priority === "bulk" ? " as bulk" : ""}${now.queue_position ? `, place ${now.queue_position}` : ""}${unserved}${now.starts_in_seconds ? `, begins in about ${seconds(now.starts_in_seconds)}` : ""}.${again}`;
  if (now.phase !== "denoising") return `${capital(words(now.phase))}.${again}`;
  const kind = now.step_kind ? ` (${now.step_kind})` : "";
  const left = now.eta_seconds ? `, about ${seconds(now.eta_seconds)} left` : "";
  return `Denoising, step ${now.step} of ${now.steps}${kind}${left}.${again}`;
}
