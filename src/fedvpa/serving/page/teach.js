// Two answers to one prompt, a choice, and what the model has learned from it.

import * as api from "./api.js";
import { drawMap } from "./map.js";
import { attempt } from "./shell.js";

const at = (id) => document.getElementById(id);

let name = ""; // of the profile that is being taught
let question = null;
let skipped = new Set();
let way = []; // where the posterior has been
let map = null;
let busy = false;

const id = (asked) => JSON.stringify([asked.prompt, asked.response_a, asked.response_b]);
const words = (prompt) =>
  typeof prompt === "string" ? prompt : prompt.map((turn) => (turn.role === "user" ? turn.content : `${turn.role}: ${turn.content}`)).join("\n\n");

function showQuestion() {
  at("question").hidden = !question;
  at("no-question").hidden = Boolean(question);
  if (!question) {
    at("no-question").textContent = "There is no further pair to ask about. Talk to the model, or come back later.";
    return;
  }
  at("asked").textContent = words(question.prompt);
  at("choose-a").querySelector("span").textContent = question.response_a;
  at("choose-b").querySelector("span").textContent = question.response_b;
  at("asked").focus({ preventScroll: true });
}

function showLearned(profile) {
  at("count").textContent = `${profile.pairs} ${profile.pairs === 1 ? "choice" : "choices"} so far`;
  at("learned").hidden = false;
  const names = map?.prototypes.map((one) => one.name) ?? [];
  at("bars").replaceChildren(
    ...profile.responsibilities.map((share, place) => {
      const row = document.createElement("div");
      row.className = "bar";
      const label = document.createElement("span");
      label.textContent = names[place] ?? `prototype ${place}`;
      label.title = label.textContent;
      const track = document.createElement("div");
      track.className = "track";
      const filled = document.createElement("i");
      filled.style.width = `${100 * share}%`;
      track.append(filled);
      const number = document.createElement("span");
      number.textContent = `${Math.round(100 * share)}%`;
      row.append(label, track, number);
      return row;
    }),
  );
  const spread = Math.sqrt(profile.std.reduce((sum, value) => sum + value * value, 0));
  at("sure").textContent =
    `The spread of z is ${spread.toFixed(2)}.` +
    (question ? ` The next choice is expected to tell ${(question.information / Math.LN2).toFixed(2)} bits.` : "");
  way.push(profile.z);
  at("map").parentElement.hidden = !map;
  if (map) drawMap(at("map"), map, profile, way);
}

// The best pair that was not skipped.
async function ask() {
  let place = 0;
  do {
    question = await api.nextQuestion(name, place);
    place += 1;
  } while (question && skipped.has(id(question)));
  showQuestion();
}

async function begin() {
  name = at("name").value.trim();
  question = null;
  skipped = new Set();
  way = [];
  map = await api.latentMap();
  const profile = await opened(name);
  await ask();
  showLearned(profile);
}

// The profile of this name, which is made if there is none yet.
async function opened(wanted) {
  try {
    return await api.profile(wanted);
  } catch (error) {
    if (error.code !== "profile_not_found") throw error;
    return api.createProfile(wanted, []);
  }
}

async function choose(choice) {
  if (!question || busy) return;
  busy = true;
  at("question").setAttribute("aria-busy", "true");
  await attempt(async () => {
    const { prompt, response_a, response_b } = question;
    if (choice === "skip") {
      skipped.add(id(question));
      await ask();
      return;
    }
    const profile = await api.addPairs(name, [{ prompt, response_a, response_b, winner: choice }]);
    question = null; // it is answered, whatever becomes of the next one
    await ask();
    showLearned(profile);
  });
  at("question").removeAttribute("aria-busy");
  busy = false;
}

export function openTeach() {
  const list = async () => {
    const options = (await api.profiles()).map((one) => Object.assign(document.createElement("option"), { value: one.name }));
    at("names").replaceChildren(...options);
  };
  at("tab-teach").addEventListener("shown", () => attempt(list));
  attempt(list);
}

export function teach(profile) {
  at("name").value = profile;
  attempt(begin);
}

at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(begin);
});
at("choose-a").addEventListener("click", () => choose("A"));
at("choose-b").addEventListener("click", () => choose("B"));
at("choose-tie").addEventListener("click", () => choose("tie"));
at("skip").addEventListener("click", () => choose("skip"));
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (at("teach").hidden || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = { a: "A", b: "B", e: "tie", s: "skip", 1: "A", 2: "B", 0: "tie" }[event.key.toLowerCase()];
  if (choice) choose(choice);
});
