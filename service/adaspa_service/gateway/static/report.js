// What AdaSpa did on one job, and where its time went.
import { el } from "./dom.js";
import { bytes, capital, percent, seconds, words } from "./format.js";
import { heatMap } from "./heatmap.js";
import { KINDS, speedUp } from "./steps.js";

const WITHIN = { previews: "denoising", encoding: "decoding" }; // timings that are part of another

export function report({ attention, timings, warnings }) {
  return [
    el("h3", { textContent: "What AdaSpa did" }),
    figures(attention),
    ...warnings.map((warning) => el("p", { className: "error", textContent: `${warning}.` })),
    ...attention.fell_back.map((reason) => el("p", { className: "error", textContent: `Fell back: ${reason}.` })),
    el("div", { className: "panels" },
      attention.layers.length ? el("section", {}, el("h3", { textContent: "By layer and head" }), heatMap(attention.layers)) : null,
      el("section", { className: "where" }, el("h3", { textContent: "Where the time went" }), steps(attention), phases(timings))),
  ];
}

function figures(attention) {
  const gain = speedUp(attention);
  const sparse = attention.sparse_steps > 0;
  return el("dl", { className: "figures" },
    figure("Against dense", gain ? `${gain.factor.toFixed(2)}×` : "–", gain
      ? `Estimated from this job's own dense steps: all dense at ${seconds(gain.each)} each it would have denoised for ${seconds(gain.dense)}, not ${seconds(gain.took)}. That holds as far as the machine was equally busy throughout.`
      : "No estimate: it needs both dense and sparse steps in the job."),
    figure("Attention work", attention.attention_work == null ? "–" : percent(attention.attention_work), "of dense attention, with dense steps and searches."),
    figure("Density", sparse ? percent(attention.density) : "–", sparse ? "of the attention blocks were computed in sparse steps." : "No step was sparse."),
    figure("Recall", attention.recall == null ? "–" : percent(attention.recall, 1),
      attention.recall == null ? "No search ran."
        : `of the attention mass lies in those blocks${attention.recall_is_estimate ? ", by an estimate from some of the rows" : ""}.`),
    attention.unevenness == null ? null : figure("Unevenness", attention.unevenness.toFixed(3),
      "0 if all queries keep the same share of their mass. Above 0.03 some lose nearly all of it, which costs picture."),
    figure("Searches", attention.searches, `of the pattern; caches took ${bytes(attention.cache_bytes)}.`));
}

const figure = (name, value, text) =>
  el("div", {}, el("dt", { textContent: name }), el("dd", {}, el("strong", { textContent: value }), el("p", { textContent: text })));

function steps(attention) {
  const kinds = KINDS.filter((kind) => attention[`${kind}_steps`]);
  const bar = shares(kinds.map((kind) => [kind, attention[`${kind}_seconds`]]));
  const rows = kinds.map((kind) => {
    const [many, total] = [attention[`${kind}_steps`], attention[`${kind}_seconds`]];
    return el("tr", {}, el("th", { scope: "row" }, el("i", { className: kind }), capital(kind)),
      ...[many, seconds(total), seconds(total / many), ranBy(attention.kinds[kind])].map((cell) => el("td", { textContent: cell })));
  });
  return el("div", { className: "times" }, bar, table("Denoising steps by kind", ["Kind", "Steps", "Together", "Each", "Attention by"], rows));
}

// The backends that a kind's attention ran by, with its precision; reports from before they were told have none.
function ranBy(kind) {
  const ran = (kind?.kernels ?? []).filter(({ op }) => op.includes("attention")).map(({ backend, dtype }) => `${backend}, ${dtype}`);
  return [...new Set(ran)].join("; ") || "–";
}

function phases(timings) {
  const named = Object.entries(timings).filter(([name]) => !(name in WITHIN));
  if (!named.length) return null;
  const rows = named.flatMap(([name, value], place) => [
    row(el("i", { className: `phase-${place}` }), capital(words(name)), value),
    ...Object.keys(WITHIN).filter((part) => WITHIN[part] === name && part in timings).map((part) => row("", `of it ${part}`, timings[part])),
  ]);
  return el("div", { className: "times" }, shares(named.map(([, value], place) => [`phase-${place}`, value])), table("The job by phase", ["Phase", "Time"], rows));
}

const row = (mark, name, value) =>
  el("tr", { className: mark ? "" : "within" }, el("th", { scope: "row" }, mark, name), el("td", { textContent: seconds(value) }));

function table(caption, heads, rows) {
  return el("table", {}, el("caption", { textContent: caption }), el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", textContent: text })))), el("tbody", {}, ...rows));
}

// A bar of one length, divided by the values; the table beside it says the same.
function shares(values) {
  const bar = el("div", { className: "shares", aria: { hidden: true } });
  for (const [className, value] of values) {
    const part = el("i", { className });
    part.style.flexGrow = value;
    bar.append(part);
  }
  return bar;
}
