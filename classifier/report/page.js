"use strict";
const PAGE = 100;

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function line(tag, texts) {
  const row = document.createElement("tr");
  row.append(...texts.map((text) => element(tag, text)));
  return row;
}

for (const section of document.querySelectorAll("section[id]")) {
  const data = JSON.parse(section.querySelector("script").textContent);
  const haystacks = data.rows.map((row) => row.join(" ").toLowerCase());
  const body = section.querySelector("tbody");
  let found = data.rows.map((_, index) => index);
  let start = 0;

  const show = () => {
    body.replaceChildren(...found.slice(start, start + PAGE).map((index) => {
      const row = line("td", data.rows[index]);
      row.dataset.index = index;
      return row;
    }));
    const end = Math.min(start + PAGE, found.length);
    section.querySelector(".place").textContent = found.length ? `${start + 1} to ${end} of ${found.length}` : "none";
    section.querySelector(".back").disabled = start === 0;
    section.querySelector(".on").disabled = end === found.length;
  };
  const move = (by) => { start += by; show(); };

  section.querySelector("thead").append(line("th", data.headings));
  section.querySelector(".back").addEventListener("click", () => move(-PAGE));
  section.querySelector(".on").addEventListener("click", () => move(PAGE));
  section.querySelector("input").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.rows.map((_, index) => index).filter((index) => words.every((word) => haystacks[index].includes(word)));
    start = 0;
    show();
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    const told = row && data.more[data.moreOf[row.dataset.index]];
    if (!told) return;
    if (row.nextSibling && row.nextSibling.className === "more") { row.nextSibling.remove(); return; }
    const more = document.createElement("tr");
    more.className = "more";
    const cell = document.createElement("td");
    cell.colSpan = data.headings.length;
    cell.append(element("pre", told));
    more.append(cell);
    row.after(more);
  });
  show();
}
