// The form's fields for one model, with its limits.
import { el } from "./dom.js";
import { capital } from "./format.js";
import { chooseSize, picker } from "./image.js";

const QUALITY = {
  "": "The model's own settings, as the operator chose them.",
  exact: "Dense attention throughout: the reference, and the slowest.",
  quality: "Closest to dense attention.",
  balanced: "Noticeably faster, hardly different.",
  fast: "The fewest blocks: the fastest, for drafts.",
};
// Those that are not folded away, in their order.
const FIRST = ["input_reference", "last_frame", "model", "size", "num_frames", "steps", "seed", "quality"];
const CLEAR = ["fps", "steps", "guidance_scale"]; // their label says it
const ELSEWHERE = ["prompt", "seconds"]; // the clip's length is told by its frames

const options = (values, chosen, label = (value) => value === "" ? "Default" : String(value)) => values.map((value) => el("option", { value, textContent: label(value), selected: value === chosen }));
const isNumber = ({ type }) => type === "number" || type === "integer";
export const read = (rule, value) => (isNumber(rule) ? Number(value) : rule.type === "boolean" ? value === "true" : value);

// A label, its control, a hint and a place for its error.
export function field(name, label, control, hint = "", kind = "") {
  const input = control.matches("input, select, textarea") ? control : control.querySelector("input");
  Object.assign(input, { id: name, name });
  input.setAttribute("aria-describedby", `${name}-hint ${name}-error`);
  return el("div", { className: `field ${kind}` }, el("label", { htmlFor: name, textContent: label }), control, ...below(name, hint));
}

const below = (name, hint) => [
  el("p", { className: "hint", id: `${name}-hint`, textContent: hint }), el("p", { className: "error", id: `${name}-error` })];

export function promptField({ maxLength }) {
  const area = el("textarea", { rows: 4, placeholder: "What the video shows", maxLength, required: true });
  return [...field("prompt", "Prompt", area, "").children];
}

// Every setting that the model takes, drawn by its rule in the model's JSON Schema.
export function settings(model, models) {
  const rules = model.parameters.properties;
  const own = {
    input_reference: image("input_reference", chooseSize),
    last_frame: image("last_frame"),
    model: (rule) => field("model", rule.title, el("select", {}, ...options(models.map((m) => m.id), model.id)), model.description, "wide"),
    size: (rule) => field("size", rule.title, el("select", {}, ...options(rule.enum, rule.default, (size) => size.replace("x", " × "))), "pixels"),
    num_frames: (rule) => field("num_frames", rule.title, control(rule)), // its hint is the clip's length
    seed: (rule) => field("seed", rule.title, seed(), "empty: drawn"),
    quality: (rule) => quality(rule.enum),
  };
  const draw = (name) => (own[name] ?? ((rule) => field(name, rule.title, control(rule), hint(name, rule), isText(rule) ? "wide" : "")))(rules[name]);
  const folded = Object.keys(rules).filter((name) => !FIRST.includes(name) && !ELSEWHERE.includes(name));
  return [
    ...FIRST.filter((name) => name in rules).map(draw),
    el("details", { className: "wide", id: "more" }, el("summary", { textContent: "More settings" }), el("div", { className: "fields" }, ...folded.map(draw))),
  ];
}

const image = (name, onShown = () => {}) => (rule) => field(name, rule.title, picker(rule.title, onShown), "JPEG, PNG, WebP or AVIF: choose, drop or paste it", "wide");
const isText = (rule) => !rule.enum && !isNumber(rule) && rule.type !== "boolean";

function control(rule) {
  if (rule.type === "boolean") return el("select", {}, ...options(["", true, false], "", (value) => ({ true: "Yes", false: "No" })[value] ?? "Default"));
  if (rule.enum) return el("select", {}, ...options("default" in rule ? rule.enum : ["", ...rule.enum], rule.default ?? ""));
  if (isNumber(rule)) {
    const whole = rule.type === "integer";
    return el("input", { type: "number", inputMode: whole ? "numeric" : "decimal", min: rule.minimum, max: rule.maximum, step: whole ? 1 : "any", value: rule.default ?? "" });
  }
  const address = rule.format === "uri" ? { type: "url", inputMode: "url", spellcheck: false, placeholder: "https://" } : {};
  return el("input", { autocomplete: "off", ...("maxLength" in rule && { maxLength: rule.maxLength }), ...address });
}

const range = ({ minimum, maximum }) => `${minimum} to ${maximum}`;

// The first sentence of what the field is, and its limits.
function hint(name, rule) {
  const help = CLEAR.includes(name) ? "" : rule.description.replaceAll("`", "").match(/.*?\.(?=\s|$)/)[0];
  if (rule.items) return `${help} ${rule.items.oneOf.map(({ properties: { name, scale } }) => `${name.const} ${range(scale)}`).join(", ")}`;
  return "minimum" in rule ? `${help} ${range(rule)}`.trim() : help;
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
