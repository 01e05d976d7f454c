// The page: which job is shown is the address's hash, so that a reload comes back to it.
import { takeToken, whenKeyIsRefused } from "./api.js";
import { askKey, onKey } from "./dialogs.js";
import { $ } from "./dom.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import { clear, show } from "./job.js";

const REFRESH_MS = 3000;
const video = () => location.hash.match(/^#(video_[0-9a-f]+)$/)?.[1];
let shown = null;
let locked = false; // without a key that the server takes, asking again only fails again

// What goes wrong in the background stands above the page until it is mended.
function banner(text = "") {
  $("#banner").textContent = text;
  $("#banner").hidden = !text;
}

async function refresh() {
  if (locked) return;
  try {
    await gallery.refresh();
    banner();
  } catch (error) {
    if (error.status !== 401) banner(`${error.message} Trying again.`);
  }
}

function open() {
  const id = video();
  if (id !== shown) {
    shown = id;
    if (id) show(id, bringStage, refresh);
    else clear();
  }
  return refresh();
}

async function start() {
  try {
    await form.load();
    banner();
  } catch (error) {
    if (error.status === 401) return;
    banner(`${error.message} Trying again.`);
    return setTimeout(start, REFRESH_MS);
  }
  shown = null;
  open();
}

// The one who chose a video wants to see it: on a phone it is off the screen.
function bringStage() {
  const { top, bottom } = $("#stage").getBoundingClientRect();
  if (top > innerHeight / 2 || bottom < 80 || top < -80) $("#stage").scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

$("#form").onsubmit = async (event) => {
  event.preventDefault();
  const created = await form.submit().catch((error) => banner(error.message));
  if (!created) return;
  gallery.firstPage();
  location.hash = created.id;
};
addEventListener("hashchange", () => {
  if (takeToken()) {
    $("#key-dialog").close();
    return again();
  }
  if (!video() && location.hash) return; // a link within the page
  open();
  if (video()) $("#stage").focus({ preventScroll: true });
});
addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), REFRESH_MS);

whenKeyIsRefused(() => {
  if (!locked) askKey(true);
  locked = true;
  banner("The server asks for an API key, or for its token.");
});
function again() {
  locked = false;
  gallery.forget();
  start();
}
onKey(again);

$("#theme").value = document.documentElement.dataset.theme;
$("#theme").onchange = () => {
  document.documentElement.dataset.theme = $("#theme").value;
  try {
    localStorage.setItem("theme", $("#theme").value);
  } catch { /* then it holds until the page is left */ }
};
takeToken();
clear();
start();
