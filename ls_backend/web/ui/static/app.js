"use strict";
// The page renews itself. It must not do so under somebody's hands: a table opened or a button focused stays.
document.addEventListener("htmx:beforeRequest", (event) => {
  const live = document.getElementById("live");
  if (event.target !== live) return; // somebody has asked for something
  const busy = live !== document.activeElement && live.contains(document.activeElement);
  if (busy || live.querySelector("details[open]")) event.preventDefault();
});
document.addEventListener("htmx:sendError", () => { document.getElementById("away").hidden = false; });
document.addEventListener("htmx:responseError", () => { document.getElementById("away").hidden = false; });
document.addEventListener("htmx:afterOnLoad", () => { document.getElementById("away").hidden = true; });
// The map: what a point stands for is shown beside it, under the mouse or the focus; arrow keys go to the nearest point.
const mapOf = (point) => point.closest("svg[data-thumbnails]");
const pointAt = (event) => event.target instanceof Element && event.target.closest("svg[data-thumbnails] [data-h], svg[data-thumbnails] [data-x]");
const place = (point) => { const mark = point.matches("use") ? point : point.querySelector("use"); return [mark.x.baseVal.value, mark.y.baseVal.value]; };
const hashOf = (point) => Array.from(atob(point.dataset.h.replace(/-/g, "+").replace(/_/g, "/")), (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join("");
const named = (point) => point.getAttribute("aria-label") || `Task ${point.dataset.t}${point.dataset.l ? `, ${point.dataset.l}` : ""}`;
const peekOf = (map) => map.parentElement.querySelector(".peek");
function show(point) {
  const map = mapOf(point), peek = peekOf(map), words = document.createElement("div");
  peek.replaceChildren(words);
  words.textContent = named(point);
  if (point.dataset.h) {
    const image = document.createElement("img");
    image.alt = "";
    image.src = map.dataset.thumbnails.replace("HASH", hashOf(point));
    peek.prepend(image);
  } else {
    words.textContent += `: ${point.dataset.x}`;
  }
  const [x, y] = place(point), { width, height } = map.viewBox.baseVal;
  peek.style.left = x < width / 2 ? `${100 * x / width + 2}%` : "auto";
  peek.style.right = x < width / 2 ? "auto" : `${100 - 100 * x / width + 2}%`;
  peek.style.top = y < height / 2 ? `${100 * y / height}%` : "auto";
  peek.style.bottom = y < height / 2 ? "auto" : `${100 - 100 * y / height}%`;
  peek.hidden = false;
}
function nearest(map, point, key) {
  const [x, y] = place(point);
  let best = null, least = Infinity;
  for (const other of map.querySelectorAll("[data-h], [data-x]")) {
    const [right, down] = [place(other)[0] - x, place(other)[1] - y];
    const [along, aside] = { ArrowRight: [right, down], ArrowLeft: [-right, down], ArrowDown: [down, right], ArrowUp: [-down, right] }[key];
    const far = along + 2 * Math.abs(aside);
    if (along > 0 && Math.abs(aside) <= along && far < least && other.getClientRects().length) [best, least] = [other, far];
  }
  return best;
}
function tabTo(map, point) {
  for (const other of map.querySelectorAll("[tabindex='0']")) other.setAttribute("tabindex", "-1");
  if (!point.matches("a")) { point.setAttribute("role", "img"); point.setAttribute("aria-label", named(point)); }
  point.setAttribute("tabindex", "0");
}
function readyMaps() {  // one stop of the Tab key for each map, not one for each point
  for (const map of document.querySelectorAll("svg[data-thumbnails]:not([data-ready])")) {
    map.dataset.ready = "";
    for (const point of map.querySelectorAll("a")) point.setAttribute("tabindex", "-1");
    const first = map.querySelector(".next [data-h], .next [data-x]") || map.querySelector("[data-h], [data-x]");
    if (first) tabTo(map, first);
  }
}
document.addEventListener("DOMContentLoaded", readyMaps);
document.addEventListener("htmx:afterSettle", readyMaps);
for (const name of ["pointerover", "focusin"]) {
  document.addEventListener(name, (event) => { const point = pointAt(event); if (point) show(point); });
}
for (const name of ["pointerout", "focusout"]) {
  document.addEventListener(name, (event) => { const point = pointAt(event); if (point) peekOf(mapOf(point)).hidden = true; });
}
document.addEventListener("keydown", (event) => {
  const point = pointAt(event);
  if (!point || !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  const other = nearest(mapOf(point), point, event.key);
  if (other) { tabTo(mapOf(point), other); other.focus(); }
});

// Forms of settings. An answer that says where it belongs is to be read, also one that refuses.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.getResponseHeader("HX-Retarget")) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});
// A slider shows and moves the number beside it, which is what is sent; without script there is the number alone.
const sliders = (root) => {
  for (const slider of root.querySelectorAll("input[data-number]")) {
    const number = document.getElementById(slider.dataset.number);
    slider.value = number.value;
    slider.hidden = false;
  }
};
document.addEventListener("input", (event) => {
  const { target } = event;
  if (target.dataset.number) document.getElementById(target.dataset.number).value = target.value;
  const slider = document.querySelector(`input[data-number="${CSS.escape(target.id)}"]`);
  if (slider) slider.value = target.value;
  // Who fills in a part of an objective says it; who fills in a share wants shares.
  const objective = target.closest(".objective");
  const said = objective && objective.querySelector(".origin input");
  if (said && target !== said) said.checked = true;
  const cells = target.closest("table.cells");
  const choice = cells && cells.closest(".field").querySelector("select");
  if (choice) choice.value = "{}";
});
document.addEventListener("DOMContentLoaded", () => sliders(document));
document.addEventListener("htmx:load", (event) => sliders(event.target));
// The theme: kept in this browser, for all pages and tabs; "auto" keeps nothing and follows the system.
const themes = document.getElementById("theme");
function wear(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  for (const button of themes.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === (document.documentElement.dataset.theme || "auto")));
}
themes.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  wear(button.value);
  try {
    if (button.value === "auto") localStorage.removeItem("ls_backend.theme");
    else localStorage.setItem("ls_backend.theme", button.value);
  } catch {} // it holds for this page then
});
window.addEventListener("storage", (event) => { if (event.key === "ls_backend.theme") wear(event.newValue); });
wear(document.documentElement.dataset.theme);
themes.hidden = false;
