// The form's fields for one model, with its limits.
import { el } from "./dom.js";
import { capital } from "./format.js";

const QUALITY = {
  "": "The model's own settings, as the operator chose them.",
  exact: "Dense attention throughout: the reference, and the slowest.",
  quality: "Closest to dense attention.",
  balanced: "Noticeably faster, hardly different.",
  fast: "The fewest blocks: the fastest, for drafts.",
};
const text = (number) => String(Number(number));
const range = (limits) => `${text(limits[0])} to ${text(limits[1])}`;
const options = (values, chosen, label = String) => values.map((value) => el("option", { value, textContent: label(value), selected: value === chosen }));
const number = (limits, value = "", step = 1) => el("input", { type: "number", inputMode: step === 1 ? "numeric" : "decimal", min: limits[0], max: limits[1], step, value });

// A label, its control, a hint and a place for its error.
export function field(name, label, control, hint = "", kind = "") {
  const input = control.matches("input, select, textarea") ? control : control.querySelector("input");
  Object.assign(input, { id: name, name });
  input.setAttribute("aria-describedby", `${name}-hint ${name}-error`);
  return el("div", { className: `field ${kind}` }, el("label", { htmlFor: name, textContent: label }), control, ...below(name, hint));
}

const below = (name, hint) => [
  el("p", { className: "hint", id: `${name}-hint`, textContent: hint }), el("p", { className: "error", id: `${name}-error` })];

export function promptField(model) {
  const area = el("textarea", { rows: 4, placeholder: "What the video shows", maxLength: model.max_prompt_chars, required: true });
  return [...field("prompt", "Prompt", area, "").children];
}

// Every setting that the model takes; what is seldom changed is folded away.
export function settings(model, models) {
  const size = field("size", "Size", el("select", {}, ...options(model.sizes, model.default_size, (size) => size.replace("x", " × "))), "pixels");
  const frames = field("num_frames", "Frames", el("select", {}, ...options(model.frames, model.default_frames)));
  return [
    field("model", "Model", el("select", {}, ...options(models.map((m) => m.id), model.id)), model.description, "wide"),
    size, frames,
    field("steps", "Steps", number(model.steps_range, model.default_steps), range(model.steps_range)),
    field("seed", "Seed", seed(), "empty: drawn"),
    quality(model.qualities),
    el("details", { className: "wide", id: "more" }, el("summary", { textContent: "More settings" }), el("div", { className: "fields" },
      field("fps", "Frames a second", number(model.fps_range, model.default_fps), range(model.fps_range)),
      field("guidance_scale", "Guidance", number(model.guidance_range, model.default_guidance, "any"), range(model.guidance_range)),
      field("negative_prompt", "Not in the video", el("input", { maxLength: model.max_prompt_chars, autocomplete: "off" }), "", "wide"),
      field("output_format", "File", el("select", {}, ...options(model.output_formats, model.output_formats[0]))),
      field("n", "Videos", number([1, model.max_batch], 1), `1 to ${model.max_batch}, each with the next seed`),
      ...byHand(model),
      field("priority", "Priority", el("select", {}, ...options(["", "interactive", "bulk"], "", (name) => name ? capital(name) : "Default")), "bulk lets others go first"),
      field("webhook_url", "Webhook", el("input", { type: "url", inputMode: "url", autocomplete: "off", spellcheck: false, placeholder: "https://" }), "an address that is told when the video has ended", "wide"))),
  ];
}

function seed() {
  const input = el("input", { type: "number", inputMode: "numeric", min: 0, step: 1 });
  const dice = el("button", { type: "button", textContent: "⚄", title: "Draw a seed", aria: { label: "Draw a seed" } });
  dice.onclick = () => {
    input.value = crypto.getRandomValues(new Uint32Array(1))[0];
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  return el("div", { className: "joined" }, input, dice);
}

function quality(names) {
  const hint = el("p", { className: "hint", id: "quality-hint", textContent: QUALITY[""] });
  const radio = (value) => {
    const input = el("input", { type: "radio", name: "quality", value, checked: !value, onchange: () => (hint.textContent = QUALITY[value]) });
    return el("label", {}, input, el("span", { textContent: value ? capital(value) : "Default" }));
  };
  return el("fieldset", { className: "field wide", aria: { describedby: "quality-hint quality-error" } }, el("legend", { textContent: "Attention" }),
    el("div", { className: "segments" }, radio(""), ...names.map(radio)), hint, el("p", { className: "error", id: "quality-error" }));
}

// AdaSpa's own settings, for those who want no preset.
function byHand(model) {
  return [
    field("sparsity", "Sparsity", number(model.sparsity_range, "", "any"), `share of the blocks left out, ${range(model.sparsity_range)}`),
    field("retained_mass", "Retained mass", number(model.retained_mass_range, "", "any"), `or: share of the attention kept, ${range(model.retained_mass_range)}`),
    field("warmup", "Dense at first", number([0, model.steps_range[1]]), "steps before the search"),
  ];
}
