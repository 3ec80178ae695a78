"use strict";
// The page renews itself. It must not do so under somebody's hands: a table opened or a button focused stays.
document.addEventListener("htmx:beforeRequest", (event) => {
  const live = document.getElementById("live");
  const busy = live !== document.activeElement && live.contains(document.activeElement);
  if (busy || live.querySelector("details[open]")) event.preventDefault();
});
document.addEventListener("htmx:sendError", () => { document.getElementById("away").hidden = false; });
document.addEventListener("htmx:responseError", () => { document.getElementById("away").hidden = false; });
document.addEventListener("htmx:afterOnLoad", () => { document.getElementById("away").hidden = true; });
