// A job that has ended: its video or why there is none, what one can do with it, and how it was made.
import { actions } from "./actions.js";
import { el } from "./dom.js";
import { failure } from "./errors.js";
import { facts } from "./facts.js";
import { seconds } from "./format.js";
import { given } from "./given.js";
import { player } from "./player.js";
import { report } from "./report.js";
import { speedUp, time } from "./steps.js";

export async function result(video) {
  const details = el("details", { id: "details" }, summary(video), facts(video), ...(video.attention ? report(video) : []));
  return [await picture(video), actions(video), details, given(video)];
}

async function picture(video) {
  if (video.status === "failed") {
    return el("div", { className: "failed" }, el("strong", { textContent: failure(video.error) }),
      el("p", { className: "quiet", textContent: [video.error?.message, video.error?.code].filter(Boolean).join(" ") }));
  }
  if (video.status === "cancelled") return el("p", { className: "quiet", textContent: "Cancelled. There is no video." });
  return player(video);
}

// The report in a line.
function summary({ attention }) {
  const text = attention ? gain(attention) : null;
  return el("summary", {}, text ? el("b", { textContent: text }) : null, el("span", { textContent: text ? " Details" : "Details" }));
}

function gain(attention) {
  if (!attention.search_steps && !attention.sparse_steps) return attention.dense_steps ? `Dense attention, ${seconds(time(attention))}.` : null;
  const found = speedUp(attention);
  if (!found) return null;
  if (found.factor >= 1.05) return `${found.factor.toFixed(1)} times faster than dense.`;
  return found.factor > 0.95 ? "As fast as dense." : `${found.factor.toFixed(1)} times the speed of dense.`;
}
