// What one can do with a job.
import { DONE, json, key, source } from "./api.js";
import { confirmed } from "./dialogs.js";
import { copy, el, note } from "./dom.js";
import { remix, reuse, rules } from "./form.js";
import { typed } from "./format.js";

const FIELDS = { first: "input_reference", last: "last_frame" }; // of an image, by its role

export function actions(video) {
  const done = DONE.includes(video.status);
  return el("div", { className: "actions" },
    done ? null : act("Cancel", () => json("POST", `/videos/${video.id}/cancel`)),
    video.status === "completed" ? act("Download", () => download(video)) : null,
    act("Remix", () => remix(video)),
    act("Use settings", () => reuse(video)),
    act("Copy as curl", () => copy(curl(video))),
    act("Delete", () => remove(video), "danger"));
}

function act(textContent, work, className = "") {
  const button = el("button", { type: "button", textContent, className });
  button.onclick = async () => {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      note(error.message);
    } finally {
      button.disabled = false;
    }
  };
  return button;
}

async function download(video) {
  const address = await source(video.id, "video");
  el("a", { href: address, download: `${video.id}.${video.output_format}` }).click();
}

async function remove(video) {
  const title = DONE.includes(video.status) ? "Delete this video?" : "Stop and delete this video?";
  if (!(await confirmed(title, `“${video.prompt}” and its files are gone for good.`, "Delete"))) return;
  await json("DELETE", `/videos/${video.id}`);
  location.hash = "";
  note("Deleted");
}

function curl(video) {
  const asked = Object.keys(rules(video.model)).filter((name) => name !== "seconds" && video[name] != null); // its frames say it
  const auth = key.get() ? ` -H "Authorization: Bearer $ADASPA_API_KEY"` : "";
  if (video.inputs.length) {
    const texts = asked.map((name) => ` --form-string ${quoted(`${name}=${typed(video[name])}`)}`);
    const images = video.inputs.map(({ role }) => ` -F ${FIELDS[role]}=@${role}_frame.png`);
    return `curl ${location.origin}/videos${auth}${texts.join("")}${images.join("")}`;
  }
  const body = JSON.stringify(Object.fromEntries(asked.map((name) => [name, video[name]])));
  return `curl ${location.origin}/videos -H 'Content-Type: application/json'${auth} -d ${quoted(body)}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
