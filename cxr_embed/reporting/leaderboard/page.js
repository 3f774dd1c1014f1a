"use strict";
// A column's head sorts its table; what has no figure stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    const figure = row => "v" in row.cells[column].dataset ? Number(row.cells[column].dataset.v) : null;
    const words = row => row.cells[column].textContent.trim();
    button.addEventListener("click", () => {
      const rows = [...body.rows], was = head.getAttribute("aria-sort");
      const numbers = rows.some(row => figure(row) !== null);
      const ascending = numbers ? was === "descending" : was !== "ascending", way = ascending ? 1 : -1;
      rows.sort((a, b) => {
        if (!numbers) return way * words(a).localeCompare(words(b));
        const one = figure(a), other = figure(b);
        if (one === null || other === null) return (one === null) - (other === null);
        return way * (one - other);
      });
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}
