// What the page asks in between: an API key, and whether something is really to be deleted.
import { key } from "./api.js";
import { $ } from "./dom.js";

for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();

const SENDABLE = /^[\x21-\x7e]+$/; // what a browser sends in a header

// A service that asks for nothing has no use for the button.
export const offerKey = (needed) => ($("#key-button").hidden = !needed);

export function askKey(refused = false) {
  const dialog = $("#key-dialog");
  $("#key-error").textContent = refused && key.get() ? "This key is not valid for this service." : "";
  if (dialog.open) return;
  $("#key").value = key.get();
  dialog.showModal();
  $("#key").select();
}

// Calls back with each new key, and with none when it is to be forgotten.
export function onKey(callback) {
  const use = (value) => {
    key.set(value);
    $("#key-dialog").close();
    callback();
  };
  $("#key-button").onclick = () => askKey();
  $("#key-forget").onclick = () => use("");
  $("#key-form").onsubmit = (event) => {
    event.preventDefault();
    const value = $("#key").value.trim();
    if (SENDABLE.test(value)) return use(value);
    $("#key-error").textContent = value ? "This is not a key. Copy it again, without quotation marks or spaces." : "Enter your key.";
    $("#key").focus();
  };
}

export function confirmed(title, text, yes) {
  const dialog = $("#confirm");
  $("#confirm-title").textContent = title;
  $("#confirm-text").textContent = text;
  $("#confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
