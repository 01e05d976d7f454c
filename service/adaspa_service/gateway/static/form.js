// The form: the chosen model's settings, what was typed before a reload, and the API's errors beside their fields.
import { ApiError, json } from "./api.js";
import { $, el } from "./dom.js";
import { said } from "./errors.js";
import { estimating, soon } from "./estimate.js";
import { promptField, read, settings } from "./fields.js";
import { characters, seconds, typed } from "./format.js";
import { fileOf } from "./given.js";
import { chosenIn, give } from "./media.js";
import { recall, remember } from "./memory.js";

const NEAR = 0.8; // of a prompt's room, from where on what is left is told
const REMIX = ["prompt", "webhook_url"]; // what a remix takes
let models = [];
let drawn = null; // the model whose settings stand there
let remixed = null;
let reused = null; // the job whose settings were taken over last
let busy = 0; // what is under way during which nothing may be sent

const inputs = () => [...$("#form").querySelectorAll("[name]")];
const offered = () => inputs().filter((input) => !remixed || REMIX.includes(input.name));
const current = () => models.find((model) => model.id === $("#model").value);
// What a model takes, by the field's name; of one that is no longer served, what the first takes.
export const rules = (id) => (models.find((model) => model.id === id) || models[0]).parameters.properties;

// The name of the field that an input of a job was given in.
export const fieldOf = ({ role }) => models.flatMap((model) => Object.entries(model.parameters.properties)).find(([, rule]) => rule["x-role"] === role)?.[0];

// Lets nothing be sent meanwhile: what is asked for does not all stand in the form yet, or is just being sent.
async function alone(work) {
  busy++;
  $("#generate").disabled = true;
  try {
    return await work();
  } finally {
    busy--;
    $("#generate").disabled = busy > 0 || !models.length;
  }
}

export const load = () => alone(async () => {
  models = (await json("GET", "/models")).data;
  const draft = JSON.parse(recall("draft") || "{}");
  draw(models.find((model) => model.id === draft.model) || models[0]);
  put(draft);
  estimating(estimated);
});

// What an estimate needs to know: no texts, no images, and nothing that has no effect on time.
function estimated() {
  if (remixed) return null;
  const { prompt, negative_prompt, webhook_url, loras, seconds, ...rest } = values();
  return rest;
}

function draw(model) {
  drawn = model.id;
  $("#prompt-field").replaceChildren(...promptField());
  $("#examples").replaceChildren(...model.prompt_examples.map(example));
  $("#parameters").replaceChildren($("#parameters legend"), ...settings(model, models));
  shape();
  told();
}

function example(text) {
  const button = el("button", { type: "button", textContent: text });
  button.onclick = () => {
    $("#prompt").value = text;
    $("#form").dispatchEvent(new Event("input"));
    $("#prompt").focus();
  };
  return el("li", {}, button);
}

function put(values) {
  for (const input of inputs()) {
    const value = typed(values[input.name]);
    if (value === undefined || input.type === "file") continue;
    if (input.type === "radio") input.checked = input.value === (value ?? "");
    else if (!input.options || [...input.options].some((option) => option.value === String(value))) input.value = value ?? "";
  }
  $("#form").querySelector("[name=quality]:checked")?.onchange();
  told();
}

// What the form says of itself: characters left, the clip's length.
function told() {
  const model = current();
  const used = characters($("#prompt").value);
  $("#prompt-hint").textContent = used > NEAR * model.max_prompt_chars ? `${used} of ${model.max_prompt_chars} characters` : "";
  const length = Number($("#num_frames").value) / Number($("#fps").value);
  $("#num_frames-hint").textContent = Number.isFinite(length) ? `${seconds(length)} at ${$("#fps").value} FPS` : "";
  for (const group of $("#form").querySelectorAll(".choices")) group.mark();
  soon();
}

function values(among = inputs()) {
  const found = {};
  const known = rules(drawn); // not those of a model that was chosen just now
  for (const input of among)
    if (input.value !== "" && input.type !== "file" && (input.type !== "radio" || input.checked)) found[input.name] = read(known[input.name], input.value);
  return found;
}

