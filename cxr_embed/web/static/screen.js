// The Screen page: the slider shows numbers at once; intervals and the list come when it has come to rest.
"use strict";

(() => {
  const slider = document.getElementById("slider");
  if (!slider) return;
  const field = document.getElementById("threshold");
  const form = document.getElementById("ask");
  const prevalence = document.getElementById("prevalence");
  const say = document.getElementById("screen-say");
  const rule = document.getElementById("rule");
  const svg = document.getElementById("roc");
  const REST = 350; // milliseconds without a move
  let steps = { thresholds: [], flagged: [] };
  let asking = false; // one point is asked for at a time; the last move is the next
  let moved = false;
  let resting = 0;
  let turn = 0; // answers to an earlier one come too late

  // The question as it stands, without what is blank.
  const query = () => {
    const given = [...new FormData(form)].filter(([, value]) => value !== "");
    return new URLSearchParams(given).toString();
  };
  const ask = async (path) => {
    const answer = await fetch(`/api/screen/${path}?${query()}`);
    const known = await answer.json();
    if (!answer.ok) throw new Error(known.error);
    return known;
  };
  const shown = (value, digits) =>
    value === null || value === undefined ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  const show = (known) => {
    for (const each of document.querySelectorAll("[data-figure]")) {
      if (each.dataset.figure in known) each.textContent = shown(known[each.dataset.figure], Number(each.dataset.digits));
    }
  };
  const blankIntervals = () => {
    for (const each of document.querySelectorAll("[data-interval]")) each.textContent = "";
  };
  const showIntervals = (known) => {
    show(known);
    for (const each of document.querySelectorAll("[data-interval]")) {
      const name = each.dataset.interval;
      const digits = Number(document.querySelector(`[data-figure="${name}"]`).dataset.digits);
      const has = known[`${name}_low`] !== null && known[`${name}_low`] !== undefined;
      each.textContent = has ? `${shown(known[`${name}_low`], digits)} to ${shown(known[`${name}_high`], digits)}` : (known.reasons[name] ?? "");
      each.classList.toggle("reason", !has);
      if (name === "ppv" || name === "npv") each.closest("div").hidden = !(name in known);
    }
  };
  const showPoint = (known) => {
    show(known);
    if (known.sensitivity === null || known.specificity === null) return;
    const dot = svg.querySelector(".dot");
    dot.setAttribute("cx", 100 * (1 - known.specificity));
    dot.setAttribute("cy", 100 * (1 - known.sensitivity));
  };
  const tell = (place) => {
    slider.setAttribute("aria-valuetext", `threshold ${field.value}, ${steps.flagged[place]} flagged`);
  };

  const follow = async () => {
    if (asking) return;
    asking = true;
    while (moved) {
      moved = false;
      try {
        const known = await ask("point");
        if (moved) delete known.flagged; // the slider knows, and has gone on
        showPoint(known);
        say.textContent = "";
      } catch (fault) {
        say.textContent = fault.message;
      }
    }
    asking = false;
  };
  const list = async (mine) => {
    const old = document.getElementById("results");
    old.classList.add("waiting");
    const answer = await fetch(`/screen?${query()}`, { headers: { "x-part-of-a-page": "1" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.getElementById("results");
    if (mine === turn && part) document.getElementById("results").replaceWith(document.adoptNode(part));
  };
  const rest = async () => {
    const mine = ++turn;
    window.history.replaceState(null, "", `/screen?${query()}`);
    for (const link of document.querySelectorAll(".scores a, .rules a")) { // they keep the prevalence that is stated now
      const address = new URL(link.href);
      if (prevalence.value) address.searchParams.set("prevalence", prevalence.value);
      else address.searchParams.delete("prevalence");
      link.href = address.pathname + address.search;
    }
    try {
      await Promise.all([ask("intervals").then((known) => mine === turn && showIntervals(known)), list(mine)]);
    } catch (fault) {
      say.textContent = fault.message;
    }
  };
  const move = () => {
    blankIntervals();
    turn += 1;
    moved = true;
    follow();
    window.clearTimeout(resting);
    resting = window.setTimeout(rest, REST);
  };

  // To the right the threshold rises, and fewer are flagged.
  const place = () => steps.thresholds.length - 1 - Number(slider.value);
  const put = (threshold) => {
    const found = steps.thresholds.findIndex((each) => each <= threshold);
    slider.value = String(steps.thresholds.length - 1 - (found < 0 ? steps.thresholds.length - 1 : found));
    tell(place());
  };
  slider.addEventListener("input", () => {
    field.value = String(steps.thresholds[place()]);
    rule.textContent = "";
    show({ flagged: steps.flagged[place()] });
    tell(place());
    move();
  });
  field.addEventListener("change", () => {
    const threshold = Number(field.value);
    if (field.value.trim() === "" || Number.isNaN(threshold)) return form.requestSubmit(); // a rule in words
    rule.textContent = "";
    put(threshold);
    move();
  });
  prevalence.addEventListener("change", () => prevalence.reportValidity() && move());

  const begin = async () => {
    try {
      steps = await ask("curve");
      slider.max = String(Math.max(0, steps.thresholds.length - 1));
      slider.disabled = steps.thresholds.length < 2;
      put(Number(field.value));
      svg.querySelector(".curve").setAttribute("points", steps.roc.map(([x, y]) => `${100 * x},${100 * (1 - y)}`).join(" "));
      const [point, intervals] = await Promise.all([ask("point"), ask("intervals")]);
      if (turn || moved) return;
      showPoint(point);
      showIntervals(intervals);
      const { auroc, auroc_low: low, auroc_high: high, reasons } = await ask("auroc");
      const spread = low === null ? ` (${reasons.auroc})` : ` (${shown(low, 3)} to ${shown(high, 3)})`;
      document.getElementById("auroc").textContent = auroc === null ? `no AUROC: ${reasons.auroc}` : `AUROC ${shown(auroc, 3)}${spread}`;
      svg.setAttribute("aria-label", `ROC curve, ${document.getElementById("auroc").textContent}`);
    } catch (fault) {
      say.textContent = fault.message;
    }
  };
  begin();
})();
