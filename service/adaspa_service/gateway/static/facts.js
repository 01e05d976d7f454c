// What was asked for, and when.
import { el } from "./dom.js";
import { rules } from "./form.js";
import { seconds, typed, when } from "./format.js";

const TOLD = ["prompt", "model", "size", "seconds", "num_frames", "fps", "audio"]; // in lines of their own

export function facts(video) {
  const lines = {
    Model: video.model,
    Size: video.size.replace("x", " × "),
    Length: `${seconds(video.num_frames / video.fps)}: ${video.num_frames} frames at ${video.fps} FPS`,
    Sound: video.has_audio == null ? null : video.has_audio ? "yes" : "none",
    ...settings(video),
    "Prompt cut": cut(video.prompt_tokens),
    "Negative prompt cut": cut(video.negative_prompt_tokens),
    "Remix of": video.remixed_from_video_id && el("a", { href: `#${video.remixed_from_video_id}`, textContent: "this video" }),
    Created: when(video.created_at),
    "Kept until": video.expires_at && when(video.expires_at),
    ID: video.id,
    Prompt: video.prompt,
  };
  return el("dl", { className: "facts" }, ...Object.entries(lines).filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => el("div", { className: name === "Prompt" ? "wide" : "" }, el("dt", { textContent: name }), el("dd", {}, value))));
}

function cut(tokens) {
  return tokens?.cut ? `The model used ${tokens.used} of ${tokens.used + tokens.cut} tokens and ignored the rest.` : null;
}

// Whatever else was asked for, under the names that the form has for it.
function settings(video) {
  const others = Object.entries(rules(video.model)).filter(([name]) => !TOLD.includes(name));
  return Object.fromEntries(others.map(([name, rule]) => [rule.title, typed(video[name])]));
}
