// Dense attention and AdaSpa side by side: one clock for both videos, and a slider between them.
import { DONE, lookIfThere, rest } from "./api.js";
import { el } from "./dom.js";
import { about, seconds } from "./format.js";
import { frame, media, moves, trouble } from "./player.js";
import { sentence } from "./running.js";
import { heading, name, put, speak } from "./stage.js";
import { time } from "./steps.js";
import { together } from "./together.js";

const LOOK_MS = 1500;
const MODES = { slider: "Slider", beside: "Side by side", difference: "Difference" };
const NAMES = ["Dense", "AdaSpa"];

// A view of the stage.
export const compare = (ids, onEnded) => async (signal, onDrawn) => {
  let wait = null;
  for (let first = true; !signal.aborted; first = false) {
    const videos = await Promise.all(ids.map((id) => lookIfThere(id, signal)));
    if (!videos.every(Boolean)) throw new Error("One of these videos does not exist. It was deleted, has expired, or belongs to another API key.");
    if (first) heading(videos[1].prompt);
    if (first) name(`Compare: ${videos[1].prompt}`);
    const done = videos.every(({ status }) => DONE.includes(status));
    if (videos.every(({ status }) => status === "completed")) {
      await show(videos, signal);
    } else {
      wait ??= waiting(videos);
      wait.update(videos);
      if (first) put(...wait.elements);
    }
    if (first) onDrawn();
    if (!done) await rest(LOOK_MS);
    else return ended(first, onEnded);
  }
};

function ended(first, onEnded) {
  if (!first) speak("Both videos have ended.");
  onEnded();
}

function waiting(videos) {
  const sides = videos.map((video, side) => {
    const text = el("p", { className: "quiet" });
    const viewer = frame(video, text);
    const bar = el("progress", { max: 100, aria: { label: `${NAMES[side]}: progress` } });
    const update = (now) => {
      text.textContent = state(now);
      bar.value = now.progress;
      viewer.classList.toggle("waiting", !DONE.includes(now.status));
    };
    return { update, element: el("figure", {}, viewer, el("figcaption", {}, el("a", { href: `#${video.id}`, textContent: NAMES[side] })), bar) };
  });
  const elements = [el("div", { className: "pair" }, ...sides.map(({ element }) => element)),
    el("p", { className: "quiet", textContent: "You can compare the videos as soon as both are ready." })];
  return { elements, update: (now) => sides.forEach(({ update }, side) => update(now[side])) };
}

function state(video) {
  if (video.status === "completed") return "Ready.";
  return DONE.includes(video.status) ? `This video ${video.status === "failed" ? "failed" : "was cancelled"}.` : sentence(video);
}

async function show(videos, signal) {
  let lost = false;
  const failed = async (video) => {
    lost = true;
    const told = await trouble(video, () => show(videos, signal));
    if (!signal.aborted) put(told);
  };
  const elements = await both(videos, signal, failed);
  if (elements && !lost && !signal.aborted) put(...elements);
}

async function both(videos, signal, failed) {
  const shown = await Promise.all(videos.map((video) => media(video, { autoplay: false, loop: false, onerror: () => failed(video) }).catch(() => failed(video))));
  if (!shown.every(Boolean)) return null;
  const slider = el("input", { type: "range", min: 0, max: 100, step: "any", value: 50, className: "divider", aria: { label: "Divider between dense and AdaSpa" } });
  const viewer = frame(videos[0], el("div", { className: "side" }, shown[0], el("span", { className: "tag", textContent: NAMES[0] })),
    el("div", { className: "side ours" }, shown[1], el("span", { className: "tag", textContent: NAMES[1] })), el("i", { className: "handle", aria: { hidden: true } }), slider);
  viewer.classList.add("compare");
  slider.oninput = () => viewer.style.setProperty("--at", `${slider.value}%`);
  const modes = el("fieldset", { className: "segments" }, el("legend", { className: "unseen", textContent: "View" }), ...Object.entries(MODES).map(([mode, text]) => {
    const input = el("input", { type: "radio", name: "mode", value: mode, checked: mode === "slider", onchange: () => { viewer.dataset.mode = mode; slider.hidden = mode !== "slider"; } });
    return el("label", {}, input, el("span", { textContent: text }));
  }));
  viewer.dataset.mode = "slider";
  const controls = el("div", { className: "controls" }, ...(videos.every(moves) ? together(shown, signal) : []), modes);
  return [viewer, controls, clock(videos)];
}

// How long each took, as two bars of one scale.
function clock(videos) {
  const took = videos.map(({ attention, timings }) => (attention ? time(attention) : timings.denoising) ?? 0);
  const most = Math.max(...took);
  const rows = videos.map((video, side) => {
    const bar = el("i", { className: side ? "sparse" : "dense" });
    bar.style.width = `${(100 * took[side]) / (most || 1)}%`;
    return el("tr", {}, el("th", { scope: "row" }, el("a", { href: `#${video.id}`, textContent: NAMES[side] })), el("td", {}, el("span", { aria: { hidden: true } }, bar)), el("td", { textContent: seconds(took[side]) }));
  });
  const sparse = wasSparse(videos[1]);
  const text = sparse ? verdict(took[0] / took[1]) : "All steps of AdaSpa's video were dense, too.";
  return el("div", { className: "clock" }, el("p", { className: "verdict" }, el("strong", { textContent: text }), ` Same prompt, same seed. ${sparse ? saved(took) : ""}`),
    el("table", {}, el("caption", { className: "unseen", textContent: "Denoising time" }), el("tbody", {}, ...rows)));
}

// Whether any of its steps was: a short one may have none, and then the times tell only how busy the machine was.
const wasSparse = ({ attention }) => !attention || attention.search_steps + attention.sparse_steps > 0;
const verdict = (factor) => (factor >= 1.05 ? `AdaSpa was ${factor.toFixed(1)} times faster.` : factor > 0.95 ? "Both took the same time." : `AdaSpa ran at ${factor.toFixed(1)} times the speed of dense.`);
const saved = ([dense, ours]) => (dense > ours ? `It saved ${about(dense - ours)} of denoising.` : "");
