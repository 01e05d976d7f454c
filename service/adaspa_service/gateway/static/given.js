// The images, or the video, that a job is made of.
import { call, fileUrl, source } from "./api.js";
import { el } from "./dom.js";
import { capital } from "./format.js";

export const FIELDS = { first: "input_reference", last: "last_frame", start: "start_video", reference: "reference_image" }; // by role
const isVideo = ({ content_type }) => content_type.startsWith("video/");
const variant = (one) => (one.role === "reference" ? "reference_image" : `${one.role}_${isVideo(one) ? "video" : "frame"}`);

export const nameOf = (one) => `${variant(one)}.${one.content_type.split("/")[1]}`;

export function given(video) {
  return el("div", { className: "inputs" }, ...video.inputs.map((one) => {
    const shown = isVideo(one) ? el("video", { muted: true, loop: true, autoplay: true, playsInline: true }) : el("img", { alt: "" });
    source(video.id, variant(one)).then((address) => (shown.src = address), () => {}); // its caption is left
    return el("figure", {}, shown, el("figcaption", { textContent: capital(variant(one).replace("_", " ")) }));
  }));
}

// One of them as a file, to be sent again.
export async function fileOf(video, one) {
  const file = await (await call("GET", fileUrl(video.id, variant(one)))).blob();
  return new File([file], nameOf(one), { type: one.content_type });
}
