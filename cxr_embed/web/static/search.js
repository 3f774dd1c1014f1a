// The search page: files that are dropped, pictures that are enlarged, and the grid by its arrow keys.
"use strict";

(() => {
  const well = document.getElementById("well");
  if (!well) return; // a page of cases where nothing is dropped
  const chosen = document.getElementById("file");
  const say = document.getElementById("say");

  // The file goes as the body, without its name. The address that comes back has the token alone.
  const send = async (file) => {
    say.textContent = "Reading the picture…";
    well.classList.add("busy");
    try {
      const answer = await fetch("/api/upload", {
        method: "POST",
        body: file,
        headers: { "content-type": "application/octet-stream" },
      });
      const known = await answer.json();
      if (!answer.ok) throw new Error(known.error);
      const address = new URL(window.location.href);
      address.searchParams.delete("upload");
      address.searchParams.delete("k");
      address.searchParams.append("upload", known.upload);
      window.location.assign(address.pathname + address.search);
    } catch (fault) {
      well.classList.remove("busy");
      say.textContent = fault.message;
    }
  };

  chosen.addEventListener("change", (event) => {
    event.stopPropagation();
    if (chosen.files.length) send(chosen.files[0]);
  });
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      well.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) well.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    well.classList.remove("over");
    send(event.dataTransfer.files[0]);
  });
})();

(() => {
  // A picture, as large as the window.
  const large = document.getElementById("large");
  const shown = large.querySelector("img");
  const explain = large.querySelector("a.explain");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-large]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    shown.src = link.href;
    const name = link.closest("[data-case]").dataset.case;
    shown.alt = name;
    large.querySelector("p").textContent = name;
    explain.search = new URLSearchParams({ case: name, ...(explain.dataset.for && { for: explain.dataset.for }) });
    large.showModal();
  });
  large.querySelector("button").addEventListener("click", () => large.close());
  large.addEventListener("click", (event) => {
    if (event.target === large || event.target === shown) large.close();
  });
  large.addEventListener("close", () => shown.removeAttribute("src"));

  // Arrow keys go from case to case; Enter enlarges, "m" is more like this, "n" is not like this.
  document.addEventListener("keydown", (event) => {
    const here = document.activeElement.closest(".card");
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const cards = [...document.querySelectorAll(".card")];
    const place = cards.indexOf(here);
    const top = cards[0].offsetTop;
    const across = Math.max(1, cards.findIndex((card) => card.offsetTop !== top));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    if (event.key in steps) {
      const next = cards[place + steps[event.key]];
      if (!next) return;
      event.preventDefault();
      next.querySelector("a.picture").focus();
    } else if (event.key === "m" || event.key === "n") {
      here.querySelectorAll(".do a")[event.key === "m" ? 0 : 1]?.click();
    }
  });
})();
