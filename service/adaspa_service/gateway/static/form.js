// The parameters that the chosen model takes, with its limits; the API's errors beside their fields.
import { ApiError, json } from "./api.js";
import { $, el } from "./dom.js";

const NUMBERS = ["num_frames", "fps", "steps", "guidance_scale", "seed", "sparsity"];
let models = [];

export async function load() {
  models = (await json("GET", "/models")).data;
  draw(models[0]);
}

function draw(model) {
  const options = (values, chosen) => values.map((value) => el("option", { value, textContent: value, selected: value === chosen }));
  const number = (limits, value, step) => el("input", { type: "number", min: limits[0], max: limits[1], step, value });
  const range = (limits) => `${limits[0]} to ${limits[1]}`;
  const choose = el("select", {}, ...options(models.map((m) => m.id), model.id));
  choose.onchange = () => draw(models.find((m) => m.id === choose.value));
  $("#prompt").maxLength = model.max_prompt_chars;
  $("#parameters").replaceChildren(
    field("model", "Model", choose, model.description, "wide"),
    field("size", "Size", el("select", {}, ...options(model.sizes, model.default_size)), "pixels"),
    field("num_frames", "Frames", el("select", {}, ...options(model.frames, model.default_frames)), ""),
    field("steps", "Steps", number(model.steps_range, model.default_steps, 1), range(model.steps_range)),
    field("fps", "Frames per second", number(model.fps_range, model.default_fps, 1), range(model.fps_range)),
    field("guidance_scale", "Guidance", number(model.guidance_range, model.default_guidance, "any"), range(model.guidance_range)),
    field("sparsity", "Sparsity", el("input", { type: "number", min: 0, max: 0.99, step: "any" }), "0 is dense; empty: the model's"),
    field("seed", "Seed", el("input", { type: "number", min: 0, step: 1 }), "empty: drawn"),
    field("negative_prompt", "Not in the video", el("input", { maxLength: model.max_prompt_chars }), "", "wide"),
  );
}

function field(name, label, input, hint, kind = "") {
  Object.assign(input, { id: name, name });
  input.setAttribute("aria-describedby", `${name}-hint ${name}-error`);
  return el("div", { className: `field ${kind}` }, el("label", { htmlFor: name, textContent: label }), input,
    el("p", { className: "hint", id: `${name}-hint`, textContent: hint }), el("p", { className: "error", id: `${name}-error` }));
}

export function fill(video) {
  draw(models.find((model) => model.id === video.model) || models[0]);
  for (const input of $("#form").querySelectorAll("[name]"))
    if (video[input.name] !== undefined) input.value = video[input.name] ?? "";
  $("#prompt").focus();
}

export async function submit() {
  const body = {};
  for (const input of $("#form").querySelectorAll("[name]")) {
    input.removeAttribute("aria-invalid");
    $(`#${input.name}-error`).textContent = input.validity.badInput ? "This is not a number." : "";
    if (input.validity.badInput) return input.focus();
    if (input.value !== "" || input.name === "prompt") body[input.name] = NUMBERS.includes(input.name) ? Number(input.value) : input.value;
  }
  $("#form-error").textContent = "";
  try {
    return await json("POST", "/videos", { body, headers: { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` } });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const input = $("#form").querySelector(`[name="${CSS.escape(error.param || "")}"]`);
    input?.setAttribute("aria-invalid", "true");
    (input ? $(`#${input.name}-error`) : $("#form-error")).textContent = error.message;
    input?.focus();
  }
}
