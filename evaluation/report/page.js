"use strict";
// Sorting and filtering for readers with scripts; without, the tables stand as they are.
(() => {
  const key = (row, at) => {
    const cell = row.cells[at];
    const text = cell.dataset.key ?? cell.textContent.trim();
    const figure = text === "" ? NaN : Number(text);
    return Number.isNaN(figure) ? text : figure;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [key(row, at), row]);
        rows.sort(([a], [b]) => {
          if (a === "" || b === "") return (a === "") - (b === ""); // undefined last, either way
          return down ? compare(b, a) : compare(a, b);
        });
        body.append(...rows.map(([, row]) => row));
      });
    });
  };

  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(`${text} `, control);
    return label;
  };

  const filterable = (table) => {
    const rows = [...table.tBodies[0].rows];
    const bar = document.createElement("div");
    bar.className = "filter";
    const words = document.createElement("input");
    words.type = "search";
    bar.append(labelled("Filter", words));
    const choices = [];
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      if (!("facet" in head.dataset)) return;
      const values = [...new Set(rows.map((row) => row.cells[at].textContent.trim()))];
      if (values.length < 2) return;
      const select = document.createElement("select");
      select.append(new Option("all", ""), ...values.map((value) => new Option(value || "–", `=${value}`)));
      choices.push([select, at]);
      bar.append(labelled(head.textContent.trim(), select));
    });
    const told = document.createElement("span");
    told.setAttribute("role", "status");
    bar.append(told);
    const apply = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits =
          wanted.every((word) => text.includes(word)) &&
          choices.every(([select, at]) => !select.value || `=${row.cells[at].textContent.trim()}` === select.value);
        row.hidden = !fits;
        shown += fits;
      }
      told.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
    };
    bar.addEventListener("input", apply);
    (table.closest(".scroll") ?? table).before(bar);
  };

  for (const table of document.querySelectorAll("table[id]")) {
    if ("filter" in table.dataset) filterable(table);
    sortable(table);
  }
})();
