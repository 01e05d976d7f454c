// The same video made the other way: with dense attention for one of AdaSpa's, with AdaSpa for a dense one.
import { json } from "./api.js";
import { body, fieldOf, rules } from "./form.js";
import { typed } from "./format.js";
import { fileOf } from "./given.js";

const HOW = ["quality", "sparsity", "retained_mass", "warmup"]; // which attention it is made with
const ELSE = ["priority", "output_format"]; // what makes no other picture
const LOOK_AT = 100; // videos, the newest first

export const isDense = ({ quality, sparsity }) => quality === "exact" || sparsity === 0;

// What was asked for, as POST /videos takes it.
export const asked = (video) => Object.fromEntries(Object.keys(rules(video.model))
  .filter((name) => name !== "seconds" && (typed(video[name]) ?? "") !== "") // its frames say it
  .map((name) => [name, video[name]]));

// What its twin is called; null where the model has no dense attention to offer.
export function otherName(video) {
  if (!rules(video.model).quality?.enum.includes("exact")) return null;
  return isDense(video) ? "AdaSpa" : "dense";
}

// Its twin: one that is there already, or one that is made now.
export async function other(video) {
  const { data } = await json("GET", `/videos?limit=${LOOK_AT}`);
  return data.find((each) => isTwin(video, each)) ?? make(video);
}

function isTwin(video, each) {
  if (each.status === "failed" || each.status === "cancelled" || isDense(each) === isDense(video)) return false;
  const names = Object.keys(rules(video.model)).filter((name) => ![...HOW, ...ELSE].includes(name));
  const images = ({ inputs }) => inputs.map(({ role, sha256 }) => [role, sha256]);
  return names.every((name) => same(video[name], each[name])) && same(images(video), images(each));
}

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

async function make(video) {
  const fields = Object.fromEntries(Object.entries(asked(video)).filter(([name]) => !HOW.includes(name)));
  if (!isDense(video)) fields.quality = "exact";
  if (fields.priority !== "bulk") delete fields.priority; // interactive may be what the model gave it
  const images = await Promise.all(video.inputs.map(async (one) => [fieldOf(one), await fileOf(video, one)]));
  return json("POST", "/videos", { body: body(fields, Object.fromEntries(images)) });
}
