// The page of heat maps: each map is fetched once the page is there; opacity, map and outline go for all of them.

const opacity = document.getElementById("opacity");
const maps = document.querySelector(".maps");
const button = (name) => document.querySelector(`[data-do=${name}]`);
const isOn = (name) => button(name).ariaPressed === "true";

const show = () => {
  for (const layer of maps.querySelectorAll(".heat, .outline")) {
    const heat = layer.classList.contains("heat");
    layer.style.opacity = isOn(heat ? "heat" : "outline") ? (heat ? opacity.value / 100 : 1) : 0;
  }
};

const turn = (name) => {
  button(name).ariaPressed = String(!isOn(name));
  show();
};

// One after the other: the server makes one map at a time.
const load = async () => {
  for (const place of maps.querySelectorAll("[data-made]")) {
    try {
      const answer = await fetch(place.dataset.made);
      place.innerHTML = await answer.text();
    } catch {
      place.textContent = "The server did not answer.";
    }
    place.ariaBusy = "false";
    show();
  }
};

if (maps) {
  opacity.addEventListener("input", show);
  for (const name of ["heat", "outline"]) button(name).addEventListener("click", () => turn(name));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=range], [type=radio]), textarea, select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "h") turn("heat");
    else if (key === "o") turn("outline");
    else if (key === "[" || key === "]") {
      opacity.value = Number(opacity.value) + (key === "]" ? 10 : -10);
      show();
    } else return;
    event.preventDefault();
  });
  load();
}

// A field that is written in is what is meant.
for (const way of document.querySelectorAll(".way")) {
  const radio = way.querySelector("[type=radio]");
  for (const name of ["input", "change"]) {
    way.addEventListener(name, (event) => {
      if (event.target !== radio && !radio.disabled) radio.checked = true;
    });
  }
}
