// The start: asks which model is served, with a key if the server wants one, and opens the tabs.

import * as api from "./api.js";
import { openProfiles } from "./profiles.js";
import { attempt } from "./shell.js";
import { openTalk } from "./talk.js";
import { openTeach } from "./teach.js";

const at = (id) => document.getElementById(id);

async function start() {
  const known = await api.models();
  at("unlock").hidden = true;
  const name = known[0]?.split(":")[0] ?? "";
  at("model").textContent = name;
  openTeach();
  openTalk(name);
  openProfiles();
}

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setKey(at("key").value);
  attempt(start);
});

attempt(start);
