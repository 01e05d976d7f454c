// The page: which job is shown is the address's hash, so that a reload comes back to it.
import { json, key, source } from "./api.js";
import { $, el, note } from "./dom.js";
import { load, submit } from "./form.js";
import { show } from "./job.js";

const REFRESH_MS = 3000;
const cursors = [null];
let drawn = "";

async function gallery() {
  const after = cursors.at(-1);
  const page = await json("GET", `/videos?limit=12${after ? `&after=${after}` : ""}`);
  $("#newer").disabled = cursors.length === 1;
  $("#older").disabled = !page.has_more;
  $("#older").onclick = () => { cursors.push(page.last_id); refresh(); };
  const now = JSON.stringify([location.hash, page.data.map((video) => [video.id, video.status, video.progress])]);
  if (now === drawn) return;
  drawn = now;
  const focused = document.activeElement?.dataset?.id;
  $("#jobs").replaceChildren(...(await Promise.all(page.data.map(tile))));
  if (focused) $(`#jobs [data-id="${focused}"]`)?.focus();
}

async function tile(video) {
  const done = video.status === "completed";
  const picture = done ? el("img", { alt: "", src: await source(video.id, "thumbnail") }) : el("span", { className: "blank" });
  const status = video.status === "in_progress" ? `${video.progress} %` : video.status;
  const button = el("button", { onclick: () => (location.hash = video.id) }, picture, el("span", { textContent: video.prompt }), el("span", { className: "quiet", textContent: status }));
  button.dataset.id = video.id;
  button.setAttribute("aria-current", String(location.hash === `#${video.id}`));
  return el("li", {}, button);
}

const refresh = () => gallery().catch((error) => note(error.message));
const open = () => { if (location.hash.length > 1) show(location.hash.slice(1), refresh); refresh(); };
const start = () => load().then(open).catch((error) => note(error.message));

$("#newer").onclick = () => { cursors.pop(); refresh(); };
$("#key").value = key.get();
$("#key").onchange = () => { key.set($("#key").value); start(); };
$("#form").onsubmit = async (event) => {
  event.preventDefault();
  const video = await submit();
  if (video) location.hash = video.id;
};
addEventListener("hashchange", open);
setInterval(() => document.hidden || refresh(), REFRESH_MS);
start();
