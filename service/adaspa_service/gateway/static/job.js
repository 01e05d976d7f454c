// One job on the stage: its progress while it runs, its video and report at the end.
import { follow, json, key, source } from "./api.js";
import { panel } from "./attention.js";
import { $, el, note } from "./dom.js";
import { fill } from "./form.js";

const DONE = ["completed", "failed", "cancelled"];
let following = new AbortController();

export async function show(id, onChange) {
  following.abort();
  const { signal } = (following = new AbortController());
  try {
    const video = await json("GET", `/videos/${id}`, { signal });
    $("#stage-title").textContent = video.prompt;
    if (DONE.includes(video.status)) return await ended(video, signal, onChange);
    running(video, signal, onChange);
  } catch (error) {
    if (!signal.aborted) empty(error.message);
  }
}

function empty(text) {
  $("#stage-title").textContent = "Your video appears here";
  $("#job").replaceChildren(el("p", { className: "quiet", textContent: text }));
}

function running(video, signal, onChange) {
  const bar = el("progress", { max: 100 });
  bar.setAttribute("aria-label", "Progress");
  const words = el("p", { role: "status" });
  const track = el("div", { className: "track" }, ...Array.from({ length: video.steps }, () => el("i")));
  track.setAttribute("aria-hidden", "true");
  const legend = el("p", { className: "quiet" }, ...["dense", "search", "sparse"].flatMap((kind) => [el("span", { className: `key ${kind}` }), kind]));
  $("#job").replaceChildren(words, bar, track, legend, actions(video, signal, onChange));
  const place = video.queue_position ? `, place ${video.queue_position}` : "";
  follow(video.id, (event, now) => {
    if (DONE.includes(event)) return ended(now, signal, onChange);
    bar.value = now.progress;
    if (now.step_kind && now.step) track.children[now.step - 1].className = now.step_kind;
    const eta = now.eta_seconds ? `, about ${now.eta_seconds.toFixed(0)} s left` : "";
    words.textContent = now.phase === "denoising" ? `Denoising, step ${now.step} of ${now.steps}${now.step_kind ? ` (${now.step_kind})` : ""}${eta}`
      : now.phase === "queued" ? `Queued${place}` : `${now.phase.replace("_", " ")}`;
  }, signal).catch((error) => empty(error.message));
}

async function ended(video, signal, onChange) {
  onChange();
  const parts = [];
  if (video.status === "completed") {
    const player = el("video", { controls: true, loop: true, muted: true, autoplay: true, src: await source(video.id, "video") });
    player.setAttribute("aria-label", video.prompt);
    parts.push(player);
  }
  else parts.push(el("p", { className: video.error ? "error" : "quiet", textContent: video.error ? `${video.error.message} (${video.error.code})` : "Cancelled." }));
  if (signal.aborted) return;
  parts.push(el("p", { className: "quiet", textContent: `${video.model} · ${video.size} · ${video.num_frames} frames at ${video.fps} fps · ${video.steps} steps · guidance ${video.guidance_scale} · seed ${video.seed}` }));
  parts.push(actions(video, signal, onChange), ...(video.attention ? panel(video.attention) : []));
  $("#job").replaceChildren(...parts);
}

function actions(video, signal, onChange) {
  const act = (textContent, onclick) => el("button", { textContent, onclick: () => Promise.resolve(onclick()).catch((error) => note(error.message)) });
  const bar = el("div", { className: "actions" });
  if (!DONE.includes(video.status)) bar.append(act("Cancel", () => json("POST", `/videos/${video.id}/cancel`)));
  if (video.status === "completed") bar.append(act("Download", async () => el("a", { href: await source(video.id, "video"), download: `${video.id}.mp4` }).click()));
  bar.append(act("Remix", () => fill(video)), act("Copy as curl", () => navigator.clipboard.writeText(curl(video)).then(() => note("Copied"))),
    act("Delete", async () => { await json("DELETE", `/videos/${video.id}`); following.abort(); location.hash = ""; empty("Deleted."); onChange(); }));
  return bar;
}

function curl(video) {
  const names = ["prompt", "model", "size", "num_frames", "fps", "steps", "guidance_scale", "negative_prompt", "seed", "sparsity"];
  const body = JSON.stringify(Object.fromEntries(names.filter((name) => video[name] != null).map((name) => [name, video[name]])));
  const auth = key.get() ? ` -H "Authorization: Bearer $ADASPA_API_KEY"` : "";
  return `curl ${location.origin}/videos -H 'Content-Type: application/json'${auth} -d '${body.replaceAll("'", "'\\''")}'`;
}
