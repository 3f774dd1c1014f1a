// Marks: forms are sent without leaving the page, and what the server answers takes the place of what has its id.
"use strict";

(() => {
  const say = document.getElementById("mark-say");
  const note = document.getElementById("note");
  const names = { finding: document.getElementById("mark-finding"), list: document.getElementById("mark-list") };
  const whole = document.querySelector("[data-whole]"); // its lists and counts change too
  let before = Promise.resolve(); // one after the other, in the order of the keys

  const renew = (page) => {
    for (const part of page.querySelectorAll("body > [id]")) {
      const old = document.getElementById(part.id);
      if (!old) continue;
      const key = old.contains(document.activeElement) ? document.activeElement.dataset.key || "y" : "";
      old.replaceWith(document.adoptNode(part));
      if (key) part.querySelector(`[data-key="${key}"]:enabled`)?.focus();
    }
  };

  const send = async (fields) => {
    try {
      const answer = await fetch("/marks", { method: "POST", body: fields, headers: { "x-part-of-a-page": "1" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(page.querySelector(".fault")?.textContent ?? page.body.textContent);
      say.textContent = "";
      if (whole) window.location.reload();
      else renew(page);
    } catch (fault) {
      say.textContent = fault.message;
    }
  };

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-mark]");
    if (!form) return;
    event.preventDefault();
    const fields = new URLSearchParams(new FormData(form, event.submitter));
    if ("chosen" in form.dataset) for (const [name, field] of Object.entries(names)) fields.set(name, field.value);
    if (/^(un|re)do$/.test(fields.get("do"))) { // of a step of thousands of cases, only those that are here
      const here = [...document.querySelectorAll(".card[data-case]")].map((card) => card.dataset.case);
      for (const name of [" ", ...here]) fields.append("shown", name); // a blank one, where there are none
    }
    before = before.then(() => send(fields));
    if (note.open) note.close();
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-shut]")) note.close();
    const button = event.target.closest("button[data-note]");
    if (!button) return;
    const form = note.querySelector("form");
    form.elements.case.value = button.form.elements.case.value;
    form.elements.note.value = button.dataset.note;
    note.querySelector("#note-of").textContent = `Note on ${form.elements.case.value}`;
    note.showModal();
    form.elements.note.focus();
  });

  // On a case: "y" yes, "x" no, "u" unsure, "l" list, "t" a note. Anywhere: "z" undoes, "Z" does again.
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, textarea, select, dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const card = document.activeElement.closest(".card");
    const place = "zZ".includes(event.key) ? document.getElementById("marked-last") : card && card.querySelector(".set");
    const button = place && /^[yxultzZ]$/.test(event.key) && place.querySelector(`[data-key="${event.key}"]:enabled`);
    if (!button) return;
    event.preventDefault();
    button.click();
  });
})();
