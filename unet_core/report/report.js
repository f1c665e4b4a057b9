"use strict";
// Sorting and filtering of tables, larger pictures, and copying of the command. Without scripts the page shows the same things.

// What a cell sorts by: a number, a time as seconds, or text; nothing (-) last.
function key(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim();
  if (text === "-" || text === "") return null;
  if (/^\d+(:\d\d)+$/.test(text)) return text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
  const number = Number(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sort(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const order = heads[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
  rows.sort(([a], [b]) => (a === null ? 1 : 0) - (b === null ? 1 : 0) || (a === null ? 0 : sign * compare(a, b)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column));
    head.append(button);
  });
}

function makeFilter(table) {
  const bar = document.createElement("p");
  bar.className = "filter";
  const label = document.createElement("label");
  const field = document.createElement("input");
  const count = document.createElement("output");
  field.type = "search";
  label.append("Filter rows ", field);
  bar.append(label, " ", count);
  table.closest(".scroll").before(bar);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length}` : "";
  });
}

for (const table of document.querySelectorAll("table.data")) {
  makeSortable(table);
  if (table.tBodies[0].rows.length >= 5) makeFilter(table);
}

for (const view of document.querySelectorAll(".gallery .view")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.textContent = "enlarge";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `enlarge ${view.dataset.title}`);
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(view.classList.toggle("large")));
    button.textContent = view.classList.contains("large") ? "reduce" : "enlarge";
    button.setAttribute("aria-label", `${button.textContent} ${view.dataset.title}`);
  });
  view.querySelector(".stack").append(button);
}

for (const place of document.querySelectorAll(".command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(place.querySelector("code").textContent);
      button.textContent = "copied";
    } catch {
      // Browsers keep the clipboard from pages that are opened as files: mark the text, for the keyboard to copy.
      getSelection().selectAllChildren(place.querySelector("code"));
      button.textContent = "marked";
    }
  });
  place.append(button);
}

// Paper shows all.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
