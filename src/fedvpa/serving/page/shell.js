// What all tabs share: which one is shown, and messages about what went wrong.

const at = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll('[role="tab"]')];
const trouble = at("trouble");

// Runs what a click started, and shows on the page what went wrong with it.
export async function attempt(work) {
  trouble.hidden = true;
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    trouble.textContent = error.message;
    trouble.hidden = false;
    if (error.status === 401) {
      at("unlock").hidden = false;
      at("key").focus();
    }
    return undefined;
  }
}

function select(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    at(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  trouble.hidden = true;
  tab.dispatchEvent(new Event("shown"));
}

export function show(id) {
  select(at(id));
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    next.focus();
    select(next);
  });
}
