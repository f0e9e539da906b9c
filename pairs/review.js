"use strict";
// Choices live in the page and, where the browser allows it, survive a reload.
{
  const pairs = [...document.querySelectorAll(".pair")];
  const tools = document.querySelector(".tools");
  const store = `realdpo-review-${tools.dataset.set}`;
  const names = { a: "accept", r: "reject", f: "flag" };
  let choices = {}, current = -1;
  try { choices = JSON.parse(localStorage.getItem(store)) || {}; } catch { /* private window */ }

  const field = (name) => tools.querySelector(`[name=${name}]`);
  const shown = () => pairs.filter((pair) => !pair.hidden);
  const mark = (pair) => {
    const choice = choices[pair.id] || pair.dataset.before || "";
    pair.dataset.choice = choice;
    pair.querySelector(".choice").textContent = choice;
  };
  const count = () => {
    const made = Object.keys(choices).length;
    tools.querySelector("output").textContent = `${shown().length} of ${pairs.length} pairs, ${made} chosen`;
  };
  const select = (pair) => {
    pairs.forEach((other) => other.classList.toggle("current", other === pair));
    current = pairs.indexOf(pair);
    pair.querySelector(".in-step").focus({ preventScroll: true });
    pair.scrollIntoView({ block: "nearest" });
  };
  const move = (step) => {
    const list = shown(), at = list.indexOf(pairs[current]);
    const next = list[Math.max(0, Math.min(list.length - 1, at < 0 ? 0 : at + step))];
    if (next) select(next);
  };
  const choose = (choice) => {
    const pair = pairs[current];
    if (!pair || pair.hidden) return;
    if (choice && choices[pair.id] !== choice) choices[pair.id] = choice; else delete choices[pair.id];
    try { localStorage.setItem(store, JSON.stringify(choices)); } catch { /* private window */ }
    mark(pair);
    filter();
    if (choice) move(pair.hidden ? 0 : 1);
  };
  const filter = () => {
    const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = { split: field("split").value, strategy: field("strategy").value, choice: field("choice").value };
    for (const pair of pairs) {
      const text = pair.dataset.text, choice = pair.dataset.choice || "none";
      pair.hidden = !(
        words.every((word) => text.includes(word)) &&
        (!wanted.split || pair.dataset.split === wanted.split) &&
        (!wanted.strategy || pair.dataset.strategy.split(" ").includes(wanted.strategy)) &&
        (!wanted.choice || choice === wanted.choice)
      );
    }
    count();
  };
  const download = () => {
    const body = JSON.stringify({ format: "realdpo-review-1", choices }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([body], { type: "application/json" }));
    link.download = "review.json";
    link.click();
    URL.revokeObjectURL(link.href);
  };

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input[name], select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (names[event.key]) choose(names[event.key]);
    else if (event.key === "u") choose("");
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "/") field("search").focus();
    else return;
    event.preventDefault();
  });
  for (const pair of pairs) pair.addEventListener("focusin", () => { if (pairs[current] !== pair) select(pair); });
  for (const name of ["search", "split", "strategy", "choice"]) field(name).addEventListener("input", filter);
  tools.querySelector("button").addEventListener("click", download);
  pairs.forEach(mark);
  filter();
}
