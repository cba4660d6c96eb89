"use strict";
// Sort a table by the column whose heading is pressed; empty cells stay at the end either way.
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const heading = button.parentElement;
  const table = heading.closest("table");
  const index = heading.cellIndex;
  const first = heading.classList.contains("number") ? "descending" : "ascending";
  const other = first === "descending" ? "ascending" : "descending";
  const direction = heading.getAttribute("aria-sort") === first ? other : first;
  for (const cell of heading.parentElement.cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const key = (row) => row.cells[index].dataset.value ?? "";
  const compare = (a, b) => {
    const left = key(a), right = key(b);
    if (left === "" || right === "") return (left === "") - (right === "");
    const difference = Number(left) - Number(right);
    return sign * (Number.isNaN(difference) ? left.localeCompare(right, "en", { numeric: true }) : difference);
  };
  const body = table.tBodies[0];
  body.append(...Array.from(body.rows).sort(compare));
});
// Show at once, on touch screens too, what a browser would show a second later for a point with a title.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll("svg title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}
document.addEventListener("pointerover", (event) => {
  const told = event.target.closest("[data-tip]");
  tip.hidden = !told;
  if (!told) return;
  tip.textContent = told.dataset.tip;
  const box = told.getBoundingClientRect();
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  const above = box.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
});
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
// What is folded on the screen is read on paper too.
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
