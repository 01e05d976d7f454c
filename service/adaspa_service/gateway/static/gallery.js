// One's videos, the newest first. A tile stays as it is while only its progress changes, so no picture is fetched twice.
import { json } from "./api.js";
import { $, el } from "./dom.js";
import { pick } from "./selection.js";
import { tile } from "./tile.js";

const PAGE = 12;
const MOST = 100; // that the service lists at once
const LOOK_BACK = 5; // pages that one search goes back
let known = []; // videos, the newest first: as far back as anybody looked
let more = false; // whether there are older ones
let wanted = PAGE; // tiles
const tiles = new Map();

let turn = Promise.resolve();
const inTurn = (work) => (turn = turn.catch(() => {}).then(work)); // one look after the other

// Look at the newest again, of which some may be gone.
export const refresh = () => inTurn(async () => {
  const page = await json("GET", `/videos?limit=${Math.min(MOST, Math.max(PAGE, known.length))}`);
  const older = page.has_more ? known.filter(({ id }) => id < page.last_id) : []; // an id begins with its time
  if (!older.length) more = page.has_more;
  known = [...page.data, ...older];
  await fill();
  draw();
});

// Go back until there are as many to show as are wanted.
async function fill() {
  for (let looks = 0; more && matching().length < wanted && looks < LOOK_BACK; looks++) {
    const page = await json("GET", `/videos?limit=${filtered() ? MOST : PAGE}&after=${known.at(-1).id}`);
    known = [...known, ...page.data];
    more = page.has_more;
  }
}

const term = () => $("#search").value.trim().toLowerCase();
const filtered = () => Boolean(term() || $("#by-state").value || $("#by-model").value);

function matching() {
  const [words, states, model] = [term().split(/\s+/), $("#by-state").value, $("#by-model").value];
  return known.filter((video) => (!states || states.split(" ").includes(video.status)) && (!model || video.model === model)
    && words.every((word) => `${video.prompt} ${video.model}`.toLowerCase().includes(word) || word === video.id || word === String(video.seed)));
}

function draw() {
  const found = matching();
  const shown = found.slice(0, wanted);
  $("#no-jobs").hidden = shown.length > 0;
  $("#no-jobs").textContent = filtered() ? (more ? "None found so far. Look further back with “Show more”." : "No videos match.") : "No videos yet. They will appear here, newest first.";
  $("#gallery-bar").classList.toggle("bare", !known.length);
  $("#older").hidden = !more && found.length <= wanted;
  models();
  for (const id of tiles.keys()) if (!shown.some((video) => video.id === id)) drop(id);
  shown.forEach((video, place) => {
    if (!tiles.has(video.id)) tiles.set(video.id, tile(video));
    const { item, update } = tiles.get(video.id);
    update(video);
    if ($("#jobs").children[place] !== item) $("#jobs").insertBefore(item, $("#jobs").children[place] ?? null);
  });
}

// The models to choose from: those that videos are of.
function models() {
  const list = $("#by-model");
  const names = [...new Set(known.map(({ model }) => model))].sort();
  list.hidden = names.length < 2 && !list.value;
  if (names.join() === list.dataset.names) return;
  list.dataset.names = names.join();
  const chosen = list.value;
  list.replaceChildren(el("option", { value: "", textContent: "All models" }), ...names.map((name) => el("option", { value: name, textContent: name, selected: name === chosen })));
}

function drop(id) {
  tiles.get(id).item.remove();
  tiles.delete(id);
  pick(id, false);
}

const look = () => inTurn(async () => {
  await fill();
  draw();
}).catch(() => {}); // the next look says it too

for (const filter of ["#search", "#by-state", "#by-model"])
  $(filter).addEventListener("input", () => {
    wanted = PAGE;
    draw();
    look();
  });
$("#older").onclick = () => {
  wanted += PAGE;
  look();
};

// Another key: other videos.
export const forget = () => inTurn(async () => {
  [known, more, wanted] = [[], false, PAGE];
  draw();
});