$("#form").addEventListener("input", () => {
  remember("draft", JSON.stringify(values()));
  told();
});
$("#form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) $("#generate").click(); // which is disabled while it sends
});
$("#form").addEventListener("change", ({ target }) => {
  if (target.name !== "model") return;
  const { prompt, seed } = values();
  const images = chosen();
  draw(current());
  put({ prompt, seed });
  for (const input of inputs()) if (images[input.name]) give(input, images[input.name]);
  $("#model").focus();
});

// Take a job's settings over, to change any of them.
export function reuse(video) {
  endRemix();
  draw(models.find((model) => model.id === video.model) || models[0]);
  put({ ...video, priority: video.priority === "bulk" ? "bulk" : null }); // interactive may be what the model gave it
  $("#prompt").focus();
  reused = video;
  return alone(async () => {
    const taken = await Promise.allSettled(video.inputs.map((one) => takeOver(video, one)));
    const lost = taken.find(({ status }) => status === "rejected");
    if (lost) throw lost.reason;
  });
}

async function takeOver(video, one) {
  const file = await fileOf(video, one);
  const input = inputs().find(({ name }) => name === fieldOf(one));
  if (input && reused === video) give(input, file);
}

// The images and videos that stand in the form, by the field's name.
const chosen = (among = inputs()) => Object.fromEntries(among.filter(chosenIn).map((input) => [input.name, chosenIn(input)]));

// Another prompt for a job, everything else as it was.
export function remix(video) {
  remixed = video;
  put({ prompt: video.prompt });
  const stop = el("button", { type: "button", textContent: "Not a remix", onclick: endRemix });
  $("#remix").replaceChildren(el("span", { textContent: `A remix of “${video.prompt}” uses a new prompt and keeps everything else, including the seed. ` }), stop);
  shape();
  $("#prompt").focus();
  $("#prompt").select();
}

function endRemix() {
  remixed = null;
  shape();
}

function shape() {
  $("#remix").hidden = !remixed;
  const shown = offered();
  for (const input of inputs()) input.closest(".field").hidden = !shown.includes(input);
  if (remixed) $("#more").open = true; // a webhook that stands there from before is sent too, and has to be seen
  $("#generate").textContent = remixed ? "Generate remix" : "Generate video";
}

// Send the form; the jobs, or none if it was refused, which then stands beside the field at fault.
export async function submit() {
  clearErrors();
  const bad = offered().find((input) => input.validity.badInput);
  if (bad) return fail(bad.name, "This is not a number.");
  const fields = { prompt: "", ...values(offered()) };
  if (fields.n === 1) delete fields.n; // the answer is one job then, not a list
  const path = remixed ? `/videos/${remixed.id}/remix` : "/videos";
  const files = chosen(offered());
  const sending = new AbortController();
  $("#stop").hidden = !Object.keys(files).length; // texts are sent at once
  $("#stop").onclick = () => sending.abort();
  try {
    const headers = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
    const made = await alone(() => json("POST", path, { body: body(fields, files), headers, signal: sending.signal }));
    endRemix();
    return made.object === "list" ? made.data : [made];
  } catch (error) {
    if (sending.signal.aborted) return [];
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 401) fail(error.param, said(error, rules(drawn)[error.param], fields[error.param]));
  } finally {
    const focused = document.activeElement === $("#stop");
    $("#stop").hidden = true;
    if (focused) $("#generate").focus();
  }
  return [];
}

// What POST /videos takes: JSON, or with files a form.
export function body(fields, images) {
  if (!Object.keys(images).length) return fields;
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...fields, ...images })) form.append(name, value instanceof Blob ? value : typed(value));
  return form;
}

function clearErrors() {
  for (const place of $("#form").querySelectorAll(".error")) place.textContent = "";
  for (const input of inputs()) input.removeAttribute("aria-invalid");
}

function fail(name, message) {
  const input = offered().find((input) => input.name === name);
  if (!input) {
    $("#form-error").textContent = message;
    return [];
  }
  for (let outer = input.closest("details"); outer; outer = outer.parentElement.closest("details")) outer.open = true;
  if (input.type !== "radio") input.setAttribute("aria-invalid", "true");
  $(`#${name}-error`).textContent = message;
  input.focus({ preventScroll: true });
  input.closest(".field").scrollIntoView({ block: "nearest" }); // with its error
  return [];
}
