// What one can do with a video.
import { DONE, json, key, source } from "./api.js";
import { confirmed } from "./dialogs.js";
import { copy, el, note } from "./dom.js";
import { said } from "./errors.js";
import { fieldOf, remix, reuse } from "./form.js";
import { typed, when } from "./format.js";
import { nameOf } from "./given.js";
import { asked, isDense, other, otherName } from "./twin.js";

const SHARED_SECONDS = 7 * 86400;

export function actions(video) {
  const done = DONE.includes(video.status);
  const ready = video.status === "completed";
  return el("div", { className: "actions" },
    done ? null : act("Cancel", () => json("POST", `/videos/${video.id}/cancel`)),
    ready ? act("Download", () => download(video), "primary") : null,
    ready && otherName(video) ? act(`Compare with ${otherName(video)}`, () => compare(video)) : null,
    ready ? act("Share", () => share(video)) : null,
    act("Remix", () => remix(video)),
    act("Use settings", () => reuse(video)),
    act("Copy as curl", () => copy(curl(video))),
    act("Delete", () => remove(video), "danger plain"));
}

export function act(textContent, work, className = "") {
  const button = el("button", { type: "button", textContent, className });
  button.onclick = async () => {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      note(error.code ? said(error) : error.message);
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

async function share(video) {
  const link = await json("GET", `/videos/${video.id}/link?expires_in=${SHARED_SECONDS}`);
  await copy(link.url, `Link copied. Anyone can watch the video with it until ${when(link.expires_at)}.`);
}

async function compare(video) {
  const found = await other(video);
  const [dense, ours] = isDense(video) ? [video, found] : [found, video];
  location.hash = `compare=${dense.id},${ours.id}`;
}

async function remove(video) {
  const title = DONE.includes(video.status) ? "Delete this video?" : "Stop and delete this video?";
  if (!(await confirmed(title, `“${video.prompt}” and its files are gone for good.`, "Delete"))) return;
  await json("DELETE", `/videos/${video.id}`);
  location.hash = "";
  note("Deleted");
}

function curl(video) {
  const fields = asked(video);
  const auth = key.get() ? ` -H "Authorization: Bearer $ADASPA_API_KEY"` : "";
  if (video.inputs.length) {
    const texts = Object.entries(fields).map(([name, value]) => ` --form-string ${quoted(`${name}=${typed(value)}`)}`);
    const images = video.inputs.map((one) => ` -F ${fieldOf(one)}=@${nameOf(one)}`);
    return `curl ${location.origin}/videos${auth}${texts.join("")}${images.join("")}`;
  }
  return `curl ${location.origin}/videos -H 'Content-Type: application/json'${auth} -d ${quoted(JSON.stringify(fields))}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
