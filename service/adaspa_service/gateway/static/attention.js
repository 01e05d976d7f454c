// What AdaSpa did on one job.
import { el } from "./dom.js";

const KINDS = ["dense", "search", "sparse"];
const percent = (share) => `${(100 * share).toFixed(0)} %`;

// Mean dense step of this job, times its steps, over the time that they took.
function speedUp(report) {
  if (!report.dense_steps || !report.sparse_steps) return null;
  const steps = KINDS.reduce((sum, kind) => sum + report[`${kind}_steps`], 0);
  const seconds = KINDS.reduce((sum, kind) => sum + report[`${kind}_seconds`], 0);
  return (report.dense_seconds / report.dense_steps) * steps / seconds;
}

export function panel(report) {
  const figure = (name, value) => el("div", {}, el("dt", { textContent: name }), el("dd", { textContent: value }));
  const gain = speedUp(report);
  return [
    el("h3", { textContent: "What AdaSpa did" }),
    el("dl", { className: "figures" },
      figure("Density of sparse steps", percent(report.density)),
      figure("Recall", report.recall == null ? "none" : percent(report.recall)),
      figure("Against this job's dense steps", gain ? `${gain.toFixed(2)}×` : "not measured"),
      ...KINDS.filter((kind) => report[`${kind}_steps`]).map((kind) => figure(`${report[`${kind}_steps`]} ${kind} steps`, `${report[`${kind}_seconds`].toFixed(1)} s`))),
    ...(report.layers.length ? [heatMap(report.layers)] : []),
  ];
}

function heatMap(layers) {
  const heads = layers[0].density.map((_, head) => el("th", { scope: "col", textContent: head }));
  const rows = layers.map(({ layer, density, recall }) => el("tr", {}, el("th", { scope: "row", textContent: `layer ${layer}` }),
    ...density.map((share, head) => {
      const cell = el("td", { textContent: (100 * share).toFixed(0), title: `layer ${layer}, head ${head}: density ${percent(share)}, recall ${percent(recall[head])}` });
      cell.style.setProperty("--v", share);
      return cell;
    })));
  const scroll = el("div", { className: "scroll", tabIndex: 0 }, el("table", { className: "heat" },
    el("caption", { textContent: "Density in percent, by layer (rows) and head (columns)" }),
    el("thead", {}, el("tr", {}, el("td"), ...heads)), el("tbody", {}, ...rows)));
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Density by layer and head");
  return scroll;
}
