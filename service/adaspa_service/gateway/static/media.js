// Images, videos and sounds for the form: chosen, dropped or pasted, and shown before they are sent.
import { $, el, note } from "./dom.js";

export const KINDS = {
  "image/*": { tag: "img", types: ["image/jpeg", "image/png", "image/webp", "image/avif"], named: "JPEG, PNG, WebP or AVIF", one: "an image", files: "a JPEG, PNG, WebP or AVIF file" },
  "video/*": { tag: "video", types: ["video/mp4", "video/quicktime", "video/webm", "video/x-matroska"], named: "MP4, MOV, MKV or WebM", one: "a video", files: "an MP4, MOV, MKV or WebM file" },
  "audio/*": { tag: "audio", types: ["audio/wav", "audio/flac", "audio/mpeg", "audio/mp4", "audio/aac", "audio/ogg"], named: "WAV, FLAC, MP3, M4A, AAC or OGG", one: "a sound", files: "a WAV, FLAC, MP3, M4A, AAC or OGG file" },
};
const pickers = new WeakMap(); // by its input, what takes a file

// What may take a file for one field; onShown gets the width and the height of what it shows.
export function picker(title, { tag, types }, onShown) {
  const input = el("input", { type: "file", accept: types.join() });
  const views = {
    img: { alt: title, onload: () => onShown(shown.naturalWidth, shown.naturalHeight) },
    video: { muted: true, loop: true, autoplay: true, playsInline: true, aria: { label: title }, onloadedmetadata: () => onShown(shown.videoWidth, shown.videoHeight) },
    audio: { controls: true, aria: { label: title } },
  };
  const shown = el(tag, { hidden: true, ...views[tag] });
  const remove = el("button", { type: "button", textContent: "Remove", hidden: true, aria: { label: `Remove: ${title}` } });
  const draw = () => {
    URL.revokeObjectURL(shown.src);
    const [file] = input.files;
    shown.hidden = remove.hidden = !file;
    if (file) shown.src = URL.createObjectURL(file);
    else shown.removeAttribute("src");
  };
  const take = (file) => {
    const held = new DataTransfer();
    if (file) held.items.add(file);
    input.files = held.files;
    draw();
  };
  input.onchange = draw;
  remove.onclick = () => {
    take(null);
    input.focus();
  };
  const zone = el("div", { className: "drop" }, shown, input, remove);
  zone.ondrop = (event) => dropped(event, input);
  pickers.set(input, take);
  return zone;
}

// The first of the sizes that has this shape, or else the closest, as the service would choose it.
export function chooseSize(width, height) {
  const apart = ({ value }) => {
    const [w, h] = value.split("x");
    return Math.abs(Math.log((width / height) * (h / w)));
  };
  const sizes = [...$("#size").options];
  const least = Math.min(...sizes.map(apart));
  sizes.find((size) => apart(size) <= least + Math.log(1.05)).selected = true;
  $("#form").dispatchEvent(new Event("input")); // it is kept over a reload
}

// The file that is chosen for a field, if any.
export const chosenIn = (input) => (input.type === "file" ? input.files[0] : undefined);
export const give = (input, file) => pickers.get(input)(file);

const shownOnes = () => [...$("#form").querySelectorAll("input[type=file]")].filter((input) => !input.closest(".field").hidden);
const kindOf = (type) => type.split("/")[0];
const fits = (input) => (file) => kindOf(input.accept) === kindOf(file.type);
// The first of the fields that takes one of the files, with that file.
const firstFit = (transfer) => shownOnes().map((input) => [input, [...(transfer?.files ?? [])].find(fits(input))]).find(([, file]) => file) ?? [];

function dropped(event, input) {
  const file = [...event.dataTransfer.files].find(fits(input));
  if (!file) return;
  event.preventDefault();
  event.stopPropagation();
  $("#form").classList.remove("over");
  give(input, file);
}

// Anywhere on the page: the browser would open a file that nothing takes in the page's place.
const hasFiles = (event) => event.dataTransfer.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  if (shownOnes().length) $("#form").classList.add("over");
  else event.dataTransfer.dropEffect = "none";
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("#form").classList.remove("over"); // it has left the window
});
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $("#form").classList.remove("over");
  const [input, file] = firstFit(event.dataTransfer);
  if (input) give(input, file);
  else note("This model takes no such file.");
});
document.addEventListener("paste", (event) => {
  const [input, file] = firstFit(event.clipboardData);
  if (!input) return;
  event.preventDefault();
  give(input, file);
});
