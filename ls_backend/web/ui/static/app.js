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
