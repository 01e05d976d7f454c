// The form's fields for one model, with its limits.
import { $, el } from "./dom.js";
import { capital } from "./format.js";
import { KINDS, chooseSize, picker } from "./media.js";
import { lengths, shapes } from "./shape.js";

const QUALITY = {
  "": "The model's recommended settings.",
  exact: "Full attention: the reference, and the slowest.",
  quality: "Closest to exact.",
  balanced: "Much faster, with little difference.",
  fast: "Fastest, for drafts.",
};
// Those that are not folded away, in their order.
const first = (rules) => ["negative_prompt", ...Object.keys(rules).filter((name) => rules[name].contentMediaType), "model", "size", "num_frames", "quality", "seed", "n"];
const SHAPING = ["first", "start"]; // of the roles, those that the size follows
const CLEAR = ["fps", "steps", "guidance_scale", "n", "output_format", "priority"]; // their label says it
// The clip's length is told by its frames; what a program notes at its jobs is nothing for a person to type.
const ELSEWHERE = ["prompt", "seconds", "metadata", "user"];

const options = (values, chosen, label = (value) => value === "" ? "Default" : String(value)) => values.map((value) => el("option", { value, textContent: label(value), selected: value === chosen }));
const isNumber = ({ type }) => type === "number" || type === "integer";
export const read = (rule, value) => (isNumber(rule) ? Number(value) : rule.type === "boolean" ? value === "true" : value);

// A label, its control, a hint and a place for its error.
export function field(name, label, control, hint = "", kind = "") {
  const input = control.matches("input, select, textarea") ? control : control.querySelector("input, select");
  Object.assign(input, { id: name, name });
  input.setAttribute("aria-describedby", `${name}-hint ${name}-error`);
  return el("div", { className: `field ${kind}` }, el("label", { htmlFor: name, textContent: label }), control, ...below(name, hint));
}

const below = (name, hint) => [
  el("p", { className: "hint", id: `${name}-hint`, textContent: hint }), el("p", { className: "error", id: `${name}-error` })];

// No text field has a maxLength: the browser would cut what one pastes.
export function promptField() {
  const area = el("textarea", { rows: 3, placeholder: "Describe your video", required: true });
  return [...field("prompt", "Prompt", area, "").children];
}

// Every setting that the model takes, drawn by its rule in the model's JSON Schema.
export function settings(model, models) {
  const rules = model.parameters.properties;
  const own = {
    negative_prompt: ({ title }) => field("negative_prompt", title, el("input", { autocomplete: "off", placeholder: "What to leave out" }), "", "wide"),
    model: (rule) => field("model", rule.title, el("select", {}, ...options(models.map((m) => m.id), model.id)), model.description, "wide"),
    size, num_frames: (rule) => frames(rule, rules.fps.default),
    seed: (rule) => field("seed", rule.title, seed()),
    quality: (rule) => quality(rule.enum),
  };
  const plain = (name) => (rule) => field(name, rule.title, control(rule), hint(name, rule), isText(rule) ? "wide" : "");
  const draw = (name) => (own[name] ?? (rules[name].contentMediaType ? media : plain)(name))(rules[name]);
  const upfront = first(rules).filter((name) => name in rules);
  const folded = Object.keys(rules).filter((name) => !upfront.includes(name) && !ELSEWHERE.includes(name));
  return [
    ...upfront.map(draw),
    el("details", { className: "wide", id: "more" }, el("summary", { textContent: "More settings" }), el("div", { className: "fields" }, ...folded.map(draw))),
  ];
}

const media = (name) => (rule) => {
  const kind = KINDS[rule.contentMediaType];
  const shown = SHAPING.includes(rule["x-role"]) ? chooseSize : () => {};
  return field(name, rule.title, picker(rule.title, kind, shown), `${kind.named}. Choose, drop or paste it.`, "wide");
};
const isText = (rule) => !rule.enum && !isNumber(rule) && rule.type !== "boolean";

function size(rule) {
  const list = el("select", {}, ...options(rule.enum, rule.default, (value) => value.replace("x", " × ")));
  return beside("size", rule.title, list, shapes(list, rule.enum));
}

function frames(rule, fps) {
  const list = el("select", {}, ...options(rule.enum, rule.default, (value) => `${value} frames`));
  return beside("num_frames", "Length", list, lengths(list, rule.enum, () => Number($("#fps")?.value) || fps)); // its hint is the clip's length
}

// A list of exact values, with buttons for the usual ones before it.
const beside = (name, title, list, buttons) => field(name, title, el("div", { className: "beside" }, buttons, list), "", buttons ? "wide" : "");

function control(rule) {
  if (rule.type === "boolean") return el("select", {}, ...options(["", true, false], "", (value) => ({ true: "Yes", false: "No" })[value] ?? "Default"));
  if (rule.enum) return el("select", {}, ...options("default" in rule ? rule.enum : ["", ...rule.enum], rule.default ?? ""));
  if (isNumber(rule)) {
    const whole = rule.type === "integer";
    return el("input", { type: "number", inputMode: whole ? "numeric" : "decimal", min: rule.minimum, max: rule.maximum, step: whole ? 1 : "any", value: rule.default ?? "" });
  }
  const address = rule.format === "uri" ? { type: "url", inputMode: "url", spellcheck: false, placeholder: "https://" } : {};
  return el("input", { autocomplete: "off", ...address });
}

const range = ({ minimum, maximum }) => `${minimum} to ${maximum}`;

// The first sentence of what the field is, and its limits.
function hint(name, rule) {
  const help = CLEAR.includes(name) ? "" : rule.description.replaceAll("`", "").match(/.*?\.(?=\s|$)/)[0];
  if (rule.items) return `${help} ${rule.items.oneOf.map(({ properties: { name, scale } }) => `${name.const} ${range(scale)}`).join(", ")}`;
  return "minimum" in rule ? `${help} ${range(rule)}`.trim() : help;
}

function seed() {
  const input = el("input", { type: "number", inputMode: "numeric", min: 0, step: 1, placeholder: "Random" });
  const dice = el("button", { type: "button", textContent: "⚄", title: "Draw a seed and keep it", aria: { label: "Draw a seed" } });
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
    return el("label", {}, input, el("span", {}, value ? capital(value) : "Default", el("small", { className: "expected" })));
  };
  return el("fieldset", { className: "field wide", id: "quality-field", aria: { describedby: "quality-hint quality-error" } }, el("legend", { textContent: "Quality" }),
    el("div", { className: "segments" }, radio(""), ...names.map(radio)), hint, el("p", { className: "error", id: "quality-error" }));
}
