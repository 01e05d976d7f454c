// What plays a finished video, in a frame of its shape.
import { source } from "./api.js";
import { el } from "./dom.js";

export const moves = (video) => !video.content_type.startsWith("image/"); // else the picture moves by itself

export async function media(video, more = {}) {
  const src = await source(video.id, "video");
  return moves(video) ? el("video", { src, loop: true, muted: true, playsInline: true, aria: { label: video.prompt }, ...more })
    : el("img", { src, alt: video.prompt });
}

export function frame(video, ...children) {
  const viewer = el("div", { className: "viewer" }, ...children);
  viewer.style.setProperty("--shape", video.size.replace("x", " / "));
  return viewer;
}

export async function player(video) {
  const shown = await media(video, { controls: true, autoplay: true });
  const viewer = frame(video, shown);
  shown.addEventListener("error", () => viewer.replaceChildren(el("p", { className: "error", textContent: "This browser cannot play the video. Download it instead." })), { once: true });
  return viewer;
}
