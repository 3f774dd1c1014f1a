// What every page has: nothing is stored in the browser.
"use strict";

// On a narrow screen the filters are shut at first: the cases come before them.
const filters = document.getElementById("filters");
if (filters && window.matchMedia("(max-width: 56rem)").matches) filters.open = false;

// "/" goes to the first field of words, as it does in many programs.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = document.querySelector("input[type=search]:not([disabled])");
  if (!field) return;
  event.preventDefault();
  field.focus();
  field.select();
});
