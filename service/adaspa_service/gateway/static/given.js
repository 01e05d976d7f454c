// The images that a job is made of.
import { source } from "./api.js";
import { el } from "./dom.js";
import { capital } from "./format.js";

export function given(video) {
  return el("div", { className: "inputs" }, ...video.inputs.map(({ role }) => {
    const image = el("img", { alt: "" });
    source(video.id, `${role}_frame`).then((address) => (image.src = address), () => {}); // its caption is left
    return el("figure", {}, image, el("figcaption", { textContent: `${capital(role)} frame` }));
  }));
}
