// Several videos of one prompt, as a grid.
import { DONE, lookIfThere, preview, rest } from "./api.js";
import { el } from "./dom.js";
import { failure } from "./errors.js";
import { frame, media, trouble } from "./player.js";
import { sentence } from "./running.js";
import { heading, name, put } from "./stage.js";

const LOOK_MS = 1500;

// A view of the stage.
export const batch = (ids, onEnded) => async (signal, onDrawn) => {
  const cells = new Map();
  let open = ids;
  while (open.length && !signal.aborted) {
    const videos = (await Promise.all(open.map((id) => lookIfThere(id, signal)))).filter(Boolean); // those that were deleted leave the grid
    for (const id of open) if (!videos.some((video) => video.id === id)) cells.get(id)?.element.remove();
    if (!cells.size && videos.length) {
      for (const video of videos) cells.set(video.id, cell(video));
      heading(videos[0].prompt);
      name(`${videos.length} videos: ${videos[0].prompt}`);
      put(el("ul", { className: "batch" }, ...[...cells.values()].map(({ element }) => element)));
      onDrawn();
    }
    if (!cells.size) throw new Error("These videos do not exist. They were deleted, have expired, or belong to another API key.");
    await Promise.all(videos.map((video) => cells.get(video.id).update(video)));
    const left = videos.filter(({ status }) => !DONE.includes(status)).map(({ id }) => id);
    if (left.length < open.length) onEnded();
    open = left;
    if (open.length) await rest(LOOK_MS);
  }
};

function cell(video) {
  const picture = el("img", { alt: "", hidden: true });
  const viewer = frame(video, picture);
  const state = el("span", { className: "quiet" });
  const bar = el("progress", { max: 100, value: 0, aria: { label: `Seed ${video.seed}: progress` } });
  const link = el("a", { href: `#${video.id}` }, viewer, el("b", { textContent: `Seed ${video.seed}` }), state);
  let seen = null;
  const update = async (now) => {
    state.textContent = { completed: "", cancelled: "Cancelled.", failed: failure(now.error) }[now.status] ?? sentence(now);
    bar.value = now.progress;
    bar.hidden = DONE.includes(now.status);
    viewer.classList.toggle("waiting", !bar.hidden && !seen);
    if (now.status === "completed") await play(now);
    else if (now.preview_url && now.preview_url !== seen) {
      seen = now.preview_url;
      picture.src = await preview(seen);
      picture.hidden = false;
    }
  };
  const play = async (now) => {
    const failed = async () => viewer.replaceChildren(await trouble(now));
    await media(now, { autoplay: true, onerror: failed }).then((shown) => viewer.replaceChildren(shown), failed);
  };
  return { element: el("li", {}, link, bar), update };
}
