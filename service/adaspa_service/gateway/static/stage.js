// The stage: what it shows, and that only the latest thing that was opened may draw on it.
import { $, el } from "./dom.js";
import { said } from "./errors.js";

const TITLE = "AdaSpa";
let following = new AbortController();

// Opens a view. It draws by itself until its signal ends; what it cannot show is told in its place.
export async function open(view, onDrawn = () => {}) {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  try {
    await view(signal, onDrawn);
  } catch (error) {
    if (!signal.aborted && error.status !== 401) nothing(error.status ? said(error) : error.message);
  }
}

export function heading(text, shown = true) {
  $("#stage-title").textContent = $("#stage-title").title = text;
  $("#stage-title").classList.toggle("unseen", !shown);
}

export const put = (...elements) => $("#job").replaceChildren(...elements.filter((element) => element != null));
export const speak = (text) => ($("#spoken").textContent = text);
export const name = (text) => (document.title = text ? `${text} · ${TITLE}` : TITLE);

// Nothing is open.
export const clear = () => open(async () => {
  name();
  heading("Your video appears here", false);
  put(empty("Your video appears here", "Describe a scene and press Generate. Watch it take shape, then see how much time AdaSpa saved."));
});

function nothing(text) {
  name();
  heading("No video here", false);
  const back = el("a", { className: "button", href: "#", textContent: "Make a new video" });
  put(empty("No video here", text, back));
}

const empty = (title, text, ...more) => el("div", { className: "viewer empty" },
  el("img", { src: "/static/icon.svg", alt: "" }), el("strong", { textContent: title, aria: { hidden: true } }), el("p", { textContent: text }), ...more);
