// A job that has ended: its video or why there is none, what was asked for, and what AdaSpa did.
import { actions } from "./actions.js";
import { source } from "./api.js";
import { el } from "./dom.js";
import { rules } from "./form.js";
import { seconds, typed } from "./format.js";
import { given } from "./given.js";
import { report } from "./report.js";

const TOLD = ["prompt", "model", "size", "seconds", "num_frames", "fps", "audio"]; // above, or in a line of their own

export async function result(video) {
  return [await picture(video), actions(video), recipe(video), given(video), ...(video.attention ? report(video) : [])];
}

async function picture(video) {
  if (video.status === "failed") {
    return el("div", { className: "failed" }, el("strong", { textContent: "This video failed." }),
      el("p", { textContent: video.error?.message ?? "" }), el("p", { className: "quiet", textContent: video.error?.code ?? "" }));
  }
  if (video.status === "cancelled") return el("p", { className: "quiet", textContent: "Cancelled. There is no video." });
  const src = await source(video.id, "video");
  const [width, height] = video.size.split("x");
  const player = video.content_type.startsWith("image/") ? el("img", { src, alt: video.prompt })
    : el("video", { src, controls: true, loop: true, muted: true, autoplay: true, playsInline: true, aria: { label: video.prompt } });
  const viewer = el("div", { className: "viewer" }, player);
  viewer.style.setProperty("--shape", `${width} / ${height}`);
  player.addEventListener("error", () => viewer.replaceChildren(el("p", { className: "error", textContent: "This browser cannot play the file; download it instead." })), { once: true });
  return viewer;
}

function recipe(video) {
  const facts = {
    Model: video.model,
    Size: video.size.replace("x", " × "),
    Clip: `${video.num_frames} frames at ${video.fps} a second, ${seconds(video.num_frames / video.fps)}`,
    Sound: video.has_audio == null ? null : video.has_audio ? "yes" : "none",
    ...settings(video),
    "Prompt cut": cut(video.prompt_tokens),
    "Negative prompt cut": cut(video.negative_prompt_tokens),
    "Remixed from": video.remixed_from_video_id && el("a", { href: `#${video.remixed_from_video_id}`, textContent: "this video" }),
    Created: new Date(1000 * video.created_at).toLocaleString(),
    "Kept until": video.expires_at && new Date(1000 * video.expires_at).toLocaleString(),
    Id: video.id,
  };
  return el("dl", { className: "facts" }, ...Object.entries(facts).filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => el("div", {}, el("dt", { textContent: name }), el("dd", {}, value))));
}

function cut(tokens) {
  return tokens?.cut ? `the last ${tokens.cut} of its ${tokens.used + tokens.cut} tokens had no effect` : null;
}

// Whatever else was asked for, under the names that the form has for it.
function settings(video) {
  const others = Object.entries(rules(video.model)).filter(([name]) => !TOLD.includes(name));
  return Object.fromEntries(others.map(([name, rule]) => [rule.title, typed(video[name])]));
}
