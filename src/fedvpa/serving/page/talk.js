// A conversation with one profile, or the same one with two side by side.

import * as api from "./api.js";
import { attempt } from "./shell.js";

const at = (id) => document.getElementById(id);
const BETWEEN = "between…";

let model = "";
let stopping = null;
let sides = [];

class Side {
  constructor(column) {
    this.title = column.querySelector("h2");
    this.log = column.querySelector(".log");
    this.messages = [];
  }

  clear() {
    this.messages = [];
    this.log.replaceChildren();
  }

  line(kind, text) {
    const made = Object.assign(document.createElement("p"), { className: kind, textContent: text });
    this.log.append(made);
    this.log.scrollTop = this.log.scrollHeight;
    return made;
  }

  async answer(name, text, signal) {
    const turns = [...this.messages, { role: "user", content: text }];
    const asked = this.line("user", text);
    const line = this.line("waiting", "");
    let said = "";
    try {
      await api.chat(
        name,
        turns,
        (piece) => {
          said += piece;
          line.textContent = said;
          this.log.scrollTop = this.log.scrollHeight;
        },
        signal,
      );
    } catch (error) {
      // What was said before the stop stays in the conversation; a question without an answer does not.
      if (!said) {
        asked.remove();
        line.remove();
        throw error;
      }
      if (error.name !== "AbortError") throw error;
    } finally {
      line.className = "";
      if (said) this.messages = [...turns, { role: "assistant", content: said }];
    }
  }
}

const between = () => at("between").value;
const asked = (choice) => (choice === BETWEEN ? `${model}:${between()}` : choice);
const title = (choice) => (choice === BETWEEN ? `between, ${between()}` : choice.replace(`${model}:`, ""));

function showChoices() {
  at("right").disabled = !at("compare").checked;
  at("column-right").hidden = !at("compare").checked;
  const used = [at("left").value, ...(at("compare").checked ? [at("right").value] : [])];
  at("between-row").hidden = !used.includes(BETWEEN);
  at("between-value").textContent = between();
  sides[0].title.textContent = title(at("left").value);
  sides[1].title.textContent = title(at("right").value);
}

function clear() {
  for (const side of sides) side.clear();
}

async function list() {
  const [known, map] = await Promise.all([api.models(), api.latentMap()]);
  const names = map && map.prototypes.length > 1 ? [...known, BETWEEN] : known;
  if (map) at("between").max = Math.max(map.prototypes.length - 1, 1);
  for (const [id, fallback] of [["left", 1], ["right", 2]]) {
    const before = at(id).value;
    at(id).replaceChildren(...names.map((name) => new Option(name === BETWEEN ? name : name.replace(`${model}:`, ""), name)));
    at(id).value = names.includes(before) ? before : names[Math.min(fallback, names.length - 1)];
  }
  showChoices();
}

async function say() {
  const text = at("words").value.trim();
  if (!text || stopping) return;
  stopping = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  const talking = at("compare").checked ? ["left", "right"] : ["left"];
  at("words").value = "";
  const results = await Promise.all(
    talking.map((id, number) => attempt(() => sides[number].answer(asked(at(id).value), text, stopping.signal).then(() => true))),
  );
  if (!results.some(Boolean) && !at("words").value) at("words").value = text;
  stopping = null;
  at("send").hidden = false;
  at("stop").hidden = true;
  at("words").focus();
}

export function openTalk(name) {
  model = name;
  sides = [new Side(at("column-left")), new Side(at("column-right"))];
  at("tab-talk").addEventListener("shown", () => attempt(list));
}

export async function talkTo(name) {
  await attempt(list);
  at("left").value = name;
  showChoices();
}

at("say").addEventListener("submit", (event) => {
  event.preventDefault();
  say();
});
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    say();
  }
});
at("stop").addEventListener("click", () => stopping?.abort());
at("clear").addEventListener("click", clear);
at("compare").addEventListener("change", () => {
  clear();
  showChoices();
});
for (const id of ["left", "right"]) {
  at(id).addEventListener("change", () => {
    clear();
    showChoices();
  });
}
at("between").addEventListener("input", showChoices);
