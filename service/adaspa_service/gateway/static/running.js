// A job that has not ended: a preview, how far it is, the time left; its steps by kind are folded away.
import { actions } from "./actions.js";
import { DONE, follow } from "./api.js";
import { el } from "./dom.js";
import { facts } from "./facts.js";
import { about } from "./format.js";
import { given } from "./given.js";
import { frame } from "./player.js";
import { speak } from "./stage.js";
import { KINDS } from "./steps.js";

const PHASES = { queued: "Queue", loading: "Model", encoding_prompt: "Prompt", denoising: "Denoising", decoding: "Decoding", uploading: "Upload" };
const SAID = { loading: "Loading the model.", encoding_prompt: "Reading the prompt.", decoding: "Finishing the video.", uploading: "Saving the video." };

// The elements, and a promise of the job as its last event gives it.
export function running(video, signal, onProgress) {
  const phases = el("ol", { className: "phases" }, ...Object.values(PHASES).map((name) => el("li", { textContent: name })));
  const bar = el("progress", { max: 100, value: video.progress, aria: { label: "Progress" } });
  const track = el("div", { className: "track", aria: { hidden: true } }, ...Array.from({ length: video.steps }, () => el("i")));
  const line = el("p", { className: "line" });
  const kinds = Object.fromEntries(KINDS.map((kind) => [kind, el("b", { textContent: "0" })]));
  const legend = el("p", { className: "quiet legend" }, ...KINDS.map((kind) => el("span", {}, el("i", { className: kind }), `${kind} `, kinds[kind])));
  const preview = el("img", { alt: `Preview: ${video.prompt}`, hidden: true });
  const viewer = frame(video, preview);
  viewer.classList.add("waiting");

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
    if (now.phase !== phase) speak(line.textContent); // each step read out would be too much
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
  const details = el("details", { id: "details" }, el("summary", { textContent: "Details" }), phases, track, legend, facts(video));
  return { elements: [viewer, bar, line, actions(video), details, given(video)], ended };
}

export function sentence(now) {
  const again = now.attempt > 1 ? ` Attempt ${now.attempt}${now.resumed_from_step ? `, from step ${now.resumed_from_step} on` : ""}.` : "";
  if (now.phase === "queued") return `${queued(now)}${again}`;
  if (now.phase !== "denoising") return `${SAID[now.phase] ?? "Working."}${again}`;
  const left = now.eta_seconds ? `, about ${about(now.eta_seconds)} left` : "";
  return `Step ${now.step} of ${now.steps}${left}.${again}`;
}

function queued(now) {
  const place = now.queue_position ? `, number ${now.queue_position}` : "";
  const bulk = now.priority === "bulk" ? " as bulk" : "";
  const start = now.workers === 0 ? " No worker is running for this model: it starts when one does."
    : now.starts_in_seconds ? ` Starts in about ${about(now.starts_in_seconds)}.` : "";
  return `Waiting in the queue${bulk}${place}.${start}`;
}
