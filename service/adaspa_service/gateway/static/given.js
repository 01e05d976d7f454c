// The images, the video and the sound that a job is made of.
import { call, fileUrl, source } from "./api.js";
import { el } from "./dom.js";
import { capital } from "./format.js";

const VIEWS = {
  image: () => el("img", { alt: "" }),
  video: () => el("video", { muted: true, loop: true, autoplay: true, playsInline: true }),
  audio: (one) => el("audio", { controls: true, aria: { label: caption(one) } }),
};
const variant = (one) => new URL(one.url, location).searchParams.get("variant");
const caption = (one) => capital(variant(one).replace("_", " "));

export const nameOf = (one) => `${variant(one)}.${one.content_type.split("/")[1]}`;

export function given(video) {
  return el("div", { className: "inputs" }, ...video.inputs.map((one) => {
    const shown = VIEWS[one.content_type.split("/")[0]](one);
    source(video.id, variant(one)).then((address) => (shown.src = address), () => {}); // its caption is left
    return el("figure", {}, shown, el("figcaption", { textContent: caption(one) }));
  }));
}

// One of them as a file, to be sent again.
export async function fileOf(video, one) {
  const file = await (await call("GET", fileUrl(video.id, variant(one)))).blob();
  return new File([file], nameOf(one), { type: one.content_type });
}
