// Errors as a person says them. The API's own words name fields and rules; these say what happened and what to do.
import { about, characters } from "./format.js";
import { KINDS } from "./media.js";

// Why a request was refused, by the API's code.
const REFUSED = {
  missing_scope: () => "Your API key can view videos, but not create or delete them. Ask for one with the scope “write”.",
  queue_full: ({ retry }) => `Too many videos are waiting. Try again${retry ? ` in about ${about(retry)}` : " later"}.`,
  too_many_in_flight: ({ retry }) => `You have as many videos in progress as your key allows. Try again${retry ? ` in about ${about(retry)}` : " later"}.`,
  rate_limit_exceeded: ({ retry }) => `That was too fast. Try again${retry ? ` in ${about(retry)}` : " in a moment"}.`,
  service_unavailable: () => "The service is temporarily unavailable. Try again in a few seconds.",
  draining: () => "The service is restarting. Try again in a few seconds.",
  request_too_large: () => "That is too large to send. Choose a smaller file.",
  internal_error: () => "Something went wrong in the service. Its log has the details.",
  video_not_found: () => "This video does not exist. It was deleted, has expired, or belongs to another API key.",
  file_gone: () => "The file of this video no longer exists.",
  record_damaged: () => "The record of this video is damaged. Delete it, and create it again.",
};

// Why a job failed, by its code: what happened, and what helps.
const FAILED = {
  generation_failed: "The model stopped with an error.",
  out_of_memory: "The GPU ran out of memory. Try a smaller size or a shorter clip.",
  model_unavailable: "The files of this model are missing or broken. Tell whoever runs this service.",
  storage_unavailable: "The video could not be saved. Try again later.",
  not_finite: "The model's numbers went out of range. Try another seed or another quality.",
  blank_clip: "The clip came out blank. Try another seed or another quality.",
  disk_full: "The worker's disk is full. Tell whoever runs this service.",
  worker_lost: "The worker stopped during the job, more than once. Try again later.",
  device_failed: "The GPU reported an error. Try again later.",
  time_limit: "This took longer than the service allows. Try fewer steps, a smaller size or a shorter clip.",
  queue_timeout: "No worker was free in time. Try again later.",
  model_not_served: "No worker started for this model. Try again later, or choose another model.",
  record_damaged: "The record of this video was damaged. Create it again.",
};

export const failure = (error) => FAILED[error?.code] ?? "The model stopped with an error.";

// A refusal in words; the rule is that of the field at fault, and value what was typed there.
export function said(error, rule, value) {
  if (error.code in REFUSED) return REFUSED[error.code](error);
  const [, text] = error.message.match(/^\w+: (.*)$/s) ?? [null, error.message];
  if (rule) return ofField(rule, value, text) ?? sentence(text);
  return sentence(error.message);
}

function ofField(rule, value, text) {
  const empty = value == null || value === "";
  const kind = KINDS[rule.contentMediaType];
  if (kind && text.startsWith("required")) return `This model starts from ${kind.one}. Choose one.`;
  if (kind && /^is not an? (image|video|sound)/.test(text)) return `This is not ${kind.one}. Choose ${kind.files}.`;
  if (rule.minLength && (empty || !value.trim?.())) return "Describe your video first.";
  if (typeof value === "number" && (value < rule.minimum || value > rule.maximum)) return `Choose a number from ${rule.minimum} to ${rule.maximum}.`;
  if (rule.type === "integer" && typeof value === "number" && !Number.isInteger(value)) return "Choose a whole number.";
  if (rule.maxLength && characters(value ?? "") > rule.maxLength) return `Use at most ${rule.maxLength} characters. You entered ${characters(value)}.`;
  if (rule.format === "uri" && text.startsWith("is not a URL")) return "This is not a web address. It starts with https://";
  return null;
}

// "is out of range; allowed: 1 to 3" becomes two sentences.
function sentence(text) {
  const parts = text.split(/; (?=allowed|it supports)/).map((part) => part.trim()).filter(Boolean);
  return parts.map((part) => `${part[0].toUpperCase()}${part.slice(1)}${/[.!?]$/.test(part) ? "" : "."}`).join(" ");
}
