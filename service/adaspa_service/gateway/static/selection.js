// Several videos of the gallery at once, to delete them.
import { json } from "./api.js";
import { confirmed } from "./dialogs.js";
import { $, el, note } from "./dom.js";
import { said } from "./errors.js";

const picked = new Set();
let onDeleted = () => {};
export const whenDeleted = (callback) => (onDeleted = callback);

const picking = () => $("#select").getAttribute("aria-pressed") === "true";

// The box of a tile. While one selects, its link selects too.
export function picker({ id, prompt }, link) {
  const box = el("input", { type: "checkbox", value: id, className: "pick", aria: { label: `Select “${prompt}”` } });
  box.onchange = () => pick(id, box.checked);
  link.addEventListener("click", (event) => {
    if (!picking()) return;
    event.preventDefault();
    box.click();
  });
  return box;
}

export function pick(id, on) {
  if (on) picked.add(id);
  else picked.delete(id);
  draw();
}

const boxes = () => [...$("#jobs").querySelectorAll(".pick")];

function draw() {
  $("#selected").textContent = picked.size ? `${picked.size} selected` : "Select videos to delete them.";
  $("#delete-selected").disabled = !picked.size;
}

function turn(on) {
  $("#select").setAttribute("aria-pressed", on);
  $("#select").textContent = on ? "Done" : "Select";
  $("#selection").hidden = !on;
  $("#gallery").classList.toggle("picking", on);
  picked.clear();
  for (const box of boxes()) box.checked = false;
  draw();
}

$("#select").onclick = () => turn(!picking());
$("#select-all").onclick = () => {
  for (const box of boxes()) {
    box.checked = true;
    picked.add(box.value);
  }
  draw();
};
$("#delete-selected").onclick = async () => {
  const ids = [...picked];
  const count = ids.length === 1 ? "1 video" : `${ids.length} videos`;
  if (!(await confirmed(`Delete ${count}?`, "Their files are permanently deleted. Videos in progress are stopped.", "Delete"))) return;
  let gone = 0;
  let fault = null;
  for (const id of ids) {
    try {
      await json("DELETE", `/videos/${id}`);
      gone++;
    } catch (error) {
      if (error.status === 404) gone++; // somebody else was faster
      else fault = error;
    }
  }
  turn(false);
  note(fault ? `Deleted ${gone} of ${ids.length}. ${said(fault)}` : `Deleted ${count}.`);
  onDeleted(ids);
};
