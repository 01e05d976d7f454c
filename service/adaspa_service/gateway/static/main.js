// The page: what is shown is the address's hash, so that a reload comes back to it.
import { hasRoom, key, rest, takeToken, whenKeyIsRefused } from "./api.js";
import { batch } from "./batch.js";
import { compare } from "./compare.js";
import { askKey, offerKey, onKey } from "./dialogs.js";
import { $ } from "./dom.js";
import { said } from "./errors.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import { job } from "./job.js";
import { whenDeleted } from "./selection.js";
import * as stage from "./stage.js";

const REFRESH_MS = 3000;
let shown = null;
let looking = 0; // looks at the gallery that have no answer yet: over a slow network they would pile up
let ready = false; // the form knows what each model takes, which the views ask it for
let locked = false; // without a key that the server takes, asking again only fails again

// The view that an address asks for: one video, dense beside AdaSpa, or those of a batch.
function asked() {
  const [, id] = location.hash.match(/^#(video_\w+)$/) ?? [];
  if (id) return job(id, refresh);
  const [, way, list] = location.hash.match(/^#(compare|batch)=([\w,]+)$/) ?? [];
  const ids = list?.split(",");
  if (way === "compare" && ids.length === 2) return compare(ids, refresh);
  return way === "batch" ? batch(ids, refresh) : null;
}

// What goes wrong in the background stands above the page until it is mended.
function banner(text = "") {
  $("#banner").textContent = text;
  $("#banner").hidden = !text;
}

async function refresh() {
  if (locked) return;
  looking++;
  try {
    await gallery.refresh();
    banner();
  } catch (error) {
    if (error.status !== 401) banner(`${said(error)} Trying again.`);
  } finally {
    looking--;
  }
}

function open() {
  if (!ready) return;
  const view = asked();
  if (location.hash !== shown) {
    shown = location.hash;
    if (view) stage.open(view, bringStage);
    else stage.clear();
  }
  return refresh();
}

async function start() {
  try {
    await form.load();
    banner();
  } catch (error) {
    if (error.status === 401) return;
    banner(`${said(error)} Trying again.`);
    return rest(REFRESH_MS).then(start);
  }
  offerKey(Boolean(key.get())); // without one it let us in: it asks for none
  ready = true;
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
  const made = await form.submit().catch((error) => (banner(error.message), []));
  if (made.length === 1) location.hash = made[0].id;
  if (made.length > 1) location.hash = `batch=${made.map(({ id }) => id).join()}`;
};
$(".skip").onclick = (event) => {
  event.preventDefault(); // or the address would no longer say which video is open
  $("#stage").focus();
};
addEventListener("hashchange", () => {
  if (takeToken()) {
    $("#key-dialog").close();
    return again();
  }
  if (!asked() && location.hash) return; // a link within the page
  open();
  if (asked()) $("#stage").focus({ preventScroll: true });
});
addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || looking || !hasRoom() || refresh(), REFRESH_MS);
whenDeleted((ids) => {
  if (ids.some((id) => location.hash.includes(id))) location.hash = "";
  refresh();
});

whenKeyIsRefused(() => {
  offerKey(true);
  if (!locked) askKey(true);
  locked = true;
  banner("This service needs an API key or its token.");
});
function again() {
  ready = locked = false;
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
stage.clear();
start();
