// The profiles of the server: look, export, delete.

import * as api from "./api.js";
import { attempt, show } from "./shell.js";
import { talkTo } from "./talk.js";
import { teach } from "./teach.js";

const at = (id) => document.getElementById(id);

function button(label, about, work, kind = "") {
  const made = Object.assign(document.createElement("button"), { textContent: label, className: kind, type: "button" });
  made.setAttribute("aria-label", `${label} ${about}`);
  made.addEventListener("click", () => attempt(work));
  return made;
}

async function save(name) {
  const text = JSON.stringify(await api.exportProfile(name), null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `${name}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
}

async function remove(name) {
  const dialog = at("sure-delete");
  dialog.querySelector("p").textContent = `Delete ${name} and its pairs? This cannot be undone.`;
  dialog.returnValue = "keep";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "delete") return;
  await api.deleteProfile(name);
  await list();
}

async function list() {
  const [known, map] = await Promise.all([api.profiles(), api.latentMap()]);
  at("no-profiles").hidden = known.length > 0;
  at("rows").replaceChildren(
    ...known.map((profile) => {
      const row = document.createElement("tr");
      const nearest = map?.prototypes[profile.prototype]?.name ?? "";
      for (const text of [profile.name, profile.pairs, nearest, new Date(profile.updated).toLocaleString()]) {
        row.append(Object.assign(document.createElement("td"), { textContent: text }));
      }
      const actions = document.createElement("td");
      actions.append(
        button("Teach", profile.name, () => {
          show("tab-teach");
          teach(profile.name);
        }),
        " ",
        button("Talk", profile.name, () => {
          show("tab-talk");
          return talkTo(profile.model);
        }),
        " ",
        button("Export", profile.name, () => save(profile.name)),
        " ",
        button("Delete", profile.name, () => remove(profile.name), "danger"),
      );
      row.append(actions);
      return row;
    }),
  );
}

export function openProfiles() {
  at("tab-profiles").addEventListener("shown", () => attempt(list));
}
