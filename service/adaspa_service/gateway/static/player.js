// What plays a finished video, in a frame of its shape.
import { call, fileUrl, source } from "./api.js";
import { el } from "./dom.js";
import { said } from "./errors.js";

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
  const viewer = frame(video);
  const show = async () => {
    const shown = await media(video, { controls: true, autoplay: true });
    shown.addEventListener("error", failed, { once: true });
    viewer.replaceChildren(shown);
  };
  const failed = async () => {
    const text = el("p", { className: "error", role: "alert", textContent: await reason(video) });
    const again = el("button", { type: "button", textContent: "Try again" });
    again.onclick = () => show().then(() => viewer.firstElementChild.focus(), failed);
    const focused = viewer.contains(document.activeElement);
    viewer.replaceChildren(el("div", { className: "trouble" }, text, again));
    if (focused) again.focus();
  };
  await show().catch(failed);
  return viewer;
}

// Why nothing plays: an element does not tell, but the service does if its file cannot be had.
const reason = (video) => call("GET", fileUrl(video.id, "video"), { headers: { Range: "bytes=0-0" } })
  .then(() => "This browser cannot play the video. Download it instead.", said);
