// Two videos on one clock: play, pause and seek for both.
import { el } from "./dom.js";

const DRIFT = 0.05; // seconds that nobody sees

// The controls. The first video is the clock, the others follow it.
export function together(videos, signal) {
  const [clock, ...others] = videos;
  const toggle = el("button", { type: "button", textContent: "Pause" });
  const place = el("input", { type: "range", min: 0, max: 1, step: "any", value: 0, aria: { label: "Position" } });
  const seek = (to) => videos.forEach((video) => (video.currentTime = to));
  const play = () => Promise.all(videos.map((video) => video.play())).catch(() => {}); // a browser that lets nothing play by itself: its button says Play
  const follow = () => {
    for (const video of others) if (Math.abs(video.currentTime - clock.currentTime) > DRIFT && !video.seeking) video.currentTime = clock.currentTime;
    if (document.activeElement !== place || !clock.paused) place.value = clock.currentTime / (clock.duration || 1);
    place.setAttribute("aria-valuetext", `${clock.currentTime.toFixed(1)} s`);
  };
  clock.ontimeupdate = follow;
  clock.onplay = clock.onpause = () => (toggle.textContent = clock.paused ? "Play" : "Pause");
  clock.onended = () => {
    seek(0);
    play();
  };
  toggle.onclick = () => (clock.paused ? play() : videos.forEach((video) => video.pause()));
  place.oninput = () => seek(place.value * (clock.duration || 0));
  signal.addEventListener("abort", () => videos.forEach((video) => video.pause()));
  Promise.all(videos.map(ready)).then(play);
  return [toggle, place];
}

const ready = (video) => new Promise((resolve) => (video.readyState > 2 ? resolve() : video.addEventListener("canplay", resolve, { once: true })));
