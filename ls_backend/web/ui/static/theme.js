"use strict";
// Runs before anything is painted, so that no page flashes up in the other theme. Without a choice the system's holds.
try {
  const theme = localStorage.getItem("ls_backend.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser that keeps nothing for this site shows the system's.
}
