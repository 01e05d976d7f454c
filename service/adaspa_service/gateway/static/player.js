// What plays a finished video, in a frame of its shape.
import { call, dropLink, fileUrl, source } from "./api.js";
import { el } from "./dom.js";
import { said } from "./errors.js";

export const moves = (video) => !video.content_type.startsWith("image/"); // else the picture moves by itself

export async function media(video, more = {}) {
  const src = await source(video.id, "video");
  return moves(video) ? el("video", { src, loop: true, muted: true, playsInline: true, aria: { label: video.prompt }, ...more })
    : el("img", { src, alt: video.prompt, ...more });
}

export function frame(video, ...children) {
  const viewer = el("div", { className: "viewer" }, ...children);
  viewer.style.setProperty("--shape", video.size.replace("x", " / "));
  return viewer;
}

export async function player(video) {
  const viewer = frame(video);
  const show = async () => viewer.replaceChildren(await media(video, { controls: true, autoplay: true, onerror: failed }));
  const retry = () => show().then(() => viewer.firstElementChild.focus(), failed);
  const failed = async () => {
    const told = await trouble(video, retry);
    const focused = viewer.contains(document.activeElement);
    viewer.replaceChildren(told);
    if (focused) told.querySelector("button").focus();
  };
  await show().catch(failed);
  return viewer;
}

// What stands in the place of a video that does not play: why, which an element does not tell, but the service does if its
// file cannot be had, and a way to try again.
export async function trouble(video, retry) {
  dropLink(video.id, "video"); // it may have ended
  const text = await call("GET", fileUrl(video.id, "video"), { headers: { Range: "bytes=0-0" } })
    .then(() => "This browser cannot play the video. Download it instead.", said);
  return el("div", { className: "trouble" }, el("p", { className: "error", role: "alert", textContent: text }),
    retry ? el("button", { type: "button", textContent: "Try again", onclick: retry }) : null);
}
