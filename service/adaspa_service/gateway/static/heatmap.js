// Layers by heads as a heat map: a grid to move in by the arrow keys, each cell's values on hover and focus.
import { el } from "./dom.js";
import { percent } from "./format.js";

const NUMBERS_UP_TO = 12; // heads beside each other whose numbers still fit
const TURN = 0.6; // of a scale, from where the text has the other colour; see report.css
const SCALES = {
  density: { of: () => 0, to: (high) => high, text: "Share of the blocks that are computed; the rest are skipped." },
  recall: { of: (low) => Math.floor(20 * low) / 20, to: () => 1, text: "Share of the attention mass in the computed blocks; the rest is missed." },
};

export function heatMap(layers) {
  const heads = layers[0].density.length;
  const readout = el("p", { className: "readout quiet" });
  const legend = el("p", { className: "quiet scale" }, el("span"), el("i", { aria: { hidden: true } }), el("span"));
  const cells = layers.map((row) => row.density.map((_, head) => cell(row, head, (text) => (readout.textContent = text))));
  const table = el("table", { className: heads > NUMBERS_UP_TO ? "heat dense-heat" : "heat", role: "grid", aria: { label: "Attention by layer and head", readonly: true } },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", textContent: "layer" }), ...layers[0].density.map((_, head) => el("th", { scope: "col", textContent: head })))),
    el("tbody", {}, ...layers.map(({ layer }, row) => el("tr", {}, el("th", { scope: "row", textContent: layer }), ...cells[row]))));
  table.addEventListener("keydown", (event) => move(event, cells));
  cells[0][0].tabIndex = 0;

  const paint = (what) => {
    const all = layers.flatMap((row) => row[what]).filter((value) => value != null);
    const low = SCALES[what].of(Math.min(...all));
    const high = SCALES[what].to(Math.max(...all));
    table.dataset.shows = legend.dataset.shows = what;
    legend.firstChild.textContent = percent(low);
    legend.lastChild.textContent = percent(high);
    readout.textContent = SCALES[what].text;
    cells.forEach((row, place) => row.forEach((td, head) => {
      const value = layers[place][what][head];
      const share = value == null ? 0 : (value - low) / (high - low || 1);
      td.style.setProperty("--v", share);
      td.classList.toggle("high", share > TURN);
      td.firstChild.textContent = value == null ? "" : Math.round(100 * value);
    }));
  };
  const chosen = ["density", "recall"].filter((what) => layers.some((row) => row[what].length));
  const choice = el("fieldset", { className: "segments" }, el("legend", { className: "unseen", textContent: "Show" }), ...chosen.map((what, place) => el("label", {},
    el("input", { type: "radio", name: "heat", checked: !place, onchange: () => paint(what) }), el("span", { textContent: `${what[0].toUpperCase()}${what.slice(1)}, %` }))));
  paint("density");
  return el("div", { className: "heatmap" }, el("div", { className: "bar" }, choice, legend),
    el("div", { className: "scroll" }, el("p", { className: "axis quiet", textContent: "head" }), table), readout);
}

function cell({ layer, density, recall }, head, tell) {
  const text = `Layer ${layer}, head ${head}: density ${percent(density[head], 1)}${recall[head] == null ? "" : `, recall ${percent(recall[head], 1)}`}`;
  const td = el("td", { role: "gridcell", tabIndex: -1, aria: { label: text } }, el("span"));
  td.onpointerenter = td.onfocus = () => tell(text);
  return td;
}

function move(event, cells) {
  const row = cells.findIndex((line) => line.includes(event.target));
  if (row < 0) return;
  const column = cells[row].indexOf(event.target);
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -column], End: [0, cells[row].length] }[event.key] ?? [];
  if (down === undefined) return;
  event.preventDefault();
  const clamp = (value, length) => Math.min(Math.max(value, 0), length - 1);
  const next = cells[clamp(row + down, cells.length)][clamp(column + right, cells[row].length)];
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
