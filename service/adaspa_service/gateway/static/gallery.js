// One's jobs, a page at a time. A tile stays as it is while only its job's progress changes, so no picture is fetched twice.
import { DONE, json, preview, source } from "./api.js";
import { $, el } from "./dom.js";

const PAGE = 12;
const MARKS = { queued: "…", in_progress: "▸", failed: "!", cancelled: "×" };
const leave = () => {}; // a tile whose picture cannot be had keeps its mark
const cursors = [null];
const tiles = new Map();

export async function refresh() {
  const after = cursors.at(-1);
  const page = await json("GET", `/videos?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  if (after !== cursors.at(-1)) return; // another page was asked for meanwhile
  if (!page.data.length && cursors.length > 1) return newer(); // the last of this page was deleted
  $("#no-jobs").hidden = page.data.length > 0;
  $("#pages").hidden = cursors.length === 1 && !page.has_more;
  $("#newer").disabled = cursors.length === 1;
  $("#older").disabled = !page.has_more;
  $("#older").onclick = () => turn(() => cursors.push(page.last_id));
  $("#page-number").textContent = `Page ${cursors.length}`;
  for (const id of tiles.keys()) if (!page.data.some((video) => video.id === id)) drop(id);
  page.data.forEach((video, place) => {
    const tile = tiles.get(video.id) ?? make(video);
    tile.update(video);
    if ($("#jobs").children[place] !== tile.item) $("#jobs").insertBefore(tile.item, $("#jobs").children[place] ?? null);
  });
}

export const firstPage = () => cursors.splice(1);
$("#newer").onclick = newer;

function newer() {
  return turn(() => cursors.pop());
}

function turn(move) {
  move();
  return refresh().catch(() => {}); // the next look says it too
}

export function forget() {
  for (const id of tiles.keys()) drop(id);
  firstPage();
}

function drop(id) {
  tiles.get(id).item.remove();
  tiles.delete(id);
}

function make({ id, prompt }) {
  const status = el("span", { className: "state" });
  const tile = { picture: el("img", { alt: "", loading: "lazy", hidden: true, onerror: () => (tile.picture.hidden = true) }) };
  const mark = el("span", { aria: { hidden: true } });
  const link = el("a", { href: `#${id}` }, el("span", { className: "picture" }, mark, tile.picture), el("span", { className: "caption", textContent: prompt, title: prompt }), status);
  const picture = (address) => {
    if (tile.picture.src.startsWith("blob:")) URL.revokeObjectURL(tile.picture.src);
    tile.picture.src = address;
    tile.picture.hidden = false;
  };
  tile.item = el("li", {}, link);
  tile.update = (video) => {
    status.textContent = label(video);
    mark.textContent = MARKS[video.status] ?? "";
    status.className = `state ${video.status}`;
    if (location.hash === `#${id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    link.style.setProperty("--done", `${DONE.includes(video.status) ? 0 : video.progress}%`);
    if (video.status === "completed" && !tile.complete) {
      tile.complete = true;
      source(id, "thumbnail").then(picture, leave);
    } else if (video.preview_url && video.preview_url !== tile.preview) {
      tile.preview = video.preview_url;
      preview(video.preview_url).then(picture, leave);
    }
  };
  tiles.set(id, tile);
  return tile;
}

function label(video) {
  if (video.status === "in_progress") return `${video.progress} %`;
  if (video.status === "queued" && video.queue_position) return `queued, place ${video.queue_position}`;
  return video.status;
}
