// Images for the form: chosen, dropped or pasted, and shown before they are sent.
import { $, el } from "./dom.js";

const TYPES = ["image/jpeg", "image/png", "image/webp", "image/avif"];
const pickers = new WeakMap(); // by its input, what takes a file

// What may take a file for one field; onShown gets its picture.
export function picker(title, onShown) {
  const input = el("input", { type: "file", accept: TYPES.join() });
  const shown = el("img", { alt: title, hidden: true, onload: () => onShown(shown) });
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
  zone.ondrop = (event) => dropped(event, take);
  pickers.set(input, take);
  return zone;
}

// The first of the sizes that has the image's shape, or else the closest, as the service would choose it.
export function chooseSize({ naturalWidth, naturalHeight }) {
  const apart = ({ value }) => {
    const [width, height] = value.split("x");
    return Math.abs(Math.log((naturalWidth / naturalHeight) * (height / width)));
  };
  const sizes = [...$("#size").options];
  const least = Math.min(...sizes.map(apart));
  sizes.find((size) => apart(size) <= least + Math.log(1.05)).selected = true;
  $("#form").dispatchEvent(new Event("input")); // it is kept over a reload
}

// The file that is chosen for a field, if any.
export const fileOf = (input) => (input.type === "file" ? input.files[0] : undefined);
export const give = (input, file) => pickers.get(input)(file);

const first = () => [...$("#form").querySelectorAll("input[type=file]")].find((input) => !input.closest(".field").hidden);
const imageIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

function dropped(event, take) {
  const file = imageIn(event.dataTransfer);
  if (!file) return;
  event.preventDefault();
  event.stopPropagation();
  $("#form").classList.remove("over");
  take(file);
}

$("#form").addEventListener("dragover", (event) => {
  if (!first() || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("#form").classList.add("over");
});
$("#form").addEventListener("dragleave", (event) => {
  if (!$("#form").contains(event.relatedTarget)) $("#form").classList.remove("over");
});
$("#form").addEventListener("drop", (event) => first() && dropped(event, pickers.get(first())));
document.addEventListener("paste", (event) => {
  const file = imageIn(event.clipboardData);
  if (!file || !first()) return;
  event.preventDefault();
  pickers.get(first())(file);
});
