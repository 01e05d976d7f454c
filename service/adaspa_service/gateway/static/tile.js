// A video in the gallery: its picture, which plays under the pointer, and in a line what it is.
import { DONE, preview, source } from "./api.js";
import { el } from "./dom.js";
import { short, when } from "./format.js";
import { media } from "./player.js";
import { picker } from "./selection.js";

const MARKS = { queued: "…", in_progress: "▸", failed: "!", cancelled: "×" };
const AGAIN_MS = 5000; // then twice that, and so on
const leave = () => {}; // a tile whose picture cannot be had keeps its mark
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function tile(video) {
  const { id, prompt } = video;
  const image = el("img", { alt: "", loading: "lazy", hidden: true, onerror: () => later() });
  const mark = el("span", { aria: { hidden: true } });
  const picture = el("span", { className: "picture" }, mark, image);
  const state = el("span", { className: "state" });
  const link = el("a", { href: `#${id}` }, picture, el("span", { className: "caption", textContent: prompt, title: prompt }),
    el("span", { className: "about", textContent: `${video.model} · ${short(video.num_frames / video.fps)} s` }),
    el("span", { className: "about", textContent: when(video.created_at) }), state);
  const show = (address) => {
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
    image.src = address;
    image.hidden = false;
  };
  let now = video;
  let [complete, previewed] = [false, null];
  let wait = AGAIN_MS;
  const later = () => { // storage may be away
    image.hidden = true;
    setTimeout(() => (complete = false), wait);
    wait *= 2;
  };
  playOnHover(link, picture, () => now);
  const update = (latest) => {
    now = latest;
    state.textContent = label(now);
    state.className = `state ${now.status}`;
    mark.textContent = MARKS[now.status] ?? "";
    if (location.hash === `#${id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    picture.style.setProperty("--done", `${DONE.includes(now.status) ? 0 : now.progress}%`);
    if (now.status === "completed" && !complete) {
      complete = true;
      source(id, "thumbnail").then(show, later);
    } else if (now.preview_url && now.preview_url !== previewed) {
      previewed = now.preview_url;
      preview(previewed).then(show, leave);
    }
  };
  return { item: el("li", {}, link, picker(video, link)), update };
}

function playOnHover(link, picture, video) {
  let over = false;
  const stop = () => {
    over = false;
    picture.querySelector(".playing")?.remove();
  };
  const start = async () => {
    if (over || still.matches || video().status !== "completed") return;
    over = true;
    const shown = await media(video(), { autoplay: true, className: "playing" }).catch(leave);
    if (!shown) return;
    shown.setAttribute("aria-hidden", "true");
    if (over) picture.append(shown);
  };
  link.onpointerenter = link.onfocus = start;
  link.onpointerleave = link.onblur = stop;
}

function label(video) {
  if (video.status === "in_progress") return `${video.progress} %`;
  if (video.status === "queued") return video.queue_position ? `Waiting, number ${video.queue_position}` : "Waiting";
  return { failed: "Failed", cancelled: "Cancelled" }[video.status] ?? "";
}
